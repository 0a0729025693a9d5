"""The networks that files of published starts describe, built from settings alone and named as `gaekit export` does.

A file's `config` names a shipped recipe, whose network is built, or holds the published implementation's own settings.
Settings that only use or training see, such as the dropout of labels, are left unread: they leave no mark on a start.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from parity.rebuild import registry
from torch import Tensor

from gaekit.api import Aligner, ComponentConfig, Teacher
from gaekit.errors import GaekitError
from gaekit.interop.autoencoders import write_autoencoder
from gaekit.interop.denoisers import write_denoiser
from gaekit.interop.semantic_teacher import to_gae
from gaekit.plugins import build
from gaekit.recipe import load_recipe
from gaekit.recipe.load import load_component
from gaekit.recipe.schema import Autoencoder as AutoencoderSection
from gaekit.recipe.schema import Diffusion, Recipe
from gaekit.store.models import Autoencoder, AutoencoderSpec, DenoiserSpec

Settings = Mapping[str, Any]
Tensors = dict[str, Tensor]


class UnknownStart(Exception):
    """A file that describes no network which the check can build."""


@dataclass(frozen=True)
class Expected:
    """One tensor of a published network at its start; `trained` is its requires_grad."""

    shape: tuple[int, ...]
    mean: float
    std: float
    trained: bool


@dataclass(frozen=True)
class Start:
    """A file: what the network is, and its tensors by their published names."""

    config: dict[str, Any]
    tensors: dict[str, Expected]


def read_start(path: Path) -> Start:
    """Raises UnknownStart for a file of another kind."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        tensors = {
            name: Expected(tuple(fact["shape"]), float(fact["mean"]), float(fact["std"]), bool(fact["trained"]))
            for name, fact in data["tensors"].items()
        }
        config = dict(data["config"])
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnknownStart(f"is no file of a published start: {type(error).__name__}: {error}") from error
    if not tensors:
        raise UnknownStart("holds no tensors")
    return Start(config, tensors)


def build_published(config: Settings, seed: int) -> Tensors:
    """A fresh network under its published names, each tensor with the `requires_grad` that it trains by.

    Raises UnknownStart for a kind, a recipe or settings that describe no network.
    """
    if (kind := config.get("kind")) not in KINDS:
        raise UnknownStart(f"kind {kind!r} is not known; known: {', '.join(KINDS)}")
    try:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return KINDS[kind](config)
    except KeyError as error:
        raise UnknownStart(f"its config does not tell {error}") from error
    except GaekitError as error:
        raise UnknownStart(f"its network cannot be built: {error}") from error


def _recipe(config: Settings) -> Recipe | None:
    return load_recipe(config["recipe"], registry()) if "recipe" in config else None


def _told(config: Settings, *names: str, default: Any = None) -> Any:
    """The setting under the first of its names that is there. Raises KeyError without one and without a default."""
    found = next((config[name] for name in names if name in config), default)
    if found is None:
        raise KeyError(names[0])
    return found


def _chosen(component: ComponentConfig, use: str, recipe: str) -> ComponentConfig:
    if component.use != use:
        raise UnknownStart(f"recipe {recipe} has {component.use}, not {use}")
    return component


def _tokenizer(config: Settings) -> Tensors:
    recipe = _recipe(config)
    spec = _tokenizer_of(config) if recipe is None else _autoencoder_of(recipe)
    return write_autoencoder("gae", Autoencoder(spec, registry()).state_dict(keep_vars=True))


def _autoencoder_of(recipe: Recipe) -> AutoencoderSpec:
    section = recipe.autoencoder
    if not isinstance(section, AutoencoderSection):
        raise UnknownStart(f"recipe {recipe.name} trains no autoencoder")
    encoder, decoder = (_chosen(half, "vit", recipe.name) for half in (section.encoder, section.decoder))
    sizes = (recipe.image.size, recipe.image.stride, recipe.latent_dim)
    return AutoencoderSpec(*sizes, encoder, decoder, section.regularizer)


def _tokenizer_of(config: Settings) -> AutoencoderSpec:
    half = {
        "use": "vit",
        "depth": _told(config, "depth", "num_layers"),
        "width": _told(config, "width", "embed_dim"),
        "heads": _told(config, "heads", "num_heads"),
        "mlp_ratio": config.get("mlp_ratio", 4.0),
    }
    parts = {
        "encoder": {**half, "hidden": _told(config, "encoder_out_channels", default=half["width"])},
        "decoder": half,
        "regularizer": {"use": "rms_norm"},
    }
    sizes = {
        "image_size": _told(config, "image", "image_size"),
        "stride": _told(config, "patch", "patch_size"),
        "latent_dim": _told(config, "latent_dim"),
    }
    return AutoencoderSpec.from_json({**sizes, **parts}, registry(), "config")


def _semantic(config: Settings) -> Tensors:
    recipe = _recipe(config)
    if recipe is None:
        sizes = {name: _told(config, name) for name in ("feature_dim", "latent_dim", "grid")}
        settings = {"use": "latent", "window": config.get("window", 1), "head_dim": config.get("head_dim", 64),
                    "decoder_depth": _told(config, "decoder_layers")}  # fmt: skip
        aligner = load_component("aligner", settings, registry(), source="config")
    else:
        aligner = _chosen(recipe.aligner, "latent", recipe.name)
        sizes = {"feature_dim": _width(recipe), "latent_dim": recipe.latent_dim, "grid": recipe.image.grid}
    return to_gae(build(Aligner, aligner, registry(), hidden_dim=1, **sizes).state_dict(keep_vars=True))


def _width(recipe: Recipe) -> int:
    """The channels of the recipe's teacher, without its weights."""
    cls = registry().find("teacher", recipe.teacher.use) if recipe.teacher else None
    width = cls.width(recipe.teacher) if cls is not None and issubclass(cls, Teacher) else None
    if width is None:
        raise UnknownStart(f"recipe {recipe.name} tells no width of a teacher")
    return width


def _denoiser(form: str, use: str, of_config: Callable[[Settings], dict[str, Any]]) -> Callable[[Settings], Tensors]:
    """Builds the denoiser `use`, to be written in the format `form`; `of_config` reads the published settings."""

    def built(config: Settings) -> Tensors:
        recipe, classes = _recipe(config), _told(config, "classes", "num_classes", default=1000)
        if recipe is None:
            denoiser = load_component("denoiser", {"use": use, **of_config(config)}, registry(), source="config")
            sizes = (_told(config, "in_channels", default=4), _told(config, "input_size"))
        elif isinstance(recipe.diffusion, Diffusion):
            denoiser = _chosen(recipe.diffusion.denoiser, use, recipe.name)
            sizes = (recipe.latent_dim, recipe.image.grid)
        else:
            raise UnknownStart(f"recipe {recipe.name} trains no denoiser")
        spec = DenoiserSpec(denoiser, *sizes, tuple(str(index) for index in range(classes)), "linear")
        return write_denoiser(form, spec.build(registry()).state_dict(keep_vars=True), spec)

    return built


def _plain(config: Settings) -> dict[str, Any]:
    """DiT's and SiT's settings."""
    return {
        "patch": _told(config, "patch", "patch_size"),
        "depth": _told(config, "depth"),
        "width": _told(config, "width", "hidden_size"),
        "heads": _told(config, "heads", "num_heads"),
        "mlp_ratio": config.get("mlp_ratio", 4.0),
        "learn_sigma": config.get("learn_sigma", True),
    }


def _switches(config: Settings, *, default: bool) -> dict[str, Any]:
    """Those of LightningDiT's blocks; where the file leaves one out it stands as in the implementation, `default`."""
    return {
        "mlp": "swiglu" if config.get("use_swiglu", default) else "mlp",
        "norm": "rms" if config.get("use_rmsnorm", default) else "layer",
        "rope": config.get("use_rope", default),
        "qk_norm": config.get("use_qknorm", False),
        "wo_shift": config.get("wo_shift", False),
        "mlp_ratio": config.get("mlp_ratio", 4.0),
    }


def _lightning(config: Settings) -> dict[str, Any]:
    return {
        "patch": _told(config, "patch_size", "patch"),
        "depth": _told(config, "depth"),
        "width": _told(config, "hidden_size", "width"),
        "heads": _told(config, "num_heads", "heads"),
        "absolute_positions": config.get("use_abs_pos", True),
        **_switches(config, default=False),
    }


def _dit_dh(config: Settings) -> dict[str, Any]:
    (width, decoder_width), (depth, decoder_depth) = _told(config, "hidden_size"), _told(config, "depth")
    heads = _told(config, "num_heads")
    heads, decoder_heads = (heads, heads) if isinstance(heads, int) else heads
    return {
        "patch": config.get("patch_size", 1),
        "depth": depth,
        "width": width,
        "heads": heads,
        "decoder_depth": decoder_depth,
        "decoder_width": decoder_width,
        "decoder_heads": decoder_heads,
        "absolute_positions": config.get("use_pos_embed", True),
        **_switches(config, default=True),
    }


KINDS: dict[str, Callable[[Settings], Tensors]] = {
    "gae_tokenizer": _tokenizer,
    "semantic_teacher": _semantic,
    "lightning_dit": _denoiser("lightningdit", "lightning_dit", _lightning),
    "dit": _denoiser("dit", "dit", _plain),
    "sit": _denoiser("sit", "sit", _plain),
    "ddt": _denoiser("dit_dh", "dit_dh", _dit_dh),
}
"""The networks by a file's `kind`, which are those of `check.py`."""
