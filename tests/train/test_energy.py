"""Energy is what counters of the device tell, also where they begin anew, and unknown where none does."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gaekit.train.energy import EnergyMeter

CPU = torch.device("cpu")


def package(folder: Path, name: str, joules: float, most: float = 1000.0) -> Path:
    made = folder / name
    made.mkdir(exist_ok=True)
    (made / "energy_uj").write_text(f"{round(joules * 1e6)}\n")
    (made / "max_energy_range_uj").write_text(f"{round(most * 1e6)}\n")
    return made


def test_packages_of_a_cpu_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", 100.0)
    package(tmp_path, "intel-rapl:1", 990.0)
    package(tmp_path, "intel-rapl:0:0", 50.0)  # the cores of the first
    meter = EnergyMeter(CPU, powercap=tmp_path)
    assert meter.read() == 0.0
    package(tmp_path, "intel-rapl:0", 130.5)
    package(tmp_path, "intel-rapl:1", 20.0)  # began anew at 1000
    package(tmp_path, "intel-rapl:0:0", 70.0)
    assert meter.read() == pytest.approx(60.5)
    assert meter.of.startswith("RAPL")


def test_what_may_not_be_read_is_unknown(tmp_path: Path) -> None:
    assert EnergyMeter(CPU, powercap=tmp_path / "absent").read() is None
    package(tmp_path, "intel-rapl:0", 100.0)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    meter = EnergyMeter(CPU, powercap=tmp_path)
    assert (meter.read(), meter.of) == (None, "")


def test_one_process_of_a_machine_reads_its_cpu(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", 100.0)
    assert EnergyMeter(CPU, first=False, powercap=tmp_path).read() is None


def test_a_card_tells_its_own_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    millijoules, asked = iter([5_000, 5_000, 8_500]), []
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: asked.append(uuid),
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(millijoules),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="ab-cd"))
    meter = EnergyMeter(torch.device("cuda", 0))
    assert meter.read() == 3.5
    assert (meter.of, asked) == ("NVML", ["GPU-ab-cd"])
    assert meter.read() == 3.5  # the driver is gone: what it told stays


def test_a_card_without_nvml_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert EnergyMeter(torch.device("cuda", 0)).read() is None
