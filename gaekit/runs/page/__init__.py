"""Pages that a person opens: one HTML file without JavaScript and without a request to anywhere, light and dark.

A page extends `base.html`. What stands in it comes as `Markup`: text that is HTML already; everything else is escaped.
The plots need matplotlib and the pages jinja2, both in the extra `report`; neither is imported before it is used.
"""

from __future__ import annotations

from gaekit.runs.page.html import Cell, breakable, definitions, details, figure, gallery, render, require_extra, table
from gaekit.runs.page.images import SMALLEST, Encoding, data_uri, image_tag
from gaekit.runs.page.plots import Band, Interval, Point, Series, curves_svg, intervals_svg, scatter_svg

__all__ = [
    "SMALLEST",
    "Band",
    "Cell",
    "Encoding",
    "Interval",
    "Point",
    "Series",
    "breakable",
    "curves_svg",
    "data_uri",
    "definitions",
    "details",
    "figure",
    "gallery",
    "image_tag",
    "intervals_svg",
    "render",
    "require_extra",
    "scatter_svg",
    "table",
]
