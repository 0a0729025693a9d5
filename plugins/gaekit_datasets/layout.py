"""From a folder's tree to two lists of labelled files: which folders are classes, and which images are held out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from gaekit.api import DataError
from gaekit_datasets.scan import Found, Tree

ClassRule = Literal["folders", "none", "auto"]


@dataclass(frozen=True)
class Labelled:
    """Images of one split in their order: name relative to the root, bytes, label."""

    names: list[str]
    sizes: list[int]
    labels: list[int]


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
    names, sizes, labels = [], [], []
    for label, files in enumerate(groups):
        for name in sorted(files):
            names.append(name)
            sizes.append(files[name])
            labels.append(label)
    return Labelled(names, sizes, labels)


def held_out(name: str, fraction: float) -> bool:
    """Whether an image belongs to the validation split: its name alone decides, so that adding files moves no other.

    The head of sha256(name) is uniform over [0, 1); below `fraction` is held out.
    """
    head = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8]
    return int.from_bytes(head, "big") < fraction * 2.0**64


def split(images: Labelled, fraction: float, classes: tuple[str, ...]) -> tuple[Labelled, Labelled]:
    """(training, validation) by a hash of the names. Raises DataError if one is empty, or training lacks a class."""
    chosen = [held_out(name, fraction) for name in images.names]
    train, validation = (_select(images, [c is wanted for c in chosen]) for wanted in (False, True))
    if not train.names or not validation.names:
        raise DataError(
            f"image_folder: validation: {fraction:g} of {len(chosen)} images leaves {len(train.names)} to train on and "
            f"{len(validation.names)} held out (names decide, by their hash); give another fraction, or a folder"
        )
    left = set(train.labels)
    for label, name in enumerate(classes):
        if label not in left:
            count = images.labels.count(label)
            raise DataError(
                f"image_folder: validation: {fraction:g} holds out all {count} images of class '{name}'; none is left "
                "to train on: add images to it, or give a smaller fraction, or a folder"
            )
    return train, validation


def _select(images: Labelled, chosen: list[bool]) -> Labelled:
    rows = [row for row in zip(images.names, images.sizes, images.labels, chosen, strict=True) if row[3]]
    return Labelled([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])
