"""How fast a tokenizer encodes and decodes on this machine, and what memory that takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gaekit.cards.live import LiveTensors
from gaekit.stages.machine import Machine
from gaekit.store.models import Autoencoder

LEAST, MOST, ENOUGH_SECONDS = 3, 20, 3.0
"""How often each is timed: at least so often, and no more often once that takes so long."""


@torch.no_grad()
def measure_speed(model: Autoencoder, image_B3RR: Tensor, machine: Machine) -> dict[str, Any]:
    """{"encode", "decode": {"images_per_second", "peak_bytes"}, "device", "threads", "batch", "precision"}.

    By the median of some passes of one batch in float32, after one that is not counted. `peak_bytes` are those of the
    part's weights and of all tensors that lived at once while it ran.
    """
    image_B3RR = image_B3RR.to(machine.device)
    latent_BDHW = model.encode(image_B3RR)[1].mean_BDHW
    return {
        "device": machine.name,
        "threads": torch.get_num_threads() if machine.device.type == "cpu" else None,
        "batch": len(image_B3RR),
        "precision": "float32",
        "encode": _timed(lambda: model.encode(image_B3RR), model.encoder, len(image_B3RR), machine.device),
        "decode": _timed(lambda: model.decode(latent_BDHW), model.decoder, len(image_B3RR), machine.device),
    }


def _timed(action: Callable[[], Any], part: nn.Module, count: int, device: torch.device) -> dict[str, Any]:
    with LiveTensors() as live:
        action()
    weights = sum(p.numel() * p.element_size() for p in part.parameters())
    seconds: list[float] = []
    while len(seconds) < LEAST or (sum(seconds) < ENOUGH_SECONDS and len(seconds) < MOST):
        _wait(device)
        start = time.perf_counter()
        action()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return {"images_per_second": count / statistics.median(seconds), "peak_bytes": weights + live.peak}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
