"""The networks of a run and their artifacts: everything that sampling and reconstruction need is in these files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from torch import Tensor, nn

from gaekit.api import Aligner, ComponentConfig, Decoder, Denoiser, Encoder, Latent, Regularizer
from gaekit.errors import ArtifactError
from gaekit.flow.ddpm import Betas, Ddpm
from gaekit.flow.path import PATHS
from gaekit.plugins import Registry, build
from gaekit.recipe.load import load_component
from gaekit.recipe.schema import Autoencoder as AutoencoderSection
from gaekit.recipe.schema import Recipe
from gaekit.store.artifact import Artifact, open_artifact, save_artifact
from gaekit.store.outline import check_outline

MOST_PIXELS, MOST_POSITIONS, MOST_CHANNELS = 1 << 14, 1 << 10, 1 << 20
"""A side of an image, a side of a latent grid, and channels of a latent, beyond which a head is damaged."""


def _count(data: Mapping[str, Any], key: str, source: str, most: int) -> int:
    value = data.get(key)
    if type(value) is not int or not 0 < value <= most:
        shown = ascii(value)[:60]
        raise ArtifactError(f"{source}: its head has {key}: {shown}; expected a whole number from 1 to {most}")
    return value


def _component(kind: str, data: Mapping[str, Any], registry: Registry, source: str) -> ComponentConfig:
    if not isinstance(settings := data.get(kind), dict):
        raise ArtifactError(f"{source}: its head describes no {kind}; it is damaged")
    return load_component(kind, settings, registry, source=source)


@dataclass(frozen=True)
class AutoencoderSpec:
    """What decides the shape of an autoencoder."""

    image_size: int
    stride: int
    latent_dim: int
    encoder: ComponentConfig
    decoder: ComponentConfig
    regularizer: ComponentConfig

    @property
    def grid(self) -> int:
        """Side of the latent grid."""
        return self.image_size // self.stride

    def to_json(self) -> dict[str, Any]:
        """As stored in an artifact."""
        parts = {name: getattr(self, name).model_dump(mode="json") for name in ("encoder", "decoder", "regularizer")}
        return {"image_size": self.image_size, "stride": self.stride, "latent_dim": self.latent_dim, **parts}

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> AutoencoderSpec | None:
        """That of the autoencoder that a recipe trains; None where it takes it from elsewhere."""
        section = recipe.autoencoder
        if not isinstance(section, AutoencoderSection):
            return None
        parts = (section.encoder, section.decoder, section.regularizer)
        return cls(recipe.image.size, recipe.image.stride, recipe.latent_dim, *parts)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], registry: Registry, source: str) -> AutoencoderSpec:
        """Inverse of `to_json`; `source` is named in errors. Raises ArtifactError for what describes no network."""
        parts = {name: _component(name, data, registry, source) for name in ("encoder", "decoder", "regularizer")}
        size, stride = _count(data, "image_size", source, MOST_PIXELS), _count(data, "stride", source, MOST_PIXELS)
        if size % stride or size // stride > MOST_POSITIONS:
            raise ArtifactError(
                f"{source}: its head has a stride of {stride} for images of {size} pixels; it is damaged"
            )
        return cls(size, stride, _count(data, "latent_dim", source, MOST_CHANNELS), **parts)


class Autoencoder(nn.Module):
    """Encoder, regularizer and decoder as one module."""

    def __init__(self, spec: AutoencoderSpec, registry: Registry):
        super().__init__()
        self.spec = spec
        self.regularizer = build(Regularizer, spec.regularizer, registry, latent_dim=spec.latent_dim, grid=spec.grid)
        self.encoder = build(
            Encoder, spec.encoder, registry,
            image_size=spec.image_size, stride=spec.stride, channels=self.regularizer.channels,
        )  # fmt: skip
        self.decoder = build(
            Decoder, spec.decoder, registry, latent_dim=spec.latent_dim, grid=spec.grid, stride=spec.stride
        )

    def encode(self, image_B3RR: Tensor) -> tuple[Tensor, Latent]:
        """-> (hidden_BEHW, the latent)."""
        hidden, moments = self.encoder(image_B3RR)
        return hidden, self.regularizer(moments)

    def decode(self, latent_BDHW: Tensor) -> Tensor:
        """-> image_B3RR."""
        return self.decoder(latent_BDHW)  # type: ignore[no-any-return]

    def reconstruct(self, image_B3RR: Tensor) -> Tensor:
        """The image through the latent's mean, without noise."""
        return self.decode(self.encode(image_B3RR)[1].mean_BDHW)


def save_autoencoder(
    path: Path,
    weights: Mapping[str, Tensor],
    spec: AutoencoderSpec,
    ema: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> None:
    """Write an autoencoder's artifact."""
    groups = {"weights": weights, "ema": ema}
    save_artifact(path, "autoencoder", {**spec.to_json(), **facts}, groups)


def load_autoencoder(path: Path, registry: Registry, *, ema: bool = True) -> Autoencoder:
    """An autoencoder in evaluation mode, with its averaged weights where there are some and `ema` asks for them."""
    artifact = open_artifact(path, "autoencoder")
    spec, weights = AutoencoderSpec.from_json(artifact.config, registry, str(path)), _weights(artifact, ema)
    check_outline(lambda: Autoencoder(spec, registry), artifact.shapes(weights), path)
    model = Autoencoder(spec, registry)
    artifact.load_into(model, weights)
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class DenoiserSpec:
    """What decides the shape and the use of a denoiser. `classes` are the class names, () for unconditional."""

    denoiser: ComponentConfig
    channels: int
    grid: int
    classes: tuple[str, ...]
    path: str
    betas: Betas = "linear"

    def to_json(self) -> dict[str, Any]:
        """As stored in an artifact."""
        return {
            "denoiser": self.denoiser.model_dump(mode="json"),
            "channels": self.channels,
            "grid": self.grid,
            "classes": list(self.classes),
            "path": self.path,
            "betas": self.betas,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], registry: Registry, source: str) -> DenoiserSpec:
        """Inverse of `to_json`; `source` is named in errors. Raises ArtifactError for what describes no denoiser."""
        config = _component("denoiser", data, registry, source)
        channels, grid = _count(data, "channels", source, MOST_CHANNELS), _count(data, "grid", source, MOST_POSITIONS)
        classes, path, betas = data.get("classes"), data.get("path"), data.get("betas")
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ArtifactError(f"{source}: its head has no list of class names; it is damaged")
        if path not in (*PATHS, Ddpm.name) or betas not in get_args(Betas):
            told = ascii([path, betas])[:90]
            raise ArtifactError(f"{source}: its head has no known path and betas, but {told}; it is damaged")
        return cls(config, channels, grid, tuple(classes), path, cast(Betas, betas))

    def build(self, registry: Registry) -> Denoiser:
        """The network, with fresh weights."""
        sizes = {"channels": self.channels, "grid": self.grid, "classes": len(self.classes)}
        return build(Denoiser, self.denoiser, registry, **sizes)


@dataclass(frozen=True)
class Statistics:
    """How latents are standardised for the denoiser: (latent - mean) / std, per channel.

    (D, H, W) in place of (D,) standardises each position by its own, as RAE's published denoisers want it.
    """

    mean_D: Tensor
    std_D: Tensor

    def standardise(self, latent_BDHW: Tensor) -> Tensor:
        """Latent -> what the denoiser sees."""
        mean, std = self._like(latent_BDHW)
        return (latent_BDHW - mean).div_(std)

    def restore(self, latent_BDHW: Tensor) -> Tensor:
        """Inverse of `standardise`."""
        mean, std = self._like(latent_BDHW)
        return latent_BDHW * std + mean

    def _like(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.mean_D.to(latent), self.std_D.to(latent)
        return (mean, std) if mean.ndim == 3 else (mean[:, None, None], std[:, None, None])


@dataclass(frozen=True)
class LoadedDenoiser:
    """A denoiser with all that sampling needs to know of it."""

    network: Denoiser
    spec: DenoiserSpec
    statistics: Statistics


def save_denoiser(
    path: Path,
    weights: Mapping[str, Tensor],
    spec: DenoiserSpec,
    statistics: Statistics,
    ema: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> None:
    """Write a denoiser's artifact, with the statistics of its latents."""
    groups = {
        "weights": weights,
        "ema": ema,
        "statistics": {"mean": statistics.mean_D, "std": statistics.std_D},
    }
    save_artifact(path, "denoiser", {**spec.to_json(), **facts}, groups)


def load_denoiser(path: Path, registry: Registry, *, ema: bool = True) -> LoadedDenoiser:
    """A denoiser in evaluation mode. Raises ArtifactError if its latents' statistics are incomplete."""
    artifact = open_artifact(path, "denoiser")
    spec = DenoiserSpec.from_json(artifact.config, registry, str(path))
    weights, shapes = _weights(artifact, ema), ((spec.channels,), (spec.channels, spec.grid, spec.grid))
    check_outline(lambda: spec.build(registry), artifact.shapes(weights), path)
    network = spec.build(registry)
    artifact.load_into(network, weights)
    held = artifact.shapes("statistics")
    if set(held) != {"mean", "std"} or held["mean"] != held["std"] or held["mean"] not in shapes:
        raise ArtifactError(f"{path}: its latents' statistics are incomplete; it cannot be sampled from")
    found = artifact.tensors("statistics")
    if not (all(bool(t.isfinite().all()) for t in found.values()) and bool((found["std"] > 0).all())):
        raise ArtifactError(f"{path}: its latents' statistics are not finite or not positive; it is damaged")
    return LoadedDenoiser(network.eval().requires_grad_(False), spec, Statistics(found["mean"], found["std"]))


def save_aligner(path: Path, aligner: Aligner, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write what an aligner learnt in the semantic stage."""
    sizes = {"feature_dim": aligner.feature_dim, "latent_dim": aligner.latent_dim, "grid": aligner.grid}
    config = {"aligner": aligner.config.model_dump(mode="json"), **sizes, **facts}
    save_artifact(path, "aligner", config, {"weights": weights})


def load_aligner(path: Path, aligner: Aligner) -> None:
    """Load what was learnt into a freshly built aligner and freeze it. Raises ArtifactError if the sizes differ."""
    open_artifact(path, "aligner").load_into(aligner, "weights")
    aligner.requires_grad_(False)


def _weights(artifact: Artifact, ema: bool) -> str:
    return "ema" if ema and artifact.shapes("ema") else "weights"
