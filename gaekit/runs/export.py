"""Writing images for people: grids, folders of PNGs, npz; reconstructions of a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gaekit.api import decode_image
from gaekit.data.images import center_crop, to_float
from gaekit.errors import BadImage, DataError, GaekitError
from gaekit.runs.opened import OpenRun
from gaekit.stages.sample import save_grid
from gaekit.store.files import atomic
from gaekit.store.npz import NpzWriter

BATCH = 16
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


def save_images(out: Path, images_BRR3: Tensor, labels: Sequence[int] | None) -> None:
    """Write uint8 images by the kind of `out`: .png a grid, .npz arrays (arr_0, and arr_1 for labels), else a
    folder."""
    check_kind(out)
    if out.suffix == ".png":
        save_grid(out, images_BRR3, columns=max(1, round(len(images_BRR3) ** 0.5)))
    elif out.suffix == ".npz":
        with NpzWriter(out) as npz:
            npz.add("arr_0", np.dtype(np.uint8), tuple(images_BRR3.shape), [images_BRR3.numpy()])
            if labels is not None:
                npz.add("arr_1", np.dtype(np.int64), (len(labels),), [np.asarray(labels, dtype=np.int64)])
    else:
        for index, image in enumerate(images_BRR3):
            _save_png(out / f"{index:06d}.png", image)


def check_kind(out: Path) -> None:
    """Raise GaekitError where `save_images` has no way to write `out`."""
    if out.suffix not in ("", ".png", ".npz"):
        raise GaekitError(f"--out {out}: '{out.suffix}' is not known; give a .png, a .npz, or a folder")


def reconstruct_folder(run: OpenRun, folder: Path, out: Path) -> tuple[int, dict[str, str], float]:
    """Reconstruct every image below `folder`, centre-cropped to the run's size, into `out`.

    Returns (images written, {path: reason} of those that could not be read, mean PSNR in dB over 8-bit pixels).
    Raises DataError if there is no image that can be read.
    """
    files = _image_files(folder)
    skipped: dict[str, str] = {}
    decibels: list[float] = []
    size = run.autoencoder.spec.image_size
    with run.reporter.bar("reconstruct", len(files)) as bar:
        for paths, pixels in _batches(files, size, skipped):
            (made,) = run.reconstruct(iter([to_float(pixels)]))
            for path, image, original in zip(paths, made, pixels, strict=True):
                _save_png((out / path.relative_to(folder)).with_suffix(".png"), image)
                error = float((image.double() - torch.from_numpy(original).double()).square().mean())
                decibels.append(10 * float(np.log10(255**2 / max(error, 1e-10))))
            bar.advance(len(paths))
    if not decibels:
        raise DataError(
            f"{folder}: no image there could be read" + "".join(f"\n  {reason}" for reason in skipped.values())
        )
    return len(decibels), skipped, float(np.mean(decibels))


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found = [
        Path(root) / name
        for root, folders, names in os.walk(folder, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    ]
    if not found:
        raise DataError(f"{folder}: holds no image; looked for {', '.join(sorted(SUFFIXES))}, sub-folders included")
    return sorted(found)


def _batches(files: list[Path], size: int, skipped: dict[str, str]) -> Iterator[tuple[list[Path], np.ndarray]]:
    paths: list[Path] = []
    pixels: list[np.ndarray] = []
    for path in files:
        try:
            pixels.append(center_crop(decode_image(path), size))
            paths.append(path)
        except BadImage as error:
            skipped[str(path)] = str(error)
        if len(paths) == BATCH or (path == files[-1] and paths):
            yield paths, np.stack(pixels)
            paths, pixels = [], []


def _save_png(path: Path, image_RR3: Tensor) -> None:
    from PIL import Image

    with atomic(path) as part:
        Image.fromarray(image_RR3.numpy()).save(part, format="PNG")
