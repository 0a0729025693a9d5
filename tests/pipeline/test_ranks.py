"""A run in two processes: the losses of one, its latents and samples byte for byte; how it stops, and how it fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from event_helpers import read_events
from recipe_helpers import tiny_recipe

from gaekit.store.attempts import read_attempts
from gaekit.store.curves import read_curves

RECIPE = tiny_recipe("""
teacher: {use: efficientnet_lite0, layer: stage3}
aligner: {use: latent, head_dim: 20}
semantic: {train: {steps: 4, batch: 8}}
autoencoder:
  adversary: {channels: 4, layers: 1, start: 2, warmup: 2, adaptive: true, diffaug: true}
  train: {steps: 8, lr: 1e-3, ema: 0.9}
  probe: {every: 8, loss: {images: 150}, count: 100}
latents: {batch: 16}
diffusion:
  train: {steps: 8, ema: 0.9}
  probe: {every: 8, loss: {images: 150, times: 2}, metrics: [{use: class_accuracy, limit: 300}], count: 12}
sample: {sampler: {use: euler_maruyama, steps: 3}, count: 25, batch: 5, guidance: {scale: 2.0}}
evaluate: {metrics: [{use: psnr}, {use: ssim}, {use: linear_probe}, {use: class_accuracy}]}
runtime: {save_every: 4, log_every: 1, cache_gb: 0.02, threads: 1}
""")


def gaekit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gaekit", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)


def losses(folder: Path, run: str, stage: str) -> dict[str, list[float]]:
    events = read_events(folder / "runs" / run / stage / "trackers/tensorboard")
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("loss/")]
    return {tag: [point.value for point in events.Scalars(tag)] for tag in tags}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ranks")
    (root / "tiny.yaml").write_text(RECIPE)
    one = gaekit(root, "run", "tiny.yaml")
    assert one.returncode == 0, one.stderr
    two = gaekit(root, "run", "tiny.yaml", "--nproc", "2", "--name", "two", "--out", "other", "--until", "diffusion")
    assert two.returncode == 0, two.stderr
    assert "2 processes, ddp, cpu" in two.stderr
    assert "global batch 8 = 2 processes x 1 passes x 4 images" in two.stderr
    return root


@pytest.mark.parametrize("stage", ["semantic", "autoencoder", "diffusion"])
def test_two_processes_have_the_losses_of_one(folder: Path, stage: str) -> None:
    ours, theirs = losses(folder, "tiny", stage), losses(folder / "other/..", "../other/two", stage)
    assert ours
    assert ours.keys() == theirs.keys()
    for tag, values in ours.items():
        assert values == pytest.approx(theirs[tag], rel=1e-5, abs=1e-5), tag


@pytest.mark.parametrize("stage", ["semantic", "latents", "diffusion"])
def test_two_processes_together_do_what_one_does(folder: Path, stage: str) -> None:
    """But for the pictures of reconstructions, which each of them makes."""
    (one,) = read_attempts(folder / "runs/tiny" / stage / "attempts.jsonl")
    (two,) = read_attempts(folder / "other/two" / stage / "attempts.jsonl")
    assert (one.processes, two.processes, two.outcome) == (1, 2, "done")
    assert one.flop
    assert two.flop_by_network == one.flop_by_network
    assert two.images == one.images > 0
    assert not one.uncounted


def probed(run: Path, stage: str) -> dict[str, list[tuple[int, float]]]:
    found = read_curves(run / stage / "curves.jsonl").under("probe/")
    return {name: points for name, points in found.items() if name != "probe/seconds"}


@pytest.fixture(scope="module")
def together(folder: Path) -> Path:
    """The run of one process whose trainings are taken for killed in their last probe, gone on with by two."""
    store = folder / "together/store"
    for stage in ("features", "semantic", "autoencoder", "diffusion"):
        shutil.copytree(folder / "runs/store" / stage, store / stage)
    for stage in ("autoencoder", "diffusion"):
        (done,), (curves,) = (store / stage).rglob("DONE"), (store / stage).rglob("curves.jsonl")
        done.unlink()
        lines = curves.read_text().splitlines()
        curves.write_text("".join(f"{line}\n" for line in lines if "probe/" not in line))
    two = gaekit(folder, "run", "tiny.yaml", "--name", "together", "--out", "together", "--nproc", "2")
    assert two.returncode == 0, two.stderr
    assert two.stderr.count("resuming") == two.stderr.count("probe at step 8") == 2
    return folder / "together/together"


def test_latents_samples_and_numbers_of_two_processes_are_those_of_one(folder: Path, together: Path) -> None:
    ours = folder / "runs/tiny"
    latents = "latents/latents/00000.safetensors", "latents/latents/manifest.json"
    for file in (*latents, "samples.npz", "metrics.json", "per_image.npz"):
        assert (ours / file).read_bytes() == (together / file).read_bytes(), file
    assert len(json.loads((ours / "metrics.json").read_text())) == 5
    assert list(together.glob("sample/chunks")) == []


def test_probes_of_two_processes_are_those_of_one_on_the_same_weights(folder: Path, together: Path) -> None:
    for stage, some in (("autoencoder", "reconstruction/psnr/ema"), ("diffusion", "samples/class_accuracy")):
        ours = probed(folder / "runs/tiny", stage)
        assert ours == probed(together, stage)
        assert [step for step, _ in ours[f"probe/{some}"]] == [8]


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A run of two processes that is in the middle of its diffusion stage."""
    long = ["--set", "diffusion.train.steps=100000", "--set", "diffusion.train.schedule=constant"]
    command = [sys.executable, "-m", "gaekit", "run", "tiny.yaml", *long, "--nproc", "2", *arguments]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    name = arguments[arguments.index("--name") + 1]
    deadline = time.monotonic() + 120
    while not list((folder / "runs" / name).glob("diffusion/checkpoints/step-*")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return process


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 85),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 85, marks=pytest.mark.slow),
    ],
)
def test_a_signal_stops_all_ranks_at_one_step_and_the_next_run_goes_on(
    folder: Path, number: signal.Signals, code: int
) -> None:
    process = started(folder, "--name", number.name, "--set", f"seed={int(number)}", "--set", "evaluate=null")
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code, told
    assert told.count("stopped and saved at step") == 1
    step = int(told.split("stopped and saved at step ")[1].split()[0])
    assert (folder / "runs" / number.name / f"diffusion/checkpoints/step-{step:08d}").is_dir()
    if number == signal.SIGTERM:
        resumed = gaekit(
            folder, "run", "tiny.yaml", "--name", number.name, "--set", f"seed={int(number)}", "--set", "evaluate=null",
            "--set", f"diffusion.train.steps={step + 2}", "--until", "diffusion",
        )  # fmt: skip
        assert "diffusion: resuming" in resumed.stderr
        assert resumed.returncode == 0, resumed.stderr


def test_a_killed_rank_ends_the_run_within_a_minute(folder: Path) -> None:
    process = started(folder, "--name", "killed", "--set", "seed=5")
    ranks = [
        int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ")
        if _environment(path).get("RANK") == "1" and str(folder) == os.readlink(path.parent / "cwd")
    ]  # fmt: skip
    assert ranks
    start = time.monotonic()
    os.kill(ranks[0], signal.SIGKILL)
    _, told = process.communicate(timeout=60)
    assert time.monotonic() - start < 60
    assert process.returncode == 4, told
    assert "SIGKILL" in told


def _environment(path: Path) -> dict[str, str]:
    try:
        pairs = path.read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


@pytest.mark.slow
def test_sharded_weights_train_to_the_losses_of_one_process(folder: Path) -> None:
    sharded = ["--set", "runtime.strategy=fsdp", "--set", "autoencoder.adversary.adaptive=false"]
    for name, options in (("whole", ()), ("sharded", ("--nproc", "2"))):
        done = gaekit(folder, "run", "tiny.yaml", *sharded, "--out", name, "--until", "diffusion", *options)
        assert done.returncode == 0, done.stderr
    for stage in ("semantic", "autoencoder", "diffusion"):
        ours, theirs = losses(folder, "../whole/tiny", stage), losses(folder, "../sharded/tiny", stage)
        assert ours
        for tag, values in ours.items():
            assert values == pytest.approx(theirs[tag], rel=1e-5, abs=1e-5), tag


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_refused(folder: Path) -> None:
    wrong = gaekit(folder, "run", "tiny.yaml", "--nproc", "2", "--name", "odd", "--set", "seed=9",
                   "--set", "autoencoder.train.batch=7")  # fmt: skip
    assert wrong.returncode == 2, wrong.stderr
    assert "a batch of 7 does not divide over 2 processes; 6 or 8 would" in wrong.stderr


def test_what_the_user_can_mend_is_told_once(folder: Path) -> None:
    absent = gaekit(folder, "run", "tiny.yaml", "--nproc", "2", "--name", "odd",
                    "--set", "dataset={use: image_folder, root: nowhere}")  # fmt: skip
    assert absent.returncode == 2, absent.stderr
    assert absent.stderr.count("error:") == 1
    assert "Root Cause" not in absent.stderr


def test_a_fault_of_the_recipe_is_told_once_and_starts_no_process(folder: Path) -> None:
    wrong = gaekit(folder, "run", "tiny.yaml", "--nproc", "2", "--set", "autoencoder.noise=null")
    assert wrong.returncode == 2, wrong.stderr
    assert wrong.stderr.count("1 problem") == 1
    assert "torch/distributed" not in wrong.stderr
