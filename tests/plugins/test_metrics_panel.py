"""A panel's ratios are those of its metrics, each judged apart, samples over held-out images."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from inception_helpers import Tiny, crops, measure, to_float
from torch import Tensor, nn

from gaekit.api import ComponentConfig, GaekitError, Metric
from gaekit.plugins import Plugin, Registry, build, load_plugins
from gaekit_metrics import gaekit_components
from gaekit_metrics.fid import Fid
from gaekit_metrics.kid import Kid

REAL, FAKE, HELD_OUT = crops("china")[::2], crops("flower")[:40], crops("china")[1::2]
NETWORKS: list[Tiny] = []


class TinyFid(Fid):
    """FID by a small network."""

    name = "tiny_fid"

    def __init__(self, config: Any, **sizes: Any):
        NETWORKS.append(Tiny())
        super().__init__(config, extractor=NETWORKS[-1], **sizes)


class TinyKid(Kid):
    """KID by a small network."""

    name = "tiny_kid"

    def __init__(self, config: Any, **sizes: Any):
        super().__init__(config, extractor=Tiny(), **sizes)


KID = {"use": "tiny_kid", "subsets": 2, "subset_size": 25}
FID = {"use": "tiny_fid"}


def registry() -> Registry:
    made = Registry()
    for cls in (*gaekit_components(), TinyFid, TinyKid, Summed):
        made.add(cls, Plugin("test", "gaekit", "0", "test"))
    return made


def metric(use: str, **settings: Any) -> Metric:
    known = registry()
    if "distances" in settings:
        own: Any = [known.find("metric", one["use"]).Config for one in settings["distances"]]
        settings["distances"] = tuple(cls(**one) for cls, one in zip(own, settings["distances"], strict=True))
    config: Any = known.find("metric", use).Config
    return build(Metric, config(use=use, **settings), known, image_size=32, classes=())


def judged(made: Metric, cut: int = 64) -> dict[str, float]:
    """With held-out images after the training images."""
    steps: Any = [(made.reference, REAL)] + ([(made.reference_held_out, HELD_OUT)] if made.held_out else [])
    for take, images in steps:
        for part in images.split(cut):
            take(made.extract(to_float(part)), torch.zeros(len(part)))
    made.ready(torch.device("cpu"))
    for part in FAKE.split(cut):
        made.update(made.extract(to_float(part)), torch.zeros(len(part)))
    return made.compute()


def ratio(fake: Tensor = FAKE) -> float:
    return measure(metric(**FID), fake, REAL)["fid"] / measure(metric(**FID), HELD_OUT, REAL)["fid"]


@pytest.mark.parametrize("cut", [64, 7])
def test_each_number_is_divided_by_the_held_out_images_own_and_their_mean_is_the_panels(cut: int) -> None:
    made = metric("panel", distances=[FID, {"use": "tiny_fid", "suffix": "again"}])
    network = NETWORKS[-1]
    found = judged(made, cut)
    expected = ratio()
    assert expected > 2
    assert found == dict.fromkeys(("panel", "panel_fid", "panel_fid_again"), pytest.approx(expected, rel=1e-10))
    assert network.seen == len(REAL) + len(HELD_OUT) + len(FAKE) + 1  # and once a blank, for its width
    for name, interval in made.intervals().items():
        assert interval.low < found[name] < interval.high
    protocol = made.protocol()
    assert json.loads(json.dumps(protocol, allow_nan=False)) == protocol
    assert protocol["distances"]["fid"] == pytest.approx(measure(metric(**FID), FAKE, REAL)["fid"])
    assert protocol["held_out"]["fid"] == pytest.approx(measure(metric(**FID), HELD_OUT, REAL)["fid"])
    assert protocol["held_out_from"] == "the validation split"
    assert protocol["n_held_out"] == len(HELD_OUT)


def test_what_was_kept_gives_the_same_ratios_and_no_held_out_image_is_looked_at() -> None:
    first = metric("panel", distances=[FID])
    whole = judged(first)
    second = metric("panel", distances=[FID])
    second.load_reference(first.reference_state() or {})
    second.load_held_out(first.held_out_state() or {})
    second.ready(torch.device("cpu"))
    second.update(second.extract(to_float(FAKE)), torch.zeros(len(FAKE)))
    assert second.compute() == whole
    assert second.protocol() == first.protocol()


class Total(nn.Module):
    """Adds up what it is given, as metrics of other packages do in their state."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1), requires_grad=False)
        self.sum = 0.0

    def forward(self, row_BN: Tensor) -> None:
        self.sum += float((self.weight * row_BN).sum())


class Summed(Metric):
    """The sum of all pixels, by such a network."""

    name = "summed"
    Config = ComponentConfig
    needs = "samples"

    def __init__(self, config: Any, **sizes: Any):
        super().__init__(config, **sizes)
        self.total = Total()

    def reference(self, real_B: Tensor, label_B: Tensor) -> None:
        pass

    def update(self, row_BN: Tensor, label_B: Tensor) -> None:
        self.total(row_BN + 1)

    def compute(self) -> dict[str, float]:
        return {self.name: self.total.sum}

    def protocol(self) -> dict[str, Any]:
        return {}


def test_a_network_that_keeps_a_state_keeps_that_of_held_out_images_apart() -> None:
    made: Any = metric("panel", distances=[{"use": "summed"}])
    expected = float((to_float(FAKE) + 1).sum()) / float((to_float(HELD_OUT) + 1).sum())
    assert judged(made)["panel_summed"] == pytest.approx(expected, rel=1e-5)


def test_known_distances_of_held_out_images_are_taken_and_none_is_read() -> None:
    made = metric("panel", distances=[FID], held_out={"fid": 2.0}, suffix="x")
    assert not made.held_out
    assert judged(made)["panel_fid_x"] == pytest.approx(measure(metric(**FID), FAKE, REAL)["fid"] / 2)
    with pytest.raises(GaekitError, match="`held_out` is of fd, the numbers are fid"):
        judged(metric("panel", distances=[FID], held_out={"fd": 2.0}))


def test_what_is_no_distance_to_training_images_is_refused() -> None:
    for use, told in (
        ({"use": "precision", "weights": "random"}, "'precision' is none"),
        ({"use": "psnr"}, "'psnr' is none"),
        ({"use": "tiny_fid", "split": "validation"}, "'tiny_fid' must compare with split: train"),
    ):
        with pytest.raises(GaekitError, match=told):
            metric("panel", distances=[use])
    with pytest.raises(GaekitError, match="the number fid comes twice; tell them apart by `suffix`"):
        judged(metric("panel", distances=[FID, FID]))


def test_a_held_out_distance_that_is_not_above_zero_is_nothing_to_divide_by() -> None:
    made = metric("panel", distances=[KID])
    for take in (made.reference, made.reference_held_out):
        take(made.extract(to_float(REAL)), torch.zeros(len(REAL)))
    with pytest.raises(GaekitError, match=r"held-out images' own kid is -.*, not above 0"):
        made.ready(torch.device("cpu"))


def test_the_six_networks_of_the_documentation_are_components_and_give_six_numbers() -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    block = re.search(r"```yaml\n(- use: panel.*?)```", text, re.DOTALL)
    assert block is not None
    (panel,) = yaml.safe_load(block[1])
    known, names = load_plugins(), []
    for one in panel["distances"]:
        teacher = one.pop("teacher", None)
        if teacher is not None:
            config: Any = known.find("teacher", teacher["use"]).Config
            one["teacher"] = config(**teacher)
        metric_config: Any = known.find("metric", one["use"]).Config
        metric_config(**one)
        names.append(one.get("suffix", one["use"]))
    assert len(set(names)) == 6
