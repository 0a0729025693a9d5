"""TensorBoard event files."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from torch import Tensor

from gaekit.api import ComponentConfig, TrackedStage, Tracker
from gaekit_trackers.kept import flat

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

FIRST = ("loss", "probe", "weighted")
"""What a person looks for first, in this order; TensorBoard itself sorts by name, which agrees."""
SPEED = "speed of all stages"


class TensorBoardConfig(ComponentConfig):
    """Settings of `tensorboard`: none."""


class TensorBoard(Tracker):
    """Scalars and images as TensorBoard event files, with the recipe as text and as hyperparameters, and a page of
    custom scalars for each stage: `tensorboard --logdir runs`.

    What has one value, such as a metric, is text and a hyperparameter, not a curve. A resumed run writes a new file
    beside the old; values of the old one at `purge_step` and later are hidden, so that the steps that are taken again
    show once, and those before it stay. The files are named `.events` here and linked under TensorBoard's names from
    the run's folder.
    """

    name = "tensorboard"
    Config = TensorBoardConfig
    config: TensorBoardConfig

    def __init__(self, config: TensorBoardConfig, *, folder: Path, purge_step: int, stage: TrackedStage):
        super().__init__(config, folder=folder, purge_step=purge_step, stage=stage)
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self._file = EventFile(folder)
        self._charted: set[str] = set()
        # At 0 too: a run killed before its first checkpoint starts over in the same folder.
        self._file.write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        self._file.flush()

    def log(self, step: int, scalars: Mapping[str, float], images: Mapping[str, Tensor]) -> None:
        """Write scalars and image grids (3, height, width) in [0, 1] under their names at `step`."""
        summary = summaries()
        if new := scalars.keys() - self._charted:
            if not self._charted:
                self._add(step, summary.text("recipe", as_code(self.stage.recipe)))
                self._hyperparameters({})
            self._charted |= new
            self._add(step, summary.custom_scalars(pages(self.stage.stage, self._charted)))
        for name, value in scalars.items():
            self._add(step, summary.scalar(name, value))
        for name, grid in images.items():
            self._add(step, summary.image(name, grid.detach().float().cpu(), dataformats="CHW"))
        self._file.flush()

    def results(self, numbers: Mapping[str, float], images: Mapping[str, Tensor]) -> None:
        """Write numbers as a table of text, and beside the recipe's settings as hyperparameters; images as pictures."""
        if numbers:
            self._hyperparameters(numbers)
            self._add(0, summaries().text("results", as_table(numbers)))
        self.log(0, {}, images)

    def close(self) -> None:
        """Write everything to disk and close the file."""
        self._file.close()

    def _hyperparameters(self, numbers: Mapping[str, float]) -> None:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        # TensorBoard shows the first few of those that differ by name, capitals before other letters.
        settings = {"Run": self.stage.run, "Stage": self.stage.stage} | settings_of(self.stage)
        room = self.folder.resolve().parents[1].name  # of two rows of one run and stage, as after --redo
        row = f"{self.stage.run}/{self.stage.stage} {room}"
        self._add(0, hparams_pb(settings | dict(numbers), trial_id=row))

    def _add(self, step: int, summary: Summary) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._file.write(Event(step=step, wall_time=time.time(), summary=summary))


def summaries() -> Any:
    """torch's makers of TensorBoard's messages, which are not typed."""
    from torch.utils.tensorboard import summary

    return summary


class EventFile:
    """A new file of TensorBoard's events in a folder, after those that are there."""

    def __init__(self, folder: Path):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(file.stem) for file in folder.glob("*.events") if file.stem.isdecimal()), default=0)
        self._file = (folder / f"{number:04d}.events").open("xb")  # TensorBoard reads them in the order of their names
        self._writer = RecordWriter(self._file)
        self.write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self.flush()

    def write(self, event: Event) -> None:
        """Add an event."""
        self._writer.write(event.SerializeToString())

    def flush(self) -> None:
        """Hand everything to the system."""
        self._writer.flush()

    def close(self) -> None:
        """Write everything and close; again does nothing."""
        self._file.close()


def pages(stage: str, tags: Iterable[str]) -> dict[str, dict[str, list[Any]]]:
    """The pages of custom scalars, as torch.utils.tensorboard's `custom_scalars` takes them. The stage's has losses,
    probes and weighted losses first, then a chart for each two words that tags begin with. Tags that all stages have
    would show those of the others too: they are on a page of their own."""
    own: dict[str, list[str]] = {}
    shared: dict[str, list[str]] = {}
    for tag in sorted(tags):
        first, *rest = tag.split("/")
        name = first if first in ("loss", "weighted") else "/".join((first, *rest[:1]))
        (shared if first == "train" and len(rest) == 1 else own).setdefault(name, []).append(tag)
    place = {prefix: number for number, prefix in enumerate(FIRST)}
    ordered = sorted(own, key=lambda name: (place.get(name.split("/")[0], len(place)), name))
    return {stage: _charts({name: own[name] for name in ordered}), SPEED: _charts(shared)}


def _charts(tags: Mapping[str, list[str]]) -> dict[str, list[Any]]:
    return {name: ["Multiline", [f"^{re.escape(tag)}$" for tag in found]] for name, found in tags.items()}


def settings_of(stage: TrackedStage) -> dict[str, bool | float | str]:
    """The recipe's settings up to the stage's own section, as `section.key`; `runtime` changes no result."""
    kept: dict[str, Any] = {}
    for key, value in stage.recipe.items():
        if key not in ("recipe", "name", "runtime"):
            kept[key] = value
        if key == stage.stage:
            break
    return dict(flat(kept))


def as_code(recipe: Mapping[str, Any]) -> str:
    """A recipe as YAML in Markdown's indented block, which shows it letter by letter."""
    text = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    return "".join(f"    {line}\n" for line in text.splitlines())


def as_table(numbers: Mapping[str, float]) -> str:
    """Numbers as a table in Markdown."""
    return "| | |\n|---|---:|\n" + "".join(f"| {name} | {value:.6g} |\n" for name, value in sorted(numbers.items()))
