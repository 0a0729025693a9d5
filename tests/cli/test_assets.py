"""`gaekit assets` lists, fetches and mends; `gaekit run --offline` ends before anything is built."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from file_server import empty_caches, serving

from gaekit.cli import main

TEACHER = ("--set", "teacher={use: timm, model: test_vit}")
FILE = "timm/test_vit.r160_in1k/resolve/main/model.safetensors"


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty caches in an empty folder, nothing forbidden."""
    monkeypatch.chdir(tmp_path)
    empty_caches(tmp_path, monkeypatch)


def test_a_recipe_that_needs_nothing_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["assets", "quickstart"]) == 0
    assert capsys.readouterr().out == "this recipe needs no file from outside\n"
    assert main(["assets", "quickstart", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_assets_are_listed_fetched_and_damaged_ones_fetched_anew(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["assets", "smoke", *TEACHER]) == 2
    listed = capsys.readouterr()
    assert "absent        teacher 'timm'  the published weights of the timm model test_vit" in listed.out
    assert "error: a file that this recipe needs is not here" in listed.err
    content = b"weights" * 100
    with serving(**{FILE: content}) as hub:
        monkeypatch.setenv("GAEKIT_MIRROR", f"https://huggingface.co={hub.url}")
        assert main(["assets", "smoke", *TEACHER, "--fetch"]) == 0
        listed = capsys.readouterr()
        assert "present  700 B  teacher 'timm'" in listed.out
        assert listed.err.startswith("fetching the published weights of the timm model test_vit: hf.co/timm/test_vit")
        assert main(["assets", "smoke", *TEACHER, "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        path = Path(row["path"])
        assert path.read_bytes() == content
        assert row == {
            "state": "present", "bytes": 700, "for": ["teacher 'timm'"], "stages": ["semantic", "autoencoder"],
            "what": "the published weights of the timm model test_vit", "path": str(path),
            "source": "hf.co/timm/test_vit.r160_in1k/model.safetensors", "sha256": hashlib.sha256(content).hexdigest(),
        }  # fmt: skip
        path.resolve().write_bytes(content[:10])
        assert main(["assets", "smoke", *TEACHER]) == 2
        assert "damaged  10 B" in capsys.readouterr().out
        assert main(["assets", "smoke", *TEACHER, "--fetch"]) == 0
        assert path.read_bytes() == content


def test_what_cannot_be_fetched_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as hub:
        monkeypatch.setenv("GAEKIT_MIRROR", f"https://huggingface.co={hub.url}")
        assert main(["assets", "smoke", *TEACHER, "--fetch"]) == 2
    assert "teacher 'timm' needs the published weights of the timm model test_vit" in capsys.readouterr().err


def test_a_run_offline_ends_before_it_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = ("--set", "evaluate.metrics=[{use: adm, reference: nowhere.npz}]")
    fitting = ("--set", "aligner.head_dim=16")  # which divides this teacher's 64 channels
    assert main(["run", "smoke", *TEACHER, *fitting, *reference, "--offline"]) == 2
    told = capsys.readouterr().err
    assert "3 files that this recipe needs are not here" in told
    assert "nowhere.npz: no reference of real images there" in told
    assert "gaekit assets RECIPE --fetch" in told
    assert "Traceback" not in told
    assert not (tmp_path / "runs").exists()
