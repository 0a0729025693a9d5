"""runs/<name>/: what a person opens. The resolved recipe, `run.json`, links to the rooms, samples and metrics."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaekit.errors import ArtifactError
from gaekit.store.files import read_json, write_json, write_text

RECORD, RECIPE, HISTORY, STORE = "run.json", "recipe.yaml", "history", "store"
SHOWN = {"sample": ("samples*.png", "samples*.npz"), "evaluate": ("metrics.json",)}


@dataclass(frozen=True)
class View:
    """One run's folder, `<out>/<name>`, beside `<out>/store`."""

    path: Path

    @property
    def record(self) -> dict[str, Any]:
        """run.json. Raises ArtifactError where there is none."""
        if not (self.path / RECORD).exists():
            raise ArtifactError(
                f"{self.path}: not a run ({RECORD} is missing); runs are folders such as runs/quickstart"
            )
        return dict(read_json(self.path / RECORD))

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
                _link(self.path / stage, self.path.parent / entry["room"])
                outputs = self.path.parent / entry["room"] / entry["subfolder"]
                for pattern in SHOWN.get(stage, ()):
                    for file in sorted(outputs.glob(pattern)):
                        _link(self.path / file.name, file)

    def artifact(self, stage: str) -> Path:
        """A stage's artifact. Raises ArtifactError if the run has not got that far."""
        entry = self.record["stages"].get(stage)
        if entry is None or entry["status"] not in ("done", "cached", "from"):
            raise ArtifactError(f"{self.path}: its stage '{stage}' is not complete; finish the run first")
        return self._resolve(entry["artifact"])

    def external(self, stage: str) -> dict[str, Path]:
        """The artifacts from elsewhere that a stage reads beside its inputs, such as the weak denoiser of sampling."""
        entry = self.record["stages"].get(stage, {})
        return {name: self._resolve(path) for name, path in entry.get("external", {}).items()}

    def _resolve(self, artifact: str) -> Path:
        path = Path(artifact)
        return path if path.is_absolute() else Path(os.path.normpath(self.path / path))

    def rooms(self) -> Iterator[str]:
        """Rooms that this run and its history use, relative to the folder of all runs."""
        for file in (self.path / RECORD, *self.path.glob(f"{HISTORY}/*/{RECORD}")):
            if file.exists():
                for entry in read_json(file)["stages"].values():
                    yield from (room for room in (entry.get("room"), *entry.get("caches", ())) if room)

    def _archive(self) -> None:
        history = self.path / HISTORY
        history.mkdir(exist_ok=True)
        number = 1 + max((int(p.name) for p in history.iterdir() if p.name.isdigit()), default=0)
        target = history / f"{number:04d}"
        target.mkdir()
        for item in list(self.path.iterdir()):
            if item.name == HISTORY:
                continue
            if item.is_symlink():
                _link(target / item.name, item.resolve())
                item.unlink()
            else:
                item.rename(target / item.name)


def _identity(record: dict[str, Any]) -> dict[str, str]:
    return {stage: entry["identity"] for stage, entry in record["stages"].items()}


def _link(link: Path, target: Path) -> None:
    """A relative link, replacing an older one."""
    if link.is_symlink():
        link.unlink()
    link.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()))


def views(out: Path) -> list[View]:
    """All runs under a folder."""
    if not out.is_dir():
        return []
    return [View(path) for path in sorted(out.iterdir()) if path.name != STORE and (path / RECORD).exists()]


def pack(view: View, destination: Path) -> Path:
    """Copy a run so that it stands alone: recipe, record, artifacts, samples, numbers, curves; no checkpoints."""
    if destination.exists():
        raise ArtifactError(f"{destination}: exists already; choose another name or remove it")
    record = view.record
    destination.mkdir(parents=True)
    shutil.copy2(view.path / RECIPE, destination / RECIPE)
    for stage, entry in record["stages"].items():
        folder = destination / stage
        artifact = view.artifact(stage)
        copy = shutil.copytree if artifact.is_dir() else shutil.copy2
        folder.mkdir()
        copy(artifact, folder / artifact.name)
        for extra in ("stage.json", "tensorboard"):
            source = view.path / stage / extra
            if source.is_dir():
                shutil.copytree(source, folder / extra)
            elif source.exists():
                shutil.copy2(source, folder / extra)
        entry.update(artifact=f"{stage}/{artifact.name}", room=None, subfolder="")
        for name, external in view.external(stage).items():
            shutil.copy2(external, folder / f"{name}{external.suffix}")
            entry["external"][name] = f"{stage}/{name}{external.suffix}"
    for file in view.path.iterdir():
        if file.suffix in (".png", ".npz", ".json") and file.name != RECORD:
            shutil.copy2(file, destination / file.name)
    write_json(destination / RECORD, record)
    return destination
