"""Runs a recipe as `gaekit run` does and sends itself a signal at a given moment. For tests: a program of its own."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from gaekit.cli import main
from gaekit.stages import autoencoder_probe, denoiser_probe, held_out
from gaekit.store import files
from gaekit.store.attempts import ATTEMPTS
from gaekit.train.training import Training

stage, moment, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
number = signal.Signals[name]


def stop_at_step() -> None:
    """The signal comes in the middle of step `moment`, between the updates of the two networks where there are two."""
    update, sent = Training.update, False

    def stopping(self: Training, learner: str, losses: dict) -> None:
        nonlocal sent
        update(self, learner, losses)
        if self.host.stage == stage and self.at == moment and not sent:
            sent = True
            self.checkpoints.close()  # which step the kill leaves behind is then the same on any disk
            while "first_step" not in self.host.room.attempts.read_text():
                time.sleep(0.01)
            os.kill(os.getpid(), number)

    Training.update = stopping


def stop_in_probe() -> None:
    """The signal comes where the `moment`-th mean over held-out images is taken, whatever the training."""
    means, count = held_out.means_over_ranks, 0

    def stopping(*given: object) -> object:
        nonlocal count
        count += 1
        if count == moment:
            os.kill(os.getpid(), number)
        return means(*given)

    autoencoder_probe.means_over_ranks = denoiser_probe.means_over_ranks = stopping


def stop_at_file() -> None:
    """The signal comes just before the `moment`-th file of the stage gets its name."""
    replace, count = os.replace, 0

    def stopping(source: str, target: str) -> None:
        nonlocal count
        ours = f"/{stage}/" in str(target) and Path(target).name != ATTEMPTS  # which a thread writes when it likes
        count += ours
        if ours and count == moment:
            os.kill(os.getpid(), number)
        replace(source, target)

    files.os.replace = stopping


if moment >= 0:
    {"autoencoder": stop_at_step, "diffusion": stop_at_step, "probe": stop_in_probe}.get(stage, stop_at_file)()
sys.exit(main(["run", *sys.argv[4:]]))
