"""A run that somebody else made can be packed, read and listed, and nothing beyond it is written or copied."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaekit.cli import main
from gaekit.errors import ArtifactError, MachineFailed
from gaekit.pipeline import pack as packing
from gaekit.pipeline.pack import pack
from gaekit.pipeline.view import View
from gaekit.store.artifact import save_artifact

Entry = dict[str, Any]


def entry(artifact: str, room: str | None) -> Entry:
    return {"status": "done", "identity": "x", "artifact": artifact, "room": room, "subfolder": ""}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """runs/mine with an autoencoder and samples in rooms, as `gaekit run` leaves it."""
    runs = tmp_path / "runs"
    stages = {}
    for stage, name in (("autoencoder", "autoencoder.safetensors"), ("sample", "samples.npz")):
        room = runs / "store" / stage / "abc"
        (room / "trackers" / "tensorboard").mkdir(parents=True)
        for file in (name, "stage.json", "attempts.jsonl", "curves.jsonl", "trackers/tensorboard/0001.events"):
            (room / file).write_text(f"{stage} {file}")
        stages[stage] = entry(f"../store/{stage}/abc/{name}", f"store/{stage}/abc")
    view = View(runs / "mine")
    view.path.mkdir()
    view.write({"name": "mine", "stages": stages})
    (view.path / "recipe.yaml").write_text("recipe: 1\n")
    return view.path


def changed(run: Path, change: Callable[[dict[str, Any]], object]) -> View:
    record = json.loads((run / "run.json").read_text())
    change(record)
    (run / "run.json").write_text(json.dumps(record))
    return View(run)


def everything(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_text()
        for path in sorted(folder.rglob("*"))
        if not path.is_dir() or path.is_symlink()
    }


def test_what_is_packed_is_what_the_run_shows(run: Path, tmp_path: Path) -> None:
    copy = pack(View(run), tmp_path / "copy")
    found = everything(copy)
    assert {name for name in found if "autoencoder/" in name} == {
        "autoencoder/autoencoder.safetensors", "autoencoder/stage.json", "autoencoder/attempts.jsonl",
        "autoencoder/curves.jsonl", "tb/autoencoder/events.out.tfevents.0001",
    }  # fmt: skip
    assert found["samples.npz"] == found["sample/samples.npz"] == "sample samples.npz"
    assert View(copy).artifact("autoencoder") == copy / "autoencoder/autoencoder.safetensors"
    assert everything(pack(View(copy), tmp_path / "again")) == found


ABSOLUTE = "/tmp/gaekit-test-of-pack"
HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "a stage named upwards": lambda r: r["stages"].update({"../../escaped": r["stages"]["sample"]}),
    "a stage with an absolute name": lambda r: r["stages"].update({ABSOLUTE: r["stages"]["sample"]}),
    "a stage that there is not": lambda r: r["stages"].update(history=r["stages"]["sample"]),
    "an input named upwards": lambda r: r["stages"]["sample"].update(external={"../../escaped": "samples.npz"}),
    "an input with an absolute name": lambda r: r["stages"]["sample"].update(external={ABSOLUTE: "samples.npz"}),
    "an artifact above the runs": lambda r: r["stages"]["sample"].update(artifact="../../secret"),
    "an artifact anywhere": lambda r: r["stages"]["sample"].update(artifact=str(Path.home())),
    "a room above the runs": lambda r: r["stages"]["sample"].update(room="../secret"),
    "an absolute room": lambda r: r["stages"]["sample"].update(room="/etc"),
    "a subfolder upwards": lambda r: r["stages"]["sample"].update(subfolder="../../.."),
    "a cache above the runs": lambda r: r["stages"]["sample"].update(caches=["store/../../x"]),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_record_that_leads_elsewhere_writes_and_copies_nothing(
    run: Path, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").write_text("secret")
    view = changed(run, HOSTILE[what])
    before = everything(tmp_path)
    assert main(["pack", str(view.path), str(tmp_path / "deep" / "copy")]) == 2
    assert everything(tmp_path) == before
    assert not (tmp_path / "deep").exists()
    assert not Path(ABSOLUTE).exists()
    assert f"{run}" in capsys.readouterr().err


def test_no_link_out_of_the_run_is_copied(run: Path, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "id_rsa").write_text("secret")
    (tmp_path / "secrets" / "1.events").write_text("secret")
    room = run.parent / "store/sample/abc"
    events = room / "trackers" / "tensorboard" / "0002.events"
    for link, target in (
        (run / "notes.json", "../../secrets/id_rsa"),
        (room / "stage.json", tmp_path / "secrets" / "id_rsa"),
        (events, "/dev/zero"),
        (room / "trackers" / "tensorboard", tmp_path / "secrets"),
        (run / "recipe.yaml", tmp_path / "secrets" / "id_rsa"),
    ):
        kept = None if not link.exists() else link.rename(tmp_path / "kept")
        link.symlink_to(target)
        with pytest.raises(ArtifactError, match=rf"{link.name}.*is not followed|{link.name}.*and is not followed"):
            pack(View(run), tmp_path / "copy")
        link.unlink()
        if kept:
            kept.rename(link)
    os.mkfifo(run / "pipe.json")
    with pytest.raises(ArtifactError, match=r"pipe\.json.*is a pipe"):
        pack(View(run), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_store_that_is_a_link_is_not_part_of_the_run(run: Path, tmp_path: Path) -> None:
    store = run.parent / "store"
    store.rename(tmp_path / "elsewhere")
    store.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"leads out of .*mine"):
        pack(View(run), tmp_path / "copy")


def test_an_artifact_from_elsewhere_is_copied_where_the_user_says_so_and_it_is_one(run: Path, tmp_path: Path) -> None:
    vae = tmp_path / "imports" / "vae.safetensors"
    save_artifact(vae, "autoencoder", {}, {})
    (vae.parent / "id_rsa").write_text("secret")
    take = lambda path: lambda r: r["stages"].update(autoencoder=entry(str(path), None) | {"status": "from"})  # noqa: E731
    with pytest.raises(ArtifactError, match=r"vae\.safetensors' leads out of .*`--allow .*imports`"):
        pack(changed(run, take(vae)), tmp_path / "copy")
    copy = pack(View(run), tmp_path / "copy", [vae.parent])
    assert (copy / "autoencoder/vae.safetensors").read_bytes() == vae.read_bytes()
    with pytest.raises(ArtifactError, match="cannot be read as safetensors"):
        pack(changed(run, take(vae.parent / "id_rsa")), tmp_path / "other", [vae.parent])
    assert not (tmp_path / "other").exists()


def test_a_pack_that_fails_leaves_nothing_and_can_be_tried_again(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        target.write_text("half")
        raise OSError(28, "No space left on device", str(target))

    with monkeypatch.context() as patch:
        patch.setattr(packing.shutil, "copy2", full)
        with pytest.raises(MachineFailed, match="copy: the disk is full"):
            pack(View(run), tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    pack(View(run), tmp_path / "copy")
    with pytest.raises(ArtifactError, match="exists already"):
        pack(View(run), tmp_path / "copy")


DAMAGED = {
    "cut off": '{"stages": {', "a list": "[]", "null": "null", "no stages": "{}",
    "stages of text": '{"stages": "many"}',
    "a stage of text": '{"stages": {"sample": "done"}}', "a stage of nothing": '{"stages": {"sample": {}}}',
    "deep": "[" * 100_000, "no UTF-8": None, "a pipe": None,
    "a number as artifact": json.dumps({"stages": {"sample": entry("x", None) | {"artifact": 3}}}),
    "a null byte": json.dumps({"stages": {"autoencoder": entry("a\0b", None)}}),
}  # fmt: skip
COMMANDS = (
    ["sample", "RUN", "--out", "OUT/x.png"], ["reconstruct", "RUN", "RUN", "--out", "OUT/x"], ["likelihood", "RUN"],
    ["pack", "RUN", "OUT/x"], ["checkpoints", "ls", "RUN"], ["checkpoints", "verify", "RUN"],
    ["latents", "verify", "RUN"], ["latents", "mend", "RUN"], ["export", "gae", "RUN", "--out", "OUT/x.pt"],
)  # fmt: skip


@pytest.mark.parametrize("what", DAMAGED)
def test_every_command_on_a_damaged_record_says_so_and_ends_with_2(
    run: Path, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run / "run.json"
    file.unlink()
    if what == "a pipe":
        os.mkfifo(file)
    else:
        file.write_bytes(b"\xff\xfe{" if what == "no UTF-8" else (DAMAGED[what] or "").encode())
    for command in COMMANDS:
        arguments = [part.replace("RUN", str(run)).replace("OUT", str(tmp_path)) for part in command]
        assert main(arguments) == 2, command
        assert str(run) in capsys.readouterr().err
    assert not list(tmp_path.glob("x*"))
