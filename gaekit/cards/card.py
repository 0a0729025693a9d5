"""A report card as JSON: what a tokenizer is, of what images, its numbers and speeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from gaekit.errors import ArtifactError
from gaekit.store.files import read_json

VERSION = 1


class _Part(BaseModel):
    """What a file must have to be a card."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class _Parameters(_Part):
    encoder: int
    decoder: int


class _Tokenizer(_Part):
    name: Annotated[str, Field(min_length=1, max_length=200)]
    kind: str
    sha256: str
    licence: str
    latent: tuple[PositiveInt, PositiveInt, PositiveInt]
    image_size: PositiveInt
    parameters: _Parameters


class _Data(_Part):
    dataset: str
    digest: str
    split: str
    images: int
    image_size: int


class _Half(_Part):
    images_per_second: float
    peak_bytes: int | None = None


class _Speed(_Part):
    device: str
    threads: int | None = None
    batch: int
    encode: _Half
    decode: _Half


class _Number(_Part):
    value: float
    interval: tuple[float, float] | None = None
    protocol: dict[str, Any]
    per_image: list[float] | None = None
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
    data = read_json(file)
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
