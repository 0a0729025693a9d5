"""`gaekit reconstruct` loses no image of its user's, and ends, whatever lies in the folder."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from gaekit.errors import DataError, GaekitError
from gaekit.runs.pictures import pictures_of, to_batches
from gaekit.runs.reconstruct import output_names, reconstruct_folder
from gaekit.train.progress import Reporter

SIDE = 8
RUN: Any = SimpleNamespace(
    autoencoder=SimpleNamespace(spec=SimpleNamespace(image_size=SIDE)),
    reporter=Reporter(Console(quiet=True)),
    reconstruct=lambda images: pictures_of(-batch for batch in to_batches(images, SIDE, 16)),
)
"""A run whose autoencoder gives the negative."""


def image(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), (value, value, value)).save(path)
    return path


def grey(path: Path) -> int:
    with Image.open(path) as opened:
        return int(np.asarray(opened)[0, 0, 0])


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, value in (("a.png", 10), ("sub/b.bmp", 20)):
        image(tmp_path / "images" / name, value)
    return tmp_path / "images"


@pytest.mark.parametrize("out", ["images", "images/.", "images/out", "images/sub", ".", "link", "link/out"])
def test_the_input_is_no_place_for_the_output(folder: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "link").symlink_to("images")
    before = content(tmp_path)
    with pytest.raises(GaekitError, match=r"--out .*: overlaps with .*images"):
        reconstruct_folder(RUN, folder, tmp_path / out)
    assert content(tmp_path) == before


def test_images_that_differ_in_their_ending_alone_are_kept_apart(folder: Path, tmp_path: Path) -> None:
    for number, ending in enumerate((".png", ".bmp", ".gif", ".PNG")):
        image(folder / f"x{ending}", 40 * number)
    count, _, _ = reconstruct_folder(RUN, folder, tmp_path / "out")
    assert count == 6
    names = {"a.png", "sub/b.png", "x.png.png", "x.bmp.png", "x.gif.png", "x.PNG.png"}
    assert set(content(tmp_path / "out")) == names
    assert [grey(tmp_path / "out" / f"x{e}.png") for e in (".png", ".bmp", ".gif", ".PNG")] == [255, 215, 175, 135]


def test_no_two_images_have_one_name_whatever_they_are_called() -> None:
    names = ["x.png", "x.jpg", "x.jpg.png", "x.jpg.jpg", "x.jpg.png.png", "y/x.jpg", "z.jpg"]
    found = output_names(names)
    assert len(set(found.values())) == len(names)
    assert found["z.jpg"] == "z.png"
    assert found["y/x.jpg"] == "y/x.png"


def test_what_was_there_is_not_overwritten_unless_it_is_a_reconstruction(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    holiday = image(out / "sub" / "b.png", 77)
    with pytest.raises(GaekitError, match=r"holds .*sub/b\.png, which gaekit has not written and would overwrite"):
        reconstruct_folder(RUN, folder, out)
    assert list(content(out)) == ["sub/b.png"]
    assert grey(holiday) == 77
    holiday.rename(out / "holiday.png")
    reconstruct_folder(RUN, folder, out)
    image(folder / "a.png", 200)
    reconstruct_folder(RUN, folder, out)
    assert grey(out / "a.png") == 55
    assert grey(out / "holiday.png") == 77


def test_nothing_is_written_through_links(folder: Path, tmp_path: Path) -> None:
    precious = image(tmp_path / "precious" / "b.png", 77)
    out = tmp_path / "out"
    out.mkdir()
    (out / "sub").symlink_to(precious.parent)
    with pytest.raises(GaekitError, match=r"out/sub' leads out of .*out"):
        reconstruct_folder(RUN, folder, out)
    (out / "sub").unlink()
    (out / "a.png").symlink_to(precious)
    with pytest.raises(GaekitError, match=r"holds .*a\.png, which gaekit has not written"):
        reconstruct_folder(RUN, folder, out)
    (out / "a.png").unlink()
    os.mkfifo(out / "a.png")
    with pytest.raises(GaekitError, match=r"holds .*a\.png, which gaekit has not written"):
        reconstruct_folder(RUN, folder, out)
    assert grey(precious) == 77


def test_a_name_cannot_be_a_file_and_a_folder(folder: Path, tmp_path: Path) -> None:
    image(folder / "sub.bmp", 1)
    (folder / "sub").rename(folder / "sub.png")
    with pytest.raises(GaekitError, match=r"sub\.png would be a file and a folder"):
        reconstruct_folder(RUN, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", [".", ".."])
def test_a_link_that_leads_back_is_named(folder: Path, tmp_path: Path, target: str) -> None:
    (folder / "sub" / "again").symlink_to(target)
    with pytest.raises(DataError, match=r"sub/again.*: this link leads to a folder that it lies in"):
        reconstruct_folder(RUN, folder, tmp_path / "out")


def test_links_that_double_at_each_level_end(folder: Path, tmp_path: Path) -> None:
    for level in range(40):
        (tmp_path / f"level{level}").mkdir()
        for name in ("left", "right"):
            (tmp_path / f"level{level}" / name).symlink_to(tmp_path / f"level{level + 1}")
    image(tmp_path / "level40" / "x.png", 1)
    (folder / "sub" / "way").symlink_to(tmp_path / "level0")
    with pytest.raises(DataError, match="links lead to this folder"):
        reconstruct_folder(RUN, folder, tmp_path / "out")


def test_pipes_are_no_images_and_a_link_to_nothing_is_told(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "lost.png").symlink_to("nowhere")
    count, skipped, _ = reconstruct_folder(RUN, folder, tmp_path / "out")
    assert count == 2
    assert list(skipped) == [str(folder / "lost.png")]
