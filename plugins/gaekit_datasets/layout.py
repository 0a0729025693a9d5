"""From a folder's tree to two lists of labelled files: which folders are classes, and which images are held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gaekit.api import DataError
from gaekit_datasets.holdout import held_out_rows
from gaekit_datasets.scan import Found, Tree

ClassRule = Literal["folders", "none", "auto"]


@dataclass(frozen=True)
class Labelled:
    """N images of one split in their order: names relative to the root, stamps (N, 3) int64, labels (N,) int64."""

    names: list[str]
    stamps: NDArray[np.int64]
    labels: NDArray[np.int64]


def class_folders(tree: Tree, rule: ClassRule, setting: str) -> dict[str, Found] | None:
    """The sub-folders that are classes, in label order, empty ones among them; None where there are no classes.

    Raises DataError if there is no image, or if images lie both beside and in sub-folders where one of the two must
    be meant.
    """
    inside = next((name for found in tree.folders.values() for name in sorted(found.files)), None)
    on_top = min(tree.top.files, default=None)
    if inside is None and on_top is None:
        raise DataError(f"image_folder: {setting}: no image in {tree.root}{_seen(tree.others)}")
    if rule == "none" or (rule == "auto" and inside is None):
        return None
    if on_top is not None:
        where = (
            f"beside its sub-folders ('{on_top}')"
            if inside is None
            else f"both directly in it ('{on_top}') and in sub-folders ('{inside}')"
        )
        raise DataError(
            f"image_folder: {setting}: {tree.root} holds images {where}; for one class a sub-folder move every image "
            "into one, to train without classes say `classes: none`"
        )
    return tree.folders


def without_empty(folders: dict[str, Found], rule: Literal["error", "ignore"]) -> tuple[dict[str, Found], list[str]]:
    """(the classes that hold images, the names of the others). Under "error" raises DataError if there are others."""
    empty = [name for name, found in folders.items() if not found.files]
    if empty and rule == "error":
        named = ", ".join(f"'{name}'" for name in empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        raise DataError(
            f"image_folder: no image in class folder {named}{_seen(folders[empty[0]].others)}: nothing can be learned "
            "of a class without images; remove the folder, or say `empty_classes: ignore`"
        )
    return {name: found for name, found in folders.items() if found.files}, empty


def _seen(others: Counter[str]) -> str:
    if not others:
        return ""
    kinds = ", ".join(f"{count} {ending}" for ending, count in others.most_common(5))
    return f" (but {kinds}; the setting `extensions` says what an image's name ends in)"


def labelled(tree: Tree, classes: dict[str, Found] | None, order: Iterable[str] = ()) -> Labelled:
    """All images of a tree: class by class in the `order` of labels, by name within; without classes by name."""
    if classes is None:
        everything = dict(tree.top.files)
        for found in tree.folders.values():
            everything |= found.files
        groups = [everything]
    else:
        groups = [classes[name].files if name in classes else {} for name in order]
    names = [name for files in groups for name in sorted(files)]
    stamps = [files[name] for files in groups for name in sorted(files)]
    labels = np.repeat(np.arange(len(groups)), [len(files) for files in groups])
    return Labelled(names, np.array(stamps, dtype=np.int64).reshape(-1, 3), labels)


def split(images: Labelled, fraction: float, classes: tuple[str, ...]) -> tuple[Labelled, Labelled]:
    """(training, validation) by a hash of the names. Raises DataError if one is empty, or training lacks a class."""
    chosen = held_out_rows(images.names, images.labels, fraction, classes, of="image_folder")
    return _select(images, ~chosen), _select(images, chosen)


def _select(images: Labelled, chosen: NDArray[np.bool_]) -> Labelled:
    names = [name for name, wanted in zip(images.names, chosen.tolist(), strict=True) if wanted]
    return Labelled(names, images.stamps[chosen], images.labels[chosen])
