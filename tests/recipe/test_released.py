"""What the shipped recipes of published systems say is what the releases' own code and configs say.

The tables are of the releases, in gaekit's words: sii-research/GAE (configs/ae/gae_d32.yaml, configs/dit/*.yaml,
train.py, sp_teacher.py), hustvl/LightningDiT (configs/reproductions, train.py, vavae/ldm), bytetriper/RAE
(configs/stage1/training/DINOv2-B_decXL.yaml, configs/stage2/training/ImageNet256/DiTDH-XL_DINOv2-B.yaml),
facebookresearch/DiT and willisma/SiT (train.py, train_utils.py, sample_ddp.py). What a recipe chooses stands in its
head.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from recipe_helpers import OWN

from gaekit.plugins import Registry, load_plugins
from gaekit.recipe import find_recipe, list_recipes, load_recipe

GAE_TOKENIZER = {
    "semantic.train.lr": 1e-4,
    "semantic.train.betas": (0.9, 0.98),
    "semantic.train.weight_decay": 0.05,
    "semantic.train.schedule": "cosine",
    "semantic.train.warmup": 0.05,
    "semantic.train.final_lr": 0.1,
    "semantic.train.clip": None,
    "aligner.window": 1,
    "aligner.weight": 1.0,
}
GAE_AUTOENCODER = {
    "image.stride": 16,
    "autoencoder.weights.l1": 1.0,
    "autoencoder.weights.perceptual": 1.0,
    "autoencoder.weights.log_variance": None,
    "autoencoder.train.lr": 20 * 1e-5,
    "autoencoder.train.weight_decay": 0.05,
    "autoencoder.adversary.weight": 0.5,
    "autoencoder.adversary.adaptive": False,
    "autoencoder.adversary.loss": "hinge",
    "autoencoder.adversary.start": 5001 - 1,
    "autoencoder.adversary.norm": "batch",
    "autoencoder.adversary.channels": 64,
    "autoencoder.adversary.layers": 3,
    "autoencoder.adversary.lr": 1e-5,
    # LDM's and VA-VAE's configure_optimizers
    "autoencoder.adversary.betas": (0.5, 0.9),
    "autoencoder.adversary.weight_decay": 0.0,
    "autoencoder.adversary.clip": None,
    "autoencoder.adversary.norm_batch": 8,
}
LIGHTNING_DIT = {
    "latents.flip": True,
    "latents.normalize": "channel",
    "diffusion.path": "linear",
    "diffusion.denoiser.size": "XL",
    "diffusion.denoiser.patch": 1,
    "diffusion.denoiser.qk_norm": False,
    "diffusion.times.use": "logit_normal",
    "diffusion.cosine": 1.0,
    "diffusion.weighting": "none",
    "diffusion.label_dropout": 0.1,
    "diffusion.train.batch": 1024,
    "diffusion.train.lr": 2e-4,
    "diffusion.train.betas": (0.9, 0.95),
    "diffusion.train.weight_decay": 0.0,
    "diffusion.train.schedule": "constant",
    "diffusion.train.warmup": 0,
    "diffusion.train.clip": None,
    "diffusion.train.ema": 0.9999,
    "sample.count": 50000,
    "sample.ema": True,
}
GAE_DENOISER = LIGHTNING_DIT | {
    "latents.store": "mean",
    "diffusion.train.steps": 100_000,
    "sample.guidance.channels": "all",
}
GAE_SDE = {
    "sample.labels": "balanced",
    "sample.sampler.use": "euler_maruyama",
    "sample.sampler.steps": 250,
    "sample.sampler.diffusion": "sbdm",
    "sample.sampler.last_step": "mean",
    "sample.sampler.last_step_size": 0.004,
}
GAE = GAE_AUTOENCODER | {"autoencoder.noise.sigma": 0.2} | GAE_DENOISER | GAE_SDE
D32 = {"latent_dim": 32, "diffusion.times.shift": 0.7, "sample.sampler.shift": 0.4}
LONG = {"diffusion.train.steps": 1_000_000, "diffusion.denoiser.qk_norm": True}
ABLATION = GAE_AUTOENCODER | GAE_DENOISER | {
    "latent_dim": 32,
    "diffusion.times.shift": 0.7,
    "sample.labels": "random",
    "sample.sampler.use": "euler",
    "sample.sampler.steps": 250 - 1,  # a grid of 250 times
    "sample.sampler.shift": 0.7,
}  # fmt: skip
DIT_AND_SIT = {
    "image.stride": 8,
    "latent_dim": 4,
    "latents.flip": True,
    "latents.store": "moments",
    "latents.normalize": "scalar",
    "latents.scale": 0.18215,
    "diffusion.denoiser.size": "XL",
    "diffusion.denoiser.patch": 2,
    "diffusion.times.use": "uniform",
    "diffusion.label_dropout": 0.1,
    "diffusion.train.batch": 256,
    "diffusion.train.lr": 1e-4,
    "diffusion.train.betas": (0.9, 0.999),
    "diffusion.train.weight_decay": 0.0,
    "diffusion.train.schedule": "constant",
    "diffusion.train.warmup": 0,
    "diffusion.train.clip": None,
    "diffusion.train.ema": 0.9999,
    "sample.guidance.channels": "first3",
    "sample.sampler.steps": 250,
    "sample.count": 50000,
}
RAE = {
    "latent_dim": 768,
    "autoencoder.encoder.teacher.size": "base",
    "autoencoder.encoder.teacher.registers": True,
    "autoencoder.encoder.teacher.norm": False,
    "autoencoder.encoder.layer_norm": True,
    "autoencoder.encoder.resize": "plain",
    "autoencoder.regularizer.statistics": "position",
    "autoencoder.regularizer.eps": 1e-5,
    "autoencoder.noise.use": "uniform",
    "autoencoder.noise.max": 0.8,
    "autoencoder.weights.l1": 1.0,
    "autoencoder.weights.perceptual": 1.0,
    "autoencoder.adversary.weight": 0.75,
    "autoencoder.adversary.adaptive": True,
    "autoencoder.adversary.loss": "hinge",
    "autoencoder.adversary.start": 8 / 16,
    "autoencoder.adversary.lr": None,
    "autoencoder.adversary.betas": (0.9, 0.95),
    "autoencoder.adversary.weight_decay": 0.0,
    "autoencoder.adversary.clip": None,
    "autoencoder.train.batch": 512,
    "autoencoder.train.lr": 2e-4,
    "autoencoder.train.betas": (0.9, 0.95),
    "autoencoder.train.weight_decay": 0.0,
    "autoencoder.train.schedule": "cosine",
    "autoencoder.train.warmup": 1 / 16,
    "autoencoder.train.final_lr": 0.1,
    "autoencoder.train.clip": None,
    "autoencoder.train.ema": 0.9978,
    "diffusion.denoiser.size": "XL",
    "diffusion.denoiser.decoder_depth": 2,
    "diffusion.denoiser.decoder_width": 2048,
    "diffusion.denoiser.decoder_heads": 16,
    "diffusion.times.use": "logit_normal",
    "diffusion.times.shift": "dimension",
    "diffusion.cosine": 0.0,
    "diffusion.label_dropout": 0.1,
    "diffusion.train.batch": 1024,
    "diffusion.train.lr": 2e-4,
    "diffusion.train.betas": (0.9, 0.95),
    "diffusion.train.weight_decay": 0.0,
    "diffusion.train.schedule": "linear",
    "diffusion.train.warmup": 0,
    "diffusion.train.decay_start": 40 * (1_281_167 // 1024),
    "diffusion.train.decay_end": 800 * (1_281_167 // 1024),
    "diffusion.train.final_lr": 0.1,
    "diffusion.train.clip": 1.0,
    "diffusion.train.ema": 0.9995,
    "sample.sampler.use": "euler",
    "sample.sampler.steps": 50 - 1,  # a grid of 50 times
    "sample.guidance.scale": 1.0,
}
RELEASED: dict[str, dict[str, Any]] = {
    "gae_d32": GAE_TOKENIZER | GAE | D32,
    "gae_d32_800ep": GAE_TOKENIZER | GAE | D32 | LONG,
    "gae_d64": GAE_TOKENIZER | GAE | LONG | {"latent_dim": 64},
    "gae_d16": GAE_TOKENIZER | GAE | {"latent_dim": 16},
    "lightningdit_vavae": LIGHTNING_DIT | {
        "image.stride": 16,
        "latent_dim": 32,
        "diffusion.times.shift": 1.0,
        "diffusion.train.steps": 80_000,
        "sample.sampler.use": "euler",
        "sample.sampler.steps": 250 - 1,  # a grid of 250 times
        "sample.sampler.shift": 0.3,
        "sample.guidance.channels": "first3",
    },
    "dit_xl2": DIT_AND_SIT | {"diffusion.path": "ddpm", "diffusion.betas": "linear", "sample.sampler.use": "ddpm"},
    "sit_xl2": DIT_AND_SIT | {
        "diffusion.path": "linear",
        "sample.sampler.use": "euler_maruyama",
        "sample.sampler.diffusion": "sigma",
        "sample.sampler.last_step": "mean",
        "sample.sampler.last_step_size": 0.04,
    },
    "rae_dinov2_b": RAE,
    **{f"ablations/{name}": ABLATION for name in ("align_pre", "align_post", "align_none", "kl")},
    **{
        f"ablations/{name}": GAE_TOKENIZER | ABLATION
        for name in ("sigma_005", "sigma_01", "teacher_mae", "teacher_siglip2", "teacher_clip")
    },
}  # fmt: skip
GUIDED = {
    "gae_d32": {"scale": 2.5, "start": 0.25, "channels": "all", "steps": 249, "shift": 0.4},
    "gae_d32_800ep": {"scale": 3.3, "start": 0.3, "channels": "all", "steps": 249, "shift": 0.4},
    "lightningdit_vavae": {"scale": 10.0, "start": 0.10, "channels": "first3", "steps": 249, "shift": 0.3},
    "dit_xl2": {"scale": 1.5, "start": 0.0, "channels": "first3", "steps": 250},
    "sit_xl2": {"scale": 1.5, "start": 0.0, "channels": "first3", "steps": 250, "shift": 1.0},
}
"""What makes of each recipe the one of its guided number, as the releases and the paper's notes have it."""


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_plugins()


def at(recipe: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        recipe = getattr(recipe, key)
    return recipe


def head_of(name: str) -> str:
    return find_recipe(name).read_text(encoding="utf-8").partition("\nrecipe: 1")[0]


def options(name: str) -> list[tuple[str, ...]]:
    """The `--set` options of its head, a tuple for lines that follow each other."""
    found: list[tuple[str, ...]] = []
    for block in re.findall(r"(?:^#   --set .*\n?)+", head_of(name), re.MULTILINE):
        words = shlex.split(re.sub(r"^#", "", block, flags=re.MULTILINE))
        found.append(tuple(word for word in words if word != "--set"))
    return found


def test_every_published_recipe_has_a_table() -> None:
    systems = {recipe.name for recipe in list_recipes()} - OWN
    assert set(RELEASED) == systems


@pytest.mark.parametrize("name", RELEASED)
def test_what_is_published_is_in_the_recipe(name: str, registry: Registry) -> None:
    recipe = load_recipe(name, registry)
    found = {key: at(recipe, key) for key in RELEASED[name]}
    assert found == {key: pytest.approx(v) if isinstance(v, float) else v for key, v in RELEASED[name].items()}


@pytest.mark.parametrize("name", GUIDED)
def test_its_head_says_how_the_guided_number_is_made(name: str, registry: Registry) -> None:
    (overrides,) = [o for o in options(name) if any(word.startswith("sample.guidance.scale") for word in o)][:1]
    sample = load_recipe(name, registry, overrides=overrides).sample
    assert sample is not None
    settings = {**sample.sampler.model_dump(), **sample.guidance.model_dump()}
    assert {key: settings[key] for key in GUIDED[name]} == GUIDED[name]


@pytest.mark.parametrize("name", [recipe.name for recipe in list_recipes()])
def test_the_options_of_its_head_are_right(name: str, registry: Registry) -> None:
    for overrides in options(name):
        load_recipe(name, registry, overrides=overrides)
