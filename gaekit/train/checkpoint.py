"""Checkpoints: a folder of named tensors and JSON, written aside, completed by a file of hashes, renamed once.

The training waits while its tensors are copied aside; a thread writes them. What the thread calls holds no lock that a
process forked meanwhile would need.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gaekit.errors import ArtifactError, MachineFailed
from gaekit.store.checkpoints import KEEP, MANIFEST, CheckpointFolder
from gaekit.store.files import free_space, full_disk, human_size, is_full, read_json, sync
from gaekit.train.snapshot import Snapshot

log = logging.getLogger(__name__)
FAILURES_ALLOWED = 2
RETRY_SECONDS = 5.0
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: the step count reached, JSON state, and groups of tensors (weights, ema, optimizer)."""

    step: int
    state: dict[str, Any]
    groups: dict[str, dict[str, torch.Tensor]]


@dataclass(frozen=True)
class _Order:
    """What the thread is to write: copies that nothing else touches until it has ended."""

    step: int
    state: dict[str, Any]
    files: Mapping[str, Snapshot]

    @property
    def needed(self) -> int:
        """Bytes on disk, with a little for the manifest and the file system's own."""
        data = sum(snapshot.size for snapshot in self.files.values())
        return data + data // 50 + (1 << 16)


class Checkpoints(CheckpointFolder):
    """The checkpoints of one training, under `folder`: the last `keep` stay, and every one whose step `keep_every`
    divides. A save returns when the tensors are copied. `say` is told in a line what was skipped;
    it is called from the writing thread."""

    def __init__(
        self,
        folder: Path,
        keep: int = KEEP,
        keep_every: int | None = None,
        say: Callable[[str], None] = log.warning,
    ):
        super().__init__(folder)
        self.keep, self.keep_every, self.say = keep, keep_every, say
        self._copies: dict[str, Snapshot] = {}
        self._damaged: set[int] = set()
        self._idle = threading.Event()
        self._idle.set()
        self._failure: BaseException | None = None
        self._failures = 0

    def save(
        self, step: int, state: Mapping[str, Any], groups: Mapping[str, Tensors], *, required: bool = False
    ) -> None:
        """Copy the tensors and have them written; then older checkpoints are pruned. Waits for a save under way.

        A save that fails twice is skipped, and what exists stays. A `required` one is waited for, as is one after two
        that failed; where it fails too, raises MachineFailed, which says what is needed and what is free.
        """
        self._join()
        if self._complete(step):
            return
        copied: dict[str, Any] = json.loads(json.dumps(dict(state), allow_nan=False))
        for name, tensors in groups.items():
            self._copies.setdefault(name, Snapshot()).take(tensors)
        order = _Order(step, copied, {name: self._copies[name] for name in groups})
        awaited = required or self._failures >= FAILURES_ALLOWED
        # Not a daemon: a process that ends otherwise than by being killed lets the write end first.
        thread = threading.Thread(target=self._carry_out, args=(order, awaited), name=f"checkpoint {step}")
        self._idle.clear()
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads to give
            self._idle.set()
            raise
        if awaited:
            self.wait()

    def wait(self) -> None:
        """Return when what was handed in is on disk. Raises MachineFailed if the last save failed."""
        self._join()
        if self._failure is not None:
            raise MachineFailed(str(self._failure)) from self._failure

    def close(self) -> None:
        """Let a save under way end, whether it succeeds or not."""
        self._join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _join(self) -> None:
        """Wait for the thread. What it did not foresee, it raises here."""
        # Not by Thread.join: interrupted by Ctrl-C, that of Python 3.11 takes a thread that still runs for ended.
        self._idle.wait()
        if self._failure is not None and not isinstance(self._failure, MachineFailed):
            failure, self._failure = self._failure, None
            raise failure

    def _complete(self, step: int) -> bool:
        return step not in self._damaged and self.path(step).exists()

    def _carry_out(self, order: _Order, awaited: bool) -> None:
        """The thread."""
        try:
            self._failure = self._attempt(order, awaited)
        except BaseException as error:
            self._failure = error
        finally:
            self._idle.set()

    def _attempt(self, order: _Order, awaited: bool) -> MachineFailed | None:
        """Write, once more after a pause, or give this one up."""
        try:
            try:
                self._write(order)
            except OSError:
                time.sleep(RETRY_SECONDS)
                self._write(order)
        except OSError as error:
            self._failures += 1
            failure = MachineFailed(self._explained(error, order, awaited))
            if not awaited:
                self.say(str(failure))
            return failure
        self._failures = 0
        self._prune(order.step)
        return None

    def _write(self, order: _Order) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        if not self._complete(order.step):
            self._write_new(order)
        sync(self.folder)

    def _write_new(self, order: _Order) -> None:
        if free_space(self.folder) < order.needed:
            raise full_disk(self.folder)
        part, final = self._aside(order.step), self.path(order.step)
        try:
            part.mkdir()
            hashes = {name: copy.write(part / f"{name}.safetensors") for name, copy in order.files.items()}
            manifest = {
                "step": order.step,
                "state": order.state,
                "sha256": hashes,
                "bytes": {name: copy.size for name, copy in order.files.items()},
                "retention": {"keep": self.keep, "keep_every": self.keep_every},
            }
            text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
            (part / MANIFEST).write_text(text + "\n", encoding="utf-8")
            sync(part / MANIFEST)
            sync(part)
            if final.exists():  # a damaged one
                final.rename(part.with_suffix(".old.part"))
            part.rename(final)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        self._damaged.discard(order.step)

    def _aside(self, step: int) -> Path:
        return self.folder / f".step-{step:08d}.part"

    def _sweep(self) -> None:
        """Remove what a process that was killed left half-written or half-removed."""
        for left in self.folder.glob(".step-*.part"):
            shutil.rmtree(left, ignore_errors=True)

    def _prune(self, step: int) -> None:
        older = [s for s in self.steps() if s <= step]
        sound = [s for s in older if s not in self._damaged]
        kept = {*sound[-self.keep :], *(s for s in sound if self.keep_every and s % self.keep_every == 0)}
        try:
            for old in older:
                if old not in kept:
                    self.path(old).rename(self._aside(old))  # at once: a half of it must not bear its name
            self._sweep()
        except OSError as error:
            self.say(f"{self.folder}: an older checkpoint could not be removed ({error.strerror})")

    def _explained(self, error: OSError, order: _Order, awaited: bool) -> str:
        if is_full(error):
            needed, free = human_size(order.needed), human_size(free_space(self.folder))
            what = f"{self.folder}: a checkpoint needs {needed}, {free} are free"
            remedy = "free some space and run the same command again"
        else:
            what = f"{self.folder}: cannot be written ({error.strerror or error})"
            remedy = "check the disk and the folder's permissions, and run the same command again"
        sound = [s for s in self.steps() if s not in self._damaged]
        intact = f"that of step {sound[-1]} is intact" if sound else "there is no earlier one"
        if awaited:
            row = f" ({self._failures} saves in a row have failed)" if self._failures > FAILURES_ALLOWED else ""
            return f"{what}; step {order.step} is not saved{row}, {intact}; {remedy}"
        return f"{what}; the checkpoint of step {order.step} is skipped, the training goes on ({intact})"

    def latest(self, at_most: int) -> Checkpoint | None:
        """The newest intact checkpoint of at most that step; a damaged one is named in the log and passed over."""
        for step in reversed([s for s in self.steps() if s <= at_most]):
            try:
                return self.load(step)
            except (ArtifactError, OSError, ValueError, KeyError, SafetensorError) as error:
                self._damaged.add(step)
                log.warning("%s: damaged, going back to the one before it (%s)", self.path(step), error)
        return None

    def load(self, step: int) -> Checkpoint:
        """Read one checkpoint, its hashes checked. Raises ValueError naming every file that differs."""
        damage = self.damage(step)
        if damage:
            raise ValueError("; ".join(damage))
        folder = self.path(step)
        manifest = read_json(folder / MANIFEST)
        groups = {name: load_file(folder / f"{name}.safetensors") for name in manifest["sha256"]}
        return Checkpoint(manifest["step"], manifest["state"], groups)
