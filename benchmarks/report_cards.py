"""The table of docs/report_card.md, five tokenizers on a folder of drawings: `python benchmarks/report_cards.py OUT`

Three small runs of gaekit, which train here on the folder's other images (some minutes on two cores), and two published
architectures at a reduced width with random weights, there to be measured: they cannot rebuild a thing. Needs
diffusers and the extras `openmoji`, `claims` and `report`. Writes OUT/drawings, OUT/some, OUT/runs, OUT/cards and
OUT/arena.html, and prints the command that makes cards and page.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import torch

SIZE, STRIDE, STEPS = 64, 16, 120
EVERY = 4
"""Of which drawings cards are made: of every fourth, by name, so that five take some minutes."""
RUNS = {
    "unaligned": ["aligner={use: none}", "teacher=null"],
    "latent": ["aligner.weight=0.1"],
    "latent_svd": ["aligner={use: latent_svd, weight: 0.1}", "semantic={}"],
}
"""What is changed of the shipped recipe `claims`."""
LEVELS = {"block_out_channels": [32, 64, 64, 64], "layers_per_block": 1}
BLOCKS = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}


def draw(folder: Path) -> None:
    """Every drawing of OpenMoji as a PNG in a folder of its group."""
    from gaekit.api import Dataset
    from gaekit.plugins import build, load_plugins
    from gaekit.recipe.load import load_component

    registry = load_plugins()
    config = load_component("dataset", {"use": "openmoji", "size": SIZE}, registry, source="drawings")
    dataset = build(Dataset, config, registry)
    for split in (dataset.train(), dataset.validation()):
        for index in range(len(split)):
            image, label = split[index]
            file = folder / dataset.classes[label] / f"{split.key(index).replace('/', '_')}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file)


def take_some(drawings: Path, folder: Path) -> None:
    """Every fourth drawing under the same name, so that what a run has not seen stays what is held out."""
    for file in sorted(drawings.rglob("*.png"))[::EVERY]:
        target = folder / file.relative_to(drawings)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)


def train(out: Path, drawings: Path) -> None:
    """The three runs, as far as their autoencoders."""
    data = f"dataset={{use: image_folder, root: {drawings}}}"
    common = [data, f"image={{size: {SIZE}, stride: {STRIDE}}}", f"autoencoder.train.steps={STEPS}"]
    for name, changes in RUNS.items():
        sets = [part for change in (*common, *changes) for part in ("--set", change)]
        command = [sys.executable, "-m", "gaekit", "run", "claims", "--name", name, "--until", "autoencoder"]
        subprocess.run([*command, "--out", str(out / "runs"), *sets], check=True)


def publish(out: Path) -> None:
    """Random weights in the two architectures, as diffusers writes them."""
    import diffusers

    torch.manual_seed(0)
    diffusers.AutoencoderKL(**LEVELS, **BLOCKS, latent_channels=4, sample_size=SIZE).save_pretrained(out / "sd-vae")
    flux = diffusers.AutoencoderKLFlux2(**LEVELS, **BLOCKS, latent_channels=32, sample_size=SIZE)
    flux.save_pretrained(out / "flux2-vae")


def main(out: Path) -> None:
    """Make what the table is of, then the table."""
    drawings = out / "drawings"
    if not drawings.exists():
        draw(drawings)
    take_some(drawings, out / "some")
    train(out, drawings)
    publish(out)
    tokenizers = [*(f"runs/{name}" for name in RUNS), "sd-vae=ldm-vae:sd-vae", "flux2-vae=flux2-vae:flux2-vae"]
    options = ["--data", "some", "--size", str(SIZE), "--out", "cards", "--html", "arena.html"]
    words = ["report-card", *tokenizers, *options]
    print(f"in {out}: {shlex.join(['gaekit', *words])}")
    subprocess.run([sys.executable, "-m", "gaekit", *words], cwd=out, check=True)
    cards = [str(out / "cards" / f"{name}.json") for name in (*RUNS, "sd-vae", "flux2-vae")]
    subprocess.run([sys.executable, "-m", "gaekit", "arena", *cards, "--markdown"], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
