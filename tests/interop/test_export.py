"""Artifacts go back into the files that published code reads, and imported halves make one run."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from import_helpers import GOLDEN, registry, same, save, state_of, take
from safetensors.torch import load_file

from gaekit.cli import main
from gaekit.errors import ArtifactError
from gaekit.interop import exporting
from gaekit.interop.exporting import export_artifact
from gaekit.interop.formats import Options
from gaekit.interop.importing import import_file
from gaekit.pipeline.run import run_recipe
from gaekit.recipe import load_recipe
from gaekit.store.artifact import open_artifact
from gaekit.train.progress import Reporter

CONTAINER = {"gae": "state_dict", "ldm-vae": "state_dict", "gae-semantic": "model_state_dict"}
RECIPE = """
recipe: 1
name: published
image: {{size: 32, stride: 8}}
latent_dim: 8
dataset: {{use: digits}}
autoencoder: {{from: {folder}}}
{diffusion}
sample: {{sampler: {{use: euler, steps: 2}}, guidance: {{scale: 2.0}}, count: 4, batch: 4}}
"""
TRAINED = """
latents: {flip: true}
diffusion:
  denoiser: {use: lightning_dit, depth: 1, width: 16, heads: 2}
  times: {use: uniform}
  train: {steps: 2, batch: 4, ema: 0.5}
"""


@pytest.mark.parametrize("name", GOLDEN)
def test_imported_and_exported_is_what_was_published(name: str, tmp_path: Path) -> None:
    state = state_of(name)
    take(name, {"model": {f"module.{key}": value for key, value in state.items()}}, tmp_path)
    export_artifact(name, tmp_path / "taken", tmp_path / "back.pt", registry())
    content = torch.load(tmp_path / "back.pt", weights_only=True)
    for container in (CONTAINER[name],) if name in CONTAINER else ("model", "ema"):
        same(content[container], state)
    export_artifact(name, tmp_path / "taken", tmp_path / "back.safetensors", registry())
    same(load_file(tmp_path / "back.safetensors"), state)
    again = import_file(name, tmp_path / "back.safetensors", tmp_path / "again", Options(**GOLDEN[name][1]), registry())
    kind = {"semantic": "aligner", "diffusion": "denoiser"}.get(again.stage, again.stage)
    first = open_artifact(tmp_path / "taken" / again.artifact.name, kind)
    same(open_artifact(again.artifact, kind).tensors("weights"), first.tensors("weights"))


def test_a_table_without_a_row_of_no_class_goes_back_without(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join(f"c{index}" for index in range(11)))
    take("dit_dh", state_of("dit_dh"), tmp_path, classes=tmp_path / "names.txt")
    export_artifact("dit_dh", tmp_path / "taken", tmp_path / "back.safetensors", registry())
    same(load_file(tmp_path / "back.safetensors"), state_of("dit_dh"))


def test_a_decoder_with_convolutions_is_refused_as_a_published_one(tmp_path: Path) -> None:
    take("gae", state_of("gae"), tmp_path)
    (file,) = (tmp_path / "taken").glob("*.safetensors")
    artifact = open_artifact(file, "autoencoder")
    artifact.config["decoder"]["conv_width"] = 16
    with pytest.raises(ArtifactError, match="its decoder has conv_width 16; the format gae is for conv_width None"):
        exporting._check_parts(artifact, "gae", exporting._EXPECTED["gae"])


def test_an_artifact_of_other_parts_is_refused(tmp_path: Path) -> None:
    take("ldm-vae", {"state_dict": state_of("ldm-vae")}, tmp_path)
    with pytest.raises(ArtifactError, match=r"its encoder has use conv; the format gae is for use vit"):
        export_artifact("gae", tmp_path / "taken", tmp_path / "back.pt", registry())
    take("sit", state_of("sit"), tmp_path)
    with pytest.raises(ArtifactError, match=r"its denoiser has use sit; the format dit is for use dit"):
        export_artifact("dit", tmp_path / "taken", tmp_path / "back.pt", registry())
    with pytest.raises(ArtifactError, match=r"--out names a file that ends in \.pt"):
        export_artifact("sit", tmp_path / "taken", tmp_path / "back", registry())
    with pytest.raises(ArtifactError, match="--weights ema, but it holds model"):
        export_artifact("sit", tmp_path / "taken", tmp_path / "back.pt", registry(), weights="ema")


def test_a_tokenizer_and_a_denoiser_make_one_run(tmp_path: Path) -> None:
    """By the commands, as a person types them."""
    save(tmp_path / "tokenizer.pt", {"state_dict": state_of("gae")})
    save(tmp_path / "denoiser.pt", {"model": state_of("lightningdit"), "ema": state_of("lightningdit"), "opt": {}})
    save(tmp_path / "latents_stats.pt", {"mean": torch.zeros(1, 8, 1, 1), "std": torch.ones(1, 8, 1, 1)})
    (tmp_path / "run.yaml").write_text(RECIPE.format(folder="taken", diffusion="diffusion: {from: taken}"))
    with contextlib.chdir(tmp_path):
        assert main(["import", "gae", "tokenizer.pt", "--out", "taken", "--heads", "4"]) == 0
        stats = ["--stats", "latents_stats.pt"]
        assert main(["import", "lightningdit", "denoiser.pt", "--out", "taken", *stats]) == 0
        assert main(["run", "run.yaml"]) == 0
        assert main(["sample", "runs/published", "--out", "more.npz", "--count", "4"]) == 0
        assert main(["export", "lightningdit", "runs/published", "--out", "back.pt", "--stats", "back_stats.pt"]) == 0
    assert np.load(tmp_path / "more.npz")["arr_0"].shape == (4, 32, 32, 3)
    page = (tmp_path / "runs" / "published" / "report.html").read_text(encoding="utf-8")
    assert "The stage “diffusion” was taken from" in page
    assert page.count("<img ") > 20
    assert re.findall(r'class="absent">([^.]*)', page) == ["Left out", "Left out"]  # numbers and curves
    same(torch.load(tmp_path / "back.pt", weights_only=True)["ema"], state_of("lightningdit"))
    assert torch.load(tmp_path / "back_stats.pt", weights_only=True)["std"].shape == (1, 8, 1, 1)


def test_a_denoiser_is_trained_on_a_published_tokenizer_and_exported(tmp_path: Path) -> None:
    take("gae", {"state_dict": state_of("gae")}, tmp_path)
    (tmp_path / "run.yaml").write_text(RECIPE.format(folder=tmp_path / "taken", diffusion=TRAINED))
    recipe = load_recipe(tmp_path / "run.yaml", registry())
    run_recipe(recipe, registry(), out=tmp_path / "runs", until="diffusion", reporter=Reporter())
    run = tmp_path / "runs" / "published"
    export_artifact("lightningdit", run, tmp_path / "both.pt", registry())
    both = torch.load(tmp_path / "both.pt", weights_only=True)
    assert not torch.equal(both["model"]["final_layer.linear.bias"], both["ema"]["final_layer.linear.bias"])
    export_artifact("lightningdit", run, tmp_path / "plain.pt", registry(), weights="model")
    same(torch.load(tmp_path / "plain.pt", weights_only=True)["ema"], both["model"])
    export_artifact("gae-latents", run, tmp_path / "cache", registry())
    rows = load_file(next((tmp_path / "cache").glob("*.safetensors")))
    assert rows["latents"].shape[1:] == (8, 4, 4)


def test_an_import_that_does_not_fit_the_recipe_is_refused_before_the_run(tmp_path: Path) -> None:
    take("gae", {"state_dict": state_of("gae")}, tmp_path)
    take("sit", state_of("sit"), tmp_path)
    text = RECIPE.format(folder=tmp_path / "taken", diffusion=f"diffusion: {{from: {tmp_path / 'taken'}}}")
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ArtifactError, match=r"diffusion\.from: .*latent_dim is 8, and it is made for 4; image\.size"):
        run_recipe(load_recipe(tmp_path / "run.yaml", registry()), registry(), out=tmp_path / "runs")
    (tmp_path / "run.yaml").write_text(text.replace("size: 32", "size: 64"))
    with pytest.raises(ArtifactError, match=r"autoencoder\.from: .*image\.size is 64, and it is made for 32"):
        run_recipe(load_recipe(tmp_path / "run.yaml", registry()), registry(), out=tmp_path / "runs")
