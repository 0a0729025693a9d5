"""Tuning how a finished run samples: guidance weight, its interval and the time shift, by Optuna on seeds held out."""

from __future__ import annotations

from gaekit.runs.tune.search import Task, tune_guidance

__all__ = ["Task", "tune_guidance"]
