"""Any folder of images, with sub-folders as classes or without classes (docs/image_folder.md)."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from gaekit.api import DataError, Dataset, decode_image
from gaekit_datasets.contents import Hashes, content_hashes
from gaekit_datasets.layout import ClassRule, Labelled, class_folders, labelled, split, without_empty
from gaekit_datasets.scan import Names, scan
from gaekit_datasets.settings import RGB, ImageConfig, fraction_or_text

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


class FolderImages:
    """One split: files below a root, and their labels."""

    def __init__(self, root: Path, images: Labelled, background: RGB):
        self.root, self.names, self.background = root, Names(images.names), background
        self.labels = images.labels

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        return decode_image(self.root / self.names[index], self.background), int(self.labels[index])

    def key(self, index: int) -> str:
        """The path relative to the root."""
        return self.names[index]


@dataclass(frozen=True)
class _Contents:
    """What was found: the class names in label order, and both splits with the roots that their names are relative
    to."""

    classes: tuple[str, ...]
    train: Labelled
    validation: Labelled
    validation_root: Path


class ImageFolder(Dataset):
    """Images below a folder; each sub-folder is a class, or there are no classes. Nothing is read before it is asked
    for."""

    name = "image_folder"

    class Config(ImageConfig):
        """Settings of `image_folder`."""

        root: str = Field(min_length=1, description="the folder; a relative one is looked up in the current directory")
        validation: float | str = Field(
            default=0.1, description="what is held out: a fraction, chosen by a hash of the names, or a folder"
        )
        classes: ClassRule = Field(
            default="auto", description="folders: each sub-folder is a class; none; auto: as it lies"
        )
        empty_classes: Literal["error", "ignore"] = Field(
            default="error", description="what a class folder without images is"
        )
        extensions: tuple[str, ...] = Field(
            default=EXTENSIONS, min_length=1, description="how the names of images end, in either case"
        )

        @field_validator("validation", mode="before")
        @classmethod
        def _fraction_or_path(cls, value: Any) -> Any:
            return fraction_or_text(value, "the path of a folder")

        @field_validator("extensions")
        @classmethod
        def _with_dot(cls, value: tuple[str, ...]) -> tuple[str, ...]:
            return tuple("." + extension.lower().lstrip(".") for extension in value)

    def __init__(self, config: Any):
        super().__init__(config)
        self.on_bad_image = config.on_bad_image

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]  # known only once the folder is read
        """Names of the class folders, sorted: label order. () without classes. Raises DataAbsent, DataError."""
        return self._contents.classes

    def train(self) -> FolderImages:
        """The training split. Raises DataAbsent, DataError."""
        return FolderImages(_expanded(self.config.root), self._contents.train, self.config.color)

    def validation(self) -> FolderImages:
        """The held-out split. Raises DataAbsent, DataError."""
        contents = self._contents
        return FolderImages(contents.validation_root, contents.validation, self.config.color)

    def digest(self) -> str:
        """sha256 over names and contents of both splits, the class map and what changes pixels or order; not over
        where the folder lies, nor over times: those only say which contents are read again (`contents.py`)."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        contents = self._contents
        decided = [list(contents.classes), self.config.decides_pixels]
        total = hashlib.sha256(json.dumps(decided, sort_keys=True).encode())
        for part, hashes in zip((contents.train, contents.validation), self._hashes(), strict=True):
            total.update(b"\0split\0")
            names = Names(part.names).arrays
            for array in (names["ends"], names["bytes"], part.stamps[:, 0], part.labels, hashes):
                total.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())
        return total.hexdigest()

    def _hashes(self) -> tuple[Hashes, Hashes]:
        root, contents, scope = _expanded(self.config.root), self._contents, " ".join(self.config.extensions)
        train, validation = contents.train, contents.validation
        if contents.validation_root != root:
            apart = content_hashes(contents.validation_root, validation.names, validation.stamps, scope)
            return content_hashes(root, train.names, train.stamps, scope), apart
        stamps = np.concatenate([train.stamps, validation.stamps])
        both = content_hashes(root, train.names + validation.names, stamps, scope)
        return both[: len(train.names)], both[len(train.names) :]

    @cached_property
    def _contents(self) -> _Contents:
        config, root = self.config, _expanded(self.config.root)
        tree = scan(root, config.extensions, "root")
        if tree.others:
            kinds = ", ".join(f"{count} {ending}" for ending, count in tree.others.most_common(5))
            logger.info("%s: files that are not taken for images: %s", root, kinds)
        found = class_folders(tree, config.classes, "root")
        if found is not None:
            found, empty = without_empty(found, config.empty_classes)
            for name in empty:
                logger.warning("%s: class folder '%s' holds no image and is ignored", root, name)
        classes = tuple(found or ())
        images = labelled(tree, found, classes)
        if isinstance(config.validation, str):
            path = _expanded(config.validation)
            _check_apart(root, path)
            return _Contents(classes, images, _validation_images(path, config.extensions, classes), path)
        train, validation = split(images, config.validation, classes)
        return _Contents(classes, train, validation, root)


def _validation_images(path: Path, extensions: tuple[str, ...], classes: tuple[str, ...]) -> Labelled:
    tree = scan(path, extensions, "validation")
    found = class_folders(tree, "folders" if classes else "none", "validation")
    unknown = [name for name, inside in (found or {}).items() if inside.files and name not in classes]
    if unknown:
        raise DataError(
            f"image_folder: validation: {path} holds class '{unknown[0]}', which has no folder in root; "
            f"known: {', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}"
        )
    return labelled(tree, found, classes)


def _check_apart(root: Path, validation: Path) -> None:
    train, held_out = root.resolve(), validation.resolve()
    if train == held_out or train in held_out.parents or held_out in train.parents:
        raise DataError(
            f"image_folder: validation: {validation} and root: {root} overlap: images would be trained on and also "
            "held out; give folders side by side, or a fraction"
        )


def _expanded(path: str) -> Path:
    return Path(os.path.expanduser(path))
