"""Reading checkpoint files: containers taken off, nothing run that is in them, and a reason where that cannot be."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from import_helpers import registry, same, save, state_of, take
from safetensors.torch import save_file

from gaekit.errors import ArtifactError
from gaekit.interop.reading import read_checkpoint
from gaekit.store.models import load_denoiser

STATE = {"a.weight": torch.arange(3.0), "b.bias": torch.ones(2)}
OTHER = {key: value + 1 for key, value in STATE.items()}


class Callback:
    """What a training may leave in its checkpoint: of a class that must be found and built to be read."""


@pytest.mark.parametrize(
    ("content", "weights"),
    [
        (STATE, "model"),
        ({"state_dict": STATE}, "model"),
        ({"model": STATE, "opt": {"state": {}}, "config": {"lr": 1}}, "model"),
        ({"model_state_dict": STATE, "epoch": 3}, "model"),
        ({"model": OTHER, "ema": STATE, "args": argparse.Namespace(model="DiT-XL/2")}, "ema"),
        ({"model": {f"module.{key}": value for key, value in STATE.items()}}, "model"),
        ({"model": {f"module._orig_mod.{key}": value for key, value in STATE.items()}}, "model"),
        ({"ema": {"model": STATE}}, "ema"),
        ({"model": {"state_dict": STATE}}, "model"),
    ],
)
def test_containers_and_prefixes_are_taken_off(content: Any, weights: str, tmp_path: Path) -> None:
    source = read_checkpoint(save(tmp_path / "file.pt", content))
    same(source.state, STATE)
    assert source.weights == weights


def test_the_set_asked_for_is_taken(tmp_path: Path) -> None:
    file = save(tmp_path / "file.pt", {"model": STATE, "ema": OTHER})
    same(read_checkpoint(file, "model").state, STATE)
    same(read_checkpoint(file, "ema").state, OTHER)
    with pytest.raises(ArtifactError, match="--weights ema, but the file holds model"):
        read_checkpoint(save(tmp_path / "one.pt", {"model": STATE}), "ema")
    with pytest.raises(ArtifactError, match="--weights ema, but the file holds one set"):
        read_checkpoint(save(tmp_path / "bare.pt", STATE), "ema")


def test_a_denoisers_averaged_weights_are_those_that_published_code_samples_with(tmp_path: Path) -> None:
    state = state_of("sit")
    content = {"model": {key: value + 1 for key, value in state.items()}, "ema": state}
    same(dict(load_denoiser(take("sit", content, tmp_path).artifact, registry()).network.state_dict()), state)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file({f"module.{key}": value for key, value in STATE.items()}, tmp_path / "file.safetensors")
    same(read_checkpoint(tmp_path / "file.safetensors").state, STATE)


def test_files_of_old_torch_are_read(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    same(read_checkpoint(tmp_path / "old.ckpt").state, STATE)


def test_what_needs_code_is_refused_with_its_name_and_a_way_out(tmp_path: Path) -> None:
    file = save(tmp_path / "file.ckpt", {"state_dict": STATE, "callbacks": Callback()})
    with pytest.raises(ArtifactError) as raised:
        read_checkpoint(file)
    text = str(raised.value)
    assert f"{Callback.__module__}.Callback" in text
    assert "running code from the file, which gaekit does not" in text
    assert "torch.save(" in text


def test_damaged_files_are_told(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.pt", {"state_dict": STATE}).read_bytes()
    for name, content in {"half.pt": whole[: len(whole) // 2], "empty.pt": b"", "text.pt": b"not a checkpoint"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=f"{name}: cannot be read as a torch file"):
            read_checkpoint(tmp_path / name)
    (tmp_path / "half.safetensors").write_bytes(b"\x40" + bytes(7) + b"{")
    with pytest.raises(ArtifactError, match="cannot be read as safetensors"):
        read_checkpoint(tmp_path / "half.safetensors")


def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        read_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(ArtifactError, match="is a folder, not a file"):
        read_checkpoint(tmp_path)
    with pytest.raises(ArtifactError, match="holds a list; a checkpoint is a dictionary"):
        read_checkpoint(save(tmp_path / "list.pt", [1, 2]))
    with pytest.raises(ArtifactError, match="holds no tensors, but epoch"):
        read_checkpoint(save(tmp_path / "numbers.pt", {"epoch": 3}))


def test_an_artifact_of_gaekit_needs_no_import(tmp_path: Path) -> None:
    artifact = take("sit", state_of("sit"), tmp_path).artifact
    with pytest.raises(ArtifactError, match="is an artifact of gaekit already; a recipe takes it by"):
        read_checkpoint(artifact)
