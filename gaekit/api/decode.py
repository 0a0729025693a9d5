"""Decoding image files of any common kind to RGB, by documented rules (docs/image_folder.md)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from errno import EACCES, ELOOP, ENOENT, EPERM
from pathlib import Path
from typing import IO, TYPE_CHECKING

from gaekit.errors import BadImage, MachineFailed
from gaekit.inside import open_regular, resolve_inside

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "TGA", "AVIF")
"""Pillow's formats that are tried, whatever the file's name ends in; pixels only, nothing that runs another program."""

LARGEST = 89_478_485
"""Pixels of the largest image that is decoded, as many as Pillow takes without a warning: small files can claim more
than fits in memory. Decoding one of this size takes 0.8 GB (two copies of 4 bytes a pixel), whatever its kind."""
STRIP = 1 << 20
"""Pixels that are converted at once: whole copies of a large image in between would take several times its memory."""

WHITE = (255, 255, 255)
RGB = tuple[int, int, int]


def decode_image(
    path: str | Path, background: RGB = WHITE, *, data: bytes | None = None, within: Sequence[Path] | None = None
) -> Image:
    """The image in a file as RGB, upright by its EXIF orientation, its first frame if it is animated.

    16-bit grey is divided by 257; transparency is composited on `background`; CMYK, palettes and grey are converted;
    colour profiles are not applied. With `data`, those bytes are decoded and `path` only names them. With `within`,
    `path` was named by a file that somebody else may have written: it must lie in one of these folders, all links
    followed, and where it is relative, it is so to the first. Raises BadImage, naming the file, also for what is no
    regular file, and MachineFailed where not the file but the disk is at fault.
    """
    place = Path(path)
    if data is None and within is not None:
        place = resolve_inside(within[0] / place, within, "image", BadImage)
    try:
        with (
            warnings.catch_warnings(),
            open_regular(place, "image", BadImage) if data is None else io.BytesIO(data) as file,
        ):
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata and on sizes: LARGEST decides
            return _decode(file, path, background)
    except BadImage:
        raise
    except OSError as error:
        if error.errno is None:  # the decoder's own, such as a file cut off
            raise BadImage(f"{path}: damaged image: {error}") from error
        if error.errno in (ENOENT, EACCES, EPERM, ELOOP):
            raise BadImage(f"{path}: cannot be opened: {error.strerror}") from error
        raise MachineFailed(f"{path}: cannot be read: {error}") from error
    except MemoryError as error:
        raise MachineFailed(f"{path}: not enough memory to decode it") from error
    except (
        Exception
    ) as error:  # decoders fail on damaged files in many ways: SyntaxError, ValueError, struct.error, ...
        raise BadImage(f"{path}: damaged image: {type(error).__name__}: {error}") from error


def _decode(file: IO[bytes], path: str | Path, background: RGB) -> Image:
    from PIL import Image, UnidentifiedImageError

    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]
    try:
        image = Image.open(file, formats=known)
    except UnidentifiedImageError:
        raise BadImage(f"{path}: not an image of a known kind: {_found(file)}") from None
    except Image.DecompressionBombError:
        raise BadImage(f"{path}: claims more than {LARGEST} pixels; make it smaller") from None
    if image.width * image.height > LARGEST:
        raise BadImage(f"{path}: claims {image.width} x {image.height} pixels, more than {LARGEST}; make it smaller")
    image.load()
    return upright_rgb(image, path, background)


def upright_rgb(image: Image, source: str | Path, background: RGB = WHITE) -> Image:
    """A loaded image as `decode_image` gives it: RGB, upright. Raises BadImage, naming `source`."""
    orientation = _orientation(image)
    return _turned(_to_rgb(image, source, background), orientation)


def _found(file: IO[bytes]) -> str:
    file.seek(0)
    head = file.read(24)
    if not head:
        return "the file is empty"
    text = head.decode("utf-8", errors="replace").rstrip("\ufffd")  # the cut may go through a letter
    if "\0" in text or "\ufffd" in text or not text:
        return f"it begins with the bytes {head[:8].hex(' ')}"
    return f"it begins with the text {text!r}"


def _orientation(image: Image) -> int | None:
    try:
        return image.getexif().get(0x0112)
    except Exception:  # damaged metadata, of which viewers make nothing either: the pixels are whole
        return None


def _turned(image: Image, orientation: int | None) -> Image:
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
    }  # fmt: skip
    return image.transpose(turns[orientation]) if orientation in turns else image


def _to_rgb(image: Image, path: str | Path, background: RGB) -> Image:
    from PIL import Image as pillow

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    whole = pillow.new("RGB", image.size)
    for top, strip in _strips(image):
        whole.paste(_strip_to_rgb(strip, path, background), (0, top))
    return whole


def _strips(image: Image) -> Iterator[tuple[int, Image]]:
    """(first row, those rows): of a large image some rows at a time, of others all."""
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _strip_to_rgb(image: Image, path: str | Path, background: RGB) -> Image:
    from PIL import Image as pillow

    if image.mode.startswith("I") or image.mode == "F":
        return _grey_from_numbers(image, path)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        backdrop = pillow.new("RGBA", image.size, (*background, 255))
        return pillow.alpha_composite(backdrop, _with_alpha(image)).convert("RGB")
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise BadImage(f"{path}: colour mode {image.mode} cannot become RGB; save it as RGB") from error


def _with_alpha(image: Image) -> Image:
    if image.mode == "La":  # premultiplied grey converts to plain grey with alpha only
        image = image.convert("LA")
    return image.convert("RGBA")


def _grey_from_numbers(image: Image, path: str | Path) -> Image:
    import numpy as np
    from PIL import Image as pillow

    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise BadImage(f"{path}: {kind} pixels have no agreed white; save it with 8 or 16 bits")
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return pillow.fromarray(grey).convert("RGB")
