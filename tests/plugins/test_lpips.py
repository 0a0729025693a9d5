"""LPIPS agrees with the package lpips, says where its weights are from, and gives gradients that can be followed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_cuda import fake_cuda
from safetensors.torch import save_file
from torch import Tensor
from torch._guards import detect_fake_mode

from gaekit.api import Perceptual, assets
from gaekit.errors import GaekitError
from gaekit.plugins import build, load_plugins
from gaekit.testing import check_component
from gaekit_perceptual import lpips
from gaekit_perceptual.lpips import NETS, Lpips, LpipsConfig

ALL = sorted(NETS)


def distance(net: str = "alex", image_size: int = 32, **settings: Any) -> Lpips:
    config = LpipsConfig(**{"use": "lpips", "net": net, "backbone": "random", **settings})
    return Lpips(config, image_size=image_size)


def images(side: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def classifier(net: str, ours: Lpips) -> dict[str, Tensor]:
    """A torchvision checkpoint of the whole classifier, whose convolutions are `ours`."""
    layers = ours.distance.network.layers
    head = {"classifier.1.weight": torch.zeros(1), "classifier.1.bias": torch.zeros(1)}
    return {f"features.{key}": value for key, value in layers.state_dict().items()} | head


@pytest.mark.parametrize("net", ALL)
def test_it_is_the_distance_of_the_package_lpips(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision
    from lpips import LPIPS

    model = NETS[net].model
    with torch.device("meta"):
        empty = getattr(torchvision.models, model)(weights=None)
    # Not initialised, which takes seconds: its weights are replaced by ours below.
    with monkeypatch.context() as patch:
        patch.setattr(torchvision.models, model, lambda pretrained: empty.to_empty(device="cpu"))
        theirs = LPIPS(net=net, pnet_rand=True, verbose=False)
    ours = distance(net)
    state = ours.distance.network.layers.state_dict()
    theirs.net.load_state_dict({key: state[key.partition(".")[2]] for key in theirs.net.state_dict()})
    for side in (32, 48):
        first, second = images(side).requires_grad_(), images(side, seed=1)
        expected = theirs(first, second).flatten()
        assert expected.min() > 0
        torch.testing.assert_close(ours(first, second), expected)
        wanted, got = (torch.autograd.grad(d.sum(), first)[0] for d in (expected, ours(first, second)))
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("net", ALL)
def test_it_keeps_the_promises_of_its_kind(net: str) -> None:
    check_component(Lpips, net=net, backbone="random")


@pytest.mark.parametrize("net", ALL)
def test_the_smallest_image_works_and_a_smaller_one_is_refused(net: str) -> None:
    side = NETS[net].smallest
    value = distance(net, side)(images(side), images(side, seed=1))
    assert value.shape == (3,)
    assert (value > 0).all()
    with pytest.raises(GaekitError, match=rf"{side - 1} px are too small for `net: {net}`: vgg from 16, alex from 31"):
        distance(net, side - 1)


def test_equal_images_are_at_zero_and_it_is_symmetric() -> None:
    ours = distance()
    assert torch.equal(ours(images(), images()), torch.zeros(3))
    assert torch.equal(ours(images(), images(seed=1)), ours(images(seed=1), images()))


def test_its_gradient_can_be_followed_where_nothing_is_active() -> None:
    ours = distance()
    with torch.no_grad():
        ours.distance.network.layers.get_parameter("0.bias").fill_(-1e3)
    first = images().requires_grad_()
    (gradient,) = torch.autograd.grad(ours(first, images(seed=1)).sum(), first)
    assert torch.isfinite(gradient).all()


def test_its_networks_are_neither_trained_nor_saved_and_still_move() -> None:
    ours = distance()
    network = ours.distance.network
    assert not list(ours.parameters())
    assert not ours.state_dict()
    ours.train()
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    ours.to(torch.float64)
    assert {t.dtype for t in (*network.parameters(), *network.buffers())} == {torch.float64}


def test_random_weights_are_announced_and_decided_by_their_seed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        first, again, other = (distance(seed=seed) for seed in (0, 0, 1))
    assert "alexnet has random weights (seed 0)" in caplog.text
    values = [d(images(), images(seed=1)) for d in (first, again, other)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_building_it_leaves_the_runs_generator_alone() -> None:
    before = torch.get_rng_state()
    distance()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["alexnet.pth", "alexnet.safetensors"])
def test_weights_come_from_a_file_of_torchvisions_classifier(name: str, tmp_path: Path) -> None:
    random, path = distance(seed=3), tmp_path / name
    state = classifier("alex", random)
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    loaded = distance(backbone=str(path))
    assert torch.equal(loaded(images(), images(seed=1)), random(images(), images(seed=1)))
    assert not any(p.requires_grad for p in loaded.distance.network.parameters())


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(classifier("squeeze", distance("squeeze")), path)
    with pytest.raises(GaekitError, match=r"weights\.pth: do not fit .* torchvision's alexnet .*: 8 missing"):
        distance(backbone=str(path))
    path.write_bytes(b"no tensors")
    with pytest.raises(GaekitError, match=r"weights\.pth: cannot be read"):
        distance(backbone=str(path))
    torch.save([1, 2], path)
    with pytest.raises(GaekitError, match="should hold named tensors"):
        distance(backbone=str(path))
    with pytest.raises(GaekitError, match=r"no file .*absent\.pth; give a path to alexnet-owt-7be5be79\.pth"):
        distance(backbone=str(tmp_path / "absent.pth"))


@pytest.fixture
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path / "hub" / "checkpoints"


def test_offline_the_absent_file_is_named(empty_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(GaekitError, match=r"vgg16-397923af\.pth is not in .*HF_HUB_OFFLINE forbids") as error:
        distance("vgg", backbone="hub")
    assert error.value.exit_code == 2


def test_a_failed_download_is_one_clear_error(empty_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise GaekitError("no route to host")

    monkeypatch.setattr(assets, "download", unreachable)
    with pytest.raises(GaekitError, match=r"alexnet-owt-7be5be79\.pth.*fetching it failed .*no route to host"):
        distance(backbone="hub")


def test_a_cached_file_is_checked_before_it_is_used(empty_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = distance(seed=3)
    empty_hub.mkdir(parents=True)
    path = empty_hub / NETS["alex"].file
    torch.save(classifier("alex", random), path)
    with pytest.raises(GaekitError, match=r"is damaged: its sha256 begins with .{8}, should with 7be5be79"):
        distance(backbone="hub")
    monkeypatch.setattr(assets, "sha256_of", lambda path: "7be5be79" + 56 * "0")
    assert torch.equal(distance(backbone="hub")(images(), images(seed=1)), random(images(), images(seed=1)))


def test_published_files_are_torchvisions() -> None:
    from torchvision.models import get_model_weights

    for published in NETS.values():
        assert get_model_weights(published.model).IMAGENET1K_V1.url == published.asset.url


def test_the_identity_tells_every_source_apart(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"1")
    sources: list[dict[str, Any]] = [
        {"backbone": "hub"}, {"backbone": "random"}, {"backbone": "random", "seed": 1}, {"backbone": str(path)},
        {"backbone": "hub", "net": "vgg"},
    ]  # fmt: skip
    configs = [LpipsConfig(**{"use": "lpips", "net": "alex", **source}) for source in sources]
    names = [Lpips.external(config) for config in configs]
    assert [name.partition(":")[0] for name in names] == ["hub", "random", "random", "sha256", "hub"]
    assert len(set(names)) == len(names)
    path.write_bytes(b"2")
    assert Lpips.external(configs[3]) != names[3]


def test_without_the_package_lpips_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lpips, "find_spec", lambda name: None)
    with pytest.raises(GaekitError, match=r"pip install 'gaekit\[metrics\]'"):
        distance()


def test_it_is_built_by_name() -> None:
    config = LpipsConfig(use="lpips", net="squeeze", backbone="random")
    assert isinstance(build(Perceptual, config, load_plugins(), image_size=32), Lpips)


@pytest.mark.parametrize("bf16", [False, True])
def test_runs_on_cuda_in_either_precision(bf16: bool) -> None:
    ours = distance()
    with fake_cuda(bf16) as watch:
        mode = detect_fake_mode()
        assert mode is not None
        ours._apply(lambda tensor: mode.from_tensor(tensor).to("cuda"))  # type: ignore[no-untyped-call]
        seen = watch(ours.distance.network.layers[0])
        value = ours(torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32))
    assert (value.device.type, value.dtype) == ("cuda", torch.float32)
    assert seen == [torch.bfloat16 if bf16 else torch.float32] * 2


def test_under_autocast_it_is_nearly_the_same() -> None:
    ours = distance()
    with torch.autocast("cpu", torch.bfloat16):
        narrow = ours(images(), images(seed=1))
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, ours(images(), images(seed=1)), rtol=0.02, atol=0)
