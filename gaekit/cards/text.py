"""An arena as a table for the terminal or for Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from gaekit.cards.arena import Arena, value_text


def head_of(arena: Arena) -> tuple[str, ...]:
    """The table's columns."""
    return ("", *arena.names)


def table_of(arena: Arena) -> list[tuple[str, ...]]:
    """A row for each number, then for each fact. The best of a row is marked by a star."""
    rows = []
    for row in arena.rows:
        best = arena.best(row)
        texts = (value_text(number) + (" *" if place in best else "") for place, number in enumerate(row.numbers))
        rows.append((row.name, *texts))
    return [*rows, *((fact.name, *fact.texts) for fact in arena.facts)]


def caption_of(arena: Arena, best: str = "*") -> str:
    """What the cards are of; `best` is how the best is marked."""
    data = arena.cards[0].data
    of_all = data["split"] == "all"
    images = f"All {data['images']} images" if of_all else f"{data['images']} held-out images"
    latents = "; of latents: the held-out images of these" if of_all else ""
    devices = dict.fromkeys(_device(card.speed) for card in arena.cards)
    return (
        f"{images} of {data['dataset']} ({data['digest'][:12]}), {data['image_size']} px{latents}; ± is half a "
        f"95 % interval, {best} the best; speeds on {', '.join(devices)}"
    )


def _device(speed: object) -> str:
    assert isinstance(speed, dict)
    threads = f", {speed['threads']} thread{'s' if speed['threads'] != 1 else ''}" if speed.get("threads") else ""
    return f"{speed['device']}{threads}, batches of {speed['batch']}"


def markdown_of(arena: Arena) -> str:
    """The table as Markdown, with what it is of below."""
    head = head_of(arena)
    lines = [_line(head), _line(["---", *("---:" for _ in head[1:])]), *map(_line, table_of(arena))]
    return "\n".join([*lines, "", f"{caption_of(arena)}."])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
