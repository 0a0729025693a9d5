"""Before a run: what the stages that will run need is there, or fetched, or named all at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from file_server import empty_caches, serving
from huggingface_hub import constants

from gaekit.errors import ArtifactError
from gaekit.pipeline.assets import find_needs, prepare_assets
from gaekit.pipeline.plan import make_plan
from gaekit.plugins import Registry, load_plugins
from gaekit.recipe import load_recipe
from gaekit.recipe.schema import Autoencoder, Recipe
from gaekit.store.artifact import save_artifact
from gaekit.store.models import AutoencoderSpec
from gaekit_autoencoders.frozen_teacher import FrozenTeacherConfig
from gaekit_metrics.inception import ASSET
from gaekit_teachers.timm_models import TimmConfig

TEACHER = "teacher={use: timm, model: test_vit}"
FID = "evaluate.metrics=[{use: psnr}, {use: fid}]"


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_plugins()


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty caches, nothing forbidden."""
    empty_caches(tmp_path, monkeypatch)


def recipe(registry: Registry, *overrides: str) -> Recipe:
    return load_recipe("smoke", registry, overrides=overrides)


def owners(found: Recipe, registry: Registry) -> dict[str, set[str]]:
    """Who needs something, by stage."""
    stages: dict[str, set[str]] = {}
    for need in find_needs(found, registry):
        stages.setdefault(need.stage, set()).add(need.owner)
    return stages


def prepare(found: Recipe, registry: Registry, tmp_path: Path, **options: str | bool) -> list[str]:
    said: list[str] = []
    prepare_assets(found, registry, tmp_path / "store", said.append, **options)  # type: ignore[arg-type]
    return said


def test_a_recipe_of_packages_alone_needs_nothing(registry: Registry, tmp_path: Path) -> None:
    assert find_needs(load_recipe("quickstart", registry), registry) == []
    assert prepare(recipe(registry), registry, tmp_path, offline=True) == []


def test_every_component_tells_at_the_stages_that_build_it(registry: Registry) -> None:
    found = owners(recipe(registry, TEACHER, FID, "autoencoder.perceptual={use: lpips}"), registry)
    assert found == {
        "semantic": {"teacher 'timm'"},
        "autoencoder": {"teacher 'timm'", "perceptual 'lpips'"},
        "evaluate": {"metric 'fid'"},
    }
    assert "semantic" not in owners(recipe(registry, TEACHER, "aligner={use: none}"), registry)


def test_components_in_slots_tell_too_and_a_frozen_encoder_wherever_it_is_loaded(registry: Registry) -> None:
    found = owners(load_recipe("rae_dinov2_b", registry), registry)
    assert all("teacher 'dinov2'" in found[stage] for stage in ("autoencoder", "latents", "sample", "evaluate"))
    inner = "evaluate.metrics=[{use: frechet, teacher: {use: timm, model: test_vit}}]"
    assert owners(recipe(registry, inner), registry)["evaluate"] == {"teacher 'timm'"}


def test_an_autoencoder_taken_from_elsewhere_is_asked_what_it_consists_of(registry: Registry, tmp_path: Path) -> None:
    own = recipe(registry).autoencoder
    assert isinstance(own, Autoencoder)
    encoder = FrozenTeacherConfig(use="frozen_teacher", teacher=TimmConfig(use="timm", model="test_vit"))
    spec = AutoencoderSpec(32, 8, 4, encoder, own.decoder, own.regularizer)
    path = tmp_path / "autoencoder.safetensors"
    save_artifact(path, "autoencoder", spec.to_json(), {})
    found = owners(recipe(registry, f"autoencoder={{from: {path}}}"), registry)
    assert found["latents"] == found["sample"] == {"teacher 'timm'"}
    assert found["autoencoder"] == {"autoencoder.from"}
    path.unlink()
    assert owners(recipe(registry, f"autoencoder={{from: {path}}}"), registry) == {"autoencoder": {"autoencoder.from"}}


def test_offline_every_absent_file_is_named_and_nothing_is_fetched(registry: Registry, tmp_path: Path) -> None:
    reference = "evaluate.metrics=[{use: fid, reference: nowhere.npz}]"
    with pytest.raises(ArtifactError) as caught:
        prepare(recipe(registry, TEACHER, reference), registry, tmp_path, offline=True)
    told = str(caught.value)
    assert "3 files that this recipe needs are not here" in told
    assert f"absent: {tmp_path}/hub/models--timm--test_vit.r160_in1k/model.safetensors: " in told
    assert f"absent: {tmp_path}/torch/hub/checkpoints/{ASSET.file}: the FID-compatible Inception network" in told
    assert "nowhere.npz: no reference of real images there, for metric 'fid'; give an .npz of ADM" in told
    assert "`gaekit assets RECIPE --fetch`, where there is a network" in told
    assert constants.HF_HUB_OFFLINE
    assert caught.value.exit_code == 2


def test_the_environment_forbids_as_the_option_does_and_damage_is_seen(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ASSET.place.parent.mkdir(parents=True)
    ASSET.place.write_bytes(b"half of it")
    with pytest.raises(ArtifactError, match=f"damaged: {ASSET.place}"):
        prepare(recipe(registry, FID), registry, tmp_path)


def test_stages_that_are_cached_need_nothing(registry: Registry, tmp_path: Path) -> None:
    found = recipe(registry, TEACHER)
    for stage in make_plan(found, registry, tmp_path / "store").stages:
        if stage.name in ("semantic", "autoencoder"):
            assert stage.room is not None
            stage.room.finish({})
    assert prepare(found, registry, tmp_path, offline=True) == []
    with pytest.raises(ArtifactError, match="a file that this recipe needs is not here"):
        prepare(found, registry, tmp_path, offline=True, redo="autoencoder")


def test_with_a_network_it_is_fetched_before_anything_runs(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(**{"timm/test_vit.r160_in1k/resolve/main/model.safetensors": b"weights"}) as hub:
        monkeypatch.setenv("GAEKIT_MIRROR", f"https://huggingface.co={hub.url}")
        said = prepare(recipe(registry, TEACHER), registry, tmp_path)
        assert said == [
            "fetching the published weights of the timm model test_vit: hf.co/timm/test_vit.r160_in1k/model.safetensors"
        ]
        assert prepare(recipe(registry, TEACHER), registry, tmp_path) == []
    with pytest.raises(ArtifactError, match=r"nowhere\.pth: no file of weights there, for teacher 'timm'"):
        prepare(recipe(registry, "teacher={use: timm, model: test_vit, weights: nowhere.pth}"), registry, tmp_path)


def test_where_training_starts_from_is_looked_for_too(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "nowhere").mkdir()
    found = recipe(registry, f"diffusion.train.init={tmp_path}/nowhere")
    (tmp_path / "nowhere").rmdir()
    with pytest.raises(ArtifactError, match=r"train\.init: .*nowhere: no artifact of the stage diffusion there"):
        prepare(found, registry, tmp_path)
