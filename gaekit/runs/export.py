"""Writing images for people: grids, folders of PNGs, npz."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from gaekit.errors import GaekitError
from gaekit.stages.sample import save_grid
from gaekit.store.files import atomic
from gaekit.store.npz import NpzWriter


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
            save_png(out / f"{index:06d}.png", image)


def check_kind(out: Path) -> None:
    """Raise GaekitError where `save_images` has no way to write `out`."""
    if out.suffix not in ("", ".png", ".npz"):
        raise GaekitError(f"--out {out}: '{out.suffix}' is not known; give a .png, a .npz, or a folder")


def save_png(path: Path, image_RR3: Tensor, text: Mapping[str, str] | None = None) -> None:
    """Write one uint8 image, with `text` in the file's head."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    head = PngInfo()
    for key, value in (text or {}).items():
        head.add_text(key, value)
    with atomic(path) as part:
        Image.fromarray(image_RR3.numpy()).save(part, format="PNG", pnginfo=head)
