"""`gaekit pack`: a run as a folder that stands alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gaekit.errors import ArtifactError
from gaekit.inside import plain_name, require_regular, resolve_inside
from gaekit.pipeline import shown_curves
from gaekit.pipeline.view import RECIPE, RECORD, STORE, View
from gaekit.stages import diffusion, stage_named
from gaekit.stages.stage import Stage
from gaekit.store.artifact import open_artifact
from gaekit.store.files import disk_full_is_named, write_json
from gaekit.store.room import Room
from gaekit.store.shard_reader import read_manifest
from gaekit.waiting import progress

COPIED = (".png", ".npz", ".json", ".html")
"""How the files beside the record end that are copied."""


def pack(view: View, destination: Path, allowed: Sequence[Path] = ()) -> Path:
    """Copy a run so that it stands alone: recipe, record, artifacts, samples, numbers, curves; no checkpoints.

    What is copied lies in the run, in the store beside it, or below a folder of `allowed`; of the last only artifacts
    are taken. All is looked at before anything is written, and the copy appears whole or not at all. Raises
    ArtifactError for a run that is not complete, and for an entry or a link of it that leads elsewhere.
    """
    if os.path.lexists(destination):
        raise ArtifactError(f"{destination}: exists already; choose another name or remove it")
    record = view.record
    files = _Files(view, [root.expanduser() for root in allowed])
    files.take_all(record)
    part = destination.with_name(f".{destination.name}.{os.getpid()}.part")
    with disk_full_is_named(destination):
        part.mkdir(parents=True)
        try:
            for name, file in progress(files.found.items(), "copying", len(files.found)):
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, part / name)
            write_json(part / RECORD, record)
            part.rename(destination)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return destination


@dataclass
class _Files:
    """What is copied: `found` is {name in the copy: the file in truth, all links followed}."""

    view: View
    allowed: Sequence[Path]
    found: dict[str, Path] = field(default_factory=dict)

    @cached_property
    def roots(self) -> list[Path]:
        """The folders out of which nothing leads. A store that is a link may have been sent along with the run."""
        store = self.view.path.parent / STORE
        return [self.view.path] if store.is_symlink() else [self.view.path, store]

    def take_all(self, record: dict[str, Any]) -> None:
        """Everything; in `record`, artifacts are named where they are in the copy."""
        path = self.view.path
        self._take(RECIPE, self._file(path / RECIPE))
        for stage, entry in record["stages"].items():
            name = self._take_artifact(stage, self.view.artifact(stage), stage_named(stage))
            room = Room(path / stage, entry["subfolder"])
            for extra in (path / stage / "stage.json", room.attempts, room.curves):
                if os.path.lexists(extra):
                    self._take(f"{stage}/{extra.name}", self._inside(extra))
            self._take_events(stage, room.trackers)
            for key, external in self.view.external(stage).items():
                entry["external"][key] = self._take_artifact(stage, external, diffusion.STAGE, key)
            entry.update(artifact=name, room=None, subfolder="")
        for file in sorted(path.glob(f"{shown_curves.FOLDER}/*/*")):
            if (name := str(file.relative_to(path))) not in self.found:
                self._take(name, self._file(file))
        for source in sorted(path.iterdir()):
            if source.suffix in COPIED and source.name != RECORD:
                self._take(source.name, self._file(source))

    def _take_events(self, stage: str, trackers: Path) -> None:
        """The event files of a stage, under TensorBoard's names; what other services keep of it is theirs."""
        for file in sorted(trackers.glob(f"*/*{shown_curves.SUFFIX}")):
            folder = f"{shown_curves.FOLDER}/{shown_curves.shown_name(stage, file.parent.name)}"
            self._take(f"{folder}/{shown_curves.events_name(file)}", self._inside(file))

    def _take_artifact(self, folder: str, artifact: Path, kind: Stage, stem: str | None = None) -> str:
        """An artifact of that kind, which may lie in an allowed folder if it is one; the name of its copy."""
        try:
            found = resolve_inside(artifact, [*self.roots, *self.allowed], str(self.view.path))
        except ArtifactError as error:
            consent = f"where it may be copied, say so by `--allow {artifact.parent}`"
            raise ArtifactError(f"{error}; {consent}") from error
        if not any(found.is_relative_to(root.resolve()) for root in self.roots):
            _ = open_artifact(found, kind.kind) if kind.kind else read_manifest(found)
        name = artifact.name if stem is None else f"{stem}{artifact.suffix}"
        name = f"{folder}/{plain_name(name, str(self.view.path))}"
        self._take(name, found)
        return name

    def _take(self, name: str, source: Path) -> None:
        """A file, or all files below a folder."""
        files = _files_below(source) if source.is_dir() else [("", require_regular(source, str(self.view.path)))]
        for below, file in files:
            target = f"{name}/{below}" if below else name
            if target in self.found:
                raise ArtifactError(f"{file}: would be copied to {target}, where {self.found[target]} goes already")
            self.found[target] = file

    def _inside(self, path: Path) -> Path:
        return resolve_inside(path, self.roots, str(self.view.path))

    def _file(self, path: Path) -> Path:
        return require_regular(self._inside(path), str(self.view.path))


def _files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """(relative name, file) below a folder. Raises ArtifactError for a link, a pipe or a device: no stage writes one
    there."""
    waiting = [""]
    while waiting:
        below = waiting.pop()
        for entry in sorted(os.scandir(folder / below), key=lambda entry: entry.name):
            name = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir(follow_symlinks=False):
                waiting.append(name)
            elif entry.is_file(follow_symlinks=False):
                yield name, folder / name
            else:
                raise ArtifactError(f"{folder / name}: is a link or no regular file, and is not followed; remove it")
