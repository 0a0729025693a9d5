"""The number of processes changes nothing: losses, weights, checkpoints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train.ranks_program import main

PROGRAM = Path(__file__).with_name("ranks_program.py")


def by_two(jobs: list[str]) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launcher, str(PROGRAM), *jobs], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trainings by one process, by two, and begun by either and ended by the other."""
    root = tmp_path_factory.mktemp("ranks")
    main([f"{root}/one:ddp:20", f"{root}/one_then_two:ddp:10", f"{root}/one_fsdp:fsdp:20"])
    two = ["two:ddp:20", "one_then_two:ddp:20", "two_then_one:ddp:10", "two_fsdp:fsdp:20", "two_fsdp_then_one:fsdp:10",
           "bad:bad:4", "root_ddp:root-ddp:8", "root_fsdp:root-fsdp:8"]  # fmt: skip
    by_two([f"{root}/{job}" for job in two])
    main([f"{root}/two_then_one:ddp:20", f"{root}/two_fsdp_then_one:fsdp:20"])
    return root


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("one", "two"),
        ("one", "one_then_two"),
        ("one", "two_then_one"),
        ("one_fsdp", "two_fsdp"),
        ("one_fsdp", "two_fsdp_then_one"),
    ],
)
def test_weights_after_20_steps_are_the_same_for_one_process_and_two(folder: Path, one: str, other: str) -> None:
    ours, theirs = (load_file(folder / name / "result.safetensors") for name in (one, other))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if name != "losses":
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize(("one", "other"), [("one", "two"), ("one_fsdp", "two_fsdp")])
def test_every_step_logs_the_same_losses_and_gradient_norms(folder: Path, one: str, other: str) -> None:
    ours, theirs = (load_file(folder / name / "result.safetensors")["losses"] for name in (one, other))
    assert ours.shape[0] == 20
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_without_clipping_a_loss_that_is_not_finite_on_one_rank_skips_the_step_on_all(folder: Path) -> None:
    ours, theirs = (load_file(folder / "bad" / f"rank-{rank}.safetensors") for rank in (0, 1))
    assert int(ours["skipped"]) == 1
    assert all(value.isfinite().all() for value in ours.values())
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_without_clipping_weights_that_one_ranks_gradient_has_spoilt_are_saved_by_none(
    folder: Path, strategy: str
) -> None:
    ended = [(folder / f"root_{strategy}" / f"rank-{rank}").read_text() for rank in (0, 1)]
    assert ended == ["RunFailed 3", "ReportedByRank0 3"]
    assert [p.name for p in (folder / f"root_{strategy}/checkpoints").glob("step-*")] == ["step-00000002"]


def test_checkpoints_of_two_processes_hold_what_those_of_one_do(folder: Path) -> None:
    names = [path.name for path in sorted((folder / "one" / "checkpoints" / "step-00000020").iterdir())]
    for other in ("two", "two_fsdp"):
        assert [path.name for path in sorted((folder / other / "checkpoints" / "step-00000020").iterdir())] == names
        for file in ("weights.safetensors", "optimizer.safetensors"):
            ours = load_file(folder / "one" / "checkpoints" / "step-00000020" / file)
            theirs = load_file(folder / other / "checkpoints" / "step-00000020" / file)
            assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_a_checkpoint_that_cannot_be_written_ends_all_ranks_told_once(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    by_two([f"{tmp_path}:ddp:2"])
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in (0, 1)] == ["MachineFailed 4", "ReportedByRank0 4"]
