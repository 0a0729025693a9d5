"""Published autoencoders where tokenizers are looked at: a report card, and `gaekit reconstruct` by a run of an import.

What they make of an image is in the golden files, by the code of their authors.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_helpers import gaekit
from import_helpers import registry, save
from interop.test_diffusers_vae import folder_of
from parity.fixture import Fixture, read_fixture
from parity.rebuild import diffusers_folder
from parity_helpers import GOLDEN
from PIL import Image
from rich.console import Console

from gaekit.data.crop import to_uint8
from gaekit.interop.diffusers_folder import WEIGHTS
from gaekit.pipeline.run import run_recipe
from gaekit.recipe import load_recipe
from gaekit.train.progress import Reporter

PUBLISHED = {
    "flux2-vae": "diffusers_flux2",
    "dc-ae": "diffusers_dc_ae",
    "rae": "diffusers_rae_dinov2",
    "e2e-vae": "diffusers_vae",
}
"""A golden file of each format; REPA-E's as its hub has them, an AutoencoderKL to which statistics are given."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaekit.cards.making.DEFAULTS", ("psnr", "spectrum"))
    monkeypatch.setattr("gaekit.cards.speed.ENOUGH_SECONDS", 0.0)


def publish(form: str, found: Fixture, place: Path) -> Path:
    """The golden checkpoint as it is published."""
    folder = place / "theirs-1.1-diffusers"
    if form != "e2e-vae":
        return diffusers_folder(found, folder)
    folder_of(PUBLISHED[form], folder)
    width = found.outputs["mean"].shape[1]
    held = {"latents_bias": torch.linspace(-1, 1, width), "latents_scale": torch.linspace(0.5, 2, width)}
    save(folder / f"{Path(WEIGHTS).stem}-latents-stats.pt", held)
    return folder


@pytest.mark.parametrize("form", PUBLISHED)
def test_a_published_autoencoder_has_a_card_and_reconstructs(form: str, tmp_path: Path) -> None:
    theirs = read_fixture(GOLDEN / f"{PUBLISHED[form]}.safetensors")
    path, side = publish(form, theirs, tmp_path), theirs.inputs["image"].shape[-1]
    images, rebuilt = (
        to_uint8(images).double() for images in (theirs.inputs["image"], theirs.outputs["reconstruction"])
    )
    psnr = (10 * (255**2 / (images - rebuilt).square().mean((1, 2, 3))).log10()).mean().item()
    for index, image in enumerate(images.byte().numpy()):
        for folder in (tmp_path / "images", tmp_path / "others"):
            folder.mkdir(exist_ok=True)
            Image.fromarray(image).save(folder / f"{index}.png")

    def asked(option: str) -> list[str]:
        return [] if form == "rae" else [option, str(side)]

    data = "{use: image_folder, root: others, validation: images}"
    done = gaekit(tmp_path, "report-card", f"{form}:{path.name}", "--data", data, *asked("--size"), "--json")
    (card,) = json.loads(done.stdout)
    about: dict[str, Any] = card["tokenizer"]
    assert (about["name"], about["kind"]) == (path.name, f"import of {form}")
    assert about["latent"] == list(theirs.outputs["mean" if form == "e2e-vae" else "latent"].shape[1:])
    assert card["numbers"]["reconstruction/psnr"]["value"] == pytest.approx(psnr, abs=0.1)  # its images are of 8 bits
    gaekit(tmp_path, "import", form, path.name, "--out", "taken", *asked("--image-size"))
    (tmp_path / "of_import.yaml").write_text(
        f"recipe: 1\nname: of_import\ndataset: {{use: image_folder, root: others}}\nautoencoder: {{from: taken}}\n"
        f"image: {{size: {side}, stride: {about['stride']}}}\nlatent_dim: {about['latent'][0]}\n"
    )
    with contextlib.chdir(tmp_path):
        recipe = load_recipe(Path("of_import.yaml"), registry())
        run_recipe(recipe, registry(), out=Path("runs"), reporter=Reporter(Console(quiet=True)))
    done = gaekit(tmp_path, "reconstruct", "runs/of_import", "images", "--out", "rebuilt", "--json")
    judged = card["numbers"]["reconstruction/psnr"]["value"]  # in blocks of another size, which moves convolutions
    assert json.loads(done.stdout)["mean_psnr"] == pytest.approx(judged, rel=1e-4)
