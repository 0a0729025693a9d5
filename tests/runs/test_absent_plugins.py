"""A run needs the plugins of what is asked of it alone, and says who provided the one that lacks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import gaekit
from gaekit.cli import main
from gaekit.errors import ArtifactError, PluginError
from gaekit.recipe.fit import AbsentConfig

CODING = "autoencoders,regularizers"
SAMPLING = f"{CODING},denoisers,samplers"
HOME = f"gaekit {gaekit.__version__}: pip install 'gaekit=={gaekit.__version__}'"


def test_sampling_needs_neither_data_nor_metrics_nor_trackers(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gaekit.open(tiny_run).sample("3", 2)
    monkeypatch.setenv("GAEKIT_PLUGINS", SAMPLING)
    run = gaekit.open(tiny_run)
    assert torch.equal(run.sample("3", 2).tensors, whole.tensors)
    assert isinstance(run.recipe.dataset, AbsentConfig)
    with pytest.raises(PluginError) as error:
        _ = run.data.dataset
    assert str(error.value) == f"dataset 'digits' is not installed here; the run was made with that of {HOME}"


def test_reconstructing_needs_the_autoencoder_alone(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((16, 16, 3), dtype=np.uint8)
    whole = gaekit.open(tiny_run).reconstruct(image)
    monkeypatch.setenv("GAEKIT_PLUGINS", CODING)
    assert torch.equal(gaekit.open(tiny_run).reconstruct(image).tensors, whole.tensors)
    with pytest.raises(PluginError, match="sampler 'euler' is not installed here"):
        gaekit.open(tiny_run).sample()


def test_the_commands_need_no_more_and_name_who_provided_what_lacks(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = ["sample", str(tiny_run), "--count", "1", "--out", str(tmp_path / "x.png")]
    monkeypatch.setenv("GAEKIT_PLUGINS", SAMPLING)
    assert main(sample) == 0
    assert main(["likelihood", str(tiny_run)]) == 2
    assert f"error: dataset 'digits' is not installed here; the run was made with that of {HOME}" in (
        capsys.readouterr().err
    )
    monkeypatch.setenv("GAEKIT_PLUGINS", f"{SAMPLING},datasets")
    assert main(["likelihood", str(tiny_run), "--count", "2", "--tolerance", "0.1"]) == 0
    monkeypatch.setenv("GAEKIT_PLUGINS", f"{CODING},samplers")
    assert main(sample) == 2
    assert f"denoiser 'lightning_dit' is not installed here; the run was made with that of {HOME}" in (
        capsys.readouterr().err
    )


def test_the_recipe_keeps_what_it_cannot_type(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gaekit.recipe import dump

    whole = gaekit.open(tiny_run)
    monkeypatch.setenv("GAEKIT_PLUGINS", "samplers")
    bare = gaekit.open(tiny_run)
    assert dump(bare.recipe) == dump(whole.recipe) == whole.settings


def test_run_json_names_the_distribution_of_every_component(tiny_run: Path) -> None:
    found = gaekit.open(tiny_run).record["components"]
    own = {"distribution": "gaekit", "version": gaekit.__version__}
    kinds = {
        "dataset:digits",
        "encoder:vit",
        "denoiser:lightning_dit",
        "metric:psnr",
        "tracker:tensorboard",
        "aligner:none",
    }
    assert kinds <= set(found)
    assert all(home == own for home in found.values())


@pytest.mark.parametrize("word", ["x; rm -rf ~", "--index-url=http://x", "x\x1b[2J", ""])
def test_a_record_cannot_put_words_into_a_command(tiny_run: Path, tmp_path: Path, word: str) -> None:
    record = json.loads((tiny_run / "run.json").read_text())
    record["components"]["dataset:digits"]["distribution"] = word
    shutil.copy(tiny_run / "recipe.yaml", tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match=r"damaged: components\.dataset:digits\.distribution"):
        gaekit.open(tmp_path)
