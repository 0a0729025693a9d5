"""The benchmarks run: one small round of each comparison, whose numbers nobody reads."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from gaekit.plugins import load_plugins

CPU = torch.device("cpu")
FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def training_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    module = importlib.import_module("training_step")
    monkeypatch.setattr(module, "STEPS", 1)
    yield module
    for name in set(sys.modules) - before:
        if (file := getattr(sys.modules[name], "__file__", None)) and Path(file).parent == FOLDER:
            del sys.modules[name]


def test_steps_are_held_against_plain_ones(training_step: ModuleType, tmp_path: Path) -> None:
    rows = [
        training_step.autoencoder(CPU, load_plugins(), 1, str(tmp_path)),
        training_step.host(CPU, 1, str(tmp_path)),
        training_step.average(CPU, 1),
    ]
    assert all(row.seconds > 0 and row.ratio > 0 for row in rows)


def test_results_are_kept_as_they_come(training_step: ModuleType, tmp_path: Path) -> None:
    paired = sys.modules["paired"]
    file = tmp_path / "results.json"

    def rows() -> Iterator[object]:
        yield paired.Row("one", 1.0, 2.0, 0.5)
        assert [row["name"] for row in json.loads(file.read_text())["rows"]] == ["one"]
        yield paired.Row("two", 3.0)

    paired.report("title", rows(), CPU, file)
    assert [row["ratio"] for row in json.loads(file.read_text())["rows"]] == [0.5, None]
