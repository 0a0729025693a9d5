"""The networks that a recipe trains, on torch's meta device, so without memory; and what its data set holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from gaekit.plugins import Registry
from gaekit.recipe.schema import Recipe
from gaekit.stages import STAGES
from gaekit.stages.data import Data
from gaekit.stages.network import Network


@dataclass(frozen=True)
class Size:
    """A network: its parameters, those of them that train, and bytes of a checkpoint of its training."""

    name: str
    parameters: int
    trained: int
    checkpoint: int


def sizes_of(networks: Iterable[Network]) -> list[Size]:
    """One for each name."""
    found: dict[str, Size] = {}
    for network in networks:
        tensors = (*network.module.parameters(), *network.module.buffers())
        total, trained = sum(t.numel() for t in tensors), sum(p.numel() for p in network.trained)
        found.setdefault(network.name, Size(network.name, total, trained, network.checkpoint))
    return list(found.values())


def trained_networks(recipe: Recipe, registry: Registry, classes: int | None) -> list[Network]:
    """What each training holds, in the order of the stages. `classes` None: the data is absent, 1,000 are taken.

    An aligner that was fitted before is in the autoencoder's training too, frozen; one for a teacher whose width cannot
    be told without its weights is left out.
    """
    with torch.device("meta"):
        return [network for stage in STAGES for network in stage.networks(recipe, registry, classes)]


def data_facts(data: Data) -> tuple[int, int, int]:
    """(classes, training images, held-out images). Raises DataAbsent."""
    train, validation = data.dataset.train(), data.dataset.validation()
    return len(data.dataset.classes), len(train), len(validation)
