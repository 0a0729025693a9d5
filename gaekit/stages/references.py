"""What metrics of samples compare with: the real images, and their reconstructions or the held-out images where one
asks for them. Each is taken in once, by one rank, and kept for later evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gaekit.api import Encoded, Metric
from gaekit.api.metrics import in_blocks
from gaekit.data.images import ImageBatch, to_float, to_uint8
from gaekit.errors import GaekitError
from gaekit.plugins import nested
from gaekit.recipe import canonical
from gaekit.stages.evaluation import Evaluation
from gaekit.stages.judging import Judged, extracted, handed, own_batches, received
from gaekit.store.files import atomic, sha256_file, sha256_json
from gaekit.store.models import Autoencoder, load_autoencoder
from gaekit.store.room import Room

REFERENCES, STATE = "references", "reference.safetensors"
CPU_PIXELS, PIXELS = 1 << 17, 1 << 20
CPU_BLOCK, BLOCK = 32, 64
"""Of how many pixels, and of how many images at most, an autoencoder sees a block at once on the CPU and on an
accelerator, there 16 images of 256 pixels. It does whatever the batch is, on which the last bit of a pixel would depend
else."""


class Reconstructor:
    """An autoencoder as evaluations use it: loaded when it is first asked for, in float32, from the latent's mean."""

    def __init__(self, evaluation: Evaluation, artifact: Path):
        self.evaluation, self.artifact = evaluation, artifact

    @cached_property
    def identity(self) -> str:
        """sha256 of its artifact. Every rank must ask for it."""
        return self.evaluation.world.on_rank0(lambda: sha256_file(self.artifact))

    @cached_property
    def model(self) -> Autoencoder:
        """The autoencoder, on the device."""
        model = load_autoencoder(self.artifact, self.evaluation.registry)
        self.evaluation.machine.prepare(model.encoder)
        self.evaluation.machine.prepare(model.decoder)
        return model.to(self.evaluation.device)

    @cached_property
    def block(self) -> int:
        """How many images it sees at once."""
        cpu = self.evaluation.device.type == "cpu"
        most, pixels = (CPU_BLOCK, CPU_PIXELS) if cpu else (BLOCK, PIXELS)
        return max(1, min(most, pixels // self.model.spec.image_size**2))

    @torch.no_grad()
    def rebuilt(self, batch: ImageBatch) -> Tensor:
        """Images -> their reconstructions, uint8 (B, R, R, 3), on the CPU."""
        there = batch.to(self.evaluation.device)
        return to_uint8(in_blocks(self.model.reconstruct, there.image_B3RR, block=self.block).float()).cpu()

    @torch.no_grad()
    def encoded(self, batch: ImageBatch) -> Encoded:
        """Images as metrics of latents see them."""
        there = batch.to(self.evaluation.device)
        latent = in_blocks(lambda image: self.model.encode(image)[1].mean_BDHW, there.image_B3RR, block=self.block)
        return Encoded(latent.float(), batch.label_B, batch.index_B, there.image_B3RR, self.decode)

    @torch.no_grad()
    def decode(self, latent_BDHW: Tensor) -> Tensor:
        """Latents, on the device -> images in [-1, 1], on the grid of 8 bits."""
        return to_float(to_uint8(in_blocks(self.model.decode, latent_BDHW, block=self.block).float()))


Role = Literal["real", "reconstructed", "held-out"]


@dataclass(frozen=True)
class Reference:
    """What a metric, by its place, takes in before the samples: the real images of `split`, their reconstructions, or
    the held-out ones, which is its `role`. `facts` decide what that is, and `room` is where it is kept."""

    place: int
    split: str
    role: Role
    facts: dict[str, Any]
    room: Room

    @property
    def rebuilt(self) -> bool:
        """Whether it is of reconstructions."""
        return self.role == "reconstructed"

    def take(self, metric: Metric, rows_B: Tensor, label_B: Tensor) -> None:
        """Have the metric take in a batch."""
        {
            "real": metric.reference,
            "reconstructed": metric.reference_reconstruction,
            "held-out": metric.reference_held_out,
        }[self.role](rows_B, label_B)

    def load(self, metric: Metric) -> None:
        """Have the metric take over what was kept."""
        {
            "real": metric.load_reference,
            "reconstructed": metric.load_reconstruction,
            "held-out": metric.load_held_out,
        }[self.role](load_file(self.room.path / STATE))

    def keep(self, metric: Metric) -> None:
        """Write what the metric took in, if it tells it. Two runs at once write the same, and either appears whole."""
        state = {
            "real": metric.reference_state,
            "reconstructed": metric.reconstruction_state,
            "held-out": metric.held_out_state,
        }[self.role]()
        if state is None:
            return
        with atomic(self.room.path / STATE) as part:
            save_file({name: value.contiguous() for name, value in state.items()}, part)
        self.room.describe(self.facts)
        self.room.finish({"holds": f"what a metric took in of the {self.role} images"})


def with_references(evaluation: Evaluation, judged: Judged, size: int, reconstructor: Reconstructor | None) -> None:
    """Have the metrics of samples take in what they compare with: what an evaluation of the same images by the same
    metric kept, of reconstructions by the same autoencoder, else every image once, by one rank.

    Raises GaekitError where a metric asks for reconstructions and there is no autoencoder to make them.
    """
    references = list(_references(evaluation, judged, reconstructor))
    for reference in references:
        evaluation.use_cache(reference.room)
    kept = evaluation.world.on_rank0(lambda: [reference.room.done() is not None for reference in references])
    own = judged.own
    for reference, known in zip(references, kept, strict=True):
        if known and reference.place in own:
            reference.load(own[reference.place])
    wanting = [reference for reference, known in zip(references, kept, strict=True) if not known]
    for split in sorted({reference.split for reference in wanting}):  # train comes before validation
        _take_in(evaluation, judged, [ref for ref in wanting if ref.split == split], size, reconstructor)
    for reference in wanting:
        if reference.place in own:
            reference.keep(own[reference.place])
    evaluation.world.barrier()


def _take_in(
    evaluation: Evaluation,
    judged: Judged,
    references: Sequence[Reference],
    size: int,
    reconstructor: Reconstructor | None,
) -> None:
    """Read the split that all the references are of, once."""
    split, metrics = references[0].split, judged.metrics
    rebuilding = reconstructor if any(reference.rebuilt for reference in references) else None
    of_place = {ref.place: [other for other in references if other.place == ref.place] for ref in references}

    def rows_of(batch: ImageBatch) -> dict[int, tuple[int, list[Tensor], Tensor]]:
        pixels = {False: batch.pixels_BRR3} | ({True: rebuilding.rebuilt(batch)} if rebuilding else {})
        return {
            place: (place, [extracted(evaluation, metrics[place], pixels[ref.rebuilt]) for ref in own], batch.label_B)
            for place, own in of_place.items()
        }

    batches = own_batches(evaluation, evaluation.images(split), size, f"{split} images")
    for metric, (place, sent, label) in handed(judged.only(of_place), map(rows_of, batches)):
        for reference, rows in zip(of_place[place], sent, strict=True):
            reference.take(metric, received(evaluation, metric, rows), label)


def _references(evaluation: Evaluation, judged: Judged, reconstructor: Reconstructor | None) -> Iterator[Reference]:
    """Those of every metric."""
    for place, metric in judged.metrics.items():
        facts = _facts(evaluation, judged, place)
        if metric.split is not None:
            yield Reference(place, metric.split, "real", facts, _room(evaluation, facts))
        if metric.split is not None and metric.reconstructions:
            if reconstructor is None:
                raise GaekitError(
                    f"metric '{metric.name}' compares with reconstructions, and there is no autoencoder to make them; "
                    "judge a run that has one, or leave its parts out"
                )
            others = facts | {"autoencoder": reconstructor.identity}
            yield Reference(place, metric.split, "reconstructed", others, _room(evaluation, others))
        if metric.held_out:
            others = facts | {"held_out": "validation"}
            yield Reference(place, "validation", "held-out", others, _room(evaluation, others))


def _room(evaluation: Evaluation, facts: dict[str, Any]) -> Room:
    return Room(evaluation.store / REFERENCES / sha256_json(facts)[:12])


def _facts(evaluation: Evaluation, judged: Judged, place: int) -> dict[str, Any]:
    """What decides what a metric takes in of the real images."""
    metric, config = judged.metrics[place], judged.configs[place]
    inner = [(evaluation.registry.find(kind, part.use), part) for kind, part in nested(config)]
    return {
        "metric": canonical(config),
        "components": [
            {"name": f"{cls.kind}:{cls.name}", "revision": cls.revision, "external": cls.external(part)}
            for cls, part in ((type(metric), config), *inner)
        ],
        "split": metric.split,
        "dataset": evaluation.data.dataset.digest(),
        "on_bad_image": evaluation.data.dataset.on_bad_image,
        "image_size": evaluation.image_size,
    }
