"""What the networks of metrics do is counted, wherever a metric holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gaekit.api import Dataset, Teacher
from gaekit.plugins import Plugin, build, load_plugins
from gaekit.recipe.load import load_component
from gaekit.recipe.schema import Runtime
from gaekit.runs.evaluate.bench import Bench, SizedSplits, Sizing
from gaekit.stages.judging import judges_of
from gaekit.stages.machine import Machine
from gaekit.train.progress import Reporter

SIDE, BATCH = 16, 6
SEEN = {"use": "seen"}
FRECHET = {"use": "frechet", "teacher": SEEN}
CMMD = {"use": "cmmd", "teacher": SEEN}
INCEPTION = {"use": "fid", "weights": "random"}


class Seen(Teacher):
    """Convolutions, other ones for what it sums an image up in."""

    name = "seen"
    feature_dim, pooled_dim = 5, 7

    def __init__(self, config: Any, *, grid: int):
        super().__init__(config, grid=grid)
        self.features, self.head = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 7, 4)

    def forward(self, image_B3RR: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(self.features(image_B3RR), self.grid)

    def pooled(self, image_B3RR: Tensor) -> Tensor:
        out: Tensor = self.head(image_B3RR).mean((2, 3))
        return out


def bench(folder: Path) -> Bench:
    registry = load_plugins()
    registry.add(Seen, Plugin("test", "gaekit", "0", "test"))
    data = build(Dataset, load_component("dataset", {"use": "digits"}, registry, source="test"), registry)
    machine = Machine(torch.device("cpu"), Runtime(), Reporter(Console(quiet=True)))
    machine.count_flops()
    return Bench(registry, machine, SizedSplits(data, Sizing(SIDE)), folder)


@pytest.mark.parametrize(
    "settings",
    [
        FRECHET,
        FRECHET | {"features": "class_token"},
        {"use": "panel", "distances": [FRECHET, CMMD]},
        {"use": "memorisation", "teacher": SEEN},
        pytest.param({"use": "panel", "distances": [INCEPTION, FRECHET]}, marks=pytest.mark.slow),
    ],
    ids=["mean", "class token", "panel", "memorisation", "panel with Inception"],
)
def test_the_work_of_a_metrics_networks_is_counted_as_torch_counts_it(settings: dict[str, Any], tmp_path: Path) -> None:
    place = bench(tmp_path)
    config = load_component("metric", settings, place.registry, source="test")
    (metric,) = judges_of(place, [config], "samples").metrics.values()
    assert place.machine.flops is not None
    with FlopCounterMode(display=False) as theirs, torch.no_grad():
        metric.extract(torch.rand(BATCH, 3, SIDE, SIDE) * 2 - 1)
    assert theirs.get_total_flops() > 0
    assert place.machine.flops.by_network() == {f"metric {metric.name}": theirs.get_total_flops()}
    assert not place.machine.flops.uncounted
