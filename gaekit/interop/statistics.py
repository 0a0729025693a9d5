"""How other projects write down the statistics that their denoisers' latents are standardised by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gaekit.errors import ArtifactError
from gaekit.interop.formats import Options
from gaekit.interop.reading import read_tensors
from gaekit.store.files import atomic, read_json
from gaekit.store.models import Statistics

STATS_FILE = "latents_stats.pt"
"""What GAE and LightningDiT call it, {"mean", "std"} of shape (1, D, 1, 1)."""
EPS = 1e-5
"""What RAE adds to the variance before its root."""


def statistics_of(options: Options, channels: int, *, found: Path | None = None) -> Statistics:
    """(mean, std) of shape (D,), or (D, H, W) where each position has its own: from --stats, else the file `found`.

    With --scale, latents are multiplied by it too (SD: 0.18215, with mean 0 and std 1). Raises ArtifactError where
    nothing says them, and for statistics that are of other latents or not finite.
    """
    file = options.stats or found
    if file is None and options.scale is None:
        raise ArtifactError(
            "nothing says how the latents are standardised for this denoiser: give their statistics with "
            f"--stats {STATS_FILE}, or a fixed factor with --scale (SD, SiT and DiT: 0.18215; 1: as they are)"
        )
    if options.scale is not None and options.scale <= 0:
        raise ArtifactError(f"--scale {options.scale}: a factor of latents is positive")
    mean, std = (torch.zeros(channels), torch.ones(channels)) if file is None else _read(file, channels)
    return Statistics(mean, std / (options.scale or 1.0))


def _read(file: Path, channels: int) -> tuple[Tensor, Tensor]:
    values = _values(file)
    if {"latents_scale", "latents_bias"} <= set(values):  # REPA-E's: what is multiplied by, what is subtracted before
        return _checked(_numbers(values["latents_bias"], file, channels),
                        _numbers(values["latents_scale"], file, channels).reciprocal(), file)  # fmt: skip
    if missing := {"mean"} - set(values) or {"std"} - set(values) - ({"std"} if "var" in values else set()):
        raise ArtifactError(f"{file}: statistics hold mean and std (or var); missing here: {', '.join(missing)}")
    mean = _numbers(values["mean"], file, channels)
    std = _numbers(values["std"], file, channels) if "std" in values else _root(values["var"], file, channels)
    return _checked(mean, std, file)


def _checked(mean: Tensor, std: Tensor, file: Path) -> tuple[Tensor, Tensor]:
    if mean.shape != std.shape or not (mean.isfinite().all() and std.isfinite().all() and bool((std > 0).all())):
        raise ArtifactError(f"{file}: mean and std must be of one shape and finite, std above 0")
    return mean, std


def _values(file: Path) -> dict[str, Any]:
    if file.suffix != ".json":
        return read_tensors(file)
    if not file.is_file():
        raise ArtifactError(f"{file}: no such file")
    values = read_json(file)
    values = values.get("statistics", values) if isinstance(values, dict) else {}  # a cache's manifest has them too
    return dict(values)


def _root(variance: Any, file: Path, channels: int) -> Tensor:
    return (_numbers(variance, file, channels) + EPS).sqrt()


def _numbers(value: Any, file: Path, channels: int) -> Tensor:
    """(D,) from (D,), (D, 1, 1) or (1, D, 1, 1); (D, H, W) with or without the leading 1."""
    try:
        numbers = torch.as_tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{file}: its statistics are no numbers ({error})") from error
    if numbers.ndim == 4 and len(numbers) == 1:
        numbers = numbers[0]
    if numbers.ndim == 3 and numbers.shape[1:] == (1, 1):
        numbers = numbers[:, 0, 0]
    if numbers.ndim not in (1, 3) or len(numbers) != channels:
        raise ArtifactError(
            f"{file}: statistics of shape {tuple(numbers.shape)} are not those of latents of {channels} channels"
        )
    return numbers.clone()


def write_statistics(file: Path, statistics: Statistics) -> None:
    """Write them as GAE and LightningDiT read them."""
    shaped = {
        name: value[None] if value.ndim == 3 else value[None, :, None, None]
        for name, value in (("mean", statistics.mean_D), ("std", statistics.std_D))
    }
    with atomic(file) as part:
        torch.save({name: value.clone() for name, value in shaped.items()}, part)
