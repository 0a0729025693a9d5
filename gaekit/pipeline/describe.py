"""Sizes for `gaekit plan`: parameters and disk of what a recipe builds, on torch's meta device, so without memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from gaekit.api import Aligner, Dataset, Teacher
from gaekit.nn.adversary import PatchGAN
from gaekit.plugins import Registry, build
from gaekit.recipe.schema import Autoencoder as AutoencoderSection
from gaekit.recipe.schema import Diffusion, Latents, Recipe
from gaekit.store.models import Autoencoder, AutoencoderSpec, DenoiserSpec

BYTES = {"float32": 4, "bf16": 2}


@dataclass(frozen=True)
class Size:
    """A network: its parameters, those of them that train, and bytes of a checkpoint of its training."""

    name: str
    parameters: int
    trained: int
    checkpoint: int


def network_sizes(recipe: Recipe, registry: Registry, classes: int | None) -> list[Size]:
    """Every network that the recipe trains. `classes` None: the data is absent, 1,000 are taken."""
    sizes: list[Size] = []
    with torch.device("meta"):
        section = recipe.autoencoder
        if isinstance(section, AutoencoderSection):
            parts = (section.encoder, section.decoder, section.regularizer)
            model = Autoencoder(
                AutoencoderSpec(recipe.image.size, recipe.image.stride, recipe.latent_dim, *parts), registry
            )
            averaged = section.train.ema is not None
            sizes += _aligner(recipe, registry, model.encoder.hidden_dim)
            sizes += [_size("encoder", model.encoder, averaged), _size("decoder", model.decoder, averaged)]
            if section.adversary:
                settings = section.adversary
                critic = PatchGAN(channels=settings.channels, layers=settings.layers, norm=settings.norm)
                sizes.append(_size("adversary", critic, False))
        if isinstance(recipe.diffusion, Diffusion):
            names = tuple(str(i) for i in range(1000 if classes is None else classes))
            spec = DenoiserSpec(
                recipe.diffusion.denoiser, recipe.latent_dim, recipe.image.grid, names, recipe.diffusion.path
            )
            sizes.append(_size("denoiser", spec.build(registry), recipe.diffusion.train.ema is not None))
    return sizes


def _aligner(recipe: Recipe, registry: Registry, hidden_dim: int) -> list[Size]:
    """The aligner, if it learns something and the teacher's width can be told without its weights."""
    teacher = registry.find("teacher", recipe.teacher.use) if recipe.teacher else None
    if teacher is None or not issubclass(teacher, Teacher) or (width := teacher.width(recipe.teacher)) is None:
        return []
    sizes = {"feature_dim": width, "latent_dim": recipe.latent_dim, "hidden_dim": hidden_dim, "grid": recipe.image.grid}
    aligner = build(Aligner, recipe.aligner, registry, **sizes)
    return [_size("aligner", aligner, False)] if any(True for _ in aligner.parameters()) else []


def cache_bytes(recipe: Recipe, images: int) -> int:
    """Bytes of the latent cache of so many images."""
    section = recipe.latents
    if not isinstance(section, Latents):
        return 0
    numbers = recipe.latent_dim * recipe.image.grid**2 * (2 if section.store == "moments" else 1)
    return images * numbers * BYTES[section.dtype] * (2 if section.flip else 1)


def data_facts(recipe: Recipe, registry: Registry) -> tuple[int, int, int]:
    """(classes, training images, held-out images). Raises DataAbsent."""
    dataset = build(Dataset, recipe.dataset, registry)
    train, validation = dataset.train(), dataset.validation()
    return len(dataset.classes), len(train), len(validation)


def _size(name: str, module: nn.Module, averaged: bool) -> Size:
    total = sum(p.numel() for p in module.parameters()) + sum(b.numel() for b in module.buffers())
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return Size(name, total, trained, 4 * (total + 2 * trained + (total if averaged else 0)))
