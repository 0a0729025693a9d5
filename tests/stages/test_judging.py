"""What the networks of metrics do is counted, wherever a metric holds them; and no batch changes what an autoencoder
gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gaekit.api import Dataset, ImageSource, Perceptual, Teacher
from gaekit.plugins import Plugin, build, load_plugins
from gaekit.recipe.load import load_component
from gaekit.recipe.schema import Runtime
from gaekit.runs.evaluate.bench import Bench, SizedSplits, Sizing
from gaekit.runs.evaluate.pairs import Rows
from gaekit.stages.evaluate import latent_numbers, reconstruction_numbers
from gaekit.stages.judging import judges_of
from gaekit.stages.machine import Machine
from gaekit.stages.references import Reconstructor
from gaekit.store.models import Autoencoder, AutoencoderSpec
from gaekit.train.progress import Reporter

SIDE, BATCH, FEW = 16, 6, 18
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


class Distance(Perceptual):
    """A distance that a batch's size moves."""

    name = "distance"

    def forward(self, image_B3RR: Tensor, other_B3RR: Tensor) -> Tensor:
        return (image_B3RR - other_B3RR).abs().mean((1, 2, 3)) + 0.1 * len(image_B3RR)


class Few(Dataset):
    """The first digits, the same in both splits."""

    def __init__(self, inner: Dataset):
        super().__init__(inner.config)
        self.inner, self.classes = inner, inner.classes

    def train(self) -> ImageSource:
        return Rows(self.inner.train(), range(FEW))

    def validation(self) -> ImageSource:
        return self.train()

    def digest(self) -> str:
        return "few"


def bench(folder: Path) -> Bench:
    registry = load_plugins()
    for cls in (Seen, Distance):
        registry.add(cls, Plugin("test", "gaekit", "0", "test"))
    data = Few(build(Dataset, load_component("dataset", {"use": "digits"}, registry, source="test"), registry))
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


def moved(model: Autoencoder) -> Autoencoder:
    """What it makes of an image hangs on how many images it sees at once, as the last bits of kernels do, but more."""

    def encoded(_: nn.Module, given: tuple[Tensor], out: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return out[0], out[1] * (1 + 0.1 * len(given[0]))

    model.encoder.register_forward_hook(encoded)
    model.decoder.register_forward_hook(lambda _, given, out: out + 0.02 * len(given[0]))
    return model


def numbers(folder: Path, batch: int) -> dict[str, float]:
    """Of a small autoencoder that moves with its batch, by metrics of pairs and of latents."""
    place = bench(folder)
    vit = {"use": "vit", "depth": 1, "width": 16, "heads": 2}
    shape = {"image_size": SIDE, "stride": 4, "latent_dim": 4, "regularizer": {"use": "kl"}}
    torch.manual_seed(0)
    model = Autoencoder(
        AutoencoderSpec.from_json(shape | {"encoder": vit, "decoder": vit}, place.registry, "test"), place.registry
    ).eval()
    reconstructor = Reconstructor(place, folder)
    vars(reconstructor)["model"] = moved(model)
    judged = [
        {"use": "psnr"},
        {"use": "noise_curve", "perceptual": {"use": "distance"}, "teacher": SEEN, "sigmas": [0.0, 0.5]},
        {"use": "effective_rank"},
        {"use": "ifid", "teacher": SEEN},
    ]
    configs = [load_component("metric", one, place.registry, source="test") for one in judged]
    found = reconstruction_numbers(place, configs, batch, reconstructor)
    found |= latent_numbers(place, configs, batch, reconstructor)
    return {name: entry["value"] for name, entry in found.items()}


def test_no_batch_changes_what_an_autoencoder_gives_to_a_metric(tmp_path: Path) -> None:
    whole = numbers(tmp_path, 64)
    assert {"reconstruction/psnr", "latents/noise_curve_distance@0.5", "latents/ifid_seen"} <= whole.keys()
    for batch in (1, 7):
        assert numbers(tmp_path, batch) == {name: pytest.approx(value, rel=1e-10) for name, value in whole.items()}
