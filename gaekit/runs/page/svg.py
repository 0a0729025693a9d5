"""matplotlib's SVG as a part of a page: text as text, colours by the page's names, ids that no other plot has.

matplotlib knows no CSS variables. What is drawn in one of `COLOURS` here, each a number that nothing else is drawn in,
is rewritten to the variable of that name.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from gaekit.errors import GaekitError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, FONT = 340, 11
"""Pixels of a plot and of its letters on a phone, where it stands as wide as it is; elsewhere both grow."""
SERIES = 8
"""How many curves have a colour of their own; the next begin again, dashed."""
COLOURS = {
    "ink": "#0a0a01",
    "muted": "#0a0a02",
    "rule": "#0a0a03",
    "paper": "#0a0a04",
    **{f"series-{number}": f"#0b0b{number:02x}" for number in range(1, SERIES + 1)},
}
EXTRA = "pip install 'gaekit[report]'"


def series_colour(number: int) -> str:
    """The colour of the curve of a number from 0, for matplotlib."""
    return COLOURS[series_name(number)]


def series_name(number: int) -> str:
    """The page's name of that colour."""
    return f"series-{number % SERIES + 1}"


def require_matplotlib() -> None:
    """Raises GaekitError where matplotlib is not installed."""
    try:
        import matplotlib as _  # noqa: F401
    except ImportError as error:
        raise GaekitError(f"plots need matplotlib, which is not installed; {EXTRA} brings it") from error


@contextmanager
def drawing(height: int, title: str) -> Iterator[tuple[Figure, Callable[[], Markup]]]:
    """A figure of WIDTH x `height` pixels to draw on, and what makes the SVG of it, once it is drawn."""
    require_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_style(title)):
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03)  # type: ignore[union-attr, call-arg]
        yield figure, lambda: _markup(figure, title)


def _style(title: str) -> Any:  # of matplotlib's own names, a type of which its older releases lack
    muted, rule = COLOURS["muted"], COLOURS["rule"]
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": title,
        "font.size": FONT,
        "text.color": COLOURS["ink"],
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "axes.edgecolor": muted,
        "axes.labelcolor": muted,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": rule,
        "grid.linewidth": 0.7,
        "xtick.color": muted,
        "ytick.color": muted,
        "lines.linewidth": 1.6,
        "path.simplify": True,
    }


def _markup(figure: Figure, title: str) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Markup(as_part(buffer.getvalue(), title))


_plots = itertools.count(1)
"""Plots made by this process: with the hash of what they show, no two of a page have ids in common."""


def as_part(svg: str, title: str) -> str:
    """An SVG file as an element of a page, named by `title` for those who do not see it."""
    text = svg[svg.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style\b.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*</defs>", "", text).replace("xlink:href", "href")
    text = _with_own_ids(text, f"p{next(_plots)}{hashlib.sha256(text.encode()).hexdigest()[:6]}")
    for name, number in COLOURS.items():
        text = text.replace(number, f"var(--{name})")
    text = re.sub(r"font-family: [^;\"]+", "font-family: inherit", text)
    text = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", text)
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d+\.\d\d)\d+", r"\1", tag[0]), text)  # not in what is read
    text = re.sub(r"\s*\n\s*", " ", text)
    view = re.search(r'viewBox="[^"]+"', text)
    head = f'<svg class="plot" role="img" aria-label="{escape(title)}" {view[0] if view else ""}>'
    return head + text[text.index(">") + 1 :].strip()


def _with_own_ids(text: str, prefix: str) -> str:
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))

    def renamed(found: re.Match[str]) -> str:
        return f' id="{prefix}-{found[1]}"' if found[1] in used else ""

    text = re.sub(r'\s+id="([^"]+)"', renamed, text)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", text)
