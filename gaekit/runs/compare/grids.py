"""Samples of several runs beside each other: the same places of their files, which the same noise and label made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from gaekit.runs.compare.comparison import Comparison
from gaekit.runs.opened import OpenRun
from gaekit.runs.page import Encoding, gallery, image_tag

LOOKED_AT = 2048
"""Samples of a file among which those to show are sought."""
CLASSES, EACH = 8, 6
SMALL_SIDE, SHOWN_SIDE = 64, 128
"""Pixels: up to the first, images are kept as they are; others are made as small as the second."""
FILE = "samples.npz"


def grids(comparison: Comparison) -> Markup:
    """For each of some classes, or without classes at once, a row of samples a run; empty where fewer than two runs
    have samples."""
    files = {letter: _file(run) for letter, run in zip(comparison.letters, comparison.runs, strict=True)}
    there = {letter: file for letter, file in files.items() if file is not None}
    if len(there) < 2:
        return Markup()
    labels = [_labels(file) for file in there.values()]
    places = places_of(labels)
    if not places:
        return Markup('<p class="absent">No place of the files has the same label in all runs.</p>')
    wanted = sorted(place for found in places.values() for place in found)
    pixels = {letter: _rows(file, wanted) for letter, file in there.items()}
    blocks = Markup().join(_block(name, found, pixels) for name, found in places.items())
    return Markup('<p class="note">{}</p><div class="groups">{}</div>').format(_told(comparison), blocks)


def _told(comparison: Comparison) -> str:
    if len(set(comparison.seeds)) > 1:
        return "The recipes' seeds differ: the labels of what stands below one another are the same, the noise is not."
    return "Unselected. What stands below one another was made from the same noise and label."


def places_of(labels: Sequence[NDArray[np.int64] | None]) -> dict[str, list[int]]:
    """By class, the first places at which all files have its label; without labels the first places of all."""
    known = [one for one in labels if one is not None]
    if len(known) < len(labels):
        return {"": list(range(CLASSES * 2))} if not known else {}
    count = min(len(one) for one in known)
    found: dict[int, list[int]] = defaultdict(list)
    for place in range(count):
        label = int(known[0][place])
        if all(int(one[place]) == label for one in known[1:]) and len(found[label]) < EACH:
            found[label].append(place)
    chosen = sorted(label for label, places in found.items() if places)
    evenly = [chosen[i * len(chosen) // min(CLASSES, len(chosen))] for i in range(min(CLASSES, len(chosen)))]
    return {str(label): found[label] for label in evenly}


def _block(name: str, places: Sequence[int], pixels: dict[str, dict[int, NDArray[np.uint8]]]) -> Markup:
    of = f" of class {name}" if name else ""
    rows = Markup().join(
        Markup('<div class="beside"><span>{}</span>{}</div>').format(
            letter,
            gallery(
                [_picture(rows[p], f"Sample {p + 1}{of}, run {letter}") for p in places if p in rows], columns=EACH
            ),
        )
        for letter, rows in pixels.items()
    )
    title = Markup("<h3>Label {}</h3>").format(name) if name else Markup()
    return Markup('<div class="group">{}{}</div>').format(title, rows)


def _picture(pixels: NDArray[np.uint8], alt: str) -> Markup:
    side = pixels.shape[0]
    return image_tag(pixels, alt, width=min(max(side, 40), 96), encoding=Encoding(SHOWN_SIDE, 75))


def _file(run: OpenRun) -> Path | None:
    file = run.path / FILE
    return file if file.exists() else None


def _labels(file: Path) -> NDArray[np.int64] | None:
    from gaekit.store.npz import npz_names, npz_rows

    return next(npz_rows(file, "arr_1", LOOKED_AT)) if "arr_1" in npz_names(file) else None


def _rows(file: Path, places: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
    """Images by their places, in order; of the others none is kept."""
    from gaekit.store.npz import npz_length, npz_rows

    last = npz_length(file, "arr_0")
    return {place: next(npz_rows(file, "arr_0", 1, place, last))[0] for place in places if place < last}
