"""What `tensorboard --logdir runs` finds: `<run>/tb/<stage>/`, links to the event files of the rooms.

TensorBoard takes every file for its own that has "tfevents" in its name, and follows links: by its own names in a room,
a curve would show once under the store and once under each run that has the stage. In rooms the files end in `.events`
instead, and each is linked under TensorBoard's name from one run: the first that has the stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gaekit.pipeline.view import HISTORY, View, link, views

FOLDER, SUFFIX, PLAIN = "tb", ".events", "tensorboard"
"""PLAIN is the tracker whose curves go by the stage's name alone."""


def show_curves(view: View, stage: str, trackers: Path) -> None:
    """Link the event files that the trackers of a stage have written, unless another run shows them; what the view's
    history shows of them goes over to the view."""
    for folder in _folders_with_events(trackers):
        name = shown_name(stage, folder.name)
        for other in views(view.path.parent):
            own = other.path == view.path
            for place in (*(() if own else (other.path,)), *other.path.glob(f"{HISTORY}/*")):
                if _leads_to(place / FOLDER / name, folder):
                    if not own:
                        return
                    _remove(place / FOLDER / name)
        shown = view.path / FOLDER / name
        shown.mkdir(parents=True, exist_ok=True)
        for file in folder.glob(f"*{SUFFIX}"):
            link(shown / events_name(file), file)


def shown_name(stage: str, tracker: str) -> str:
    """The folder of a stage's curves; of a second tracker too."""
    return stage if tracker == PLAIN else f"{stage}-{tracker}"


def events_name(file: Path) -> str:
    """What TensorBoard calls an event file."""
    return f"events.out.tfevents.{file.stem}"


def _folders_with_events(trackers: Path) -> Iterator[Path]:
    return (folder for folder in sorted(trackers.glob("*")) if any(folder.glob(f"*{SUFFIX}")))


def _leads_to(shown: Path, folder: Path) -> bool:
    return any(item.resolve().parent == folder.resolve() for item in shown.glob("*"))


def _remove(shown: Path) -> None:
    for item in shown.glob("*"):
        item.unlink()
    shown.rmdir()
