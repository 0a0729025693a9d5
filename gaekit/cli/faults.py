"""Whose fault an unforeseen error is: gaekit's own ends with a traceback and code 1, a plugin's is told as that."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import FrameType
from typing import Any


@dataclass(frozen=True)
class _Place:
    """A frame of a plugin of somebody else's."""

    plugin: str
    frame: FrameType
    line: int


def plugin_fault(error: BaseException) -> str | None:
    """What to tell of an error that was raised in, or by a call of, a plugin that is not gaekit's: the component, its
    plugin, the error and the line. None where no such plugin is on the way, or where memory ran out."""
    import torch

    from gaekit.plugins import OWN

    if not isinstance(error, Exception) or isinstance(error, MemoryError | torch.OutOfMemoryError):
        return None
    others = {_package(entry.module): entry for entry in _entry_points() if _distribution(entry) != OWN}
    places, component = [], ""
    trace = error.__traceback__
    while trace is not None:
        frame, line = trace.tb_frame, trace.tb_lineno
        held = _component(frame)
        entry = others.get(_package(str(frame.f_globals.get("__name__", ""))))
        owner = entry or (others.get(_package(held.__module__)) if held is not None else None)
        if owner is not None:
            places.append(_Place(_plugin(owner), frame, line))
            component = f"{held.kind} '{held.name}' of " if held is not None else component
        trace = trace.tb_next
    return _told(error, component, places[-1]) if places else None


def _told(error: Exception, component: str, place: _Place) -> str:
    text = " ".join(str(error).split())
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    where = f"{Path(place.frame.f_code.co_filename)}, line {place.line}, in {place.frame.f_code.co_name}"
    return f"{component}plugin {place.plugin} failed: {said}\n  {where} (`--debug` shows how it came there)"


def _component(frame: FrameType) -> Any:
    """The class of the component whose method this frame is, or that it is calling."""
    from gaekit.api import Component

    for name in ("self", "component", "cls"):
        held = frame.f_locals.get(name)
        cls = held if isinstance(held, type) else type(held)
        if issubclass(cls, Component) and hasattr(cls, "name"):
            return cls
    return None


def _entry_points() -> list[EntryPoint]:
    from importlib.metadata import entry_points

    from gaekit.plugins import ENTRY_POINT_GROUP

    return list(entry_points(group=ENTRY_POINT_GROUP))


def _package(module: str) -> str:
    return module.partition(".")[0]


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "?"


def _plugin(entry: EntryPoint) -> str:
    return f"{entry.name} ({_distribution(entry)} {entry.dist.version if entry.dist else '?'})"
