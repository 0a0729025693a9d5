"""A report card as JSON: what a tokenizer is, of what images, its numbers and speeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gaekit.errors import ArtifactError
from gaekit.store.files import read_json

VERSION = 1
DEEPEST = 32
"""Levels of a card, which has five and those of its protocols."""
_Count = Annotated[int, Field(ge=0, le=10**15)]
_Side = Annotated[int, Field(ge=1, le=10**6)]
_Value = Annotated[float, Field(ge=-1e100, le=1e100)]
"""What tables, plots and differences can be made of: its square is finite too."""


class _Part(BaseModel):
    """What a file must have to be a card."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)


class _Parameters(_Part):
    encoder: _Count
    decoder: _Count


class _Tokenizer(_Part):
    name: Annotated[str, Field(min_length=1, max_length=200)]
    kind: str
    sha256: str
    licence: str
    latent: Annotated[list[_Side], Field(min_length=3, max_length=3)]
    image_size: _Side
    parameters: _Parameters


class _Data(_Part):
    dataset: str
    digest: str
    split: str
    images: _Count
    image_size: _Side


class _Half(_Part):
    images_per_second: Annotated[float, Field(ge=0, le=1e15)]
    peak_bytes: _Count | None = None


class _Speed(_Part):
    device: str
    threads: _Count | None = None
    batch: _Count
    encode: _Half
    decode: _Half


class _Number(_Part):
    value: _Value
    interval: Annotated[list[_Value], Field(min_length=2, max_length=2)] | None = None
    protocol: dict[str, Any]
    per_image: list[_Value] | None = None
    higher: bool = False


class _Card(_Part):
    card: int
    tokenizer: _Tokenizer
    data: _Data
    numbers: dict[str, _Number]
    speed: _Speed
    left_out: list[str] = []


@dataclass(frozen=True)
class Card:
    """One tokenizer on one set of images.

    tokenizer: name, kind, sha256 of the weights, licence, sizes, parameters. data: digest of the images, which split,
    how many. numbers: as in metrics.json, each with what every image contributes where it has that. speed: of encoding
    and decoding, with the device. left_out: what was not measured, and why.
    """

    tokenizer: Mapping[str, Any]
    data: Mapping[str, Any]
    numbers: Mapping[str, Mapping[str, Any]]
    speed: Mapping[str, Any]
    left_out: tuple[str, ...] = ()
    gaekit: str = ""
    card: int = field(default=VERSION)

    @property
    def name(self) -> str:
        """What the tokenizer is called."""
        return str(self.tokenizer["name"])

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        return {**asdict(self), "left_out": list(self.left_out)}


def read_card(file: Path) -> Card:
    """A card that was written. Raises ArtifactError for a file that is none, or of a newer gaekit."""
    if not file.is_file():
        raise ArtifactError(f"{file}: no such file; `gaekit report-card --out DIR` writes cards")
    data = read_json(file, deepest=DEEPEST)
    if not isinstance(data, dict) or not isinstance(data.get("card"), int):
        raise ArtifactError(f"{file}: is no report card; `gaekit report-card --out DIR` writes them")
    if data["card"] > VERSION:
        raise ArtifactError(
            f"{file}: written by a newer gaekit (card {data['card']}, this one reads {VERSION}); upgrade"
        )
    try:
        _Card.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"{file}: damaged: {where}: {first['msg']}") from error
    return Card(
        data["tokenizer"], data["data"], data["numbers"], data["speed"], tuple(data.get("left_out", ())),
        str(data.get("gaekit", "")), data["card"],
    )  # fmt: skip
