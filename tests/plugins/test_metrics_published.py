"""References by name: fetched from where they are published, their hash recorded, refused in time."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from file_server import empty_caches, serving
from inception_helpers import Tiny, crops, measure

from gaekit.api import GaekitError
from gaekit.api.metrics.published import PUBLISHED
from gaekit.cli import main
from gaekit_metrics.fid import Fid

REAL, FAKE = crops("china"), crops("flower")
ASSET = PUBLISHED["adm_imagenet64"]
SETTING = {"use": "fid", "weights": "random", "reference": "adm_imagenet64"}


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty caches, nothing forbidden."""
    empty_caches(tmp_path, monkeypatch)


def published() -> bytes:
    """An .npz as ADM's, of 64 px."""
    file = io.BytesIO()
    np.savez(file, arr_0=REAL.permute(0, 2, 3, 1).repeat_interleave(2, 1).repeat_interleave(2, 2).numpy())
    return file.getvalue()


def make(size: int = 64) -> Fid:
    return Fid(Fid.Config(**SETTING), image_size=size, classes=(), extractor=Tiny())


def test_a_published_reference_is_fetched_once_by_its_name_and_held_to_its_first_hash(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, path = published(), ASSET.url.partition("windows.net/")[2]
    recipe = ("smoke", "--set", f"evaluate.metrics=[{json.dumps(SETTING)}]")
    with serving(**{path: content}) as server:
        monkeypatch.setenv("GAEKIT_MIRROR", f"https://openaipublic.blob.core.windows.net={server.url}")
        assert main(["assets", *recipe]) == 2
        assert "absent        metric 'fid'  ADM's reference adm_imagenet64" in capsys.readouterr().out
        assert main(["assets", *recipe, "--fetch"]) == 0
        made = make()
        assert len(server.gets) == 1
        digest = hashlib.sha256(content).hexdigest()
        assert ASSET.record.read_text().strip() == ASSET.sha256_starts == digest
        measure(made, FAKE.repeat_interleave(2, 2).repeat_interleave(2, 3))
        assert made.protocol()["reference"]["sha256"] == digest
        ASSET.place.write_bytes(content[:-1])
        assert ASSET.check() == "damaged"
        with pytest.raises(
            GaekitError, match=f"is damaged.*{digest}.*or, where another file is right, delete .*sha256"
        ):
            make()
        server.files[f"/{path}"] = content[:-2]
        assert main(["assets", *recipe, "--fetch"]) == 2
        assert f"should begin with {digest}" in capsys.readouterr().err


def test_its_identity_is_its_url_and_offline_it_is_named_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Fid.external(Fid.Config(**SETTING)) == f"weights random:2020; reference hub:{ASSET.url}"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(GaekitError, match=f"(?s)metric 'fid' needs ADM's reference adm_imagenet64: .*{ASSET.url}") as e:
        make()
    assert e.value.exit_code == 2


def test_one_of_another_size_is_refused_before_it_is_fetched() -> None:
    with pytest.raises(GaekitError, match=r"adm_imagenet64 shows images of 64 px.*image.size = 128.*adm_imagenet128"):
        make(128)
    with pytest.raises(GaekitError, match="there is no published one of this size"):
        make(32)
