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

from gaekit.api import ComponentConfig, DataError, Dataset, decode_image
from gaekit_datasets.layout import ClassRule, Labelled, class_folders, labelled, split, without_empty
from gaekit_datasets.scan import Names, scan

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
RGB = tuple[int, int, int]


class FolderImages:
    """One split: files below a root, and their labels."""

    def __init__(self, root: Path, images: Labelled, background: RGB):
        self.root, self.names, self.background = root, Names(images.names), background
        self.labels = np.array(images.labels, dtype=np.int64)

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

    class Config(ComponentConfig):
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
        on_bad_image: Literal["error", "skip"] = Field(default="error", description="skip: go on without it, and count")
        background: str = Field(
            default="white",
            pattern=r"^(white|black|#[0-9a-fA-F]{6})$",
            description="what shows through transparency: white, black or '#rrggbb'",
        )

        @field_validator("validation", mode="before")
        @classmethod
        def _fraction_or_path(cls, value: Any) -> Any:
            if isinstance(value, str):
                value = _number(value)
            if isinstance(value, bool) or not isinstance(value, int | float | str) or value == "":
                raise ValueError("give a fraction between 0 and 1, or the path of a folder")
            if not isinstance(value, str) and not 0 < value < 1:
                raise ValueError(f"{value:g} is no fraction between 0 and 1; 0.1 holds out a tenth")
            return value

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
        return FolderImages(_expanded(self.config.root), self._contents.train, _color(self.config.background))

    def validation(self) -> FolderImages:
        """The held-out split. Raises DataAbsent, DataError."""
        contents = self._contents
        return FolderImages(contents.validation_root, contents.validation, _color(self.config.background))

    def digest(self) -> str:
        """sha256 over names and sizes of both splits, the class map and what changes pixels or order; not over where
        the folder lies, nor over contents: a file replaced by another of the same name and size goes unseen."""
        contents = self._contents
        settings = {"background": _color(self.config.background), "on_bad_image": self.on_bad_image}
        total = hashlib.sha256(json.dumps([list(contents.classes), settings], sort_keys=True).encode())
        for part in (contents.train, contents.validation):
            total.update(b"\0split\0")
            for name, size, label in zip(part.names, part.sizes, part.labels, strict=True):
                total.update(b"%s\0%d\0%d\0" % (os.fsencode(name), size, label))
        return total.hexdigest()

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


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _color(text: str) -> RGB:
    named: dict[str, RGB] = {"white": (255, 255, 255), "black": (0, 0, 0)}
    if text in named:
        return named[text]
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue
