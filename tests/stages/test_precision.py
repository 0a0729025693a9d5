"""What `precision: auto` became is recorded, and nothing is made half in one and half in another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recipe_helpers import tiny_recipe

from gaekit.cli import main
from gaekit.stages import latents
from gaekit.stages.generate import ImageGenerator

RECIPE = tiny_recipe("""
dataset: {use: digits}
latents: {precision: auto, batch: 64}
diffusion: {train: {batch: 16}}
sample: {sampler: {use: euler, steps: 2}, count: 10, batch: 4, precision: auto}
evaluate: {metrics: [{use: class_accuracy}]}
runtime: {trackers: [], threads: 1, device: cpu}
""")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(latents, "SHARD_BYTES", 1)
    return tmp_path


class Stopped(KeyboardInterrupt):
    """Ctrl-C in the middle of a stage."""


def begin_on_a_card(monkeypatch: pytest.MonkeyPatch, what: Any, name: str, *arguments: str) -> None:
    """A run that is stopped at the third call of a function, on a device on which `auto` is bf16."""
    before, calls = getattr(what, name), []

    def third_time_stops(*inputs: Any, **keywords: Any) -> Any:
        calls.append(name)
        if len(calls) == 3:
            raise Stopped
        return before(*inputs, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr("gaekit.stages.job.resolve_precision", lambda setting, device: "bf16")
        patch.setattr(what, name, third_time_stops)
        assert main(["run", "tiny.yaml", *arguments]) == 130


@pytest.mark.parametrize(
    ("stage", "what", "name"), [("latents", latents, "_encoded"), ("sample", ImageGenerator, "images")]
)
def test_what_was_begun_in_bf16_is_not_finished_in_float32(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage: str, what: Any, name: str
) -> None:
    if stage == "sample":
        assert main(["run", "tiny.yaml", "--until", "diffusion"]) == 0
    begin_on_a_card(monkeypatch, what, name)
    made = {file: file.read_bytes() for file in here.glob(f"runs/store/{stage}/*/*/*.safetensors")}
    assert made
    assert main(["run", "tiny.yaml", "--until", stage]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"begun in bf16, and `precision: auto` is float32 on this device (cpu); go on where it was begun, or begin again with --fresh {stage}" in told  # fmt: skip  # noqa: E501
    assert {file: file.read_bytes() for file in here.glob(f"runs/store/{stage}/*/*/*.safetensors")} == made
    assert main(["run", "tiny.yaml", "--until", stage, "--fresh", stage]) == 0


def test_where_nothing_was_made_yet_another_precision_may_begin(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("gaekit.stages.job.resolve_precision", lambda setting, device: "bf16")
        patch.setattr(latents, "_encoded", lambda *inputs: (_ for _ in ()).throw(Stopped))
        assert main(["run", "tiny.yaml"]) == 130
    assert main(["run", "tiny.yaml", "--until", "latents"]) == 0


def test_records_and_protocols_say_what_auto_became(here: Path) -> None:
    assert main(["run", "tiny.yaml", "--set", "diffusion.train.precision=auto"]) == 0
    run = here / "runs" / "tiny"
    stages = json.loads((run / "run.json").read_text())["stages"]
    found = {name: entry["record"].get("precision") for name, entry in stages.items()}
    assert found == {"semantic": None, **dict.fromkeys(("autoencoder", "latents", "diffusion", "sample"), "float32"),
                     "evaluate": None}  # fmt: skip
    assert json.loads((run / "latents" / "latents" / "manifest.json").read_text())["precision"] == "float32"
    numbers = json.loads((run / "metrics.json").read_text()).values()
    assert {number["protocol"]["sampling"]["precision"] for number in numbers} == {"float32"}
