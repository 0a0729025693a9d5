"""Runs beside each other: what differs between their recipes, numbers, curves, samples and costs. Reading them takes
neither torch nor a plugin."""

from __future__ import annotations

from gaekit.runs.compare.bands import InBand, compare_to
from gaekit.runs.compare.comparison import Comparison, compare_runs

__all__ = ["Comparison", "InBand", "compare_runs", "compare_to"]
