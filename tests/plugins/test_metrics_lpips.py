"""LPIPS against the lpips package itself, and its weights: published, by path, absent, damaged."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import lpips
import pytest
import torch
from inception_helpers import crops, to_float
from torch import Tensor

from gaekit.api import GaekitError
from gaekit.testing import check_component
from gaekit_metrics.lpips_metric import ASSETS, SMALLEST, Lpips

REAL, FAKE = crops("china")[:9], crops("china")[:9] // 32 * 32


def metric(side: int = 32, **settings: Any) -> Lpips:
    config = Lpips.Config(use="lpips", **{"weights": "random", "net": "squeeze", **settings})
    return Lpips(config, image_size=side, classes=())


def value(made: Lpips, real: Tensor = REAL, fake: Tensor = FAKE, cut: int = 64) -> float:
    for one, other in zip(torch.split(real, cut), torch.split(fake, cut), strict=True):
        made.update(to_float(one), to_float(other))
    return made.compute()["lpips"]


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as torchvision publishes: a whole classifier."""
    from torchvision.models import squeezenet1_1

    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save(squeezenet1_1(weights=None).state_dict(), path)
    return path


@pytest.fixture
def package(squeezenet: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The lpips package's own distance, which fetches the same file its own way."""
    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", lambda *_, **__: torch.load(squeezenet))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lpips.LPIPS(net="squeeze", verbose=False)


def test_the_value_is_the_packages_mean_over_images(squeezenet: Path, package: Any) -> None:
    with torch.no_grad():
        pairs = zip(to_float(REAL).split(1), to_float(FAKE).split(1), strict=True)  # a larger batch rounds otherwise
        expected = torch.cat([package(real, fake) for real, fake in pairs]).double().mean().item()
    assert expected > 1e-3
    made = metric(weights=str(squeezenet))
    assert value(made) == pytest.approx(expected, rel=1e-6)
    protocol = made.protocol()
    assert json.loads(json.dumps(protocol, allow_nan=False)) == protocol
    assert protocol["weights"] == f"sha256:{protocol['sha256']}" == Lpips.external(made.config)
    assert (protocol["net"], protocol["n"], protocol["version"]) == ("squeeze", 9, "0.1")
    assert protocol["implementation"] == "gaekit lpips 2, lpips 0.1.4"


def test_equal_images_are_at_zero_and_worse_ones_farther() -> None:
    assert value(metric(), REAL, REAL) == 0
    assert 0 < value(metric(), REAL, REAL // 16 * 16) < value(metric(), REAL, REAL // 128 * 128)


@pytest.mark.parametrize("cut", [1, 4])
def test_no_cut_into_batches_changes_the_value(cut: int) -> None:
    assert value(metric(), cut=cut) == pytest.approx(value(metric()), rel=1e-5)


@pytest.mark.parametrize("net", ["alex", "squeeze"])
def test_the_smallest_images_are_measured_and_smaller_ones_refused(net: Any) -> None:
    side = SMALLEST[net]
    made = metric(side, net=net)
    assert value(made, REAL[..., :side, :side], FAKE[..., :side, :side]) > 0
    with pytest.raises(GaekitError, match=rf"net: {net} needs {side} px and image\.size is {side - 1}"):
        metric(side - 1, net=net)


def test_random_weights_are_warned_of_recorded_and_leave_torchs_generator(caplog: pytest.LogCaptureFixture) -> None:
    before = torch.random.get_rng_state()
    made = metric(seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert "random weights (seed 3)" in caplog.text
    assert made.protocol()["weights"] == "random:3"
    assert made.protocol()["sha256"] is None
    assert value(made) == value(metric(seed=3)) != value(metric(seed=4))


def test_absent_weights_are_an_error_that_names_the_file_and_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for net, asset in ASSETS.items():
        with pytest.raises(GaekitError, match=f"(?s){asset.file} is not in.*forbids downloads.*{asset.url}") as caught:
            metric(net=net, weights="hub")
        assert caught.value.exit_code == 2
    with pytest.raises(GaekitError, match="no file /nowhere"):
        metric(weights="/nowhere")


def test_the_published_files_are_those_that_torchvision_names() -> None:
    from torchvision import models

    published = (models.AlexNet_Weights, models.VGG16_Weights, models.SqueezeNet1_1_Weights)
    assert [asset.url for asset in ASSETS.values()] == [weights.IMAGENET1K_V1.url for weights in published]


def test_weights_of_another_network_are_refused(squeezenet: Path) -> None:
    with pytest.raises(GaekitError, match=r"do not fit alexnet: 8 missing: slice2\.3\.weight"):
        metric(net="alex", weights=str(squeezenet))


def test_lpips_keeps_the_promises_of_a_metric() -> None:
    check_component(Lpips, net="squeeze", weights="random")
    with pytest.raises(GaekitError, match="no pairs of images"):
        metric().compute()
