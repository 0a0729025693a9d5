"""Each check of `gaekit doctor`: here, where nothing is wrong, and where something is made so."""

from __future__ import annotations

import errno
import fcntl
import json
import socket
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from plugin_helpers import install

from gaekit.cli import main
from gaekit.doctor import machine, report, software
from gaekit.doctor.finding import Case, Finding
from gaekit.doctor.report import CHECKS, examine, run_check
from gaekit.plugins import Plugin, load_plugins
from gaekit.recipe import load_recipe

REGISTRY = load_plugins()
DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"
Patch = pytest.MonkeyPatch


def case(folder: Path, *changes: str, recipe: str = "smoke") -> Case:
    return Case(REGISTRY, folder / "runs", load_recipe(recipe, REGISTRY, overrides=changes))


def problems(name: str, patient: Case) -> list[Finding]:
    return [finding for finding in run_check(name, patient) if finding.is_problem]


def only(name: str, patient: Case) -> Finding:
    (problem,) = problems(name, patient)
    assert problem.check.split()[0] in (*name.split(), "device")
    return problem


@pytest.mark.skipif(torch.cuda.is_available(), reason="says other things where there is a card")
def test_nothing_is_wrong_here_and_the_json_keeps_its_shape(
    tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MASTER_PORT", str(machine.free_port()))
    start = time.monotonic()
    assert main(["doctor", "smoke", "--json"]) == 0
    assert time.monotonic() - start < 60  # 8 on a machine that does nothing else
    shown = json.loads(capsys.readouterr().out)
    assert set(shown) == {"format", "recipe", "problems", "findings"}
    assert (shown["format"], shown["recipe"], shown["problems"]) == (1, "smoke", 0)
    assert all(set(finding) == {"check", "status", "what", "fix"} for finding in shown["findings"])
    assert {finding["status"] for finding in shown["findings"]} == {"ok"}
    assert {*CHECKS, "device"} == {finding["check"] for finding in shown["findings"]}
    assert list(tmp_path.iterdir()) == []


def test_a_problem_is_a_line_with_its_remedy_and_the_code_1(
    tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "CHECKS", {"packages": software.packages, "processes": lambda case: []})
    monkeypatch.setattr(software, "requires", lambda name: ["torch>=99"])
    assert main(["doctor"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"PROBLEM packages: torch is {version('torch')}, gaekit needs >=99 FIX pip install 'torch>=99'"


def test_a_check_that_fails_itself_stops_no_other(tmp_path: Path, monkeypatch: Patch) -> None:
    def fails(case: Case) -> list[Finding]:
        raise ZeroDivisionError("of its own")

    checks = {"plugins": fails, "processes": lambda case: [], "data": lambda case: [Finding("data", "well")]}
    monkeypatch.setattr(report, "CHECKS", checks)
    found = list(examine(None, out=tmp_path))
    assert [f.check for f in found] == ["plugins", "data"]
    assert "ZeroDivisionError: of its own" in found[0].what


def test_a_recipe_that_is_wrong_and_plugins_that_are_not_there_are_findings(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(report, "CHECKS", {"processes": lambda case: []})
    (wrong,) = examine("smoke", out=tmp_path, overrides=["diffusion.train.setps=3"])
    assert wrong.check == "recipe"
    assert "setps" in wrong.what
    monkeypatch.setenv("GAEKIT_PLUGINS", "nosies")
    (absent,) = examine("smoke", out=tmp_path)
    assert (absent.check, absent.fix) == ("plugins", "name installed plugins in GAEKIT_PLUGINS, or unset it")
    assert "nosies" in absent.what


def test_plugins_that_clash_are_a_finding_with_what_mends_it(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, "clashes"))
    problem = only("plugins", Case(load_plugins(), tmp_path / "runs", None))
    assert problem.what.startswith(
        "noise 'dynamic' is provided by plugin clashes (clashes-dist 1.2) and by plugin noises"
    )
    assert problem.fix == "leave one out by GAEKIT_PLUGINS=-clashes, or uninstall it"


def test_packages_that_are_absent_are_named_and_extras_are_not_asked_for(tmp_path: Path, monkeypatch: Patch) -> None:
    wanted = ["no-such-package>=1.2", "neither-this>=3; extra == 'metrics'", "pip"]
    monkeypatch.setattr(software, "requires", lambda name: wanted)
    problem = only("packages", case(tmp_path))
    assert problem.what == "no-such-package is not installed, gaekit needs >=1.2"
    assert problem.fix == "pip install 'no-such-package>=1.2'"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: Patch) -> None:
    """A machine with a driver, whose card torch does not see."""
    (tmp_path / "version").write_text(DRIVER)
    monkeypatch.setattr(software, "NVIDIA", tmp_path / "version")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_torch_for_the_cpu_beside_a_driver(driver: None, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    problem = only("torch", case(tmp_path))
    assert "built for the CPU alone, on a machine with NVIDIA driver 535.104.05" in problem.what
    assert "install the torch" in problem.fix


def test_a_driver_that_is_too_old_for_torch(driver: None, tmp_path: Path, monkeypatch: Patch) -> None:
    def warns() -> bool:
        warnings.warn("The NVIDIA driver on your system is too old (found version 11040).", stacklevel=1)
        return False

    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "is_available", warns)
    problem = only("torch", case(tmp_path, "runtime.device=cpu"))
    assert "built for CUDA 13.2" in problem.what
    assert "too old (found version 11040)" in problem.what
    assert "CUDA 13.2" in problem.fix


def test_a_torch_for_cuda_without_a_card_is_said_and_no_problem(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(software, "NVIDIA", tmp_path / "none")
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = run_check("torch", case(tmp_path))
    assert "no NVIDIA driver here, runs use the CPU" in found[0].what
    assert not any(f.is_problem for f in found)
    assert "torch sees no CUDA device" in only("torch", case(tmp_path, "runtime.device=cuda")).what


@pytest.mark.parametrize(
    ("failure", "asked", "said"),
    [
        (None, "auto", None),
        ("it is not installed", "auto", None),
        ("it is not installed", "xformers", "pip install 'gaekit[xformers]'"),
        ("NotImplementedError: No operator found for `memory_efficient_attention_forward`", "auto", None),
        ("xFormers can't load C++/CUDA extensions. xFormers was built for: PyTorch 2.1", "auto", "was built for torch"),
        ("ImportError: undefined symbol", "auto", "pip uninstall xformers"),
    ],
)
def test_xformers_on_a_cpu(
    failure: str | None, asked: str, said: str | None, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(software.AttentionProbe, "failure", lambda self, *sizes: failure)
    found = problems("attention", case(tmp_path, f"runtime.attention={asked}"))
    assert [said is not None and said in f.fix for f in found] == ([] if said is None else [True])


def test_timm_and_open_clip_that_do_not_fit_are_named(tmp_path: Path, monkeypatch: Patch) -> None:
    def fails() -> None:
        raise ImportError("cannot import name 'Mlp' from 'timm.layers'")

    monkeypatch.setattr(software, "_tiny_clip", fails)
    problem = only("teachers", case(tmp_path))
    assert "timm" in problem.what
    assert "open_clip_torch" in problem.what
    assert "cannot import name 'Mlp'" in problem.what
    assert problem.fix == "pip install --upgrade 'timm>=1.0.20' 'open_clip_torch>=2.32'"


def test_a_broken_plugin_is_named_with_its_distribution(tmp_path: Path) -> None:
    broken = Plugin("colours", "gaekit-colours", "0.3", "gaekit_colours", error="ImportError: no module named paint")
    registry = load_plugins()
    registry.plugins.append(broken)
    problem = only("plugins", Case(registry, tmp_path))
    assert "colours (gaekit-colours 0.3) is broken: ImportError: no module named paint" in problem.what
    assert "gaekit-colours" in problem.fix


def test_a_disk_that_is_too_small_for_the_recipe(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(machine, "free_space", lambda path: 5 * 10**9)
    assert problems("disk", case(tmp_path)) == []
    problem = only("disk", case(tmp_path, recipe="gae_d32"))
    assert "has 5.0 GB free of the" in problem.what
    monkeypatch.setattr(machine, "free_space", lambda path: 10**6)
    assert len(problems("disk", Case(REGISTRY, tmp_path))) == 5


def test_folders_that_cannot_be_written(monkeypatch: Patch) -> None:
    monkeypatch.setenv("GAEKIT_CACHE", "/proc/cache")
    found = problems("disk", Case(REGISTRY, Path("/proc/runs")))
    assert [f.what.split(":")[0] for f in found] == ["runs", "gaekit's cache"]
    assert "set GAEKIT_CACHE" in found[1].fix
    assert problems("runs folder", Case(REGISTRY, Path("/proc/runs")))


def test_a_disk_without_locks(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(machine, "HOLDS_LOCK", "raise SystemExit(1)")
    assert "do not keep another process out" in only("runs folder", case(tmp_path)).what

    def no_locks(file: Any, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert "no file locks (No locks available)" in only("runs folder", case(tmp_path)).what


def test_a_disk_that_cannot_rename(tmp_path: Path, monkeypatch: Patch) -> None:
    def fails(old: Path, new: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(machine.os, "replace", fails)
    assert "no renames or flushes (Invalid cross-device link)" in only("runs folder", case(tmp_path)).what


def test_shared_memory_for_the_workers(tmp_path: Path, monkeypatch: Patch) -> None:
    class Usage:
        free = 64 << 20  # what a container has by default

    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: Usage)
    assert problems("shared memory", case(tmp_path, recipe="smoke")) == []
    small = case(tmp_path, "runtime.workers=2", "dataset={use: digits}")
    assert problems("shared memory", small) == []  # 2 workers x 2 batches x 16 images x 3 kB
    problem = only("shared memory", case(tmp_path, recipe="gae_d32"))
    assert "16 workers hold up to 12.9 GB ready" in problem.what  # 16 x 2 x 2048 x 3 x 256 x 256
    assert "--shm-size" in problem.fix


def test_a_port_that_is_taken(tmp_path: Path, monkeypatch: Patch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("MASTER_PORT", str(other.getsockname()[1]))
        problem = only("ports", case(tmp_path))
        assert f"port {other.getsockname()[1]}" in problem.what
        assert "--rdzv-endpoint" in problem.fix


def test_processes_that_do_not_meet(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(machine, "MEETS", "raise SystemExit('gloo: no route to host')")
    assert "do not meet by gloo: gloo: no route to host" in only("processes", case(tmp_path)).what
    monkeypatch.setattr(machine, "MEETS", "import time; time.sleep(60)")
    monkeypatch.setattr(machine, "TIMEOUT", 0.3)
    assert "no answer" in only("processes", case(tmp_path)).what


def test_data_and_files_that_are_absent(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    absent = case(tmp_path, "dataset={use: image_folder, root: nowhere}")
    assert "nowhere" in only("data", absent).what
    taken = case(tmp_path, "autoencoder={from: elsewhere/autoencoder.safetensors}")
    problem = only("files", taken)
    assert "autoencoder.from" in problem.what
    assert "elsewhere/autoencoder.safetensors is absent" in problem.what
    assert run_check("data", Case(REGISTRY, tmp_path)) == run_check("files", Case(REGISTRY, tmp_path)) == []
