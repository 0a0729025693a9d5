"""`report.html`: one page that shows what a run made, how it went, and how to make it again."""

from __future__ import annotations

from gaekit.runs.report.making import REPORT, end_with_report, make_report, write_report

__all__ = ["REPORT", "end_with_report", "make_report", "write_report"]
