"""What the devices of this process have drawn, where they tell: NVIDIA's cards by NVML, and Linux's CPUs by RAPL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """Joules since it was made, by counters of the device that count on when nobody looks; `read` it every few minutes,
    since RAPL's begin anew.

    A CUDA card's counter is of the card alone. A CPU's are of its packages with all that runs on them, and are read by
    one process of a machine, `first`. `of` says which, "" where none tells.
    """

    def __init__(self, device: torch.device, first: bool = True, powercap: Path = POWERCAP):
        counters = _cards(device) if device.type == "cuda" else list(_packages(powercap)) if first else []
        self.of = "" if not counters else "NVML" if device.type == "cuda" else "RAPL, all that ran on the CPU"
        self._counters = counters
        self._before = [read() for read, _ in counters]
        self._joules = 0.0
        self._reading = threading.Lock()

    def read(self) -> float | None:
        """Joules so far; None where no counter tells. Any thread may ask."""
        if not self._counters:
            return None
        with self._reading:
            try:
                now = [read() for read, _ in self._counters]
            except Exception:  # a driver that has gone; what it told stays
                return self._joules
            for (_, most), before, after in zip(self._counters, self._before, now, strict=True):
                self._joules += after - before if after >= before else after - before + most
            self._before = now
            return self._joules


Counter = tuple[Callable[[], float], float]
"""What tells joules, and at how many it begins anew."""


def _cards(device: torch.device) -> list[Counter]:
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")

        def read() -> float:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000

        read()
    except Exception:  # not installed, no right to ask, a card before Volta: the energy is not known
        return []
    return [(read, 0.0)]


def _packages(powercap: Path) -> Iterator[Counter]:
    """Each package of the CPU; their parts are in them."""
    for folder in sorted(powercap.glob("intel-rapl:?")) if powercap.is_dir() else ():
        try:
            most = int((folder / "max_energy_range_uj").read_text()) / 1e6
            _ = int((folder / "energy_uj").read_text())
        except (OSError, ValueError):  # most systems let root alone read it
            continue
        yield lambda file=folder / "energy_uj": int(file.read_text()) / 1e6, most  # type: ignore[misc]
