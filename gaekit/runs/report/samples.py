"""Samples by class, and reconstructions beside their originals."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from gaekit.runs.page import details, gallery
from gaekit.runs.reconstruct import decibels
from gaekit.runs.report.measures import spread, spread_over
from gaekit.runs.report.parts import block, joined, note, paragraph
from gaekit.runs.report.source import Absent, Source
from gaekit.stages.sample import read_protocol
from gaekit.store.npz import npz_length, npz_names, npz_rows

CLASSES, SMALL = 12, 64
"""Classes that are shown, and the side up to which an image is small, so that more of them are."""
RECONSTRUCTIONS = 8
GAIN = 2
"""How much a difference is amplified."""


def samples(source: Source) -> Markup:
    """The first samples of each class, or of some classes where there are many; and the same noise unguided."""
    source.entry("sample")
    file = source.view.artifact("sample")
    chosen = first_of_classes(file, source.classes, source.size)
    total, each = npz_length(file, "arr_0"), max(map(len, chosen.values()))
    whose = ""
    if source.classes:
        all_shown = len(chosen) == len(source.classes)
        some = f" of each of {len(chosen)} of {len(source.classes):,} classes, evenly spread"
        whose = " of each class" if all_shown else some
    told = f"The first {each}{whose}, unselected, of {total:,}. {_settings(read_protocol(file))}"
    columns = min(4 if source.size <= SMALL or -1 in chosen else 2, max(2, each))
    blocks = [
        block(_class_name(source, label), _row(source, file, label, places, columns))
        for label, places in chosen.items()
    ]
    body = Markup('<div class="groups large">{}</div>').format(joined(blocks)) if source.classes else joined(blocks)
    return joined([note(told), body, _unguided(source, file, chosen)])


def first_of_classes(file: Path, classes: tuple[str, ...], size: int) -> dict[int, list[int]]:
    """The places of the first samples by label; under the label -1 where there are no classes."""
    count = npz_length(file, "arr_0")
    if not classes or "arr_1" not in npz_names(file):
        return {-1: list(range(min(count, 24 if size <= SMALL else 12)))}
    each = (8 if size <= SMALL else 4) if len(classes) <= CLASSES else 4
    places: dict[int, list[int]] = defaultdict(list)
    for place, label in enumerate(
        torch.cat([torch.from_numpy(b.copy()) for b in npz_rows(file, "arr_1", 65536)]).tolist()
    ):
        if len(places[label]) < each:
            places[label].append(place)
    return {label: places[label] for label in spread_over(sorted(places), CLASSES)}


def rows_of(file: Path, places: list[int]) -> Tensor:
    """uint8 images of a `samples.npz` by their places, of which no other is read."""
    if not places:
        raise Absent("There are no samples.")
    last = npz_length(file, "arr_0")
    return torch.stack([torch.from_numpy(next(npz_rows(file, "arr_0", 1, place, last)).copy())[0] for place in places])


def _class_name(source: Source, label: int) -> str:
    return f"Class {source.classes[label]}" if label >= 0 else "Samples"


def _row(source: Source, file: Path, label: int, places: list[int], columns: int) -> Markup:
    of = f" of class {source.classes[label]}" if label >= 0 else ""
    pixels = rows_of(file, places)
    return gallery(
        [
            source.pictures.add(image, f"Sample number {place + 1}{of}")
            for image, place in zip(pixels, places, strict=True)
        ],
        columns=columns,
    )


def _unguided(source: Source, file: Path, chosen: dict[int, list[int]]) -> Markup:
    other = file.with_name("samples_unguided.npz")
    if not other.is_file():
        return Markup()
    places = [place for found in chosen.values() for place in found[: 1 if len(chosen) > 1 else 8]]
    shown = gallery(
        [source.pictures.add(image, f"Unguided sample number {place + 1}")
         for image, place in zip(rows_of(other, places), places, strict=True)],
        columns=5,
    )  # fmt: skip
    return details("From the same noise without guidance", joined([note("The first of each class above."), shown]))


def _settings(protocol: dict[str, Any]) -> str:
    sampler, guidance = protocol["sampler"], protocol["guidance"]
    steps = f", {sampler['steps']} steps" if "steps" in sampler else ""
    guided = "without guidance"
    if guidance["scale"] != 1:
        by = "by a weaker denoiser" if guidance.get("weak") else "classifier-free"
        guided = f"guidance {guidance['scale']:g} ({by}) for t in [{guidance['start']:g}, {guidance['end']:g})"
    weights = "averaged" if protocol["ema"] else "raw"
    return f"Sampler {sampler['use']}{steps}; {guided}; {weights} weights; seed {protocol['seed']}."


def reconstructions(source: Source) -> Markup:
    """Held-out images beside what the autoencoder makes of them and the difference, with the PSNR of each."""
    found = source.held_out
    places = spread(len(found.pixels), RECONSTRUCTIONS)
    blocks = []
    for number, place in enumerate(places, 1):
        original, rebuilt = found.pixels[place], found.rebuilt[place]
        change = rebuilt.double() - original.double()
        difference = (128 + GAIN * change).round().clamp(0, 255).to(torch.uint8)
        add = source.pictures.add
        trio = gallery(
            [
                add(original, f"Held-out image {number}"),
                add(rebuilt, f"Its reconstruction {number}"),
                add(difference, f"Their difference {number}"),
            ],
            columns=3,
        )
        caption = f"{decibels(float(change.square().mean())):.1f} dB"
        blocks.append(Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(trio, caption))
    told = (
        f"Original, reconstruction of the latent’s mean, and {GAIN} × their difference about grey; below, the PSNR. "
        f"{len(places)} of {len(found.pixels):,} held-out images that were looked at, evenly spread over the split."
    )
    return joined(
        [note(told), Markup('<div class="trios">{}</div>').format(joined(blocks)), paragraph(_overall(found))]
    )


def _overall(found: Any) -> str:
    errors = (found.rebuilt.double() - found.pixels.double()).square().mean((1, 2, 3))
    each = torch.tensor([decibels(float(error)) for error in errors])
    low, high = float(each.min()), float(each.max())
    return f"PSNR over these {len(each):,} images: {float(each.mean()):.1f} dB in the mean, {low:.1f} to {high:.1f} dB."
