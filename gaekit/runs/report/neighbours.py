"""The training images nearest to samples, and whether samples are copies of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from gaekit.api import Teacher
from gaekit.data.images import ImageBatch
from gaekit.data.latents import LATENT
from gaekit.errors import ArtifactError
from gaekit.pipeline.view import STORE
from gaekit.plugins import build
from gaekit.recipe.writing import dump
from gaekit.runs.page import gallery
from gaekit.runs.report.measures import Copies, find_copies, nearest, spread, unit_vectors
from gaekit.runs.report.parts import joined, note, paragraph, percent
from gaekit.runs.report.samples import rows_of
from gaekit.runs.report.source import Absent, Source
from gaekit.stages.features import NAMES, Features
from gaekit.store.files import read_json
from gaekit.store.npz import npz_length
from gaekit.store.room import FACTS, Room
from gaekit.store.shard_reader import ShardReader
from gaekit.store.shards import INDEX
from gaekit.train.precision import resolve_precision

SEARCHED = 20_000
"""Training images that are searched, at most."""
READ = 2 << 30
"""Bytes of their features that are read, at most."""
RECONSTRUCTED = 32
"""Training images that are compared with their reconstructions."""
JUDGED, ENCODED, SHOWN, SUSPECTS, NEIGHBOURS, CHUNK = 128, 1024, 10, 4, 3, 512


@dataclass(frozen=True)
class Space:
    """Where distances are taken: `of` gives unit vectors of uint8 images, `training` batches of (place in the split,
    unit vectors) of `searched` training images, of `total`; `told` says in words what the vectors are."""

    told: str
    searched: int
    total: int
    of: Callable[[Tensor], Tensor]
    training: Callable[[], Iterator[tuple[Tensor, Tensor]]]


def neighbours(source: Source) -> Markup:
    """Some samples beside their nearest training images, and how all that were looked at lie."""
    source.entry("sample")
    file, held_out = source.view.artifact("sample"), source.held_out
    space = choose_space(source)
    count = npz_length(file, "arr_0")
    places = spread(count, source.affordable(JUDGED))
    pixels = rows_of(file, places)
    rebuilt = held_out.rebuilt[spread(len(held_out.rebuilt), JUDGED)]
    query, real = space.of(pixels), space.of(rebuilt)
    distance, found = nearest(torch.cat([query, real]), space.training(), NEIGHBOURS)
    samples, others = distance[: len(query), 0], distance[len(query) :, 0]
    judged = find_copies(samples, others, _reconstructed(source, space))
    order = _shown(samples, judged)
    rows = [
        _row(source, pixels[i], places[i], found[i].tolist(), distance[i] / others.median(), i in judged.copies)
        for i in order
    ]
    searched = f"all {space.total:,}" if space.searched == space.total else f"{space.searched:,} of {space.total:,}"
    told = (
        f"Each sample, then the {NEIGHBOURS} nearest of {searched} training images. The distance is 1 − cosine of "
        f"{space.told}. Below each image it stands in units of the median distance from a held-out image, encoded and "
        f"decoded, to its nearest training image. Of {len(places):,} samples the {SUSPECTS} nearest come first."
    )
    return joined(
        [
            note(told),
            _verdict(judged, len(places), len(others)),
            Markup('<div class="groups">{}</div>').format(joined(rows)),
        ]
    )


def _shown(samples: Tensor, judged: Copies) -> list[int]:
    """Which samples are shown: copies and those that lie nearest, then others evenly spread."""
    nearest_first = [int(place) for place in samples.argsort()]
    first = list(dict.fromkeys([*judged.copies, *nearest_first]))[:SUSPECTS]
    rest = [place for place in spread(len(samples), SHOWN) if place not in first]
    return [*first, *rest[: SHOWN - len(first)]]


def _row(source: Source, pixels: Tensor, place: int, found: list[int], ratio: Tensor, copied: bool) -> Markup:
    training = source.training_batch(found)
    add = source.pictures.add
    pairs: list[tuple[Markup, str | Markup]] = [
        (add(pixels, f"Sample number {place + 1}"), Markup('<span class="warn">a copy</span>') if copied else "sample")
    ]
    for rank, (image, far) in enumerate(zip(training.pixels_BRR3, ratio.tolist(), strict=True), 1):
        pairs.append((add(image, f"Training image {rank}. nearest to sample {place + 1}"), f"{far:.2f}"))
    return Markup('<div class="group">{}</div>').format(gallery(pairs, columns=1 + NEIGHBOURS))


def _verdict(judged: Copies, samples: int, held_out: int) -> Markup:
    nearer = (
        f"The median sample lies {judged.ratio:.2f} × as far from its nearest training image as the median held-out "
        f"image does from its own, once that is encoded and decoded. Of all pairs, the sample lies nearer in "
        f"{percent(judged.nearer)}: 50 % where both are alike, more where training images are copied, and also where "
        "guidance makes samples typical."
    )
    if judged.bound is None:
        few = f"With {held_out} held-out images to compare with, no sample is called a copy, nor cleared."
        return paragraph(f"{nearer} {few}")
    number = len(judged.copies)
    are = "is a copy" if number <= 1 else "are copies"
    verdict = f"{number or 'None'} of {samples:,} samples {are}"
    rule = (
        f" by this rule: it lies less than half as far from a training image as each of {held_out} held-out images "
        "from its nearest, and no farther than 95 % of training images lie from their own reconstructions."
    )
    strong = Markup('<strong class="{}">{}</strong>').format("warn" if number else "", verdict)
    return joined([paragraph(nearer), paragraph(Markup("{}{}").format(strong, rule))])


def _reconstructed(source: Source, space: Space) -> Tensor:
    """How far training images lie from their own reconstructions."""
    images = source.training_images
    pixels = source.training_batch(spread(len(images), source.affordable(RECONSTRUCTED))).pixels_BRR3
    rebuilt = source.decode(source.encode(pixels))
    return (1 - (space.of(pixels) * space.of(rebuilt)).sum(1)).clamp_min(0)


def choose_space(source: Source) -> Space:
    """The teacher's features where the run keeps those of its training images, else the autoencoder's latents."""
    return _teacher_space(source) or _latent_space(source)


def _teacher_space(source: Source) -> Space | None:
    recipe = source.run.recipe
    if recipe.teacher is None or (found := _features_room(source)) is None:
        return None
    room, facts = found
    reader = ShardReader(room.path / "shards")
    teacher = build(Teacher, recipe.teacher, source.registry, grid=recipe.image.grid)
    precision = resolve_precision(facts.get("precision", "float32"), source.device)
    source.run.machine.prepare(teacher.eval().requires_grad_(False), precision, compiled=False)
    features = Features(teacher, precision, None)

    def of(pixels: Tensor) -> Tensor:
        return torch.cat(
            [unit_vectors(features.of(_batch(part).to(source.device)).cpu()) for part in torch.split(pixels, 32)]
        )

    row = reader.heads[0][NAMES[False]].row_bytes
    rows = torch.tensor(spread(len(reader), min(SEARCHED, max(CHUNK, READ // row))))

    def training() -> Iterator[tuple[Tensor, Tensor]]:
        for part in torch.split(rows, CHUNK):
            yield reader.rows(INDEX, part), unit_vectors(reader.rows(NAMES[False], part))

    told = f"the features of the teacher {recipe.teacher.use}, averaged over a grid of at most 4 × 4"
    return Space(told, len(rows), len(reader), of, training)


def _features_room(source: Source) -> tuple[Room, dict[str, Any]] | None:
    """The room that holds the recipe's teacher's features of the training images, with its facts."""
    wanted = dump(source.run.recipe.teacher) if source.run.recipe.teacher else None
    for entry in source.record["stages"].values():
        for name in entry.get("caches", ()):
            room = Room(source.view.path.parent / name)
            if name.split("/")[:2] == [STORE, "features"] and room.done() is not None:
                facts = read_json(room.path / FACTS)
                if facts.get("teacher") == wanted:
                    return room, facts
    return None


def _batch(pixels: Tensor) -> ImageBatch:
    nothing = torch.zeros(len(pixels), dtype=torch.int64)
    return ImageBatch(pixels, nothing, nothing, nothing.bool(), "none")


def _latent_space(source: Source) -> Space:
    """Latents, standardised by channel: those that the run keeps, or of some images."""
    mean, std = _statistics(source)

    def vectors(latent: Tensor) -> Tensor:
        return torch.nn.functional.normalize(((latent - mean) / std).flatten(1), dim=1)

    def of(pixels: Tensor) -> Tensor:
        return vectors(source.encode(pixels))

    cache, told = source.cache, "the autoencoder’s latents, standardised by channel"
    if cache is not None:
        rows = torch.tensor(spread(len(cache), SEARCHED))

        def cached() -> Iterator[tuple[Tensor, Tensor]]:
            for part in torch.split(rows, CHUNK):
                latent = cache.reader.rows(LATENT, part).float()[:, : cache.latent_dim]
                yield cache.reader.rows(INDEX, part), vectors(latent)

        return Space(told, len(rows), len(cache), of, cached)
    images = source.training_images
    places = spread(len(images), source.affordable(ENCODED))

    def encoded() -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(places), 32):
            batch = source.training_batch(places[first : first + 32])
            yield batch.index_B, of(batch.pixels_BRR3)

    return Space(told, len(places), len(images), of, encoded)


def _statistics(source: Source) -> tuple[Tensor, Tensor]:
    latent, _ = source.latents
    if not len(latent):
        raise Absent("There are no latents to compare.")
    mean, std = latent.mean((0, 2, 3), keepdim=True), latent.std((0, 2, 3), keepdim=True)
    if not bool(std.isfinite().all()):
        raise ArtifactError("the latents are not finite")
    return mean, std.clamp_min(1e-12)
