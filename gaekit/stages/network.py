"""The networks that a stage trains, as sizing sees them: built on torch's meta device, so without memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gaekit.api import Aligner, Teacher
from gaekit.plugins import Registry, build
from gaekit.recipe.schema import Recipe
from gaekit.store.models import Autoencoder, AutoencoderSpec

UNKNOWN_CLASSES = 1000
"""Taken where the data is absent."""


@dataclass(frozen=True)
class Network:
    """A network, the stage in whose training it stands, whether its weights are averaged there, whether FSDP shards
    them, which it does with networks that train, the adversary excepted, and whether the stage's artifact holds it."""

    stage: str
    name: str
    module: nn.Module
    averaged: bool
    sharded: bool = True
    kept: bool = True

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
        """Bytes of averaged weights, which are float32 at least, with all else of the network, as files hold them."""
        trained = set(self.trained)
        return sum(t.numel() * averaged_width(t) if t in trained else size_of(t) for t in self.saved.values())


def size_of(tensor: Tensor) -> int:
    """Bytes of a tensor."""
    return tensor.numel() * tensor.element_size()


def averaged_width(tensor: Tensor) -> int:
    """Bytes of an element in the averaged weights."""
    return max(4, tensor.element_size()) if tensor.is_floating_point() else tensor.element_size()


def untrained_aligner(recipe: Recipe, registry: Registry) -> Aligner | None:
    """The recipe's aligner, built on the default device, as it goes with the autoencoder that the recipe trains.

    None where it has no parameters, and where its teacher's width cannot be told without the teacher's weights.
    """
    spec = AutoencoderSpec.of_recipe(recipe)
    teacher = registry.find("teacher", recipe.teacher.use) if recipe.teacher else None
    if spec is None or teacher is None or not issubclass(teacher, Teacher):
        return None
    if (width := teacher.width(recipe.teacher)) is None:
        return None
    sizes = {
        "feature_dim": width,
        "latent_dim": recipe.latent_dim,
        "hidden_dim": hidden_dim(spec, registry),
        "grid": recipe.image.grid,
    }
    aligner = build(Aligner, recipe.aligner, registry, **sizes)
    return aligner if any(True for _ in aligner.parameters()) else None


def hidden_dim(spec: AutoencoderSpec, registry: Registry) -> int:
    """E, the width of an autoencoder's encoder, read off a network without memory."""
    with torch.device("meta"):
        return Autoencoder(spec, registry).encoder.hidden_dim
