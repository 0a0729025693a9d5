"""scikit-learn, which metrics that fit a classifier need."""

from __future__ import annotations

from typing import Any

from gaekit.api import require


def sklearn(module: str, metric: str) -> Any:
    """A module of scikit-learn. Raises GaekitError, which names the metric, where it is not installed."""
    return require(module, extra="metrics", wanted_by=f"metric '{metric}'")
