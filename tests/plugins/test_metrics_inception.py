"""torch-fidelity's Inception network as the scores use it, and where its weights come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from inception_helpers import crops, make
from safetensors.torch import save_file
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from gaekit.api import GaekitError, assets
from gaekit.api.assets import sha256_of
from gaekit_metrics.fid import Fid
from gaekit_metrics.inception import ASSET, SPATIAL, WIDTH, Inception

OWNER = "metric 'fid'"


@pytest.fixture(scope="module")
def network() -> Inception:
    return Inception("random", 0, OWNER, spatial=True)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache: the folder of its files."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path / "hub" / "checkpoints"


def state(network: Inception) -> dict[str, torch.Tensor]:
    return network._network.state_dict()


@pytest.mark.parametrize("side", [32, 64])
def test_images_of_any_size_have_features_that_tell_them_apart(network: Inception, side: int) -> None:
    features = network(crops("china").repeat_interleave(side // 32, 2).repeat_interleave(side // 32, 3)[:2])
    assert (features.feature_BF.shape, features.logit_BK.shape) == ((2, WIDTH), (2, 1008))
    assert features.feature_BF.dtype == torch.float32
    assert bool((features.feature_BF >= 0).all())
    difference = (features.feature_BF[0] - features.feature_BF[1]).norm()
    assert difference > 1e-2 * features.feature_BF[0].norm()  # even untrained: initialised so that nothing vanishes


def test_spatial_features_are_the_first_branch_of_mixed_6_channels_last_as_in_adms_evaluator(
    network: Inception,
) -> None:
    seen: list[torch.Tensor] = []
    block = network._network.get_submodule("Mixed_6d")
    with block.register_forward_hook(lambda _, __, out: seen.append(out)):  # the branch comes first among its channels
        found = network(crops("flower")[:1]).spatial_BS
    assert found.shape == (1, SPATIAL)
    assert torch.equal(found.view(1, 17, 17, 7).movedim(3, 1), seen[0][:1, :7])
    assert float(found.std()) > 0


def test_weights_by_path_give_torch_fidelitys_own_features(network: Inception, tmp_path: Path) -> None:
    path = tmp_path / "inception.pth"
    torch.save(state(network), path)
    theirs = FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path))
    ours = Inception(str(path), 0, OWNER)
    image = crops("flower")[:1]
    feature, logit = theirs(image)
    found = ours(image)
    assert torch.equal(found.feature_BF, feature)
    torch.testing.assert_close(found.logit_BK, logit)  # a product of one row rounds in its own way
    facts = ours.protocol()
    assert facts["weights"] == f"sha256:{sha256_of(path)}" == f"sha256:{facts['sha256']}"
    assert facts["network"].startswith("InceptionV3 of torch-fidelity ")


def test_random_weights_are_warned_of_recorded_and_leave_torchs_generator(caplog: pytest.LogCaptureFixture) -> None:
    before = torch.random.get_rng_state()
    made = Inception("random", 7, OWNER)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert "metric 'fid' has random weights (seed 7)" in caplog.text
    assert (made.protocol()["weights"], made.protocol()["sha256"]) == ("random:7", None)


def test_the_published_file_is_torch_fidelitys() -> None:
    assert ASSET.url == URL_INCEPTION_V3
    assert ASSET.sha256_starts == "6726825d"


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize("name", ["fid", "sfid", "inception_score", "precision", "recall", "adm", "rfid"])
def test_without_weights_every_metric_names_the_file_and_its_source(
    hub: Path, monkeypatch: pytest.MonkeyPatch, name: str, offline: bool
) -> None:
    def no_network(*_: Any) -> None:
        assert not offline
        raise GaekitError("no route")

    monkeypatch.setattr(assets, "download", no_network)
    if offline:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    why = "HF_HUB_OFFLINE forbids downloads" if offline else "no route"
    with pytest.raises(
        GaekitError, match=f"(?s)metric '{name}'.*{ASSET.file} is not in {hub}.*{why}.*{ASSET.url}"
    ) as e:
        built(name)
    assert e.value.exit_code == 2


def built(name: str) -> Any:
    cls = type(make(name))
    return cls(cls.Config(use=name), image_size=32, classes=())


def test_a_fetched_file_is_checked_against_the_hash_in_its_name(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, beginning = tmp_path / "mirror", ASSET.url.rpartition("/")[0]
    mirror.mkdir()
    (mirror / ASSET.file).write_bytes(b"half of it")
    monkeypatch.setenv("GAEKIT_MIRROR", f"{beginning}={mirror.as_uri()}")
    with pytest.raises(GaekitError, match="not the expected file: its sha256 should begin with 6726825d"):
        built("fid")
    assert not list(hub.iterdir())
    (hub / ASSET.file).write_bytes(b"half of it")
    with pytest.raises(GaekitError, match=f"{ASSET.file} is damaged: its sha256 begins with .*, should with 6726825d"):
        built("fid")


def test_files_that_are_no_weights_or_others_are_refused_and_run_no_code(network: Inception, tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"x": Code()}, tmp_path / "code.pth")
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    torch.save({"step": 3}, tmp_path / "numbers.pth")
    save_file({"fc.weight": torch.zeros(3, 3), "x": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name, message in {
        "code.pth": "cannot be read",
        "text.pth": "cannot be read",
        "text.safetensors": "not a safetensors file",
        "numbers.pth": "should hold named tensors",
        "other.safetensors": r"missing: Conv2d_1a_3x3.*1 unexpected: x; 1 of another shape: fc\.weight",
        "absent.pth": f"no file .*absent.pth; give a path to {ASSET.file}",
    }.items():
        with pytest.raises(GaekitError, match=message):
            Inception(str(tmp_path / name), 0, OWNER)
    assert not (tmp_path / "ran").exists()


def test_the_identity_of_the_weights_is_their_source_or_content(tmp_path: Path) -> None:
    def identity(weights: str) -> str:
        return Fid.external(Fid.Config(use="fid", weights=weights, seed=3))

    assert identity("hub") == f"weights hub:{ASSET.url}"
    assert identity("random") == "weights random:3"
    (tmp_path / "a.pth").write_bytes(b"a")
    assert identity(str(tmp_path / "a.pth")) == f"weights sha256:{sha256_of(tmp_path / 'a.pth')}"
