"""From labels as data sets write them, numbers or names, to indices of classes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gaekit.api import DataAbsent, DataError

NUMBER = re.compile(r"0|[1-9]\d{0,17}")


class ClassMap:
    """Class names in label order, and the label that each written one stands for.

    With names `given`, a number counts from 0 in them and a text is one of them; otherwise the classes are those `seen`
    in training: numbers by size, names by the alphabet. `of` is the data set's name, in messages.
    """

    def __init__(self, seen: Sequence[str], given: tuple[str, ...] | None, *, of: str):
        self.of = of
        written = sorted(set(seen))
        numbers = all(NUMBER.fullmatch(text) for text in written)
        if given is not None:
            self.names = given
            self._label = {str(label) if numbers else name: label for label, name in enumerate(given)}
        else:
            self.names = tuple(sorted(written, key=int) if numbers else written)
            self._label = {name: label for label, name in enumerate(self.names)}

    def labels(self, written: Sequence[str], split: str) -> NDArray[np.int64]:
        """The label of each image of a split. Raises DataError for one that is no class."""
        texts, rows = np.unique(np.array(written, dtype=object).astype(str), return_inverse=True)
        unknown = [text for text in texts.tolist() if text not in self._label]
        if unknown:
            known = list(self._label)
            raise DataError(
                f"{self.of}: {split}: label '{unknown[0]}' is none of the {len(known)} classes: "
                f"{', '.join(known[:10])}{', ...' if len(known) > 10 else ''}; give their names as `classes`, all of "
                "them"
            )
        table = np.array([self._label[text] for text in texts.tolist()], dtype=np.int64)
        return table[rows.reshape(-1)] if len(texts) else np.zeros(0, dtype=np.int64)


def class_names(setting: tuple[str, ...] | str | None, *, of: str) -> tuple[str, ...] | None:
    """The names that a `classes` setting gives: a list, or a file of a JSON list or a line a name; None if it gives
    none. Raises DataAbsent, DataError."""
    if setting is None:
        return None
    names = _from_file(setting, of) if isinstance(setting, str) else setting
    repeated = [name for name in names if names.count(name) > 1] if len(set(names)) < len(names) else []
    if repeated or not names:
        raise DataError(
            f"{of}: classes: {f'{repeated[0]!r} is named twice' if repeated else 'no name'}; "
            "give each class one name, in the order of the labels"
        )
    return names


def _from_file(setting: str, of: str) -> tuple[str, ...]:
    path = Path(setting).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataAbsent(f"{of}: classes: {path} does not exist; give a file with a class name a line") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{of}: classes: {path} cannot be read: {error}") from error
    if path.suffix.lower() != ".json":
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{of}: classes: {path} is no JSON: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{of}: classes: {path} holds no JSON list of names")
    return tuple(names)
