"""runs/<name>/: what a person opens. The resolved recipe, `run.json`, links to the rooms, samples and metrics."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaekit.errors import ArtifactError
from gaekit.store.files import write_json, write_text
from gaekit.store.record import RECORD, STORE, artifact_path, read_record

__all__ = ["HISTORY", "RECIPE", "RECORD", "SHOWN", "STORE", "View", "link", "views"]
RECIPE, HISTORY = "recipe.yaml", "history"
TRIALS = "try"
"""The folder of what `gaekit run --try` makes, in that of all runs."""
SHOWN = {"sample": ("samples*.png", "samples*.npz"), "evaluate": ("metrics.json", "per_image.npz")}


@dataclass(frozen=True)
class View:
    """One run's folder, `<out>/<name>`, beside `<out>/store`."""

    path: Path

    @property
    def record(self) -> dict[str, Any]:
        """run.json. Raises ArtifactError where there is none, or where it is damaged."""
        if not (self.path / RECORD).exists():
            raise ArtifactError(
                f"{self.path}: not a run ({RECORD} is missing); runs are folders such as runs/quickstart"
            )
        return read_record(self.path / RECORD)

    def open(self, record: dict[str, Any], recipe_yaml: str) -> None:
        """Begin a run: an earlier one of other fingerprints moves to history/."""
        if (self.path / RECORD).exists() and _identity(self.record) != _identity(record):
            self._archive()
        write_text(self.path / RECIPE, recipe_yaml)
        self.write(record)

    def write(self, record: dict[str, Any]) -> None:
        """Write run.json and the links that follow from it."""
        write_json(self.path / RECORD, record)
        for stage, entry in record["stages"].items():
            if entry.get("room"):
                link(self.path / stage, self.path.parent / entry["room"])
                outputs = self.path.parent / entry["room"] / entry["subfolder"]
                for pattern in SHOWN.get(stage, ()):
                    for file in sorted(outputs.glob(pattern)):
                        link(self.path / file.name, file)

    def artifact(self, stage: str) -> Path:
        """A stage's artifact. Raises ArtifactError if the run has not got that far."""
        entry = self.record["stages"].get(stage)
        if entry is None or entry["status"] not in ("done", "cached", "from"):
            raise ArtifactError(f"{self.path}: its stage '{stage}' is not complete; finish the run first")
        return self._resolve(entry["artifact"], f"{stage}.artifact")

    def external(self, stage: str) -> dict[str, Path]:
        """The artifacts from elsewhere that a stage reads beside its inputs, such as the weak denoiser of sampling."""
        entry = self.record["stages"].get(stage, {})
        found = entry.get("external", {}).items()
        return {name: self._resolve(path, f"{stage}.external.{name}") for name, path in found}

    def _resolve(self, artifact: str, key: str) -> Path:
        return artifact_path(self.path, artifact, f"{self.path / RECORD}: stages.{key}")

    def rooms(self, *, history_only: bool = False) -> Iterator[str]:
        """Rooms that this run and its history need, relative to the folder of all runs: those of its stages, what
        these read beside, what it takes from elsewhere, and while it is being redone, those of before."""
        own = () if history_only else (self.path / RECORD,)
        for file in (*own, *self.path.glob(f"{HISTORY}/*/{RECORD}")):
            if file.exists():
                for stage, entry in read_record(file)["stages"].items():
                    yield from (room for room in (entry.get("room"), *entry.get("caches", ())) if room)
                    yield from entry.get("replaces", ())
                    yield from self._rooms_taken(stage, entry)

    def _rooms_taken(self, stage: str, entry: dict[str, Any]) -> Iterator[str]:
        """The rooms of the store beside this run that hold artifacts which a stage takes from elsewhere."""
        taken = {"init": entry.get("init"), **entry.get("external", {})}
        if entry["room"] is None:
            taken["artifact"] = entry["artifact"]
        store = (self.path.parent / STORE).resolve()
        for key, artifact in taken.items():
            if artifact is not None:
                path = self._resolve(artifact, f"{stage}.{key}").resolve()
                if path.is_relative_to(store) and len(parts := path.relative_to(store).parts) > 2:
                    yield "/".join((STORE, *parts[:2]))

    def _archive(self) -> None:
        history = self.path / HISTORY
        history.mkdir(exist_ok=True)
        number = 1 + max((int(p.name) for p in history.iterdir() if p.name.isdecimal()), default=0)
        target = history / f"{number:04d}"
        target.mkdir()
        for item in list(self.path.iterdir()):
            if item.name != HISTORY:
                _move(item, target / item.name)


def _identity(record: dict[str, Any]) -> dict[str, str]:
    return {stage: entry["identity"] for stage, entry in record["stages"].items()}


def link(place: Path, target: Path) -> None:
    """A relative link, replacing an older one."""
    if place.is_symlink():
        place.unlink()
    place.symlink_to(os.path.relpath(target.resolve(), place.parent.resolve()))


def _move(item: Path, target: Path) -> None:
    """Move a file, a link or a folder with links in it; links go on leading where they did."""
    if item.is_symlink():
        link(target, item.resolve())
        item.unlink()
    elif item.is_dir():
        target.mkdir()
        for below in list(item.iterdir()):
            _move(below, target / below.name)
        item.rmdir()
    else:
        item.rename(target)


def views(out: Path) -> list[View]:
    """All runs under a folder."""
    if not out.is_dir():
        return []
    return [View(path) for path in sorted(out.iterdir()) if path.name != STORE and (path / RECORD).exists()]
