"""Where samplers stop on their way from noise to data."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gaekit.api.flow import shift_time

Shift = Annotated[float, Field(gt=0, description="t' = s t / (1 + (s - 1) t); below 1 steps are finer near the noise")]
Steps = Annotated[int, Field(ge=1, description="integration steps: N steps lie between N + 1 grid points")]


def grid(points: int, start: float, end: float, shift: float) -> list[float]:
    """`points` times, equally spaced from `start` to `end`, then shifted. Python floats: exact, and on no device."""
    shares = [i / max(1, points - 1) for i in range(points)]
    return [shift_time(start * (1 - share) + end * share, shift) for share in shares]
