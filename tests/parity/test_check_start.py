"""The check of starts: published networks of every kind and switch, and that it fails where it must."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import check_start, starts
from parity.check_start import differences, main

STARTS = Path(__file__).parents[1] / "golden" / "starts"
FULL = sorted(STARTS.glob("*.json"))
SMALL = sorted((STARTS / "small").glob("*.json"))
"""Measured from the published implementations at a depth of one or two, all other sizes and switches in turns."""
AFFORDABLE = STARTS / "semantic_teacher_1024_4.json"
Change = Callable[[dict[str, Any]], Any]


def changed(source: Path, path: Path, change: Change) -> Path:
    data = json.loads(source.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


def tensor(name: str, **facts: Any) -> Change:
    return lambda data: data["tensors"][name].update(facts)


@pytest.mark.parametrize("file", SMALL, ids=lambda file: file.stem)
def test_small_networks_start_as_published(file: Path) -> None:
    assert differences(file) == []


@pytest.mark.parametrize(
    "file", [file if file == AFFORDABLE else pytest.param(file, marks=pytest.mark.slow) for file in FULL],
    ids=lambda file: file.stem,
)  # fmt: skip
def test_published_networks_of_full_size_start_the_same_by_their_recipes(file: Path) -> None:
    assert "recipe" in json.loads(file.read_text())["config"]
    assert differences(file) == []


@pytest.mark.parametrize("file", FULL, ids=lambda file: file.stem)
def test_a_recipe_and_the_published_settings_describe_the_same_network(file: Path) -> None:
    config = json.loads(file.read_text())["config"]
    with torch.device("meta"):
        by_recipe = starts.build_published(config, 0)
        by_settings = starts.build_published({k: v for k, v in config.items() if k != "recipe"}, 0)
    assert {k: v.shape for k, v in by_recipe.items()} == {k: v.shape for k, v in by_settings.items()}


TEACHER = STARTS / "small" / "semantic_teacher_384.json"
WEIGHT = "decoder_layers.0.mlp.fc2.weight"
STD = 0.018  # of a linear layer's weights with 1,024 inputs


@pytest.mark.parametrize(
    ("source", "change", "told"),
    [
        (TEACHER, tensor(WEIGHT, shape=[384, 1536]), f"{WEIGHT}: of shape (384, 1024), published (384, 1536)"),
        (TEACHER, tensor(WEIGHT, std=STD * 1.06), f"{WEIGHT}: mean "),
        (TEACHER, tensor(WEIGHT, std=STD * 0.94), f"{WEIGHT}: mean "),
        (TEACHER, tensor(WEIGHT, mean=STD * 0.06), f"{WEIGHT}: mean "),
        (TEACHER, tensor(WEIGHT, std=float("nan")), f"{WEIGHT}: mean "),
        (TEACHER, tensor(WEIGHT, trained=False), f"{WEIGHT}: trained True, published False"),
        (TEACHER, tensor(WEIGHT, std=0.0, mean=0.0), f"{WEIGHT}: mean "),
        (TEACHER, lambda data: data["tensors"].pop(WEIGHT), f"{WEIGHT}: is not in the published network"),
        (TEACHER, lambda data: data["tensors"].update(new=data["tensors"][WEIGHT]), "new: is missing"),
        (TEACHER, lambda data: data["config"].update(feature_dim=768), "pos_embed_pro: of shape (1, 64, 768)"),
        (TEACHER, lambda data: data["config"].pop("grid"), "its config does not tell 'grid'"),
        (TEACHER, lambda data: data["config"].update(kind="vgg"), "kind 'vgg' is not known"),
        (TEACHER, lambda data: data["config"].update(recipe="sit_xl2"), "recipe sit_xl2 has none, not latent"),
        (TEACHER, lambda data: data["config"].update(recipe="nowhere"), "its network cannot be built: "),
        (TEACHER, lambda data: data["tensors"].clear(), "holds no tensors"),
        (TEACHER, lambda data: data.pop("config"), "is no file of a published start"),
        (STARTS / "small" / "sit_s2.json", tensor("final_layer.linear.weight", std=0.02),
         "final_layer.linear.weight: 0 everywhere, published"),
        (STARTS / "small" / "sit_s2.json", tensor("final_layer.linear.bias", mean=1.0),
         "final_layer.linear.bias: 0 everywhere, published 1 everywhere"),
        (STARTS / "small" / "ddt_plain.json", tensor("t_embedder.mlp.0.bias", std=0.0, mean=0.0),
         "t_embedder.mlp.0.bias: mean "),
        (STARTS / "small" / "lightning_qk.json", tensor("blocks.1.attn.q_norm.weight", mean=0.5),
         "blocks.1.attn.q_norm.weight: 1 everywhere, published 0.5 everywhere"),
    ],
)  # fmt: skip
def test_one_change_is_told_and_exits_1(
    source: Path, change: Change, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = changed(source, tmp_path / "changed.json", change)
    assert main([str(file)]) == 1
    assert f"\n  {told}" in capsys.readouterr().out


def test_other_networks_than_the_published_ones_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start that a file describes is compared, not its names alone: Xavier in place of torch's own draw fails."""
    drawn = starts.build_published

    def xavier(config: starts.Settings, seed: int) -> starts.Tensors:
        found = drawn(config, seed)
        torch.nn.init.xavier_uniform_(found[WEIGHT].data)
        return found

    monkeypatch.setattr(check_start, "build_published", xavier)
    assert [line.partition(":")[0] for line in differences(TEACHER)] == [WEIGHT]


def test_chance_alone_makes_no_difference() -> None:
    """4,096 numbers stray by up to three standard errors, 7 % of a deviation, between two draws of one law."""
    found = check_start.Found((64, 64), 0.06, 1.0, None, True)
    others = [check_start.Found((64, 64), mean, 1.0, None, True) for mean in (-0.02, 0.01, 0.0)]
    expected = {"weight": starts.Expected((64, 64), 0.0, 1.0, True)}
    assert list(check_start.compare(expected, [{"weight": found}]))
    assert not list(check_start.compare(expected, [{"weight": one} for one in (found, *others)]))


def test_without_files_or_with_another_file_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("usage: ")
    (tmp_path / "other.json").write_text("[]")
    assert main([str(TEACHER), str(tmp_path / "other.json"), str(tmp_path / "absent.json")]) == 1
    shown = capsys.readouterr().out
    assert f"{TEACHER}: as published" in shown
    assert shown.count("is no file of a published start") == 2
