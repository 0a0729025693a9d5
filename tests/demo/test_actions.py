"""What the page asks of a run: the same images as from Python, bounded, and nothing written."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demo_helpers import contents, without_denoiser
from PIL import Image

import gaekit
from gaekit.demo.actions import MOST_BYTES, Asked, Sampling, offered, reconstruct, sample
from gaekit.errors import ArtifactError, BadImage, GaekitError, PluginError
from gaekit.runs.opened import OpenRun

ASKED = Asked(classes=[7, 3], count=5, steps=4, scale=2.0, start=0.25, end=1.0, seed=1)


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> OpenRun:
    return gaekit.open(tiny_run)


@pytest.fixture(scope="module")
def offer(run: OpenRun) -> Sampling:
    return offered(run)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_what_is_offered_is_what_the_recipe_has(offer: Sampling) -> None:
    digits = tuple(str(digit) for digit in range(10))
    assert offer == Sampling(digits, 20, "euler", 4, (1.5, 0.25, 1.0), 0)


def test_samples_are_those_that_the_line_of_python_makes(run: OpenRun, offer: Sampling) -> None:
    told: list[tuple[int, int]] = []
    found = sample(run, offer, ASKED, lambda done, total: told.append((done, total)))
    assert found.pictures.labels == (7, 3, 7, 3, 7)
    assert told == [(done, 4) for done in range(1, 5)]
    again = eval(found.code, {"gaekit": gaekit})
    assert torch.equal(again.tensors, found.pictures.tensors)
    assert "5 images in " in found.told
    assert found.told.endswith("s, euler, 4 steps, guidance 2 for t in [0.25, 1), seed 1")
    everything = sample(run, offer, replace(ASKED, classes=(), count=12.0))
    assert everything.pictures.labels == (*range(10), 0, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 65}, "images: 65: expected a number from 1 to 64"),
        ({"count": 2.5}, r"images: 2\.5: expected a whole number"),
        ({"count": None}, "images: nothing: expected a number"),
        ({"steps": 0}, "steps: 0: expected"),
        ({"steps": 1e9}, "steps: 1000000000.0: expected a number from 1 to 1000"),
        ({"scale": math.nan}, "guidance: nan"),
        ({"scale": "2"}, "guidance: '2': expected a number"),
        ({"start": 0.5, "end": 0.5}, r"the interval starts at 0\.5 and must end later"),
        ({"seed": -1}, "seed: -1"),
        ({"classes": [11]}, "class '11': this run knows 10 classes"),
    ],
)
def test_what_is_out_of_bounds_is_told(run: OpenRun, offer: Sampling, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GaekitError, match=message):
        sample(run, offer, replace(ASKED, **changes))


def test_a_run_that_cannot_be_guided_offers_no_guidance(tiny_run: Path) -> None:
    """Its null class was never trained; and a sampler that chooses its own steps offers none."""
    run = gaekit.open(tiny_run)
    recipe = run.recipe
    assert recipe.diffusion is not None
    assert recipe.sample is not None
    own = run.registry.find("sampler", "dopri5").Config(use="dopri5")
    section = recipe.sample.model_copy(
        update={"sampler": own, "guidance": recipe.sample.guidance.model_copy(update={"scale": 1.0})}
    )
    diffusion = recipe.diffusion.model_copy(update={"label_dropout": 0.0})
    run.recipe = recipe.model_copy(update={"sample": section, "diffusion": diffusion})
    offer = offered(run)
    assert offer.guidance is None
    assert offer.steps is None
    found = sample(run, offer, Asked((), 1, None, None, None, None, 0))
    assert found.code.endswith(".sample(count=1, seed=0)")
    assert "dopri5, seed 0" in found.told


def test_a_run_without_a_denoiser_is_told(tiny_run: Path, tmp_path: Path, photo: Path) -> None:
    alone = without_denoiser(tiny_run, tmp_path / "runs")
    with pytest.raises(ArtifactError, match="diffusion"):
        offered(alone)
    assert reconstruct(alone, photo, 0.5, 0).psnr > 0


def test_only_the_plugins_of_what_is_used_are_needed(
    tiny_run: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAEKIT_PLUGINS", "autoencoders,regularizers,denoisers,samplers")
    bare = gaekit.open(tiny_run)
    assert len(sample(bare, offered(bare), ASKED).pictures) == 5
    monkeypatch.setenv("GAEKIT_PLUGINS", "autoencoders,regularizers")
    bare = gaekit.open(tiny_run)
    with pytest.raises(PluginError, match="is not installed here"):
        offered(bare)
    assert reconstruct(bare, photo, 0, 0).psnr > 0


def test_a_reconstruction_is_that_of_the_run_and_its_psnr_that_of_its_pixels(run: OpenRun, photo: Path) -> None:
    found = reconstruct(run, photo, 0.0, 0)
    assert np.array_equal(np.asarray(found.rebuilt), np.asarray(run.reconstruct(photo)[0]))
    before, after = (np.asarray(image).astype(float) for image in (found.original, found.rebuilt))
    assert before.shape == (16, 16, 3)
    assert found.psnr == pytest.approx(-10 * math.log10(np.mean((before / 255 - after / 255) ** 2)))
    assert np.array_equal(np.asarray(found.difference), np.clip(128 + 4 * (after - before), 0, 255))
    assert found.noisy_psnr == found.psnr
    assert np.array_equal(np.asarray(found.noisy), np.asarray(found.rebuilt))


def test_noise_on_the_latent_has_the_strength_asked_for(
    run: OpenRun, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[torch.Tensor] = []
    whole = run.decode
    monkeypatch.setattr(run, "decode", lambda latents: (decoded.append(latents), whole(latents))[1], raising=False)
    plain, noise = [], []
    for seed in range(50):
        decoded.clear()
        found = reconstruct(run, photo, 0.5, seed)
        plain.append(decoded[0])
        noise.append((decoded[1] - decoded[0]) / decoded[0].square().mean().sqrt())
    assert float(torch.stack(noise).std()) == pytest.approx(0.5, rel=0.05)  # 3,200 numbers: a standard error of 1.2 %
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(plain[0], plain[1])
    assert np.array_equal(np.asarray(reconstruct(run, photo, 0.5, 49).noisy), np.asarray(found.noisy))


def test_what_is_no_image_is_told_by_its_name(run: OpenRun, tmp_path: Path) -> None:
    (tmp_path / "letter.png").write_text("<svg/>")
    with pytest.raises(BadImage, match=r"^letter\.png: not an image of a known kind"):
        reconstruct(run, tmp_path / "letter.png", 0.5, 0)
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(BadImage, match=r"^large\.png: 20 MB; at most 20 MB are taken"):
        reconstruct(run, tmp_path / "large.png", 0.5, 0)
    with pytest.raises(GaekitError, match="noise: -1"):
        reconstruct(run, tmp_path / "letter.png", -1, 0)


def test_nothing_is_written_into_the_run(run: OpenRun, offer: Sampling, tiny_run: Path, photo: Path) -> None:
    before = contents(tiny_run.parent)
    sample(run, offer, ASKED)
    reconstruct(run, photo, 0.5, 0)
    assert contents(tiny_run.parent) == before
