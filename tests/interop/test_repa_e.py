"""The autoencoders that REPA-E has tuned compute here what REPA-E's code computes, wherever their statistics lie.

The golden files were made by `tests/golden/make_repa_e.py` with that code.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from import_helpers import registry, save
from parity.fixture import Fixture, read_fixture
from parity_helpers import GOLDEN, close, load_fixture
from safetensors.torch import save_file
from torch import Tensor

from gaekit.cli import main
from gaekit.errors import ArtifactError
from gaekit.interop.diffusers_folder import CONFIG, WEIGHTS
from gaekit.interop.formats import Options
from gaekit.interop.importing import import_file
from gaekit.interop.statistics import statistics_of
from gaekit.store.models import Autoencoder, load_autoencoder


@cache
def fixture(name: str) -> Fixture:
    return read_fixture(GOLDEN / f"{name}.safetensors")


def statistics(name: str) -> dict[str, Tensor]:
    """What the release keeps beside the weights."""
    return {key: fixture(name).inputs[key] for key in ("latents_scale", "latents_bias")}


def take(name: str, file: Path, out: Path, **options: Any) -> Autoencoder:
    said = Options(image_size=fixture(name).config["resolution"], **options)
    return load_autoencoder(import_file("e2e-vae", file, out, said, registry()).artifact, registry())


def reproduces(model: Autoencoder, name: str) -> None:
    found = fixture(name)
    with torch.no_grad():
        latent = model.encode(found.inputs["image"])[1].mean_BDHW
        close(latent, found.outputs["latent"])
        close(model.decode(latent), found.outputs["reconstruction"])


def alike(ours: Autoencoder, other: Autoencoder) -> None:
    """Fail unless they hold the same, statistics up to rounding."""
    assert ours.spec == other.spec
    for (key, value), (_, wanted) in zip(ours.state_dict().items(), other.state_dict().items(), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-6, atol=0, msg=key)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Autoencoder:
    """The golden autoencoder out of a released file with its statistics beside it."""
    folder = tmp_path_factory.mktemp("released")
    file = save(folder / "e2e-vavae-400k.pt", fixture("repa_e_vae").state)
    save(folder / "e2e-vavae-400k-latents-stats.pt", statistics("repa_e_vae"))
    assert main(["import", "e2e-vae", str(file), "--out", str(folder / "taken"), "--image-size", "12"]) == 0
    return load_autoencoder(folder / "taken" / "autoencoder.safetensors", registry())


def test_a_released_file_computes_what_its_authors_code_does(released: Autoencoder) -> None:
    reproduces(released, "repa_e_vae")
    assert released.spec.regularizer.use == "standardize"
    assert released.spec.encoder.model_dump()["attn_resolutions"] == ()


def test_statistics_in_another_file(released: Autoencoder, tmp_path: Path) -> None:
    file = save(tmp_path / "vae.pt", fixture("repa_e_vae").state)
    stats = save(tmp_path / "stats.pt", statistics("repa_e_vae"))
    alike(take("repa_e_vae", file, tmp_path / "taken", stats=stats), released)
    mean, std = statistics("repa_e_vae")["latents_bias"], statistics("repa_e_vae")["latents_scale"].reciprocal()
    ours = save(tmp_path / "ours.pt", {"mean": mean, "std": std})
    alike(take("repa_e_vae", file, tmp_path / "again", stats=ours), released)
    read = statistics_of(Options(stats=stats), 5)  # a denoiser's import takes the release's file too
    close(read.mean_D, mean.flatten(), 1e-7)
    close(read.std_D, std.flatten(), 1e-7)


def test_a_checkpoint_of_a_training_holds_both(released: Autoencoder, tmp_path: Path) -> None:
    """As `train_repae.py` saves them; the averaged denoiser's batch norm is the one that `generate.py` takes."""
    held = statistics("repa_e_vae")
    mean, scale = (held[key].flatten() for key in ("latents_bias", "latents_scale"))
    norm = {"bn.running_mean": mean, "bn.running_var": scale**-2}
    moved = {key: value + 1 for key, value in norm.items()}
    other = {"x.weight": torch.ones(1)}
    content = {"model": {**moved, **other}, "ema": {**norm, **other}, "vae": fixture("repa_e_vae").state,
               "discriminator": other, "steps": 3}  # fmt: skip
    alike(take("repa_e_vae", save(tmp_path / "0400000.pt", content), tmp_path / "taken"), released)


def test_a_folder_of_diffusers_with_the_release_s_statistics(tmp_path: Path) -> None:
    """The hub's e2e-*-hf are AutoencoderKLs: the golden one's mean, standardised, and its reconstruction."""
    config, state, inputs, outputs = load_fixture("diffusers_vae")
    folder = tmp_path / "hf"
    folder.mkdir()
    save_file(state, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({"_class_name": "AutoencoderKL", "norm_num_groups": 32}))
    width = outputs["mean"].shape[1]
    held = {"latents_bias": torch.linspace(-1, 1, width)[None, :, None, None],
            "latents_scale": torch.linspace(0.5, 2, width)[None, :, None, None]}  # fmt: skip
    said = Options(image_size=config["resolution"], stats=save(tmp_path / "stats.pt", held))
    imported = import_file("e2e-vae", folder, tmp_path / "taken", said, registry())
    model = load_autoencoder(imported.artifact, registry())
    with torch.no_grad():
        latent = model.encode(inputs["image"])[1].mean_BDHW
        close(latent, (outputs["mean"] - held["latents_bias"]) * held["latents_scale"])
        close(model.decode(latent), outputs["reconstruction"])


def test_what_is_not_said_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = save(tmp_path / "vae.pt", fixture("repa_e_vae").state)
    with pytest.raises(ArtifactError, match=r"give the release's <name>-latents-stats\.pt with --stats, or import it"):
        take("repa_e_vae", file, tmp_path / "taken")
    other = save(tmp_path / "other.pt", statistics("repa_e_vae_attention"))
    with pytest.raises(ArtifactError, match=r"shape \(3,\) are not those of latents of 5 channels"):
        take("repa_e_vae", file, tmp_path / "taken", stats=other)
    each = save(tmp_path / "each.pt", {"mean": torch.zeros(5, 12, 12), "std": torch.ones(5, 12, 12)})
    with pytest.raises(ArtifactError, match="of each position; REPA-E"):
        take("repa_e_vae", file, tmp_path / "taken", stats=each)
    zero = save(tmp_path / "zero.pt", {**statistics("repa_e_vae"), "latents_scale": torch.zeros(5)})
    with pytest.raises(ArtifactError, match="must be of one shape and finite, std above 0"):
        take("repa_e_vae", file, tmp_path / "taken", stats=zero)
    assert not (tmp_path / "taken").exists()


def test_qwen_image_s_autoencoder_is_refused_as_the_other_network_that_it_is(tmp_path: Path) -> None:
    """REPA-E has tuned that one too (e2e-qwenimage-vae): a video's, of kernels in three dimensions."""
    folder = tmp_path / "qwen"
    folder.mkdir()
    save_file({"encoder.conv_in.weight": torch.ones(4, 3, 3, 3, 3)}, folder / WEIGHTS)
    (folder / CONFIG).write_text('{"_class_name": "AutoencoderKLQwenImage"}')
    with pytest.raises(ArtifactError, match="_class_name is AutoencoderKLQwenImage; "):
        take("repa_e_vae", folder, tmp_path / "taken")
