"""run.json: what a run writes of itself, checked whenever it is read, since a run may be somebody else's."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, TypeGuard

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gaekit.errors import ArtifactError
from gaekit.inside import plain_name, resolve_inside
from gaekit.store.files import read_json

RECORD, METRICS, STORE = "run.json", "metrics.json", "store"
STAGE_NAMES = ("semantic", "autoencoder", "latents", "diffusion", "sample", "evaluate")
"""In the order in which they run. Written out, since the recipe's schema, which has them too, takes torch to import."""
_PLAIN = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
RoomName = Annotated[str, Field(pattern=rf"^{STORE}/{_PLAIN}/{_PLAIN}$", max_length=300)]
"""A room relative to the folder of all runs."""
_Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+!-]*$", max_length=200)]
_Said = Annotated[str, Field(pattern=r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]+$", max_length=2000)]
PathText = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=4096)]


DEEPEST = 100
"""Levels of a metrics.json: a protocol may hold settings of components, which hold others."""


class _Checked(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Entry(_Checked):
    """What is believed of a stage: a path only where nothing but `artifact_path` follows it."""

    status: str
    identity: str
    artifact: PathText
    room: RoomName | None
    subfolder: Annotated[str, Field(pattern=r"^(step-[0-9]{1,18})?$")]
    record: dict[str, Any] | None = None
    caches: list[RoomName] = []
    replaces: list[RoomName] = []
    external: dict[str, PathText] = {}
    init: PathText | None = None


class _Provider(_Checked):
    """The distribution that provided a component, as a person may hand it to pip."""

    distribution: _Word
    version: _Word


class _Record(_Checked):
    stages: dict[str, _Entry]
    components: dict[str, _Provider] = {}
    attributions: dict[str, _Said] = {}


def read_record(file: Path) -> dict[str, Any]:
    """A run.json. Raises FileNotFoundError where there is none, ArtifactError where it is damaged or holds names that
    gaekit would not write: stages that it does not know, rooms outside of the store."""
    record = read_json(file)
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        at = ".".join(ascii(part).strip("'")[:60] for part in first["loc"]) or "the whole"
        raise ArtifactError(f"{file}: damaged: {at}: {first['msg']}, got {ascii(first['input'])[:80]}") from error
    for stage, entry in record["stages"].items():
        if stage not in STAGE_NAMES:
            raise ArtifactError(f"{file}: damaged: there is no stage {ascii(stage)[:80]}")
        for name in entry.get("external", ()):
            plain_name(name, f"{file}: stages.{stage}.external")
    return dict(record)


def read_metrics(file: Path) -> dict[str, dict[str, Any]]:
    """A metrics.json: every number by its name. Raises FileNotFoundError where there is none, ArtifactError where it is
    damaged: an entry without a finite value, or with a protocol that is none."""
    found = read_json(file, deepest=DEEPEST)
    if not is_metrics(found):
        raise ArtifactError(f'{file}: damaged: expected {{name: {{"value": ..., "protocol": ...}}}}')
    return dict(found)


def is_metrics(found: Any) -> bool:
    """Whether something read from JSON are numbers by their names, each with a finite value."""
    return isinstance(found, dict) and all(map(_is_entry, found.values()))


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("protocol", {}), dict | None):
        return False
    return is_finite(entry.get("value"))  # an interval is judged where it is used, and told by its number's name


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether something read from JSON is a number that a float can hold, and no true or false."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def artifact_path(run: Path, named: str, source: str) -> Path:
    """The artifact that a run's record names, absolute as a recipe's `from` is, or relative to the run. Raises
    ArtifactError where a relative one leads out of the run and the store beside it; `source` is the entry's name."""
    if os.path.isabs(named):
        return Path(named)
    path = Path(os.path.normpath(run / named))
    resolve_inside(run / named, [run, run.parent / STORE], source)
    return path
