"""Report cards beside each other: of the same images, or not at all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gaekit.cards.card import Card
from gaekit.errors import GaekitError
from gaekit.intervals import decimals
from gaekit.runs.compare.numbers import Number, Row, rows_of
from gaekit.store.files import human_size

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SAME = ("digest", "split", "images", "image_size")
"""What of the data must be the same."""


@dataclass(frozen=True)
class Fact:
    """Something that is no measured quality: its name, and how it reads for each card."""

    name: str
    texts: tuple[str, ...]


class Arena:
    """Cards of the same images. Raises GaekitError, naming what differs, for others, and for more than there are
    letters."""

    def __init__(self, cards: Sequence[Card]):
        if not 1 <= len(cards) <= len(LETTERS):
            raise GaekitError(f"{len(cards)} cards; 1 to {len(LETTERS)} can be set beside each other")
        self.cards = tuple(cards)
        for card in cards[1:]:
            _refuse_other_images(cards[0], card)

    @property
    def letters(self) -> str:
        """One for each card."""
        return LETTERS[: len(self.cards)]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What the cards are called: with their letters where two have one name."""
        names = [card.name for card in self.cards]
        if len(set(names)) == len(names):
            return tuple(names)
        return tuple(f"{name} ({letter})" for name, letter in zip(names, self.letters, strict=True))

    @cached_property
    def facts(self) -> tuple[Fact, ...]:
        """What the tokenizers are, and their speeds."""
        return tuple(Fact(name, tuple(text(card) for card in self.cards)) for name, text in _FACTS.items())

    @cached_property
    def rows(self) -> list[Row]:
        """Every number of every card, and how those of the second and later differ from the first's."""
        rows = rows_of([{name: _number(entry) for name, entry in card.numbers.items()} for card in self.cards])
        return sorted(rows, key=lambda row: not row.name.startswith("reconstruction/"))

    def is_higher_better(self, name: str) -> bool:
        """Whether more of a number is better."""
        return any(card.numbers[name].get("higher", False) for card in self.cards if name in card.numbers)

    def best(self, row: Row) -> set[int]:
        """The places of the best of a row, of several where they are alike; none where its numbers cannot be compared,
        are of no better or worse, or are all one."""
        if not row.name.startswith(JUDGED) or any(change.verdict == "not comparable" for change in row.changes):
            return set()
        known = {place: number.value for place, number in enumerate(row.numbers) if number is not None}
        if len(set(known.values())) < 2:
            return set()
        wanted = (max if self.is_higher_better(row.name) else min)(known.values())
        return {place for place, value in known.items() if value == wanted}

    def notes(self) -> Iterator[str]:
        """What stands against comparing some of the numbers, and what cards lack."""
        for row in self.rows:
            for name, change in zip(self.names[1:], row.changes, strict=True):
                if change.verdict == "not comparable":
                    yield f"{row.name}: {name} cannot be compared with {self.names[0]}: {'; '.join(change.why)}"
        lacking: dict[str, list[str]] = {}
        for name, card in zip(self.names, self.cards, strict=True):
            for line in card.left_out:
                lacking.setdefault(line, []).append(name)
        for line, names in lacking.items():
            whose = "" if len(names) == len(self.cards) else f"{', '.join(names)}: "
            yield f"{whose}left out: {line}"


JUDGED = ("reconstruction/", "latents/linear_probe", "latents/probe")
"""How the names of numbers begin of which one is better than another."""


def _refuse_other_images(one: Card, other: Card) -> None:
    differing = [
        f"{key} is {_short(one.data.get(key))} and {_short(other.data.get(key))}"
        for key in SAME
        if one.data.get(key) != other.data.get(key)
    ]
    if differing:
        raise GaekitError(
            f"{one.name} and {other.name} are of different images, and their numbers cannot be set beside each other: "
            f"{'; '.join(differing)}; make both cards with the same --data"
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 16 else f"{text[:12]}..."


def _number(entry: Any) -> Number:
    interval, rows = entry.get("interval"), entry.get("per_image")
    return Number(
        float(entry["value"]),
        None if interval is None else (float(interval[0]), float(interval[1])),
        entry["protocol"],
        None if rows is None else np.asarray(rows, dtype=np.float64),
    )


def value_text(number: Number | None) -> str:
    """A number with half the width of its interval: `26.31 ± 0.40`."""
    if number is None:
        return "–"
    if number.interval is None:
        return f"{number.value:.4g}"
    half = max(number.interval[1] - number.value, number.value - number.interval[0])
    digits = decimals(half)
    return f"{number.value:.{digits}f} ± {half:.{digits}f}"


def _latent(card: Card) -> str:
    return " x ".join(map(str, card.tokenizer["latent"]))


def _compression(card: Card) -> str:
    """Values of an image for each value of its latent."""
    side = card.tokenizer["image_size"]
    return f"{3 * side**2 / math.prod(card.tokenizer['latent']):.3g}"


def _parameters(part: str, card: Card) -> str:
    return f"{card.tokenizer['parameters'][part] / 1e6:.3g}M"


def _rate(part: str, card: Card) -> str:
    rate = card.speed[part]["images_per_second"]
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _memory(part: str, card: Card) -> str:
    peak = card.speed[part].get("peak_bytes")
    return "–" if peak is None else human_size(peak)


_FACTS: dict[str, Any] = {
    "latent": _latent,
    "values an image / latent": _compression,
    "encoder parameters": lambda card: _parameters("encoder", card),
    "decoder parameters": lambda card: _parameters("decoder", card),
    "encoded images/s": lambda card: _rate("encode", card),
    "decoded images/s": lambda card: _rate("decode", card),
    "encoder's memory": lambda card: _memory("encode", card),
    "decoder's memory": lambda card: _memory("decode", card),
    "licence": lambda card: str(card.tokenizer["licence"]),
}
