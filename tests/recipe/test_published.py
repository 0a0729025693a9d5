"""The recipes of published systems: their sizes and lengths, and a small twin of each that runs every stage."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from recipe_helpers import OWN
from rich.console import Console

from gaekit.cli import main
from gaekit.errors import ArtifactError
from gaekit.pipeline.plan import make_plan, needed_stages
from gaekit.pipeline.run import run_recipe
from gaekit.plugins import Registry, load_plugins, nested
from gaekit.recipe import find_recipe, list_recipes, load_recipe, load_recipe_data
from gaekit.recipe.schema import Diffusion, From, Recipe
from gaekit.sizing.describe import sizes_of, trained_networks
from gaekit.train.progress import Reporter

PUBLISHED = [recipe.name for recipe in list_recipes() if recipe.name not in OWN]
FAST = (
    "gae_d32", "sit_xl2", "dit_xl2", "lightningdit_vavae", "rae_dinov2_b", "ablations/align_pre", "ablations/kl",
)  # fmt: skip
"""One of each structure; the others differ from these by numbers."""
IMAGENET = 1_281_167
"""Training images of ImageNet-1k."""
EPOCHS = {"gae_d32_800ep": 800, "gae_d64": 800, "sit_xl2": 1400, "dit_xl2": 1400, "lightningdit_vavae": 64}
"""Of the denoiser; 80 elsewhere."""

TEACHER = "{use: timm, model: test_vit, weights: random}"
COMMON = (
    "dataset={use: digits}", "image={size: 32, stride: 8}", "latent_dim=4", "evaluate.metrics=[{use: psnr}]",
    "diffusion.denoiser.depth=1", "diffusion.denoiser.width=32", "diffusion.denoiser.heads=2",
    "diffusion.train.steps=2", "diffusion.train.batch=8", "sample.sampler.steps=2", "sample.count=20",
    "sample.batch=10", "diffusion.probe={loss: {images: 8, times: 2}}",
    "runtime={trackers: [], save_every: 2, threads: 1, device: cpu}",
)  # fmt: skip
TRAINED = (
    "autoencoder.decoder.depth=1", "autoencoder.decoder.width=32", "autoencoder.decoder.heads=2",
    "autoencoder.perceptual={use: lpips, net: squeeze, backbone: random}",
    "autoencoder.adversary.channels=8", "autoencoder.adversary.layers=2", "autoencoder.adversary.start=1",
    "autoencoder.train.steps=2", "autoencoder.train.batch=8", "autoencoder.probe={loss: {images: 8}, count: 8}",
)  # fmt: skip
VIT = ("autoencoder.encoder.depth=1", "autoencoder.encoder.width=32", "autoencoder.encoder.heads=2")
RAE = (
    f"autoencoder.encoder.teacher={TEACHER}", "latent_dim=64", "diffusion.denoiser.decoder_depth=1",
    "diffusion.denoiser.decoder_width=32", "diffusion.denoiser.decoder_heads=2",
)  # fmt: skip
SEMANTIC = ("semantic.train.steps=2", "semantic.train.batch=8")
SWAPPED = {"dataset", "teacher", "metric", "tracker"}
"""Kinds of components that a twin has others of: what needs data or weights from elsewhere."""


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_plugins()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of runs: stages that twins have in common run once."""
    return tmp_path_factory.mktemp("published")


@pytest.fixture(scope="module")
def tiny_vae(folder: Path, registry: Registry) -> Path:
    """In place of Stable Diffusion's autoencoder and VA-VAE: of their kind, small and hardly trained."""
    conv = {"use": "conv", "ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    data: dict[str, Any] = {
        "recipe": 1,
        "name": "tiny_vae",
        "image": {"size": 16, "stride": 8},
        "latent_dim": 4,
        "dataset": {"use": "digits"},
        "autoencoder": {
            "encoder": conv,
            "decoder": conv,
            "regularizer": {"use": "kl"},
            "noise": {"use": "constant"},
            "train": {"steps": 2, "batch": 8},
        },
        "runtime": {"trackers": [], "threads": 1},
    }
    return run_recipe(load_recipe_data(data, registry), registry, out=folder, reporter=quiet()).path


def quiet() -> Reporter:
    return Reporter(Console(quiet=True))


def twin(name: str, registry: Registry) -> Recipe:
    """The recipe made small by what could be `--set` options."""
    full = load_recipe(name, registry)
    changes = [*COMMON]
    if isinstance(full.autoencoder, From):
        changes += ["image.size=16"]
    else:
        changes += [*TRAINED, *(RAE if full.autoencoder.encoder.use == "frozen_teacher" else VIT)]
    if full.teacher is not None:
        changes += [f"teacher={TEACHER}"]
    if full.aligner.use == "latent":
        changes += SEMANTIC
    return load_recipe(name, registry, overrides=changes)


def components(recipe: Recipe) -> list[tuple[str, str]]:
    """(kind, name) of what the recipe is made of."""
    return sorted((kind, config.use) for kind, config in nested(recipe) if kind not in SWAPPED)


def test_every_published_system_has_its_recipe() -> None:
    names = "align_pre align_post align_none kl sigma_005 sigma_01 teacher_mae teacher_siglip2 teacher_clip"
    systems = "gae_d32 gae_d32_800ep gae_d64 gae_d16 sit_xl2 dit_xl2 lightningdit_vavae rae_dinov2_b"
    assert set(PUBLISHED) == {*systems.split(), *(f"ablations/{name}" for name in names.split())}


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_head_has_the_command_the_hardware_and_the_numbers(name: str, registry: Registry) -> None:
    head = re.match(r"(#.*\n)+", find_recipe(name).read_text(encoding="utf-8"))
    assert head
    assert re.search(rf"gaekit run {name}( |$)", head[0], re.MULTILINE)
    assert "Hardware: " in head[0]
    assert "\n# Expected" in head[0]
    assert max(map(len, head[0].splitlines())) <= 120


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_steps_are_its_epochs_of_imagenet(name: str, registry: Registry) -> None:
    section = load_recipe(name, registry).diffusion
    assert isinstance(section, Diffusion)
    epochs = section.train.steps * section.train.batch / IMAGENET
    assert epochs == pytest.approx(EPOCHS.get(name, 80), rel=2e-3)


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in PUBLISHED])
def test_its_twin_runs_two_steps_of_every_stage(
    name: str, registry: Registry, folder: Path, tiny_vae: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("SD_VAE", "VA_VAE"):
        monkeypatch.setenv(variable, str(tiny_vae))
    full, small = load_recipe(name, registry), twin(name, registry)
    assert components(small) == components(full)
    view = run_recipe(small, registry, out=folder, reporter=quiet())
    status = {stage: entry["status"] for stage, entry in view.record["stages"].items()}
    assert list(status) == [stage.name for stage in needed_stages(full)]
    assert {"autoencoder", "latents", "diffusion", "sample", "evaluate"} <= set(status)
    assert set(status.values()) <= {"done", "cached", "from"}


@pytest.mark.parametrize("name", ["gae_d32", "gae_d32_800ep"])
def test_gae_has_the_published_sizes(name: str, registry: Registry) -> None:
    sizes = {size.name: size for size in sizes_of(trained_networks(load_recipe(name, registry), registry, 1000))}
    denoiser = sizes["denoiser"]
    positions = 256 * 1152  # sin-cos, which do not train
    assert denoiser.parameters - denoiser.trained >= positions
    assert f"{denoiser.parameters / 1e6:.1f}" == "675.3"
    # A block: queries, keys, values, output of 1024 x 1024, and a gated MLP of 4 * 1024 * 2 / 3, rounded up to 2816.
    blocks = 24 * (4 * 1024**2 + 3 * 1024 * 2816)
    outside = 256 * 1024 + 1024 * 768  # positions, pixels of a patch
    encoder, decoder = sizes["encoder"].parameters, sizes["decoder"].parameters
    assert encoder == pytest.approx(blocks + outside + 1024 * 1024 + 1024 * 32, abs=10_000)
    assert decoder == pytest.approx(blocks + outside + 1024 * 32, abs=10_000)


def test_gae_is_planned_without_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "gae_d32"]) == 0
    out = capsys.readouterr().out
    assert "gae_d32: 256 px, latents 16 x 16 x 32" in out
    assert "data: absent" in out
    for network in ("aligner", "encoder", "decoder", "adversary", "denoiser"):
        assert re.search(rf"^ *{network} +\d", out, re.MULTILINE), network
    assert re.search(r"^ *denoiser +675\.3M", out, re.MULTILINE)


def test_an_absent_tokenizer_is_planned_as_such_and_refused_by_a_run(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SD_VAE", raising=False)
    small = twin("sit_xl2", registry)
    statuses = {stage.name: stage.status for stage in make_plan(small, registry, tmp_path / "runs").stages}
    assert statuses.pop("autoencoder") == "absent"
    assert set(statuses.values()) == {"run"}
    with pytest.raises(ArtifactError, match="sd-vae: no artifact of the stage autoencoder there"):
        run_recipe(small, registry, out=tmp_path / "runs", reporter=quiet())
    assert not (tmp_path / "runs").exists()
    assert main(["plan", "sit_xl2"]) == 0
    assert re.search(r"^ *autoencoder +absent ", capsys.readouterr().out, re.MULTILINE)
