"""Reconstructing a folder of images into another, of which nothing that was there before is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from gaekit.api import decode_image, files_below
from gaekit.data.crop import center_crop
from gaekit.errors import BadImage, DataError, GaekitError
from gaekit.inside import resolve_inside
from gaekit.runs.export import save_png
from gaekit.runs.opened import OpenRun

BATCH = 16
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
MARK = ("Software", "gaekit reconstruct")
"""Key and text in the head of every PNG that is written: such a file may be written anew."""
HEAD = 256
"""Bytes within which the mark stands."""
SHOWN = 5


def reconstruct_folder(run: OpenRun, folder: Path, out: Path) -> tuple[int, dict[str, str], float]:
    """Reconstruct every image below `folder`, centre-cropped to the run's size, into `out`: a PNG under the same
    relative name, in which the image's own ending stays where two images differ in that alone (x.jpg.png).

    Returns (images written, {path: reason} of those that could not be read, mean PSNR in dB over 8-bit pixels). Raises
    DataError if there is no image that can be read, and GaekitError, before anything is written, where the folders
    overlap or a file of `out` would be lost: only reconstructions of before are written anew.
    """
    targets = _targets(folder, out)
    skipped: dict[str, str] = {}
    found: list[float] = []
    size = run.autoencoder.spec.image_size
    with run.reporter.bar("reconstruct", len(targets)) as bar:
        for paths, pixels in _batches(list(targets), size, skipped):
            made = run.reconstruct(pixels)
            for path, image, original in zip(paths, made.pixels, pixels, strict=True):
                save_png(targets[path], image, dict([MARK]))
                error = (image.double() - torch.from_numpy(original).double()).square().mean()
                found.append(decibels(float(error)))
            bar.advance(len(paths))
    if not found:
        raise DataError(
            f"{folder}: no image there could be read" + "".join(f"\n  {reason}" for reason in skipped.values())
        )
    return len(found), skipped, float(np.mean(found))


def decibels(error: float, peak: float = 255.0) -> float:
    """PSNR of a mean squared error; 100 dB where there is as good as none."""
    return min(100.0, float(10 * torch.log10(torch.tensor(peak**2 / max(error, 1e-12), dtype=torch.float64))))


def _targets(folder: Path, out: Path) -> dict[Path, Path]:
    """{image: where its reconstruction goes}, in the order of names. Raises GaekitError where one may not go there."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    inside, outside = folder.resolve(), out.resolve()
    if outside.is_relative_to(inside) or inside.is_relative_to(outside):
        raise GaekitError(
            f"--out {out}: overlaps with {folder}, whose images would be lost among their reconstructions; "
            "give a folder beside it"
        )
    names = sorted(
        name
        for name, entry in files_below(folder, "", "reconstruct")
        if PurePosixPath(name).suffix.lower() in SUFFIXES and _is_regular(entry.path)
    )
    if not names:
        raise DataError(f"{folder}: holds no image; looked for {', '.join(sorted(SUFFIXES))}, sub-folders included")
    targets = {folder / name: out / target for name, target in output_names(names).items()}
    _check_free(targets, out)
    return targets


def output_names(names: list[str]) -> dict[str, str]:
    """{relative name of an image: that of its PNG}, no two alike."""
    found = {name: str(PurePosixPath(name).with_suffix(".png")) for name in names}
    while clashes := {target for target, count in Counter(found.values()).items() if count > 1}:
        found |= {name: f"{name}.png" for name, target in found.items() if target in clashes}
    return found


def _is_regular(path: str) -> bool:
    """A pipe would be waited on for ever; a link that leads nowhere is named when it is opened."""
    return Path(path).is_file() or not Path(path).exists()


def _check_free(targets: Mapping[Path, Path], out: Path) -> None:
    """Nothing is written through a link that leads out of `out`, nor over a file that is not ours."""
    folders = {folder for target in targets.values() for folder in target.relative_to(out).parents}
    for folder in sorted(folders):
        resolve_inside(out / folder, [out], f"--out {out}", GaekitError)
    if both := folders & {target.relative_to(out) for target in targets.values()}:
        raise GaekitError(f"--out {out}: {min(both)} would be a file and a folder; rename one of the images")
    taken = [str(path) for path in targets.values() if path.is_symlink() or (path.exists() and not _is_ours(path))]
    if taken:
        more = f" and {len(taken) - SHOWN} more" if len(taken) > SHOWN else ""
        raise GaekitError(
            f"--out {out}: holds {', '.join(taken[:SHOWN])}{more}, which gaekit has not written and would overwrite; "
            "give another folder"
        )


def _is_ours(path: Path) -> bool:
    """Whether a file is a PNG with our mark, which stands in front of the pixels."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(HEAD)
    return head.startswith(b"\x89PNG\r\n") and b"\0".join(text.encode() for text in ("tEXt" + MARK[0], MARK[1])) in head


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
