"""Tar shards in the layout of WebDataset, here or at a URL, read image by image through an index (docs/data.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, field_validator

from gaekit.api import DataError, Dataset, decode_image, progress
from gaekit_datasets.holdout import held_out_rows
from gaekit_datasets.labels import ClassMap, class_names
from gaekit_datasets.scan import Names
from gaekit_datasets.settings import RGB, ImageConfig, fraction_or_text
from gaekit_datasets.shards import Shard, shards_of
from gaekit_datasets.tar_index import Fields, TarIndex, index_of
from gaekit_datasets.windowed import windowed_order

if TYPE_CHECKING:
    from PIL.Image import Image

THREADS = 8


@dataclass(frozen=True)
class Samples:
    """N samples of some shards in their order: which shard each lies in and where (N,), its hash (N, 32), its key
    after the shard's name, and its label as written."""

    shards: list[Shard]
    shard: NDArray[np.int64]
    start: NDArray[np.int64]
    size: NDArray[np.int64]
    hashes: NDArray[np.uint8]
    names: list[str]
    written: list[str]

    @classmethod
    def of(cls, shards: list[Shard], indexes: Sequence[TarIndex]) -> Samples:
        """All samples of shards with their indexes."""
        pairs = list(zip(shards, indexes, strict=True))
        names = [f"{shard.name}/{index.keys[row]}" for shard, index in pairs for row in range(len(index))]
        written = [index.written[row] for index in indexes for row in range(len(index))]
        return cls(
            shards=[replace(shard, total=index.total) for shard, index in pairs],
            shard=np.repeat(np.arange(len(shards)), [len(index) for index in indexes]),
            start=np.concatenate([index.start for index in indexes]),
            size=np.concatenate([index.size for index in indexes]),
            hashes=np.concatenate([index.hashes for index in indexes]),
            names=names,
            written=written,
        )

    def where(self, chosen: NDArray[np.bool_]) -> Samples:
        """Some of them, in the same order."""
        rows = np.flatnonzero(chosen).tolist()
        return Samples(
            shards=self.shards,
            shard=self.shard[chosen],
            start=self.start[chosen],
            size=self.size[chosen],
            hashes=self.hashes[chosen],
            names=[self.names[row] for row in rows],
            written=[self.written[row] for row in rows],
        )

    @property
    def counts(self) -> list[int]:
        """How many of them lie in each shard."""
        return [int(count) for count in np.bincount(self.shard, minlength=len(self.shards))]


class ShardImages:
    """One split: images at their places in shards, with their labels, visited in training by `windowed_order`."""

    def __init__(self, samples: Samples, labels: NDArray[np.int64], background: RGB, window: int | None):
        self.shards, self.counts, self.names = samples.shards, samples.counts, Names(samples.names)
        self._shard, self._start, self._size = samples.shard, samples.start, samples.size
        self.labels, self.background, self.window = labels, background, window

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        shard = self.shards[self._shard[index]]
        data = shard.read(int(self._start[index]), int(self._size[index]))
        place = f"{shard.where}: {self.names[index][len(shard.name) + 1 :]}"
        return decode_image(place, self.background, data=data), int(self.labels[index])

    def key(self, index: int) -> str:
        """The name of the shard, a slash, the sample's key."""
        return self.names[index]

    @property
    def order(self) -> Callable[[int, int], NDArray[np.int64]] | None:
        """`order(seed, epoch)`; None where all images are visited at random."""
        return self._order if self.window is not None else None

    def _order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        assert self.window is not None
        return windowed_order(self.counts, seed, epoch, self.window)


@dataclass(frozen=True)
class _Contents:
    classes: ClassMap | None
    splits: tuple[Samples, Samples]
    labels: tuple[NDArray[np.int64], NDArray[np.int64]]

    @property
    def names(self) -> tuple[str, ...]:
        return () if self.classes is None else self.classes.names


class WebDataset(Dataset):
    """Tar shards in the layout of WebDataset, at paths or URLs, read image by image through an index that is made
    once."""

    name = "webdataset"

    class Config(ImageConfig):
        """Settings of `webdataset`."""

        shards: str | tuple[str, ...] = Field(
            min_length=1, description="paths or URLs of the shards; {000..127} counts, {a,b} lists, * matches"
        )
        validation: float | str | tuple[str, ...] = Field(
            default=0.1, description="what is held out: a fraction, chosen by a hash of the keys, or shards"
        )
        image: tuple[str, ...] = Field(
            default=("jpg", "jpeg", "png", "webp"), min_length=1, description="fields that hold the image, in any case"
        )
        label: str = Field(
            default="cls",
            pattern=r"^(json:.+|[^:]+)$",
            description="the field that holds the label, json:NAME for an entry of the field json, or none",
        )
        classes: tuple[str, ...] | str | None = Field(
            default=None, description="class names in label order, or a file of them; null: the labels seen, sorted"
        )
        window: PositiveInt | None = Field(
            default=10_000,
            description="how far training moves an image from its place among shuffled shards; null: anywhere",
        )

        @field_validator("validation", mode="before")
        @classmethod
        def _fraction_or_shards(cls, value: Any) -> Any:
            return value if isinstance(value, list | tuple) and value else fraction_or_text(value, "shards")

        @field_validator("image")
        @classmethod
        def _lower(cls, value: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(field.lower().lstrip(".") for field in value)

    def __init__(self, config: Any):
        super().__init__(config)
        self.on_bad_image = config.on_bad_image

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]  # known only once the shards are indexed
        """Class names in label order; () without labels. Raises DataAbsent, DataError."""
        return self._contents.names

    def train(self) -> ShardImages:
        """The training split. Raises DataAbsent, DataError."""
        return self._split(0)

    def validation(self) -> ShardImages:
        """The held-out split. Raises DataAbsent, DataError."""
        return self._split(1)

    def _split(self, which: int) -> ShardImages:
        contents, config = self._contents, self.config
        return ShardImages(contents.splits[which], contents.labels[which], config.color, config.window)

    def digest(self) -> str:
        """sha256 over keys, labels and contents of the images of both splits and what decides their order and pixels;
        not over where the shards lie, nor over other fields."""
        contents = self._contents
        decided = [list(contents.names), self.config.decides_pixels, self.config.window]
        total = hashlib.sha256(json.dumps(decided, sort_keys=True).encode())
        for samples, labels in zip(contents.splits, contents.labels, strict=True):
            total.update(json.dumps([samples.counts, samples.names]).encode())
            for array in (labels, samples.size, samples.hashes):
                total.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())
        return total.hexdigest()

    @cached_property
    def _contents(self) -> _Contents:
        config = self.config
        given = class_names(config.classes, of=self.name)
        train = self._samples(shards_of(config.shards, "shards"), "shards")
        apart = None
        if not isinstance(config.validation, float):
            held = shards_of(config.validation, "validation", "validation/")
            _check_apart(train.shards, held)
            apart = self._samples(held, "validation")
        classes = None if config.label == "none" else ClassMap(train.written, given, of=self.name)
        labels = self._labels(train, classes, "shards")
        if apart is not None:
            return _Contents(classes, (train, apart), (labels, self._labels(apart, classes, "validation")))
        names = () if classes is None else classes.names
        out = held_out_rows(train.names, labels, config.validation, names, of=self.name)
        return _Contents(classes, (train.where(~out), train.where(out)), (labels[~out], labels[out]))

    def _samples(self, shards: list[Shard], setting: str) -> Samples:
        fields = Fields(self.config.image, self.config.label)
        with ThreadPoolExecutor(THREADS) as pool:
            answers = pool.map(lambda shard: index_of(shard, fields), shards)
            indexes = list(progress(answers, "indexing shards", len(shards), "shards"))
        samples = Samples.of(shards, indexes)
        if not samples.names:
            raise DataError(f"webdataset: {setting}: no image in {len(shards)} shards, {shards[0].where} the first")
        return samples

    @staticmethod
    def _labels(samples: Samples, classes: ClassMap | None, split: str) -> NDArray[np.int64]:
        if classes is None:
            return np.zeros(len(samples.names), dtype=np.int64)
        return classes.labels(samples.written, split)


def _check_apart(train: list[Shard], held: list[Shard]) -> None:
    shared = {shard.where for shard in train} & {shard.where for shard in held}
    if shared:
        raise DataError(
            f"webdataset: validation: {min(shared)} is also among the shards to train on; give shards apart, or a "
            "fraction"
        )
