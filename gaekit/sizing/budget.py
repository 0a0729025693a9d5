"""What a recipe takes before it runs: memory of each process by stage, and disk. By arithmetic alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from gaekit.api import Teacher
from gaekit.pipeline.plan import Plan
from gaekit.plugins import Registry
from gaekit.recipe.probe import DiffusionProbe
from gaekit.recipe.schema import Autoencoder, Diffusion, From, Latents, Recipe, Runtime, Train
from gaekit.stages import STAGES
from gaekit.stages.latents import DTYPES
from gaekit.stages.network import Network, averaged_width, size_of
from gaekit.stages.stage import Stage


@dataclass(frozen=True)
class Memory:
    """Bytes that one process of a training holds on its device, activations excepted; with FSDP rank 0's, whose shards
    are the largest.

    `previews` are the networks that a training looks at itself with: those that samples are drawn with, and those of a
    probe. In the CPU's memory, where that is another: `offloaded` averages with the copies of weights that they take
    in, and on rank 0 the copy that a checkpoint is written from, `copied`.
    """

    stage: str
    weights: int
    gradients: int
    optimizer: int
    averages: int
    previews: int
    offloaded: int
    copied: int

    @property
    def device(self) -> int:
        """All of it on the device."""
        return self.weights + self.gradients + self.optimizer + self.averages + self.previews


def memory_of_stages(recipe: Recipe, networks: Sequence[Network], nproc: int) -> list[Memory]:
    """What each training of the recipe takes in each of `nproc` processes.

    Weights, gradients and AdamW's moments are float32 under every `precision`, which decides activations alone.
    Teachers and perceptual networks, which only stand there with their weights, are not counted.
    """
    return [
        _memory(stage.name, own, recipe.runtime, nproc, _previews(stage, recipe, networks))
        for stage in STAGES
        if (own := [n for n in networks if n.stage == stage.name])
    ]


def _memory(stage: str, networks: Sequence[Network], runtime: Runtime, nproc: int, previews: int) -> Memory:
    cut = nproc if runtime.strategy == "fsdp" else 1
    shards = {n.name: cut if n.sharded else 1 for n in networks}
    gradients = sum(_share(p, shards[n.name]) * p.element_size() for n in networks for p in n.trained)
    averages = sum(_averages(n, shards[n.name]) for n in networks if n.averaged)
    copies = sum(_share(p, shards[n.name]) * p.element_size() for n in networks if n.averaged for p in n.trained)
    return Memory(
        stage,
        weights=sum(_weights(n, shards[n.name]) for n in networks),
        gradients=gradients,
        optimizer=2 * gradients + 4 * sum(len(n.trained) for n in networks),
        averages=0 if runtime.ema_offload else averages,
        previews=previews,
        offloaded=averages + copies if runtime.ema_offload else 0,
        copied=sum(n.checkpoint for n in networks),
    )


def _share(tensor: Tensor, shards: int) -> int:
    """Elements of the first shard: FSDP2 cuts the first dimension into chunks as torch.chunk does."""
    if shards == 1 or tensor.ndim == 0:
        return tensor.numel()
    return -(-len(tensor) // shards) * (tensor.numel() // max(1, len(tensor)))


def _weights(network: Network, shards: int) -> int:
    parameters = sum(_share(p, shards) * p.element_size() for p in network.module.parameters())
    return parameters + sum(map(size_of, network.module.buffers()))


def _averages(network: Network, shards: int) -> int:
    return sum(_share(p, shards) * averaged_width(p) for p in network.trained)


def _previews(stage: Stage, recipe: Recipe, networks: Sequence[Network]) -> int:
    """Those that a stage draws samples with, where the recipe trains them, and of a probe those that it looks at: each
    once more."""
    section = stage.section(recipe)
    probe = section.probe if isinstance(section, Autoencoder | Diffusion) else None
    draws = recipe.sample or (isinstance(probe, DiffusionProbe) and probe.metrics)
    names = set(stage.previews) if draws else set()
    if probe is not None:
        names |= {n.name for n in networks if n.stage == stage.name and n.name != "adversary"}
    return sum(_weights(n, 1) for n in {n.name: n for n in networks if n.name in names}.values())


@dataclass(frozen=True)
class Disk:
    """Bytes that a stage writes, at most, at one time; None where the data set must be there to tell."""

    stage: str
    what: str
    size: int | None


def disk_of_stages(
    recipe: Recipe, registry: Registry, networks: Sequence[Network], images: int | None, plan: Plan
) -> list[Disk]:
    """What the stages of the plan that are not cached write. `images` None: the data is absent."""
    going = {stage.name for stage in plan.stages if stage.room is not None and stage.status != "cached"}
    return [disk for disk in _disk(recipe, registry, networks, images) if disk.stage in going]


def _disk(recipe: Recipe, registry: Registry, networks: Sequence[Network], images: int | None) -> Iterable[Disk]:
    for stage, train in recipe.trainings():
        if own := [n for n in networks if n.stage == stage]:
            count = checkpoints_kept(recipe.runtime, train)
            yield Disk(stage, f"checkpoints ({count})", count * sum(n.checkpoint for n in own))
            yield Disk(stage, "result", _result(own))
    if recipe.aligner.use != "none" and (width := teacher_width(recipe, registry)):
        yield from _features(recipe, width, images)
    if isinstance(recipe.latents, Latents) and not recipe.latents.online:
        yield Disk("latents", "cache", None if images is None else cache_bytes(recipe, images))
    if recipe.sample:
        series = 2 if recipe.sample.also_unguided else 1
        pixels = recipe.sample.count * 3 * recipe.image.size**2
        yield Disk("sample", "images, and the chunks that they are put together from", 2 * series * pixels)


def _result(networks: Sequence[Network]) -> int:
    """Weights and averages of what later stages read."""
    return sum(_weights(n, 1) + (n.averages if n.averaged else 0) for n in networks if n.kept)


def checkpoints_kept(runtime: Runtime, train: Train) -> int:
    """How many checkpoints of a training stand on disk at most: those kept, and one more while it is written."""
    saves = -(-train.steps // runtime.save_every)
    for_good = train.steps // runtime.keep_every if runtime.keep_every else 0
    return min(saves, runtime.keep + 1 + for_good)


def _features(recipe: Recipe, width: int, images: int | None) -> Iterable[Disk]:
    """The teacher's features, if they are kept; the first stage that reads them writes them."""
    stage = "autoencoder" if isinstance(recipe.semantic, From) else "semantic"
    if images is None:
        return
    size = feature_bytes(recipe, width, images)
    if size <= recipe.runtime.cache_gb * 1e9:
        yield Disk(stage, "teacher features", size)


def feature_bytes(recipe: Recipe, width: int, images: int) -> int:
    """Bytes of the teacher's features of so many images and, where these are mirrored, of their mirror images."""
    flip = isinstance(recipe.autoencoder, Autoencoder) and recipe.autoencoder.flip
    return images * width * recipe.image.grid**2 * 4 * (2 if flip else 1)


def teacher_width(recipe: Recipe, registry: Registry) -> int | None:
    """Channels of the teacher's features, where there is one and they can be told without its weights."""
    teacher = registry.find("teacher", recipe.teacher.use) if recipe.teacher else None
    return teacher.width(recipe.teacher) if teacher is not None and issubclass(teacher, Teacher) else None


def cache_bytes(recipe: Recipe, images: int) -> int:
    """Bytes of the latent cache of so many images."""
    section = recipe.latents
    if not isinstance(section, Latents) or section.online:
        return 0
    numbers = recipe.latent_dim * recipe.image.grid**2 * (2 if section.store == "moments" else 1)
    return images * numbers * DTYPES[section.dtype].itemsize * (2 if section.flip else 1)
