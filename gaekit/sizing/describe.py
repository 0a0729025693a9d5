"""The networks that a recipe trains, on torch's meta device, so without memory; and what its data set holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gaekit.api import Aligner, Dataset, Teacher
from gaekit.nn.adversary import PatchGAN
from gaekit.plugins import Registry, build
from gaekit.recipe.schema import Autoencoder as AutoencoderSection
from gaekit.recipe.schema import Diffusion, Recipe, Semantic, Train
from gaekit.store.models import Autoencoder, AutoencoderSpec, DenoiserSpec

UNKNOWN_CLASSES = 1000
"""Taken where the data is absent."""


@dataclass(frozen=True)
class Network:
    """A network without memory, the stage in whose training it stands, whether its weights are averaged there, and
    whether FSDP shards them, which it does with networks that train, the adversary excepted."""

    stage: str
    name: str
    module: nn.Module
    averaged: bool
    sharded: bool = True

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that train."""
        return [p for p in self.module.parameters() if p.requires_grad]

    @property
    def saved(self) -> dict[str, Tensor]:
        """Parameters and buffers by the names under which they are saved. Not by `state_dict`: what a network adds to
        that by itself it may be unable to tell without memory."""
        found: dict[str, Tensor] = dict(self.module.named_parameters())
        for prefix, part in self.module.named_modules():
            for name, buffer in part.named_buffers(prefix, recurse=False):
                if name.rpartition(".")[2] not in part._non_persistent_buffers_set:
                    found[name] = buffer
        return found

    @property
    def checkpoint(self) -> int:
        """Bytes of its tensors in a checkpoint: weights, AdamW's two moments and a count, averages."""
        weights = sum(map(size_of, self.saved.values()))
        return weights + sum(2 * size_of(p) + 4 for p in self.trained) + (self.averages if self.averaged else 0)

    @property
    def averages(self) -> int:
        """Bytes of averaged weights, which are float32 at least."""
        return sum(tensor.numel() * averaged_width(tensor) for tensor in self.saved.values())


@dataclass(frozen=True)
class Size:
    """A network: its parameters, those of them that train, and bytes of a checkpoint of its training."""

    name: str
    parameters: int
    trained: int
    checkpoint: int


def size_of(tensor: Tensor) -> int:
    """Bytes of a tensor."""
    return tensor.numel() * tensor.element_size()


def averaged_width(tensor: Tensor) -> int:
    """Bytes of an element in the averaged weights."""
    return max(4, tensor.element_size()) if tensor.is_floating_point() else tensor.element_size()


def network_sizes(recipe: Recipe, registry: Registry, classes: int | None) -> list[Size]:
    """Every network that the recipe trains, once. `classes` None: the data is absent, 1,000 are taken."""
    return sizes_of(trained_networks(recipe, registry, classes))


def sizes_of(networks: Iterable[Network]) -> list[Size]:
    """One for each name."""
    found: dict[str, Size] = {}
    for network in networks:
        tensors = (*network.module.parameters(), *network.module.buffers())
        total, trained = sum(t.numel() for t in tensors), sum(p.numel() for p in network.trained)
        found.setdefault(network.name, Size(network.name, total, trained, network.checkpoint))
    return list(found.values())


def trained_networks(recipe: Recipe, registry: Registry, classes: int | None) -> list[Network]:
    """What each training holds, in the order of the stages: an aligner that was fitted before is in the
    autoencoder's too, frozen. An aligner for a teacher whose width cannot be told without its weights is left out."""
    with torch.device("meta"):
        found: list[Network] = []
        if isinstance(recipe.autoencoder, AutoencoderSection):
            found += _of_autoencoder(recipe, recipe.autoencoder, registry)
        if isinstance(recipe.diffusion, Diffusion):
            train, denoiser = recipe.diffusion.train, _denoiser(recipe, recipe.diffusion, registry, classes)
            found.append(Network("diffusion", "denoiser", denoiser, train.ema is not None))
    return found


def _of_autoencoder(recipe: Recipe, section: AutoencoderSection, registry: Registry) -> list[Network]:
    parts = (section.encoder, section.decoder, section.regularizer)
    spec = AutoencoderSpec(recipe.image.size, recipe.image.stride, recipe.latent_dim, *parts)
    model, averaged = Autoencoder(spec, registry), section.train.ema is not None
    found = _aligners(recipe, registry, model.encoder.hidden_dim, averaged)
    found += [
        Network("autoencoder", "encoder", model.encoder, averaged),
        Network("autoencoder", "decoder", model.decoder, averaged),
    ]
    if section.adversary:
        settings = section.adversary
        critic = PatchGAN(channels=settings.channels, layers=settings.layers, norm=settings.norm)
        found.append(Network("autoencoder", "adversary", critic, averaged=False, sharded=False))
    return found


def _aligners(recipe: Recipe, registry: Registry, hidden_dim: int, averaged: bool) -> list[Network]:
    """The aligner as it stands in each training, if it has parameters."""
    teacher = registry.find("teacher", recipe.teacher.use) if recipe.teacher else None
    if teacher is None or not issubclass(teacher, Teacher) or (width := teacher.width(recipe.teacher)) is None:
        return []
    sizes = {"feature_dim": width, "latent_dim": recipe.latent_dim, "hidden_dim": hidden_dim, "grid": recipe.image.grid}
    aligner = build(Aligner, recipe.aligner, registry, **sizes)
    if not any(True for _ in aligner.parameters()):
        return []
    if aligner.fit is None:
        return [Network("autoencoder", "aligner", aligner, averaged)]
    fitted = build(Aligner, recipe.aligner, registry, **sizes).requires_grad_(False)
    frozen = Network("autoencoder", "aligner", fitted, averaged, sharded=False)
    train = fitting(recipe) if aligner.fit == "train" else None
    return [Network("semantic", "aligner", aligner, train.ema is not None), frozen] if train else [frozen]


def fitting(recipe: Recipe) -> Train | None:
    """How the recipe trains its aligner, where it says so."""
    return recipe.semantic.train if isinstance(recipe.semantic, Semantic) else None


def _denoiser(recipe: Recipe, section: Diffusion, registry: Registry, classes: int | None) -> nn.Module:
    names = tuple(str(i) for i in range(UNKNOWN_CLASSES if classes is None else classes))
    return DenoiserSpec(section.denoiser, recipe.latent_dim, recipe.image.grid, names, section.path).build(registry)


def data_facts(recipe: Recipe, registry: Registry) -> tuple[int, int, int]:
    """(classes, training images, held-out images). Raises DataAbsent."""
    dataset = build(Dataset, recipe.dataset, registry)
    train, validation = dataset.train(), dataset.validation()
    return len(dataset.classes), len(train), len(validation)
