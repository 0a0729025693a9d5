"""Cards as files of a folder."""

from __future__ import annotations

import re
from pathlib import Path

from gaekit.cards.card import Card
from gaekit.store.files import write_json


class CardFolder:
    """A folder to which cards are written, each as soon as it is made."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._taken: set[str] = set()

    def write(self, card: Card) -> Path:
        """Write a card as `<its name>.json`, with a number behind the name where one before it is called the same."""
        stem = re.sub(r"[^\w.+-]+", "_", card.name)
        name, number = stem, 2
        while name in self._taken:
            name, number = f"{stem}_{number}", number + 1
        self._taken.add(name)
        file = self.folder / f"{name}.json"
        write_json(file, card.to_json())
        return file
