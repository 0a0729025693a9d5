"""`gaekit import`: a published file becomes an artifact that a recipe takes by `{from: PATH}`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from gaekit.errors import ArtifactError, GaekitError
from gaekit.interop import dc_ae, rae, repa_e
from gaekit.interop.autoencoders import read_gae, read_ldm_vae, read_semantic
from gaekit.interop.denoisers import TABLE, read_denoiser
from gaekit.interop.diffusers_folder import settings_beside, weights_in
from gaekit.interop.diffusers_vae import NETWORK, factors_beside, is_diffusers
from gaekit.interop.fitting import likely_cause
from gaekit.interop.formats import Format, Options, check_options, find_format
from gaekit.interop.latent_cache import import_cache
from gaekit.interop.reading import Source, read_checkpoint
from gaekit.interop.standardised_vae import read_flux2
from gaekit.interop.statistics import statistics_of
from gaekit.plugins import Registry
from gaekit.store.models import Autoencoder, Statistics, save_aligner, save_autoencoder, save_denoiser
from gaekit.store.outline import no_larger_than

T = TypeVar("T")


@dataclass(frozen=True)
class Imported:
    """What an import made: the artifact, what a recipe writes to take it, and lines that say what it is."""

    artifact: Path
    stage: str
    lines: list[str]

    @property
    def recipe_line(self) -> str:
        """How a recipe takes it."""
        return f"{self.stage}: {{from: {self.artifact.parent}}}"


def import_file(name: str, file: Path, out: Path, options: Options, registry: Registry) -> Imported:
    """Import `file` (a folder for gae-latents, and where diffusers writes one) of the format `name` into `out`.

    Raises GaekitError for an unknown format or option, and ArtifactError for a file that does not fit, with the likely
    cause, or an artifact that exists already.
    """
    found = find_format(name)
    check_options(found, options)
    names = None if options.classes is None else _read_classes(options.classes)
    artifact = out / found.artifact
    if found.stage == "latents":
        return _cache(file, artifact, options, names)
    if artifact.exists():
        raise ArtifactError(f"{artifact}: exists already; choose another --out, or remove it")
    statistics = None
    if name == "e2e-vae":
        source, statistics = repa_e.read_source(weights_in(file))
    else:
        source = read_checkpoint(weights_in(file), options.weights)
    facts: dict[str, Any] = {"imported": {"format": name, **source.facts}}
    if found.stage == "diffusion":
        return _denoiser(found, source, artifact, options, registry, names, facts)
    if found.stage == "semantic":
        aligner = _told(source, name, lambda: read_semantic(source.state, options, registry))
        save_aligner(artifact, aligner, aligner.state_dict(), facts)
        sizes = f"features {aligner.feature_dim}, latent_dim {aligner.latent_dim}, grid {aligner.grid}"
        return Imported(artifact, found.stage, [_described(aligner, aligner.config), sizes])
    return _autoencoder(found, source, artifact, options, registry, facts, statistics)


def _autoencoder(
    found: Format,
    source: Source,
    artifact: Path,
    options: Options,
    registry: Registry,
    facts: dict[str, Any],
    statistics: Statistics | None,
) -> Imported:
    model = _told(source, found.name, lambda: _read_autoencoder(found, source, options, registry, statistics))
    spec = model.spec
    lines = [
        f"encoder {_described(model.encoder, spec.encoder)}",
        f"decoder {_described(model.decoder, spec.decoder)}",
        f"regularizer {spec.regularizer.use}; image: {{size: {spec.image_size}, stride: {spec.stride}}}, "
        f"latent_dim: {spec.latent_dim}",
    ]
    if factors := _told(source, found.name, lambda: _factors(found, source)):
        facts["imported"]["diffusers"] = factors
        lines.append(_told(source, found.name, lambda: _told_of(found, factors)))
    lines.append(f"licence: {source.licence}")
    save_autoencoder(artifact, model.state_dict(), spec, {}, facts)
    return Imported(artifact, found.stage, lines)


def _factors(found: Format, source: Source) -> dict[str, Any]:
    """What the settings beside a file of diffusers' say of its latents, {} where they are not kept apart."""
    if found.name == "dc-ae":
        return dc_ae.factors_of(settings_beside(source.path, {}))
    if found.name == "rae":
        return rae.factors_of(settings_beside(source.path, {}))
    return factors_beside(source.path) if found.name == "ldm-vae" and is_diffusers(source.state) else {}


def _told_of(found: Format, factors: dict[str, Any]) -> str:
    if found.name == "rae":
        level = factors["noise_tau"]
        return f"trained under noise before standardisation, as by noise: {{use: uniform, max: {level:g}}}"
    return f"diffusers standardises its latents by {', '.join(f'{key} {value}' for key, value in factors.items())}"


def _read_autoencoder(
    found: Format, source: Source, options: Options, registry: Registry, statistics: Statistics | None
) -> Autoencoder:
    if found.name == "e2e-vae":
        return repa_e.read_e2e(source, statistics, options, registry)
    if found.name == "flux2-vae":
        config = settings_beside(source.path, {"_class_name": found.diffusers, **NETWORK})
        return read_flux2(source.state, config, options, registry)
    if found.name == "dc-ae":
        config = settings_beside(source.path, {"_class_name": found.diffusers})
        return dc_ae.read_dc_ae(source.state, config, options, registry)
    if found.name == "rae":
        config = settings_beside(source.path, {"_class_name": found.diffusers, "num_channels": 3})
        return rae.read_rae(source.state, config, registry)
    return (read_gae if found.name == "gae" else read_ldm_vae)(source.state, options, registry)


def _denoiser(
    found: Format,
    source: Source,
    artifact: Path,
    options: Options,
    registry: Registry,
    names: list[str] | None,
    facts: dict[str, Any],
) -> Imported:
    network, spec = _told(source, found.name, lambda: read_denoiser(found.name, source.state, options, registry, names))
    statistics = statistics_of(options, spec.channels)
    null_row = len(source.state[TABLE]) == len(spec.classes) + 1
    facts["imported"]["null_row"] = null_row
    save_denoiser(artifact, network.state_dict(), spec, statistics, {}, facts)
    lines = [
        _described(network, spec.denoiser),
        f"latents {spec.channels} x {spec.grid} x {spec.grid}, {len(spec.classes)} classes, predicts "
        f"{network.predicts}, path {spec.path}",
    ]
    if not null_row:
        lines.append("no row for no class: it cannot be guided, sample it with guidance.scale 1")
    return Imported(artifact, found.stage, lines)


def _cache(folder: Path, artifact: Path, options: Options, names: list[str] | None) -> Imported:
    facts = import_cache(folder, artifact, options, names)
    mirrored = "with" if facts["flip"] else "without"
    shape = f"{facts['latent_dim']} x {facts['grid']} x {facts['grid']}"
    line = f"{facts['rows']} latents {shape}, {mirrored} mirror images, {len(facts['classes'])} classes"
    return Imported(artifact, "latents", [line])


def _told(source: Source, name: str, read: Callable[[], T]) -> T:
    """What `read` gives, its errors naming the file and the likely cause."""
    try:
        with no_larger_than({key: tuple(value.shape) for key, value in source.state.items()}):
            return read()
    except GaekitError as error:
        cause = likely_cause(error, source.state, name)
        raise ArtifactError(f"{source.path}: {error}" + (f"; {cause}" if cause else "")) from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        what = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise ArtifactError(
            f"{source.path}: its tensors, or the settings beside them, are those of no network: {what}"
        ) from error


def _described(network: nn.Module, config: Any) -> str:
    count = sum(parameter.numel() for parameter in network.parameters())
    settings = config.model_dump(mode="json", exclude={"use", "size"}, exclude_none=True)
    shown = ", ".join(f"{key} {value}" for key, value in settings.items())
    return f"{config.use} ({count / 1e6:.2f}M parameters): {shown}"


def _read_classes(file: Path) -> list[str]:
    """Class names, a line each, in the order of labels. Raises ArtifactError."""
    if not file.is_file():
        raise ArtifactError(f"{file}: no such file; --classes names a text file with a class a line")
    names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(set(names)) != len(names):
        raise ArtifactError(f"{file}: names a class twice")
    return names
