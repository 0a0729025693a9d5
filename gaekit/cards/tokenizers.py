"""Tokenizers by what a person calls them: a run, an artifact, or a checkpoint that `gaekit import` reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaekit.errors import ArtifactError, GaekitError
from gaekit.interop.diffusers_folder import NOT_TOLD
from gaekit.interop.formats import FORMATS, Options
from gaekit.interop.importing import import_file
from gaekit.pipeline.view import RECORD
from gaekit.plugins import Registry
from gaekit.stages import autoencoder
from gaekit.store.artifact import open_artifact, resolve
from gaekit.store.files import sha256_file

NAMED = re.compile(r"^([\w][\w .+-]*)=(.+)$", re.DOTALL)
READABLE = tuple(name for name, found in FORMATS.items() if found.stage == "autoencoder")
"""The formats of published autoencoders."""


@dataclass(frozen=True)
class Tokenizer:
    """An autoencoder to be looked at: `artifact` is its file as gaekit reads it, `kind` what it was taken from,
    `sha256` the hash of the weights' own file, and `image_size` the side of its images in pixels."""

    name: str
    kind: str
    artifact: Path
    sha256: str
    imported: dict[str, Any] | None
    image_size: int

    @property
    def licence(self) -> str:
        """What the file's publisher says of its use, where an import found it; of a run nobody does."""
        return "own run" if self.kind == "run" else str((self.imported or {}).get("licence", NOT_TOLD))


def open_tokenizer(text: str, registry: Registry, folder: Path, size: int | None = None) -> Tokenizer:
    """The tokenizer behind `runs/quickstart`, a folder or file of an artifact, or `FORMAT:PATH` of a published
    checkpoint, which is imported into `folder` for images of `size`; `NAME=` before any of them is what it is called.

    Raises ArtifactError where there is none, or it is no autoencoder.
    """
    named = NAMED.match(text)
    name, what = (named[1], named[2]) if named else ("", text)
    form, colon, rest = what.partition(":")
    if colon and form in READABLE:
        return _imported(name, form, Path(rest).expanduser(), registry, folder, size)
    if colon and form in FORMATS:
        raise GaekitError(f"{text}: a file of format {form} is no autoencoder; those are {', '.join(READABLE)}")
    path = Path(what).expanduser()
    try:
        artifact = resolve(path, autoencoder.STAGE.name, autoencoder.STAGE.artifact)
    except ArtifactError as error:
        formats = ", ".join(f"{known}:{what}" for known in READABLE)
        raise ArtifactError(f"{error}; a published checkpoint is given with its format, as {formats}") from error
    is_run = (path / RECORD).is_file()
    head, facts = _head_of(artifact)
    kind = "run" if is_run else f"import of {facts['format']}" if facts else "artifact"
    where = path if path.is_dir() else path.parent
    sha256 = str(facts["sha256"]) if facts else sha256_file(artifact)
    return Tokenizer(name or where.resolve().name, kind, artifact, sha256, facts, head["image_size"])


def _head_of(artifact: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """(what an autoencoder says of itself, what it was imported from). Raises ArtifactError where it says neither."""
    head = open_artifact(artifact, "autoencoder").config
    side, facts = head.get("image_size"), head.get("imported")
    told = facts is None or (
        isinstance(facts, dict) and all(isinstance(facts.get(k), str) for k in ("format", "sha256"))
    )
    if type(side) is not int or side < 1 or not told:
        raise ArtifactError(
            f"{artifact}: its head says {side!r:.60} of its images and {facts!r:.60} of an import; damaged"
        )
    return head, facts


def _imported(name: str, form: str, path: Path, registry: Registry, folder: Path, size: int | None) -> Tokenizer:
    of_any_size = "image_size" in FORMATS[form].options
    if of_any_size and size is None:
        raise ArtifactError(f"{form}:{path}: an autoencoder of convolutions takes images of any size; say --size R")
    try:
        made = import_file(form, path, folder, Options(image_size=size if of_any_size else None), registry)
    except ArtifactError as error:
        if " --" in str(error):
            raise ArtifactError(
                f"{error}; these are options of `gaekit import {form} {path} --out DIR`: import it first, and give DIR"
            ) from error
        raise
    head = open_artifact(made.artifact, "autoencoder").config
    facts = head["imported"]
    own = path.resolve().name if path.is_dir() else path.stem  # a folder's name has no ending: dc-ae-sana-1.1-diffusers
    return Tokenizer(name or own, f"import of {form}", made.artifact, str(facts["sha256"]), facts, head["image_size"])
