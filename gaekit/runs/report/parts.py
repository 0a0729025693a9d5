"""Small pieces of HTML that several sections use."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

Text = str | Markup


def joined(parts: Iterable[Text]) -> Markup:
    """Parts one after another; what is no HTML is escaped."""
    return Markup().join(parts)


def paragraph(text: Text, css: str = "") -> Markup:
    """A paragraph."""
    return Markup('<p class="{}">{}</p>').format(css, text) if css else Markup("<p>{}</p>").format(text)


def note(text: Text) -> Markup:
    """What a section shows and how it was made."""
    return paragraph(text, "note")


def heading(text: Text) -> Markup:
    """A heading within a section."""
    return Markup("<h3>{}</h3>").format(text)


def block(title: Text, body: Markup) -> Markup:
    """Something with a heading of its own, set apart."""
    return Markup('<div class="group"><h3>{}</h3>{}</div>').format(title, body)


def code(text: str) -> Markup:
    """A word as the machine has it."""
    return Markup("<code>{}</code>").format(text)


def lines(text: str) -> Markup:
    """Lines as they stand in a file or a terminal."""
    return Markup('<pre tabindex="0">{}</pre>').format(text)


def plots(figures: Iterable[Markup]) -> Markup:
    """Figures beside one another where there is room."""
    return Markup('<div class="plots">{}</div>').format(joined(figures))


def strips(rows: Iterable[Markup]) -> Markup:
    """Rows of pictures, one below the other."""
    return Markup('<div class="strips">{}</div>').format(joined(rows))


def human(number: float) -> str:
    """A value as it is read: four digits that count."""
    return f"{number:,.0f}" if abs(number) >= 10_000 else f"{number:#.4g}".rstrip(".")


def percent(share: float, decimals: int = 0) -> str:
    """A share as it is read: 3 %."""
    return f"{100 * share:.{decimals}f} %"
