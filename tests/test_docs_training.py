"""What docs/training.md shows is so."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from gaekit.plugins import load_plugins
from gaekit.recipe import load_recipe
from gaekit.recipe.schema import Autoencoder, Diffusion
from gaekit.store.curves import line_of, read_curves

DOC = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", DOC, flags=re.M | re.S)
    return str(found)


def test_the_probes_shown_are_right_and_state_the_defaults() -> None:
    shown = yaml.safe_load(block("yaml"))
    overrides = [f"{stage}.probe={json.dumps(section['probe'])}" for stage, section in shown.items()]
    checked = load_recipe("quickstart", load_plugins(), overrides=overrides)
    for stage in ("autoencoder", "diffusion"):
        section = getattr(checked, stage)
        assert isinstance(section, Autoencoder | Diffusion)
        default = type(section.probe)()
        assert section.probe is not None
        assert (section.probe.every, section.probe.loss, section.probe.count) == (
            default.every, default.loss, default.count
        )  # fmt: skip


def test_the_line_and_the_reading_shown_are_what_is_written(tmp_path: Path, monkeypatch: Any) -> None:
    shown = block("json")
    assert line_of(100, 12.3, {"loss/l1": 0.1, "weighted/l1": 0.1, "train/lr/autoencoder": 2e-4}).decode() == shown
    file = tmp_path / "runs/quickstart/diffusion/curves.jsonl"
    file.parent.mkdir(parents=True)
    file.write_bytes(line_of(250, 1.0, {"probe/loss/ema": 1.04}) + line_of(500, 2.0, {"probe/loss/ema": 0.97}))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block("python"), names)
    assert names["curves"] == read_curves(file)
