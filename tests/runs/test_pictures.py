"""Pictures of any kind become what an autoencoder takes, as a data set's do."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gaekit.data.crop import center_crop, to_float
from gaekit.errors import BadImage, DataError
from gaekit.runs.pictures import Pictures, to_batches

RANDOM = np.random.default_rng(0)
WIDE = RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8)
SQUARE = RANDOM.integers(0, 256, (8, 8, 3), dtype=np.uint8)


def images(given: Any, size: int = 8) -> Tensor:
    return torch.cat(list(to_batches(given, size, 2)))


CROPPED = to_float(center_crop(Image.fromarray(WIDE), 8)[None])


@pytest.mark.parametrize(
    "given",
    [
        WIDE,
        WIDE[None],
        [WIDE],
        np.moveaxis(WIDE, -1, 0),
        torch.from_numpy(WIDE),
        torch.from_numpy(WIDE).permute(2, 0, 1),
        Image.fromarray(WIDE),
        to_float(WIDE[None]),
        to_float(WIDE[None])[0].double().numpy(),
        Image.fromarray(WIDE).convert("RGBA"),
    ],
    ids=lambda given: f"{type(given).__name__} {getattr(given, 'shape', '')}",
)
def test_all_kinds_are_cut_and_resized_as_in_training(given: Any) -> None:
    assert torch.equal(images(given), CROPPED)


def test_files_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(WIDE).save(tmp_path / "turned.png", exif=exif)
    upright = to_float(center_crop(Image.fromarray(np.rot90(WIDE, -1)), 8)[None])
    assert torch.equal(images(tmp_path / "turned.png"), upright)
    with Image.open(tmp_path / "turned.png") as opened:
        assert torch.equal(images(opened), upright)
    with pytest.raises(BadImage, match=r"none\.png"):
        images([str(tmp_path / "none.png")])


def test_transparency_lies_on_white() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert torch.equal(images(clear), torch.ones(1, 3, 8, 8))


def test_of_the_right_size_nothing_is_rounded() -> None:
    value = torch.rand(5, 3, 8, 8) * 2.2 - 1.1
    assert torch.equal(images(value), value)
    assert torch.equal(images(SQUARE), to_float(SQUARE[None]))


def test_grey_is_each_colour() -> None:
    grey = SQUARE[..., 0]
    expected = to_float(np.stack([grey] * 3, axis=-1)[None])
    for given in (grey, grey[None], grey[..., None], torch.from_numpy(grey)[None, None]):
        assert torch.equal(images(given), expected)


def test_three_by_three_pixels_are_read_by_the_kind_of_array() -> None:
    tiny = RANDOM.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    assert torch.equal(images(tiny, 3), to_float(tiny[None]))
    assert torch.equal(images(torch.from_numpy(tiny), 3), to_float(tiny.transpose(1, 2, 0)[None]))


def test_several_are_batched_in_order() -> None:
    batches = list(to_batches([SQUARE, [WIDE, SQUARE], torch.zeros(2, 3, 8, 8)], 8, 2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert torch.equal(torch.cat(batches)[:2], torch.cat([to_float(SQUARE[None]), CROPPED]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "int is no picture"),
        (torch.zeros(4, 5, 5), r"shape \(4, 5, 5\)"),
        (torch.zeros(0, 3, 5, 5), r"shape \(0, 3, 5, 5\)"),
        (torch.full((3, 8, 8), 255.0), r"in \[-1, 1\], these from 255 to 255"),
        (torch.full((3, 8, 8), float("nan")), "these from nan"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), r"torch\.int64"),
    ],
)
def test_what_is_no_picture_is_told(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        images(given)


def test_pictures_are_shown_and_saved(tmp_path: Path) -> None:
    pictures = Pictures(torch.from_numpy(np.stack([SQUARE] * 3)), (1, 2, 1), ("a", "b", "a"))
    assert pictures.grid(3).size == (3 * 10 + 2, 12)
    shown = Image.open(io.BytesIO(pictures._repr_png_()))
    assert min(shown.size) >= 8 * 12  # enlarged
    assert repr(pictures) == "<3 pictures of 8 x 8 pixels>"
    assert repr(pictures[:1]) == "<1 picture of 8 x 8 pixels>"
    pictures.save(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as file:
        assert np.array_equal(file["arr_0"], pictures.pixels)
        assert file["arr_1"].tolist() == [1, 2, 1]
    pictures[:2].save(str(tmp_path / "folder"))
    with Image.open(tmp_path / "folder/000001.png") as image:
        assert np.array_equal(np.asarray(image), SQUARE)
    assert torch.equal(images(pictures), images([SQUARE] * 3))
