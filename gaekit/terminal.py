"""What reaches a person's terminal: whatever a file of somebody else named or holds is shown, never obeyed."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_OBEYED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but for the tab and the end of a line, such as begin a terminal's commands; what turns the
direction of text or breaks lines; halves of characters, which cannot be printed."""


def printable(text: str) -> str:
    r"""`text` with each character that a terminal would obey written out as in Python: `\x1b`, `\u202e`. Ends of lines
    stay."""
    return text if text.isprintable() else _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def to_json(value: Any) -> str:
    """`value` as indented JSON in which no string holds a character that a terminal would obey."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class Terminal(Console):
    """rich's console for text from anywhere: nothing in it is markup, an emoji's code or a terminal's command.

    Tables, bars and texts all pass `render`, also those within each other.
    """

    def __init__(self, *, stderr: bool = False, file: IO[str] | None = None, width: int | None = None):
        super().__init__(stderr=stderr, file=file, width=width, highlight=False, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich's own; what moves the cursor for a bar has no text and stays."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else printable(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)


class PrintableFormatter(logging.Formatter):
    """Warnings as they are, but for what a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, and a traceback where there is one."""
        return printable(super().format(record))
