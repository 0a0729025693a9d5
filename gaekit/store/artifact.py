"""Artifacts: one safetensors file that holds tensors and, as JSON in its metadata, all that is needed to use them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from gaekit.errors import ArtifactError
from gaekit.inside import require_regular
from gaekit.store.files import atomic
from gaekit.store.outline import check_fit
from gaekit.store.record import RECORD, artifact_path, read_record

KEY = "gaekit"  # one metadata key: safetensors keeps no order among several, and files must be equal byte for byte
FORMAT = 1


@dataclass(frozen=True)
class Artifact:
    """The parsed head of an artifact; tensors are read on demand."""

    path: Path
    kind: str
    config: dict[str, Any]

    def names(self) -> list[str]:
        """All tensors' names."""
        with safe_open(self.path, framework="pt") as file:
            return list(file.keys())

    def tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors under `prefix.`, without it, on the CPU; {} if there are none."""
        with safe_open(self.path, framework="pt") as file:
            start = f"{prefix}."
            return {name[len(start) :]: file.get_tensor(name) for name in file.keys() if name.startswith(start)}  # noqa: SIM118

    def shapes(self, prefix: str) -> dict[str, tuple[int, ...]]:
        """Those of the tensors under `prefix.`, none of which is read."""
        with safe_open(self.path, framework="pt") as file:
            start = f"{prefix}."
            names = [name for name in file.keys() if name.startswith(start)]  # noqa: SIM118
            return {name[len(start) :]: tuple(file.get_slice(name).get_shape()) for name in names}

    def load_into(self, module: torch.nn.Module, prefix: str) -> None:
        """Load the tensors under `prefix.` into a module. Raises ArtifactError naming the first keys and shapes that do
        not fit, before any is read."""
        shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        check_fit(type(module).__name__, shapes, self.shapes(prefix), self.path)
        module.load_state_dict(self.tensors(prefix))


def save_artifact(
    path: Path, kind: str, config: Mapping[str, Any], groups: Mapping[str, Mapping[str, torch.Tensor]]
) -> None:
    """Write an artifact, whole or not at all. `groups` maps a prefix (weights, ema, ...) to named tensors."""
    tensors = {
        f"{prefix}.{name}": tensor.detach().to("cpu", copy=True).contiguous()
        for prefix, group in groups.items()
        for name, tensor in sorted(group.items())
    }
    head = json.dumps({"format": FORMAT, "kind": kind, "config": dict(config)}, sort_keys=True)
    with atomic(path) as part:
        save_file(tensors, part, metadata={KEY: head})


def open_artifact(path: Path, kind: str) -> Artifact:
    """Open an artifact of the given kind. Raises ArtifactError if it is absent, damaged or of another kind."""
    if not path.exists():
        raise ArtifactError(f"{path}: no such artifact (wanted: {kind})")
    require_regular(path, "artifact")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{path}: cannot be read as safetensors ({error}); it is damaged or of another format"
        ) from error
    if KEY not in metadata:
        raise ArtifactError(
            f"{path}: not an artifact of gaekit; other projects' checkpoints go through `gaekit import`"
        )
    head = _head(metadata[KEY], path)
    if head["format"] > FORMAT:
        raise ArtifactError(
            f"{path}: written by a newer gaekit (format {head['format']}, this one reads {FORMAT}); upgrade"
        )
    if head["kind"] != kind:
        raise ArtifactError(f"{path}: holds a {head['kind']}, wanted: {kind}")
    return Artifact(path, head["kind"], head["config"])


def _head(text: str, path: Path) -> dict[str, Any]:
    """What an artifact says of itself. Raises ArtifactError where it says it in another form than gaekit writes."""
    try:
        head = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: its head is no JSON ({error}); it is damaged") from error
    form = {"format": int, "kind": str, "config": dict}
    if not isinstance(head, dict) or any(type(head.get(key)) is not wanted for key, wanted in form.items()):
        raise ArtifactError(f"{path}: its head lacks {', '.join(form)}, or has something else there; it is damaged")
    return head


def resolve(path: Path, stage: str, artifact: str) -> Path:
    """The artifact behind a path that a person gives: the file itself, a folder that holds it, a room (of several
    lengths of training the longest), or a run. Raises ArtifactError saying where it looked."""
    path = path.expanduser()
    tried = [path, *_of_run(path, stage), path / artifact, *_longest_first(path, artifact), path / stage / artifact]
    for candidate in tried:
        if candidate.is_file() or (candidate / "manifest.json").is_file():
            return candidate
    raise ArtifactError(f"{path}: no artifact of the stage {stage} there; looked for {', '.join(map(str, tried))}")


def _of_run(path: Path, stage: str) -> list[Path]:
    file = path / RECORD
    entry = read_record(file)["stages"].get(stage) if file.exists() else None
    return [artifact_path(path, entry["artifact"], f"{file}: stages.{stage}.artifact")] if entry else []


def _longest_first(room: Path, artifact: str) -> list[Path]:
    lengths = sorted(
        (int(p.name.removeprefix("step-")) for p in room.glob("step-*") if p.name[5:].isdecimal()), reverse=True
    )
    return [room / f"step-{steps}" / artifact for steps in lengths]
