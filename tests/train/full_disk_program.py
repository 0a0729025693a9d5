"""Trains on a small disk that fills, or that turns read-only, and prints as JSON what became of it. A program of its
own: it runs where it may mount file systems. Usage: full_disk_program.py DISK ELSEWHERE."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import test_training
import torch
from safetensors.torch import save_file
from torch import nn

from gaekit.api import TrackedStage, Tracker
from gaekit.errors import MachineFailed
from gaekit.pipeline.view import View
from gaekit.plugins import build, load_plugins
from gaekit.store.files import atomic
from gaekit.train import checkpoint
from gaekit.train.checkpoint import Checkpoints
from gaekit.train.progress import Reporter
from gaekit.train.snapshot import Snapshot
from gaekit.train.track import Trackers
from gaekit.train.training import Training

said: list[str] = []
Reporter.say = lambda self, text: said.append(text)  # type: ignore[method-assign]
checkpoint.RETRY_SECONDS = 0.01


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(5, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 4))
    return {"generator": generator, "critic": nn.Linear(4, 1)}


def train(folder: Path, stop: int | None = None) -> Training:
    return test_training.train(folder, stop=stop, networks=networks())


def attempt(folder: Path) -> str:
    """What ended a training; "" if nothing did."""
    return refused(lambda: train(folder))


def refused(action: Callable[[], object]) -> str:
    """The MachineFailed that it raises; "" if it raises none."""
    try:
        action()
    except MachineFailed as error:
        return str(error)
    return ""


def fill(disk: Path, leave: int = 0) -> Path:
    """A file that takes all space but `leave` bytes."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 12))
        except OSError:
            file.truncate(max(0, file.tell() - leave))
    return filler


def same(a: Training, b: Training) -> bool:
    ours, theirs = test_training.state(a), test_training.state(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def fills_up(disk: Path, whole: Training) -> dict[str, object]:
    """Full from step 7 on; then space is freed and the same command run again."""
    room, saved = disk / "room", Checkpoints(disk / "room" / "checkpoints")
    train(room, stop=7)
    filler = fill(disk)
    error = attempt(room)
    full = saved.steps(), [list(saved.damage(step)) for step in saved.steps()]
    left = [path.name for path in saved.folder.iterdir()]
    filler.unlink()
    again = train(room)
    return {"error": error, "full": full, "left": left, "again": saved.steps(), "same": same(again, whole)}


def fills_up_during_a_write(disk: Path, whole: Training) -> dict[str, object]:
    """There is space when it is looked for at step 10, and none a moment later, by another's doing; back at step 15."""
    filler, looks, failed = disk / "filler", [], []
    free_space, write = checkpoint.free_space, Snapshot.write

    def taken_meanwhile(path: Path) -> int:
        looks.append(path)  # steps 5, 10, 10 again, the message, 15, 20
        if len(looks) == 5:
            filler.unlink()
        free = free_space(path)
        if len(looks) == 2:
            fill(disk, leave=1 << 16)
        return free

    def watched(self: Snapshot, path: Path) -> str:
        try:
            return write(self, path)
        except OSError as error:
            failed.append((error.errno, path.stat().st_size, self.size))
            raise

    checkpoint.free_space, Snapshot.write = taken_meanwhile, watched  # type: ignore[method-assign]
    try:
        trained = train(disk / "room")
    finally:
        checkpoint.free_space, Snapshot.write = free_space, write  # type: ignore[method-assign]
    return {"failed": failed, "steps": trained.checkpoints.steps(), "same": same(trained, whole)}


def turns_read_only(disk: Path, whole: Training) -> dict[str, object]:
    """Writable until step 7, then not; then writable again."""
    room, saved = disk / "room", Checkpoints(disk / "room" / "checkpoints")
    train(room, stop=7)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    errors = attempt(room), attempt(disk / "other"), refused(lambda: View(disk / "runs/new").open({"stages": {}}, ""))
    intact = [step for step in saved.steps() if not saved.damage(step)]
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    return {"errors": errors, "intact": intact, "same": same(train(room), whole)}


def is_full_for_tensors_and_curves(disk: Path, whole: Training) -> dict[str, object]:
    """Full from the second step on that a tracker logs, and when tensors are written without a checkpoint."""
    registry = load_plugins()
    config = registry.find("tracker", "tensorboard").Config(use="tensorboard")

    def make() -> Tracker:
        return build(
            Tracker, config, registry, folder=disk / "room", purge_step=0, stage=TrackedStage("run", "diffusion", {})
        )

    trackers = Trackers([("tensorboard", make)], said.append)
    trackers.log(1, {"loss": 1.0}, {})
    filler = fill(disk)
    for step in range(2, 40):
        trackers.log(step, {"loss": 1.0}, {"images": torch.rand(3, 128, 128)})
    trackers.close()

    def write() -> None:
        with atomic(disk / "room" / "chunk.safetensors") as part:
            save_file({"images": torch.rand(3, 128, 128)}, part)

    error = refused(write)
    left = sorted(path.name for path in (disk / "room").glob("*chunk*"))
    filler.unlink()
    return {"error": error, "left": left}


def main(disk: Path, elsewhere: Path) -> None:
    whole, found = train(elsewhere), {}
    for scenario in (fills_up, fills_up_during_a_write, turns_read_only, is_full_for_tensors_and_curves):
        said.clear()
        found[scenario.__name__] = scenario(disk, whole) | {"said": list(said)}
        shutil.rmtree(disk / "room")
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
