"""Curves as columns, and as frames of pandas where that is installed."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

from gaekit.store.curves import Curves

Columns = dict[str, list[float]]


def columns_of(curves: Curves) -> Columns:
    """step, seconds and each scalar as lists of one length, nan where a step has none."""
    steps = [step for step, _ in curves.seconds]
    rows = {step: row for row, step in enumerate(steps)}
    columns: Columns = {"step": list(steps), "seconds": [seconds for _, seconds in curves.seconds]}
    for name, points in curves.scalars.items():
        column = columns[name] = [math.nan] * len(steps)
        for step, value in points:
            column[rows[step]] = value
    return columns


def frame_of(columns: Columns) -> Any:
    """A frame with the step as its index; the columns as they are where there is no pandas."""
    if importlib.util.find_spec("pandas") is None:
        return columns
    import pandas

    return pandas.DataFrame(columns).set_index("step")
