"""Data sets of the Hugging Face hub, and local files that its `datasets` package reads (docs/data.md)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from gaekit.api import BadImage, DataAbsent, DataError, Dataset, decode_image, require
from gaekit_datasets.contents import content_hashes
from gaekit_datasets.holdout import held_out_rows
from gaekit_datasets.labels import ClassMap, class_names
from gaekit_datasets.settings import RGB, ImageConfig, fraction_or_text

if TYPE_CHECKING:
    from PIL.Image import Image


class TableImages:
    """One split: some rows of a table, whose column `image` holds encoded images, with their labels.

    A row that names a file in place of holding it may name one below `roots`: whoever wrote the table chose the path.
    """

    def __init__(self, table: Any, image: str, split: str, rows: NDArray[np.int64], labels: NDArray[np.int64],
                 background: RGB, roots: Sequence[Path]):  # fmt: skip
        self.table, self.image, self.split, self.roots = table, image, split, roots
        self.rows, self.labels, self.background = rows, labels, background

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        cell = self.table[int(self.rows[index])][self.image]
        if cell is None:
            cell = {"bytes": b""}
        data, path = cell.get("bytes"), cell.get("path")
        if data is None and not path:
            data = b""
        try:
            image = decode_image(path if data is None else self.key(index), self.background, data=data,
                                 within=self.roots)  # fmt: skip
        except BadImage as error:
            raise BadImage(str(error) if data is not None else f"{self.key(index)}: {error}") from error
        return image, int(self.labels[index])

    def key(self, index: int) -> str:
        """The name of the split, a slash, the number of the row in it."""
        return row_name(self.split, int(self.rows[index]))


def row_name(split: str, row: int) -> str:
    """What names a row, and decides whether it is held out."""
    return f"{split}/{row:09d}"


@dataclass(frozen=True)
class _Table:
    """A split as the package gives it, its labels as written or None, and its class names where the column has them."""

    table: Any
    split: str
    written: list[str] | None
    names: tuple[str, ...] | None


@dataclass(frozen=True)
class _Contents:
    names: tuple[str, ...]
    train: TableImages
    validation: TableImages


class HuggingFace(Dataset):
    """A data set of the Hugging Face hub, or a local folder, parquet files or a saved one that its `datasets` package
    reads."""

    name = "huggingface"

    class Config(ImageConfig):
        """Settings of `huggingface`."""

        path: str = Field(min_length=1, description="a name on the hub, a local folder, or parquet files; * matches")
        config: str | None = Field(default=None, description="which configuration, where the data set has several")
        revision: str | None = Field(default=None, description="on the hub: a commit, tag or branch; null: the newest")
        split: str = Field(default="train", min_length=1, description="the split to train on")
        validation: float | str = Field(
            default=0.1, description="what is held out: a fraction, chosen by a hash of the row's number, or a split"
        )
        image: str = Field(default="image", min_length=1, description="the column of images")
        label: str | None = Field(default="label", description="the column of labels; null trains without classes")
        classes: tuple[str, ...] | str | None = Field(
            default=None, description="class names in label order, or a file of them; null: as the column says"
        )

        @field_validator("validation", mode="before")
        @classmethod
        def _fraction_or_split(cls, value: Any) -> Any:
            return fraction_or_text(value, "the name of a split")

    def __init__(self, config: Any):
        super().__init__(config)
        self.on_bad_image = config.on_bad_image

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]  # known only once the table is read
        """Class names in label order; () without labels. Raises DataAbsent, DataError."""
        return self._contents.names

    def train(self) -> TableImages:
        """The training split. Raises DataAbsent, DataError."""
        return self._contents.train

    def validation(self) -> TableImages:
        """The held-out split. Raises DataAbsent, DataError."""
        return self._contents.validation

    def digest(self) -> str:
        """sha256 over the files' contents, or the commit on the hub, the class names and what chooses and changes
        images; not over where local files lie, nor over the package's own cache."""
        config = self.config
        decided = config.model_dump(mode="json", exclude={"use", "path", "revision", "background", "classes"})
        facts = [decided, config.decides_pixels, list(self.classes), self._identity]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _identity(self) -> Any:
        local = self._local
        if local is None:
            return ["hub", self.config.path, self._builder.hash]
        if _is_saved(local):
            files = sorted(path for path in local.rglob("*") if path.suffix in (".arrow", ".json"))
        else:
            wanted = (self.config.split, self.config.validation)
            listed = self._builder.config.data_files or {}
            files = sorted({Path(file) for split, group in listed.items() if split in wanted for file in group})
        root = Path(os.path.commonpath([file.parent for file in files]))
        names = [file.relative_to(root).as_posix() for file in files]
        stamps = np.array([(s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in (file.stat() for file in files)])
        hashes = content_hashes(root, names, stamps.reshape(-1, 3), self.config.path, whole=True)
        return [[name, row.tobytes().hex()] for name, row in zip(names, hashes, strict=True)]

    @cached_property
    def _package(self) -> Any:
        return require("datasets", extra="data", wanted_by=f"dataset '{self.name}'")

    @property
    def _local(self) -> Path | None:
        path = Path(self.config.path).expanduser()
        return path if path.exists() or has_magic(str(path)) or path.suffix == ".parquet" else None

    @property
    def _files(self) -> list[Path]:
        assert self._local is not None
        files = sorted(Path(path) for path in glob(str(self._local.absolute())))
        if not files:
            raise DataAbsent(f"huggingface: path: no file is called {self._local} (looked in {Path.cwd()})")
        return files

    @cached_property
    def _builder(self) -> Any:
        local, config = self._local, self.config
        with self._explained():
            if local is not None and not local.is_dir():
                files = {config.split: [str(file) for file in self._files]}
                return self._package.load_dataset_builder("parquet", data_files=files)
            source = str(local.absolute()) if local else config.path
            revision = None if local else config.revision
            return self._package.load_dataset_builder(source, config.config, revision=revision)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Name the data set in what the package raises, and say what may be missing."""
        try:
            yield
        except (DataError, MemoryError):
            raise
        except (ConnectionError, FileNotFoundError) as error:
            raise DataAbsent(
                f"huggingface: path: '{self.config.path}' is no local folder or file, and the hub does not have it or "
                f"cannot be reached ({_first_line(error)}); fetch it once where there is a network, or give a folder"
            ) from error
        except Exception as error:  # the package has errors of many kinds for files of many formats
            raise DataError(
                f"huggingface: '{self.config.path}' cannot be loaded: {type(error).__name__}: {_first_line(error)}"
            ) from error

    def _split(self, name: str) -> Any:
        local = self._local
        if local is not None and _is_saved(local):
            return self._saved(local, name)
        builder = self._builder
        with self._explained():
            builder.download_and_prepare()
        if name not in builder.info.splits:
            raise DataError(_no_split(self.config.path, name, list(builder.info.splits)))
        with self._explained():
            return builder.as_dataset(split=name)

    def _saved(self, folder: Path, name: str) -> Any:
        with self._explained():
            saved = self._package.load_from_disk(str(folder))
        if not isinstance(saved, dict):
            saved = {str(saved.split or "train"): saved}
        if name not in saved:
            raise DataError(_no_split(self.config.path, name, list(saved)))
        return saved[name]

    def _table(self, name: str) -> _Table:
        config, table = self.config, self._split(name)
        for setting, column in (("image", config.image), ("label", config.label)):
            if column is not None and column not in table.column_names:
                raise DataError(
                    f"huggingface: {setting}: '{config.path}' has no column '{column}'; it has: "
                    f"{', '.join(table.column_names)}"
                )
        with self._explained():
            images = table.select_columns([config.image]).cast_column(config.image, self._package.Image(decode=False))
        if config.label is None:
            return _Table(images, name, None, None)
        feature = table.features[config.label]
        values = table.select_columns([config.label]).with_format("arrow")[:][config.label].to_pylist()
        return _Table(images, name, _written(values, name, config.label), tuple(getattr(feature, "names", ())) or None)

    @cached_property
    def _contents(self) -> _Contents:
        config = self.config
        train = self._table(config.split)
        apart = None if isinstance(config.validation, float) else self._table(config.validation)
        given = class_names(config.classes, of=self.name) or train.names
        classes = None if train.written is None else ClassMap(train.written, given, of=self.name)
        labels = _labels(train, classes)
        names = () if classes is None else classes.names
        if apart is not None:
            if apart.split == train.split:
                raise DataError(f"huggingface: validation: '{apart.split}' is the split to train on; give another")
            everything = np.ones(len(labels), dtype=bool)
            held = self._images(apart, np.ones(len(apart.table), dtype=bool), _labels(apart, classes))
            return _Contents(names, self._images(train, everything, labels), held)
        rows = [row_name(train.split, row) for row in range(len(labels))]
        out = held_out_rows(rows, labels, config.validation, names, of=self.name)
        return _Contents(names, self._images(train, ~out, labels), self._images(train, out, labels))

    def _images(self, table: _Table, chosen: NDArray[np.bool_], labels: NDArray[np.int64]) -> TableImages:
        rows = np.flatnonzero(chosen)
        facts = (self.config.image, table.split, rows, labels[chosen], self.config.color)
        return TableImages(table.table, *facts, self._roots)

    @property
    def _roots(self) -> tuple[Path, ...]:
        """The folders that a row may name a file in: that of the data set, and where the package unpacks archives."""
        unpacked = Path(self._package.config.EXTRACTED_DATASETS_PATH)
        if self._local is not None:
            return (self._local.absolute() if self._local.is_dir() else self._files[0].parent, unpacked)
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        fetched = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=self.config.path, repo_type="dataset")
        return (fetched, unpacked)


def _written(values: list[Any], split: str, column: str) -> list[str]:
    for row, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | str) or value in (-1, ""):
            raise DataError(
                f"huggingface: label: {column} is {value!r} in row {row} of split '{split}'; a label is a number from "
                "0 or a name; to train without classes say `label: null`"
            )
    return [str(value) for value in values]


def _labels(table: _Table, classes: ClassMap | None) -> NDArray[np.int64]:
    if classes is None or table.written is None:
        return np.zeros(len(table.table), dtype=np.int64)
    return classes.labels(table.written, table.split)


def _no_split(path: str, name: str, known: list[str]) -> str:
    return f"huggingface: '{path}' has no split '{name}'; it has: {', '.join(known)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _is_saved(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("dataset_dict.json", "state.json"))
