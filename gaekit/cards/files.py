"""Cards as files of a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from gaekit.cards.card import Card
from gaekit.store.files import write_json


def write_cards(cards: Sequence[Card], folder: Path) -> Iterator[Path]:
    """Write each card as `<its name>.json`, a number behind the name where two are called the same."""
    taken: set[str] = set()
    for card in cards:
        stem = re.sub(r"[^\w.+-]+", "_", card.name)
        name, number = stem, 2
        while name in taken:
            name, number = f"{stem}_{number}", number + 1
        taken.add(name)
        file = folder / f"{name}.json"
        write_json(file, card.to_json())
        yield file
