"""The commands of docs/evaluate.md and docs/report_card.md run as they stand there: on small images, and without the
metrics whose networks are downloaded."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_helpers import gaekit
from interop.test_diffusers_vae import folder_of
from PIL import Image
from sklearn.datasets import load_sample_images

from gaekit.api.assets import Download
from gaekit.plugins import load_plugins
from gaekit.runs.evaluate import component_of

DOCS = Path(__file__).parents[1] / "docs"
SIDE = 16
"""That of the session's tiny run."""


def commands(page: str) -> list[list[str]]:
    """The words of each, at the size of the images here. Every metric is one that there is."""
    found = []
    for line in re.findall(r"^    gaekit (.+)$", (DOCS / page).read_text(encoding="utf-8"), flags=re.M):
        words, kept = iter(shlex.split(line.replace("--size 256", f"--size {SIDE}"))), list[str]()
        for word in words:
            if word != "--metric":
                kept.append(word)
            elif not is_downloaded(metric := next(words)):
                kept += [
                    word,
                    metric.replace("efficientnet_lite2", "efficientnet_lite0, layer: stage1"),
                ]  # the smallest
        found.append(kept)
    return found


def is_downloaded(metric: str) -> bool:
    """Whether a metric's network comes from elsewhere."""
    registry = load_plugins()
    config = component_of("metric", metric, registry, "--metric")
    return any(isinstance(asset, Download) for asset in registry.find("metric", config.use).assets(config))


@pytest.fixture
def place(tmp_path: Path, tiny_run: Path) -> Path:
    """my_folder: photographs; runs/quickstart: the tiny run; sd-vae: an autoencoder as diffusers writes it."""
    random = np.random.default_rng(0)
    for index in range(40):
        photo = load_sample_images().images[index % 2]
        top, left = (int(random.integers(0, side - SIDE)) for side in photo.shape[:2])
        file = tmp_path / "my_folder" / ("china", "flower")[index % 2] / f"{index:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo[top : top + SIDE, left : left + SIDE]).save(file)
    shutil.copytree(tiny_run.parent, tmp_path / "runs", symlinks=True)
    (tmp_path / "runs" / tiny_run.name).rename(tmp_path / "runs/quickstart")
    folder_of("diffusers_vae", tmp_path / "sd-vae")
    return tmp_path


def test_the_commands_of_report_cards_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaekit.cards.making.DEFAULTS", ("psnr", "linear_probe"))
    monkeypatch.setattr("gaekit.cards.speed.ENOUGH_SECONDS", 0.0)
    (card, arena) = commands("report_card.md")
    assert {"runs/quickstart", "--data", "--out", "--html"} < set(card)
    gaekit(place, *card)
    cards = sorted(str(path.relative_to(place)) for path in place.glob(arena[1]))  # as the shell does
    assert len(cards) == 2
    assert "reconstruction/psnr" in gaekit(place, arena[0], *cards).stdout
    assert "sd" in (place / "arena.html").read_text()


def test_the_commands_of_evaluations_run(place: Path) -> None:
    gaekit(place, "reconstruct", "runs/quickstart", "my_folder", "--out", "REBUILT")
    named = {"SAMPLES": "runs/quickstart", "REAL": "my_folder", "PHOTOS": "my_folder"}
    found = []
    for words in commands("evaluate.md"):
        done = gaekit(place, *(named.get(word, word) for word in words), "--allow-few")
        found.append([line.split()[0] for line in done.stdout.splitlines()[1:]])
    assert found == [
        ["generation/frechet_efficientnet_lite0"],
        ["reconstruction/psnr", "reconstruction/ssim"],
    ]
