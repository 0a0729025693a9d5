"""Which images are held out for validation: names alone decide."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gaekit.api import DataError


def held_out(name: str, fraction: float) -> bool:
    """Whether an image belongs to the validation split: its name alone decides, so that adding files moves no other.

    The head of sha256(name) is uniform over [0, 1); below `fraction` is held out.
    """
    head = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8]
    return int.from_bytes(head, "big") < fraction * 2.0**64


def held_out_rows(
    names: Sequence[str], labels: NDArray[np.int64], fraction: float, classes: tuple[str, ...], *, of: str
) -> NDArray[np.bool_]:
    """Which of N images are held out. `of` is the data set's name, in messages.

    Raises DataError if that leaves nothing on one side, or a class nothing to train on.
    """
    chosen = np.array([held_out(name, fraction) for name in names], dtype=bool)
    count = int(chosen.sum())
    if count in (0, len(chosen)):
        raise DataError(
            f"{of}: validation: {fraction:g} of {len(chosen)} images leaves {len(chosen) - count} to train on and "
            f"{count} held out (names decide, by their hash); give another fraction, or what to hold out by name"
        )
    here, left = (np.bincount(part, minlength=len(classes)) for part in (labels, labels[~chosen]))
    for label, name in enumerate(classes):
        if here[label] and not left[label]:
            raise DataError(
                f"{of}: validation: {fraction:g} holds out all {here[label]} images of class '{name}'; none is left "
                "to train on: add images to it, or give a smaller fraction, or what to hold out by name"
            )
    return chosen
