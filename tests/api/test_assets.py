"""Assets know where they are kept and whether they are whole; and what is fetched is what is built."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from file_server import FileServer, empty_caches, serving
from huggingface_hub import constants
from safetensors.torch import save

from gaekit.api import Download, HubFile, LocalFile
from gaekit.api.assets import go_offline, is_offline
from gaekit.errors import GaekitError
from gaekit_teachers import clip, timm_models
from gaekit_teachers.clip import Clip, ClipConfig
from gaekit_teachers.timm_models import Timm, TimmConfig

OWNER = "teacher 'x'"


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, and a network that nothing forbids."""
    empty_caches(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server in the place of the Hugging Face hub."""
    with serving() as server:
        monkeypatch.setenv("GAEKIT_MIRROR", f"https://huggingface.co={server.url}")
        yield server


def test_the_hash_that_ends_a_name_is_the_one_expected() -> None:
    base = "https://download.pytorch.org/models"
    assert Download("", f"{base}/alexnet-owt-7be5be79.pth").sha256_starts == "7be5be79"
    assert Download("", f"{base}/weights-2015-12-05-6726825d.pth?x=1").sha256_starts == "6726825d"
    assert Download("", f"{base}/resnet50_v2.pth").sha256_starts == ""
    assert Download("", f"{base}/a-7be5be79.pth", "ff").sha256_starts == "ff"


def test_a_download_is_absent_then_present_then_damaged(caches: Path) -> None:
    digest = hashlib.sha256(b"weights").hexdigest()
    with serving(w=b"weights") as server:
        asset = Download("some weights", f"{server.url}/w", digest)
        assert (asset.check(), asset.identity) == ("absent", f"hub:{server.url}/w")
        assert asset.fetch(OWNER) == caches / "torch/hub/checkpoints/w" == asset.find()
        assert (asset.check(), asset.identity) == ("present", f"hub:{server.url}/w")
        asset.place.write_bytes(b"weight")
        assert asset.check() == "damaged"
        with pytest.raises(GaekitError, match=f"teacher 'x': .*/w is damaged: .* should with {digest}; delete it"):
            asset.fetch(OWNER)
        asset.discard()
        assert asset.check() == "absent"
        assert asset.fetch(OWNER).read_bytes() == b"weights"


def test_what_cannot_be_fetched_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        asset = Download("some weights", f"{server.url}/w")
        with pytest.raises(GaekitError, match=r"teacher 'x' needs some weights: w is not in .*failed .*404.*--fetch"):
            asset.fetch(OWNER)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(GaekitError, match="HF_HUB_OFFLINE forbids downloads"):
            asset.fetch(OWNER)
        assert len(server.gets) == 1


def test_going_offline_reaches_the_hubs_client_too() -> None:
    assert not is_offline()
    go_offline()
    assert is_offline()
    assert constants.HF_HUB_OFFLINE
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_file_of_the_recipe_is_there_or_named(tmp_path: Path) -> None:
    asset = LocalFile("reference", str(tmp_path / "a.npz"), "give another")
    assert asset.check() == "absent"
    with pytest.raises(GaekitError, match=r"teacher 'x': no file .*a\.npz; give another"):
        asset.fetch(OWNER)
    (tmp_path / "a.npz").mkdir()
    assert asset.check() == "absent"
    assert LocalFile("reference", asset.path, folders=True).check() == "present"
    (tmp_path / "a.npz").rmdir()
    (tmp_path / "a.npz").write_bytes(b"a")
    assert asset.check() == "present"
    assert asset.identity == f"sha256:{hashlib.sha256(b'a').hexdigest()}"


def test_a_hub_file_comes_by_the_hubs_client_and_is_checked_by_its_own_records(hub: FileServer) -> None:
    hub.files["/someone/model/resolve/main/model.safetensors"] = b"weights" * 1000
    asset = HubFile("a model", "someone/model", ("model.safetensors", "pytorch_model.bin"))
    assert asset.check() == "absent"
    path = asset.fetch(OWNER)
    assert path.read_bytes() == b"weights" * 1000
    assert asset.sha256_starts == hashlib.sha256(b"weights" * 1000).hexdigest()
    assert asset.check() == "present"
    seen = len(hub.requests)
    assert asset.fetch(OWNER) == path
    assert len(hub.requests) == seen
    path.resolve().write_bytes(b"weights" * 900)
    assert asset.check() == "damaged"
    with pytest.raises(
        GaekitError, match=rf"{OWNER}: .*model\.safetensors is damaged: its sha256 should be [0-9a-f]{{64}}"
    ):
        asset.fetch(OWNER)
    asset.discard()
    assert asset.check() == "absent"
    assert asset.fetch(OWNER).read_bytes() == b"weights" * 1000


def test_a_hub_file_has_the_first_of_its_names_that_is_published(
    hub: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files["/someone/model/resolve/v1/pytorch_model.bin"] = b"weights"
    asset = HubFile("a model", "someone/model", ("model.safetensors", "pytorch_model.bin"), "v1")
    assert asset.fetch(OWNER).name == "pytorch_model.bin"
    other = HubFile("a model", "someone/model", ("nothing",), "v1")
    with pytest.raises(GaekitError, match="the repository someone/model has no nothing"):
        other.fetch(OWNER)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(GaekitError, match=r"a model: nothing is not in .*models--someone--model, and HF_HUB_OFFLINE"):
        other.fetch(OWNER)


def test_names_on_the_hub_are_those_that_timm_and_open_clip_look_for() -> None:
    from open_clip import pretrained
    from timm.models import _hub

    for file in ("pytorch_model.bin", "open_clip_pytorch_model.bin", "other.bin", "model.safetensors", "x.pth"):
        assert timm_models.hub_names(file) == (*_hub._get_safe_alternatives(file), file)
        assert clip.hub_names(file) == (*pretrained._get_safe_alternatives(file), file)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_what_is_fetched_for_timm_is_what_it_builds_offline(
    hub: FileServer, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(1)
    state = timm.create_model("test_vit", pretrained=False).state_dict()
    torch.save(state, tmp_path / "state.bin")
    content = save(state) if name.endswith("safetensors") else (tmp_path / "state.bin").read_bytes()
    hub.files[f"/timm/test_vit.r160_in1k/resolve/main/{name}"] = content
    config = TimmConfig(use="timm", model="test_vit")
    for asset in Timm.assets(config):
        asset.fetch(OWNER)
    go_offline()
    hub.files.clear()
    seen = len(hub.requests)
    built = Timm(config, grid=10)
    assert len(hub.requests) == seen
    save_path = tmp_path / "whole.safetensors"
    save_path.write_bytes(save(state))
    by_path = Timm(TimmConfig(use="timm", model="test_vit", weights=str(save_path)), grid=10)
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(built(image), by_path(image))
    assert not caplog.records
    assert Timm.external(config) == "hub:timm/test_vit.r160_in1k"


def test_what_is_fetched_for_open_clip_is_what_it_builds_offline(
    hub: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from open_clip import factory, pretrained

    vision = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    model = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}
    monkeypatch.setitem(factory._MODEL_CONFIGS, "tiny-vit", model)
    published: dict[str, Any] = {"hf_hub": "someone/tiny/", "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny-vit", {"mine": published})
    torch.manual_seed(1)
    state = open_clip.create_model("tiny-vit", load_weights=False).state_dict()
    hub.files["/someone/tiny/resolve/main/open_clip_model.safetensors"] = save(state)
    config = ClipConfig(use="clip", model="tiny-vit", tag="mine")
    for asset in Clip.assets(config):
        asset.fetch(OWNER)
    go_offline()
    built = Clip(config, grid=4)
    torch.testing.assert_close(built.scale.flatten(), torch.full((3,), 2.0))  # of the tag's own mean and std
    torch.save(state, tmp_path / "whole.pt")
    by_path = Clip(ClipConfig(use="clip", model="tiny-vit", weights=str(tmp_path / "whole.pt")), grid=4)
    loaded = built.network.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in by_path.network.state_dict().items())
    assert Clip.external(config) == "hub:someone/tiny/"


def test_weights_of_open_clip_by_url_are_kept_where_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    from open_clip import pretrained

    digest = 64 * "a"
    url = f"https://openaipublic.azureedge.net/clip/models/{digest}/RN50.pt"
    monkeypatch.setitem(pretrained._PRETRAINED, "RN50", {"old": {"url": url}})
    (asset,) = Clip.assets(ClipConfig(use="clip", model="RN50", tag="old"))
    assert asset.place == Path(os.path.expanduser("~/.cache/clip")) / "RN50.pt"
    assert asset.sha256_starts == digest
    assert asset.identity == f"hub:{url}"


def test_random_weights_need_nothing_and_paths_are_their_own() -> None:
    assert Timm.assets(TimmConfig(use="timm", model="test_vit", weights="random")) == ()
    (asset,) = Timm.assets(TimmConfig(use="timm", model="test_vit", weights="mine.pth"))
    assert asset.place == Path("mine.pth")
