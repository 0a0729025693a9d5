"""Samples of several runs beside each other: the same places of their files, which the same noise and label made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from gaekit.errors import ArtifactError
from gaekit.runs.compare.comparison import Comparison
from gaekit.runs.opened import OpenRun
from gaekit.runs.page import Encoding, gallery, image_tag

LOOKED_AT = 2048
"""Samples of a file among which those to show are sought."""
CLASSES, EACH = 8, 6
SMALL_SIDE, SHOWN_SIDE = 64, 128
"""Pixels: up to the first, images are kept as they are; others are made as small as the second."""
FILE = "samples.npz"
NO_LABEL = -1
"""Under which samples without classes stand."""


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
    chosen = _evenly(list(places))
    wanted = sorted(place for label in chosen for place in places[label])
    pixels = {letter: _rows(file, wanted) for letter, file in there.items()}
    names = _class_names(comparison.runs)
    blocks = Markup().join(_block(_title(label, names), places[label], pixels) for label in chosen)
    told = _told(comparison) + (
        f" Of {len(places):,} classes {len(chosen)} are shown, evenly spread." if len(chosen) < len(places) else ""
    )
    return Markup('<p class="note">{}</p><div class="groups">{}</div>').format(told, blocks)


def _told(comparison: Comparison) -> str:
    if len(set(comparison.seeds)) > 1:
        return "The recipes' seeds differ: the labels of what stands below one another are the same, the noise is not."
    return "Unselected. What stands below one another was made from the same noise and label."


def _evenly(labels: Sequence[int]) -> list[int]:
    """At most `CLASSES` of them, evenly spread."""
    count = min(CLASSES, len(labels))
    return [labels[i * len(labels) // count] for i in range(count)]


def _title(label: int, names: tuple[str, ...]) -> str:
    """Over the samples of a label; "" without classes."""
    if label == NO_LABEL:
        return ""
    return f"Class {names[label]}" if label < len(names) else f"Label {label}"


def _class_names(runs: Sequence[OpenRun]) -> tuple[str, ...]:
    """Names of the classes in label order, where all runs have the same and their denoisers are there; else ()."""
    from gaekit.store.artifact import open_artifact

    try:
        heads = [open_artifact(run.view.artifact("diffusion"), "denoiser").config for run in runs]
    except ArtifactError:
        return ()
    known = {tuple(map(str, head.get("classes", ()))) for head in heads}
    return known.pop() if len(known) == 1 else ()


def places_of(labels: Sequence[NDArray[np.int64] | None]) -> dict[int, list[int]]:
    """By label, the first places at which all files have it; without labels the first places of all."""
    known = [one for one in labels if one is not None]
    if len(known) < len(labels):
        return {NO_LABEL: list(range(CLASSES * 2))} if not known else {}
    count = min(len(one) for one in known)
    found: dict[int, list[int]] = defaultdict(list)
    for place in range(count):
        label = int(known[0][place])
        if all(int(one[place]) == label for one in known[1:]) and len(found[label]) < EACH:
            found[label].append(place)
    return {label: found[label] for label in sorted(found) if found[label]}


def _block(title: str, places: Sequence[int], pixels: dict[str, dict[int, NDArray[np.uint8]]]) -> Markup:
    of = f" of {title[0].lower()}{title[1:]}" if title else ""
    rows = Markup().join(
        Markup('<div class="beside"><span>{}</span>{}</div>').format(
            letter,
            gallery(
                [_picture(rows[p], f"Sample {p + 1}{of}, run {letter}") for p in places if p in rows], columns=EACH
            ),
        )
        for letter, rows in pixels.items()
    )
    heading = Markup("<h3>{}</h3>").format(title) if title else Markup()
    return Markup('<div class="group">{}{}</div>').format(heading, rows)


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
