"""Killed or interrupted anywhere, the same command goes on, and the result is the uninterrupted run's, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from recipe_helpers import tiny_recipe

from gaekit.store.attempts import read_attempts
from gaekit.store.curves import read_curves

PROGRAM = Path(__file__).parent / "stopped_run.py"
RECIPE = tiny_recipe("""
autoencoder:
  weights: {log_variance: 0.0}
  adversary: {channels: 4, layers: 1, start: 2, warmup: 2, adaptive: true, diffaug: true}
  train: {steps: 9, lr: 1e-3, ema: 0.9}
latents: {batch: 16}
diffusion: {train: {steps: 9, ema: 0.9, schedule: cosine, warmup: 2}}
sample: {sampler: {use: euler_maruyama, steps: 3}, count: 25, batch: 5, guidance: {scale: 2.0}}
runtime: {save_every: 4, log_every: 1, threads: 1}
""")
RESULTS = ("autoencoder", "latents", "diffusion", "sample")


def run(
    folder: Path, stage: str = "none", moment: int = -1, signal: str = "SIGKILL", recipe: str = RECIPE
) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    (folder / "tiny.yaml").write_text(recipe)
    command = [sys.executable, str(PROGRAM), stage, str(moment), signal, "tiny.yaml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)


def results(folder: Path) -> dict[str, bytes]:
    """Every result of the run and every tensor of its last checkpoints."""
    found = {}
    for stage in RESULTS:
        for pattern in ("*.safetensors", "*/*.safetensors", "*.npz", "checkpoints/step-00000009/*.safetensors"):
            for path in (folder / "runs/tiny" / stage).glob(pattern):
                found[f"{stage}/{path.name}"] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    finished = run(folder)
    assert finished.returncode == 0, finished.stderr
    found = results(folder)
    assert {"autoencoder/autoencoder.safetensors", "diffusion/denoiser.safetensors", "sample/samples.npz"} <= set(found)
    assert {"autoencoder/optimizer.safetensors", "diffusion/ema.safetensors", "latents/00000.safetensors"} <= set(found)
    return found


@pytest.mark.parametrize(
    ("stage", "moment", "signal", "code"),
    [
        pytest.param("autoencoder", 1, "SIGKILL", -9, marks=pytest.mark.slow),
        ("autoencoder", 6, "SIGKILL", -9),
        pytest.param("autoencoder", 5, "SIGINT", 130, marks=pytest.mark.slow),
        ("diffusion", 7, "SIGKILL", -9),
        pytest.param("diffusion", 2, "SIGINT", 130, marks=pytest.mark.slow),
        pytest.param("diffusion", 6, "SIGTERM", 85, marks=pytest.mark.slow),
        pytest.param("latents", 4, "SIGKILL", -9, marks=pytest.mark.slow),
        pytest.param("sample", 4, "SIGKILL", -9, marks=pytest.mark.slow),
        ("sample", 4, "SIGTERM", 85),
    ],
)
def test_stopped_and_run_again_it_equals_the_uninterrupted_run(
    whole: dict[str, bytes], tmp_path: Path, stage: str, moment: int, signal: str, code: int
) -> None:
    stopped = run(tmp_path, stage, moment, signal)
    assert stopped.returncode == code, stopped.stderr
    if code > 0:
        what = "; what was finished is kept, and" if stage == "sample" else f" and saved at step {moment + 1} of 9;"
        assert f"{stage}: stopped{what} the same command goes on" in stopped.stderr
        assert "Traceback" not in stopped.stderr
    again = run(tmp_path)
    assert again.returncode == 0, again.stderr
    assert f"{stage}: {'resuming' if moment > 2 or code > 0 else 'running'}" in again.stderr
    found = results(tmp_path)
    assert found.keys() == whole.keys()
    assert [name for name in whole if found[name] != whole[name]] == []
    first, second = read_attempts(tmp_path / "runs/tiny" / stage / "attempts.jsonl")
    assert (first.outcome, second.outcome) == ("killed" if code < 0 else "stopped", "done")
    if stage in ("autoencoder", "diffusion"):
        ended, saved = (moment, moment // 4 * 4) if code < 0 else (moment + 1, moment + 1)
        assert [(a.first_step, a.last_step) for a in (first, second)] == [(0, ended), (saved, 9)]
        assert first.steps + second.steps == 9 + ended - saved
        assert (first.images, second.images) == (8 * first.steps, 8 * second.steps)
        assert first.flop
        assert second.flop


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "signal", "code"), [(3, "SIGKILL", -9), (7, "SIGKILL", -9), (6, "SIGTERM", 85)])
def test_stopped_in_a_probe_it_equals_the_run_that_has_none(
    whole: dict[str, bytes], tmp_path: Path, moment: int, signal: str, code: int
) -> None:
    """The third mean is of the autoencoder's probe after step 8, the sixth of its last, the seventh of the denoiser's
    first."""
    changed = yaml.safe_load(RECIPE)
    for stage in ("autoencoder", "diffusion"):
        changed[stage]["probe"] = {"every": 4, "loss": {"images": 70}}
    probed = yaml.safe_dump(changed)
    stopped = run(tmp_path, "probe", moment, signal, recipe=probed)
    assert stopped.returncode == code, stopped.stderr
    again = run(tmp_path, recipe=probed)
    assert again.returncode == 0, again.stderr
    assert results(tmp_path) == whole
    for stage in ("autoencoder", "diffusion"):
        found = read_curves(tmp_path / "runs/tiny" / stage / "curves.jsonl").scalars
        assert [step for step, _ in found["probe/seconds"]] == [4, 8, 9]
