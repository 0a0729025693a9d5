"""The elements of a page and the page around them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from gaekit.errors import GaekitError
from gaekit.runs.page.svg import EXTRA, require_matplotlib

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent
TEMPLATES, STYLE, PARTS = HERE / "templates", HERE / "style.css", "parts.html"
Text = str | Markup


@dataclass(frozen=True)
class Cell:
    """A table's cell that is more than text: `number` stands to the right, `strong` marks what matters, `wide` is for
    sentences, which need room."""

    text: Text
    number: bool = False
    strong: bool = False
    wide: bool = False

    @property
    def css(self) -> str:
        """Its classes."""
        return " ".join(name for name in ("number", "strong", "wide") if getattr(self, name))


def require_extra() -> None:
    """Raises GaekitError, with what to install, where the extra `report` is not there."""
    require_matplotlib()
    try:
        import jinja2 as _  # noqa: F401
    except ImportError as error:
        raise GaekitError(f"pages need jinja2, which is not installed; {EXTRA} brings it") from error


def render(template: str, **context: Any) -> str:
    """A page from one of `templates/`, with the style of all pages as `style`. Names that the template uses and
    `context` lacks raise jinja2.UndefinedError."""
    return _environment().get_template(template).render(style=_style(), **context)


def table(head: Sequence[Text], rows: Iterable[Sequence[Text | Cell]], *, caption: str) -> Markup:
    """A table that scrolls within itself where it is wider than the page. The first column names its rows; `caption`
    says what it holds, to those who do not see it."""
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    return _part("table", head, cells, caption)


def definitions(pairs: Iterable[tuple[Text, Text]]) -> Markup:
    """Terms and what they are."""
    return _part("definitions", list(pairs))


def details(summary: Text, body: Markup) -> Markup:
    """What is folded until one asks for it; on paper it is open."""
    return _part("details", summary, body)


def figure(body: Markup, *, title: Text = "", caption: Text = "", keys: Text = "", css: str = "") -> Markup:
    """A `<figure>` with its title above, and below it what colours mean and what is to be said."""
    return _part("figure", body, breakable(title), caption, keys, css)


def breakable(text: Text) -> Markup:
    """A name such as `samples/frechet_efficientnet_lite0`, which on a narrow screen breaks behind / and _ alone."""
    return Markup(re.sub("([/_])", r"\1<wbr>", str(escape(text)))) if not isinstance(text, Markup) else text


def legend(keys: Sequence[tuple[str, str, bool]]) -> Markup:
    """What the lines of a plot are: (name of the colour, text, whether it is dashed)."""
    return _part("legend", keys)


def gallery(pictures: Iterable[Markup | tuple[Markup, Text]], *, columns: int | None = None) -> Markup:
    """Pictures, each with its caption where it has one: so many in a row, as wide as there is room, or each as wide as
    it is and as many in a row as fit."""
    pairs = [(item, "") if isinstance(item, Markup) else item for item in pictures]
    return _part("gallery", pairs, columns)


def _part(name: str, *given: Any) -> Markup:
    macros: Any = _environment().get_template(PARTS).module
    return Markup(str(getattr(macros, name)(*given)).strip())


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _style() -> Markup:
    return Markup(STYLE.read_text(encoding="utf-8"))
