"""Checkpoints: a folder of named tensors and JSON, written aside, completed by a file of hashes, renamed once."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gaekit.errors import MachineFailed
from gaekit.store.files import disk_full_is_named, human_size, read_json, sha256_file, sync, write_json

log = logging.getLogger(__name__)
MANIFEST = "checkpoint.json"
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: the step count reached, JSON state, and groups of tensors (weights, ema, optimizer)."""

    step: int
    state: dict[str, Any]
    groups: dict[str, dict[str, torch.Tensor]]


class Checkpoints:
    """The checkpoints of one training, under `folder`."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = folder, keep

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        if not self.folder.is_dir():
            return []
        found = [re.fullmatch(r"step-(\d+)", path.name) for path in self.folder.iterdir()]
        return sorted(int(match[1]) for match in found if match)

    def path(self, step: int) -> Path:
        """The folder of one checkpoint."""
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, state: Mapping[str, Any], groups: Mapping[str, Tensors]) -> None:
        """Write one, then prune older ones. Raises MachineFailed if there is no space; what exists stays."""
        final = self.path(step)
        if final.exists():
            return
        self._check_space(groups)
        part = self.folder / f".step-{step:08d}.part"
        shutil.rmtree(part, ignore_errors=True)
        with disk_full_is_named(self.folder):
            part.mkdir(parents=True)
            try:
                self._write(part, step, state, groups)
                part.rename(final)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise
            sync(self.folder)
        self._prune(step)

    def _write(self, part: Path, step: int, state: Mapping[str, Any], groups: Mapping[str, Tensors]) -> None:
        hashes = {}
        for name, tensors in groups.items():
            file = part / f"{name}.safetensors"
            save_file({k: v.detach().to("cpu").contiguous() for k, v in tensors.items()}, file)
            sync(file)
            hashes[name] = sha256_file(file)
        write_json(part / MANIFEST, {"step": step, "state": dict(state), "sha256": hashes})
        sync(part)

    def _check_space(self, groups: Mapping[str, Tensors]) -> None:
        needed = sum(t.numel() * t.element_size() for tensors in groups.values() for t in tensors.values())
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < needed * 1.05:
            raise MachineFailed(
                f"{self.folder}: a checkpoint needs {human_size(needed)}, {human_size(free)} are free; "
                f"the earlier checkpoints are intact: free some space and run the same command again"
            )

    def _prune(self, step: int) -> None:
        older = [s for s in self.steps() if s <= step]
        for old in older[: -self.keep]:
            shutil.rmtree(self.path(old))
        for left in self.folder.glob(".step-*.part"):
            shutil.rmtree(left, ignore_errors=True)

    def latest(self, at_most: int) -> Checkpoint | None:
        """The newest intact checkpoint of at most that step; a damaged one is named in the log and passed over."""
        for step in reversed([s for s in self.steps() if s <= at_most]):
            try:
                return self.load(step)
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                log.warning("%s: damaged, going back to the one before it (%s)", self.path(step), error)
        return None

    def load(self, step: int) -> Checkpoint:
        """Read one checkpoint, its hashes checked. Raises ValueError naming a file that differs."""
        folder = self.path(step)
        manifest = read_json(folder / MANIFEST)
        groups = {}
        for name, expected in manifest["sha256"].items():
            file = folder / f"{name}.safetensors"
            if sha256_file(file) != expected:
                raise ValueError(f"{file.name} is not what was saved (its sha256 differs)")
            groups[name] = load_file(file)
        return Checkpoint(manifest["step"], manifest["state"], groups)
