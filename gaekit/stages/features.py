"""Teacher features: computed once for fixed views of the training images and kept, or on the fly where they are too
large."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaekit.api import Teacher
from gaekit.data.images import ImageBatch, Images
from gaekit.stages.claim import claim
from gaekit.stages.job import Job
from gaekit.store.files import human_size, sha256_json
from gaekit.store.room import Room
from gaekit.store.shard_reader import ShardReader
from gaekit.store.shards import INDEX, ShardWriter
from gaekit.train.precision import computing

CHUNK = 64
SHARD_BYTES = 256 << 20
NAMES = {False: "feature", True: "feature_flip"}


class Features:
    """feature_BFHW of batches of training images."""

    def __init__(self, teacher: Teacher, precision: str, reader: ShardReader | None):
        self.teacher, self.precision, self.reader = teacher, precision, reader
        if reader is not None:
            index = torch.cat(list(reader.shards(INDEX)))
            self._row = torch.full((int(index.max()) + 1,), -1)
            self._row[index] = torch.arange(len(index))

    @property
    def reading(self) -> Callable[[ImageBatch], Tensor] | None:
        """What reads the features of a batch from disk, beside its images (`Images.training`); None where the teacher
        runs at every step."""
        return None if self.reader is None else self._rows

    def of(self, batch: ImageBatch) -> Tensor:
        """Features of a batch, as it is cropped and flipped, on its device; float32."""
        if self.reader is None:
            return teacher_features(self.teacher, self.precision, batch)
        feature = batch.feature_BFHW
        return self._rows(batch).to(batch.pixels_BRR3.device) if feature is None else feature

    def _rows(self, batch: ImageBatch) -> Tensor:
        """Of a batch on the CPU: each view's row, and no other, is read."""
        assert self.reader is not None
        rows, flips = self._row[batch.index_B].numpy(), batch.flip_B.cpu().numpy()
        out = self.reader.empty(NAMES[False], len(rows))
        for mirrored, name in NAMES.items():
            places = np.flatnonzero(flips == mirrored)
            self.reader.read(name, rows[places], out, places)
        return out

    def batches(self, images: Images, limit: int | None, device: torch.device) -> Iterator[Tensor]:
        """Features of the first `limit` images, unflipped, in order."""
        left = len(images) if limit is None else limit
        for batch in images.in_order(CHUNK):
            if left <= 0:
                return
            part = batch.part(0, min(left, len(batch))).to(device)
            left -= len(part)
            yield self.of(part)


@torch.no_grad()
def teacher_features(teacher: Teacher, precision: str, batch: ImageBatch) -> Tensor:
    """A teacher's features in float32, computed in a resolved precision."""
    with computing(precision, batch.pixels_BRR3.device):
        feature: Tensor = teacher(batch.image_B3RR)
    return feature.float()


def features_for(job: Job, images: Images, flip: bool) -> Features:
    """The teacher's features over the training images, in the precision of the job's training: from their own room,
    built first if need be.

    Kept only up to runtime.cache_gb; beyond it the teacher runs at every step.
    """
    teacher = job.teacher
    if teacher is None:
        raise ValueError("features need a teacher")
    size = len(images) * teacher.feature_dim * job.recipe.image.grid**2 * 4 * (2 if flip else 1)
    if size > job.recipe.runtime.cache_gb * 1e9:
        job.reporter.say(
            f"{job.stage}: teacher features would take {human_size(size)}, over runtime.cache_gb; computed at each step"
        )
        return Features(teacher, job.precision, None)
    room, facts = _room(job, flip)
    job.use_cache(room)
    with claim(room, f"{job.stage}: teacher features", job.world, job.reporter, wait=job.wait) as done:
        if done is None:
            job.world.on_rank0(lambda: room.describe(facts))
            _build(job, room, teacher, images, flip, size)
    return Features(teacher, job.precision, ShardReader(room.path / "shards"))


def _room(job: Job, flip: bool) -> tuple[Room, dict[str, Any]]:
    """Where the features belong, and what decides them."""
    recipe = job.recipe
    assert recipe.teacher is not None
    cls = job.registry.find("teacher", recipe.teacher.use)
    facts = {
        "teacher": recipe.teacher.model_dump(mode="json"),
        "revision": cls.revision,
        "weights": cls.external(recipe.teacher),
        "dataset": job.data.digest,
        "image": recipe.image.model_dump(mode="json"),
        "flip": flip,
        "precision": job.precision,
    }
    return Room(job.store / "features" / sha256_json(facts)[:12]), facts


def _build(job: Job, room: Room, teacher: Teacher, images: Images, flip: bool, size: int) -> None:
    chunks = max(1, SHARD_BYTES * len(images) // size // CHUNK)
    writer = ShardWriter(room.path / "shards", chunks * CHUNK, len(images), job.world)
    with writer, job.reporter.bar("teacher features", sum(map(len, writer.missing))) as bar:
        for batch in images.in_order(CHUNK, spans=writer.missing):
            on_device = batch.to(job.device)
            rows = {NAMES[False]: teacher_features(teacher, job.precision, on_device), INDEX: batch.index_B}
            if flip:
                rows[NAMES[True]] = teacher_features(teacher, job.precision, on_device.mirrored())
            writer.add(rows)
            bar.advance(len(batch))
    job.world.barrier()
    job.world.on_rank0(lambda: _finish(room, writer))


def _finish(room: Room, writer: ShardWriter) -> None:
    writer.finish({"holds": "teacher features"})
    room.finish({"rows": writer.written})
