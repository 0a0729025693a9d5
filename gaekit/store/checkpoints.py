"""What stands on disk of a training's checkpoints, and whether it is what was saved. Reads names, sizes and hashes, no
tensors.

A checkpoint is a folder `step-<8 digits>`: a safetensors file for each group of tensors, and `checkpoint.json` with the
state, and the size and sha256 of every file. It appears by one rename, so that a folder of that name is complete.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaekit.errors import ArtifactError
from gaekit.inside import plain_name, require_regular
from gaekit.store.files import read_json, sha256_file
from gaekit.waiting import progress

MANIFEST = "checkpoint.json"
KEEP = 2


@dataclass(frozen=True)
class StoredCheckpoint:
    """One checkpoint on disk. `saved` is in seconds since 1970; `kept` says why it stays: `last`, `every`; `damage`
    has a line for each file that is not what was saved."""

    step: int
    path: Path
    size: int
    files: int
    saved: float
    kept: tuple[str, ...]
    damage: tuple[str, ...]


class CheckpointFolder:
    """The checkpoints under `folder`, which may not be there yet."""

    def __init__(self, folder: Path):
        self.folder = folder

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        if not self.folder.is_dir():
            return []
        found = [re.fullmatch(r"step-(\d+)", path.name) for path in self.folder.iterdir()]
        return sorted(int(match[1]) for match in found if match)

    def path(self, step: int) -> Path:
        """The folder of one checkpoint."""
        return self.folder / f"step-{step:08d}"

    def branch(self, other: Path, step: int) -> None:
        """Make another folder of checkpoints, which appears at once, with that of one step in it, or with none at step
        0. Its files are further names of the same where the disk has such, which costs no space."""
        part = other.with_name(f".{other.name}.part")
        part.mkdir(parents=True)
        if step:
            shutil.copytree(self.path(step), CheckpointFolder(part).path(step), copy_function=_link_or_copy)
        part.rename(other)

    def damage(self, step: int, *, hashes: bool = True) -> tuple[str, ...]:
        """A line for each file of a checkpoint that is not what was saved, with its name. Without `hashes` only what
        names and sizes tell."""
        try:
            manifest = read_json(self.path(step) / MANIFEST)
            expected, sizes = dict(manifest["sha256"]), dict(manifest.get("bytes", {}))
        except FileNotFoundError:
            return (f"{MANIFEST} is missing",)
        except (ArtifactError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return (f"{MANIFEST} cannot be read ({error})",)
        found = (self._damage_of(step, name, sizes.get(name), sha256 if hashes else None)
                 for name, sha256 in expected.items())  # fmt: skip
        return tuple(text for text in found if text)

    def _damage_of(self, step: int, name: str, size: int | None, sha256: str | None) -> str:
        file = self.path(step) / f"{name}.safetensors"
        try:
            plain_name(f"{name}.safetensors", MANIFEST)
            there = file.stat().st_size
            require_regular(file, MANIFEST)
            if size is not None and there != size:
                return f"{file.name} has {there} bytes, {size} were saved"
            if sha256 is not None and sha256_file(file) != sha256:
                return f"{file.name} is not what was saved (its sha256 differs)"
        except ArtifactError as error:
            return str(error)
        except FileNotFoundError:
            return f"{file.name} is missing"
        except OSError as error:
            return f"{file.name} cannot be read ({error.strerror})"
        return ""

    def stored(self, *, hashes: bool = False) -> list[StoredCheckpoint]:
        """Every checkpoint, ascending; `hashes` reads all files. Needs no lock: one that a running training prunes
        meanwhile is left out."""
        steps = self.steps()
        keep, keep_every = self._retention(steps)
        found = []
        for step in progress(steps, "reading checkpoints", len(steps), "checkpoints") if hashes else steps:
            why = [reason for reason, holds in (
                ("last", step in steps[-keep:]), ("every", bool(keep_every) and step % keep_every == 0),
            ) if holds]  # fmt: skip
            stored = self._stored(step, tuple(why), hashes)
            if stored is not None:
                found.append(stored)
        return found

    def _stored(self, step: int, kept: tuple[str, ...], hashes: bool) -> StoredCheckpoint | None:
        path = self.path(step)
        try:
            stats = [file.stat() for file in path.iterdir()]
            saved = path.stat().st_mtime
        except FileNotFoundError:
            return None
        damage = self.damage(step, hashes=hashes)
        if damage and not path.exists():
            return None
        return StoredCheckpoint(step, path, sum(s.st_size for s in stats), len(stats), saved, kept, damage)

    def _retention(self, steps: list[int]) -> tuple[int, int]:
        """(keep, keep_every or 0) of the training that wrote the newest checkpoint."""
        for step in reversed(steps):
            try:
                rule: dict[str, Any] = read_json(self.path(step) / MANIFEST)["retention"]
                return rule["keep"], rule["keep_every"] or 0
            except (ArtifactError, OSError, ValueError, KeyError, TypeError):
                continue
        return KEEP, 0


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # a disk without hard links
        shutil.copy2(source, target)
    return target
