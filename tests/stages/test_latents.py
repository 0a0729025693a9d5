"""The latents stage, by the command line: each image decoded once, rebuilt shard by shard, online as from the cache."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from recipe_helpers import tiny_recipe
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gaekit.cli import main
from gaekit.data.latents import LatentCache
from gaekit.stages import features, latents

IMAGES = 21
RECIPE = tiny_recipe("""
dataset: {use: image_folder, root: images, validation: held}
autoencoder: {train: {batch: 4}}
latents: {batch: 4}
diffusion: {train: {batch: 6}}
runtime: {log_every: 1, cache_gb: 0, threads: 1}
""")
ROW = 2 * 4 * 16 * 4
"""Bytes of an image's two latents."""


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((20, 18), Image.Resampling.BICUBIC).save(path, quality=90)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of JPEGs in two classes, and a run up to the autoencoder."""
    root = tmp_path_factory.mktemp("latents")
    for index in range(IMAGES):
        write_image(root / "images" / ("cat", "dog")[index % 2] / f"{index:02d}.jpg", index)
    for index, name in enumerate(("cat", "dog")):
        write_image(root / "held" / name / "0.jpg", 100 + index)
    (root / "tiny.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["run", "tiny.yaml", "--until", "autoencoder"]) == 0
    return root


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in; shards hold eight images."""
    shutil.copytree(trained, tmp_path / "work", symlinks=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(latents, "SHARD_BYTES", 8 * ROW)
    return tmp_path / "work"


def losses(run: str) -> list[float]:
    events = EventAccumulator(f"runs/{run}/tb/diffusion")
    events.Reload()
    (tag,) = [tag for tag in events.Tags()["scalars"] if tag.startswith("loss/")]
    return [point.value for point in events.Scalars(tag)]


def content(run: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path("runs", run, "latents", "latents").iterdir()}


def test_extraction_decodes_every_jpeg_once_for_both_mirrors(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, decoder = [], Image._getdecoder

    def counting(mode: str, name: str, *rest: object) -> object:
        decoded.append(name)
        return decoder(mode, name, *rest)

    monkeypatch.setattr(Image, "_getdecoder", counting)
    assert main(["run", "tiny.yaml", "--until", "latents"]) == 0
    assert decoded == ["jpeg"] * IMAGES
    cache = LatentCache(Path("runs/tiny/latents/latents"))
    assert len(cache) == IMAGES
    assert cache.has_mirror
    assert [shard["rows"] for shard in cache.facts["shards"]] == [8, 8, 5]
    assert cache.facts["classes"] == ["cat", "dog"]


def test_the_statistics_are_those_of_all_the_latents(here: Path) -> None:
    assert main(["run", "tiny.yaml", "--until", "latents"]) == 0
    cache = LatentCache(Path("runs/tiny/latents/latents"))
    shards = [load_file(cache.folder / shard["file"]) for shard in cache.facts["shards"]]
    every = torch.cat([shard[name] for shard in shards for name in ("latents", "latents_flip")]).double()
    torch.testing.assert_close(cache.statistics.mean_D.double(), every.mean((0, 2, 3)), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(cache.statistics.std_D.double(), every.std((0, 2, 3), correction=0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("settings", [(), ("latents.store=moments", "latents.normalize=scalar", "latents.scale=0.5")])
def test_online_has_the_losses_of_the_cache_and_keeps_no_latents(here: Path, settings: tuple[str, ...]) -> None:
    options = [option for setting in settings for option in ("--set", setting)]
    if settings:
        options += ["--set", "autoencoder.regularizer={use: kl}"]
    assert main(["run", "tiny.yaml", "--name", "cached", *options]) == 0
    assert main(["run", "tiny.yaml", "--name", "online", "--set", "latents.online=true", *options]) == 0
    assert losses("online") == pytest.approx(losses("cached"), abs=1e-5)
    assert len(losses("online")) == 4
    assert list(content("online")) == ["manifest.json"]
    kept, measured = (json.loads(content(run)["manifest.json"]) for run in ("cached", "online"))
    for name in ("mean", "std"):
        assert measured["statistics"][name] == pytest.approx(kept["statistics"][name], rel=1e-6)


def test_online_statistics_may_be_of_fewer_images_spread_over_all(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    encoded = latents._encoded
    monkeypatch.setattr(
        latents, "_encoded", lambda *given: (seen.extend(given[-1].index_B.tolist()), encoded(*given))[1]
    )
    few = ["run", "tiny.yaml", "--until", "latents", "--set", "latents.images=7"]
    assert main(few) == 2
    assert "latents.images: goes with `online: true`" in capsys.readouterr().err
    assert main([*few, "--set", "latents.online=true"]) == 0
    assert seen == [0, 3, 6, 9, 12, 15, 18]


def damage_is_mended(capsys: pytest.CaptureFixture[str], harm: Callable[[Path], object]) -> None:
    whole = content("tiny")
    folder = Path("runs/tiny/latents/latents").resolve()
    assert main(["latents", "verify", "runs/tiny"]) == 0
    assert capsys.readouterr().out == f"intact: {folder}, {IMAGES} images in 3 shards\n"
    harm(folder / "00001.safetensors")
    times = {name: (folder / name).stat().st_mtime_ns for name in ("00000.safetensors", "00002.safetensors")}
    assert main(["latents", "verify", "runs/tiny"]) == 2
    told = capsys.readouterr()
    assert told.out.startswith(f"damaged: {folder}/00001.safetensors: ")
    assert "gaekit latents mend runs/tiny" in told.err
    assert main(["latents", "verify", "runs/tiny", "--json"]) == 2
    assert [d["file"] for d in json.loads(capsys.readouterr().out)["damaged"]] == ["00001.safetensors"]
    assert main(["latents", "mend", "runs/tiny"]) == 0
    assert main(["run", "tiny.yaml", "--until", "latents"]) == 0
    assert "latents: resuming" in capsys.readouterr().err
    assert content("tiny") == whole
    assert {name: (folder / name).stat().st_mtime_ns for name in times} == times


def test_a_damaged_shard_is_named_taken_out_and_written_again_alone(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "tiny.yaml", "--until", "latents"]) == 0
    capsys.readouterr()
    damage_is_mended(capsys, lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"))
    capsys.readouterr()
    damage_is_mended(capsys, Path.unlink)


def test_a_training_refuses_a_cache_that_was_cut_and_says_what_mends_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "tiny.yaml", "--until", "latents"]) == 0
    folder = Path("runs/tiny/latents/latents").resolve()
    (folder / "00002.safetensors").write_bytes((folder / "00002.safetensors").read_bytes()[:-9])
    assert main(["run", "tiny.yaml"]) == 2
    told = capsys.readouterr().err
    assert "00002.safetensors: this shard is cut off; `gaekit latents mend " in told


def test_a_bad_image_is_left_out_and_recorded_also_by_the_run_that_goes_on(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = here / "images" / "cat" / "04.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    options = ["--set", "dataset.on_bad_image=skip", "--until", "latents"]
    assert main(["run", "tiny.yaml", *options]) == 0
    whole = content("tiny")
    facts = json.loads(whole["manifest.json"])
    assert facts["rows"] == IMAGES - 1
    (reason,) = facts["skipped"].values()
    assert "04.jpg" in reason
    room = Path("runs/tiny/latents").resolve()
    (room / "DONE").unlink()
    (room / "latents" / "00001.safetensors").unlink()  # the shard of another span than the bad image's
    assert main(["run", "tiny.yaml", *options]) == 0
    assert content("tiny") == whole
    assert json.loads((room / "DONE").read_text())["skipped_images"] == facts["skipped"]


def test_another_image_or_another_class_is_another_cache(here: Path) -> None:
    rooms = set()
    for change in (lambda: None, lambda: write_image(here / "images/cat/00.jpg", 99),
                   lambda: write_image(here / "images/owl/00.jpg", 98)):  # fmt: skip
        change()
        assert main(["run", "tiny.yaml", "--until", "latents"]) == 0
        rooms.add(Path("runs/tiny/latents").resolve())
    assert len(rooms) == 3


def test_a_cache_of_another_autoencoder_or_of_other_data_is_not_taken(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    take = ["--set", "latents={from: runs/tiny}"]
    assert main(["run", "tiny.yaml", "--until", "latents"]) == 0
    assert main(["run", "tiny.yaml", "--name", "same", *take]) == 0
    assert main(["plan", "tiny.yaml", "--set", "seed=1", *take]) == 2
    assert "this recipe has another: it is yet to be trained" in capsys.readouterr().err
    assert main(["run", "tiny.yaml", "--name", "other", "--set", "seed=1", "--until", "autoencoder"]) == 0
    for changed in (["--set", "seed=1"], ["--set", "autoencoder={from: runs/other}"]):
        capsys.readouterr()
        assert main(["run", "tiny.yaml", "--name", "mixed", *changed, *take]) == 2
        told = capsys.readouterr().err
        assert "was made by autoencoder " in told
        assert "and this recipe has another: it is " in told
        assert "write `latents: {}` in place of `from`" in told
    write_image(here / "images/cat/00.jpg", 99)
    evaluated = ["--set", "autoencoder={from: runs/tiny}", "--set", "evaluate={metrics: [{use: psnr}]}"]
    assert main(["run", "tiny.yaml", "--name", "later", *evaluated, *take]) == 2
    told = capsys.readouterr().err
    assert "was made of data set " in told
    assert "images or classes differ" in told


def test_a_cache_that_does_not_say_what_made_it_is_taken_with_a_line_about_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "tiny.yaml", "--until", "latents"]) == 0
    shutil.copytree("runs/tiny/latents/latents", "imported")
    facts = json.loads(Path("imported/manifest.json").read_text())
    del facts["autoencoder"], facts["dataset"]
    Path("imported/manifest.json").write_text(json.dumps(facts))
    capsys.readouterr()
    assert main(["run", "tiny.yaml", "--name", "taken", "--set", "latents={from: imported}"]) == 0
    assert "imported: does not say which autoencoder made it" in capsys.readouterr().err
    Path("imported/manifest.json").write_text(json.dumps({**facts, "online": True}))
    assert main(["run", "tiny.yaml", "--name", "taken", "--set", "latents={from: imported}"]) == 2
    assert "holds statistics alone" in capsys.readouterr().err


def test_features_that_were_cut_are_written_again_shard_by_shard(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CHUNK", 4)
    monkeypatch.setattr(features, "SHARD_BYTES", 1)  # a chunk a shard
    settings = ("teacher={use: efficientnet_lite0, layer: stage3}", "aligner={use: latent, head_dim: 20}",
                "semantic={train: {steps: 2, batch: 4}}", "runtime.cache_gb=0.1")  # fmt: skip
    aligned = [option for setting in settings for option in ("--set", setting)]
    aligned += ["--until", "semantic"]
    assert main(["run", "tiny.yaml", *aligned]) == 0
    (room,) = Path("runs/store/features").iterdir()
    whole = {path.name: path.read_bytes() for path in (room / "shards").iterdir()}
    assert len(whole) == 7
    (room / "shards" / "00003.safetensors").unlink()
    assert main(["latents", "mend", str(room / "shards")]) == 0
    assert main(["run", "tiny.yaml", *aligned, "--redo", "semantic"]) == 0
    assert {path.name: path.read_bytes() for path in (room / "shards").iterdir()} == whole


SMALL_SHARDS = """
import sys
from gaekit.cli import main
from gaekit.stages import latents
latents.SHARD_BYTES = int(sys.argv[1])
sys.exit(main(["run", "tiny.yaml", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("settings", [(), pytest.param(("--set", "latents.online=true"), marks=pytest.mark.slow)])
def test_two_processes_leave_the_bytes_of_one(here: Path, settings: tuple[str, ...]) -> None:
    assert main(["run", "tiny.yaml", "--until", "latents", *settings]) == 0
    Path("program.py").write_text(SMALL_SHARDS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "program.py"]
    took = ["--set", "autoencoder={from: runs/tiny}", "--name", "two", "--until", "latents", *settings]
    done = subprocess.run([*launcher, str(8 * ROW), *took], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert content("two") == content("tiny")
    assert len(content("two")) == (1 if settings else 4)
