"""Decoding what somebody else wrote: a pipe does not hang it, a path leads nowhere else, a small file takes no more
memory than said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gaekit.api import BadImage, decode, decode_image

MEASURED = """
import os, sys
from gaekit.api import decode_image
import numpy, PIL.Image
PIL.Image.init()
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
for path in sys.argv[1:]:
    if os.fork() == 0:
        before = peak()
        image = decode_image(path)
        print((peak() - before) / (image.width * image.height), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


def test_decoding_takes_two_copies_of_four_bytes_a_pixel(tmp_path: Path) -> None:
    size, paths = (3_000, 3_000), []
    for mode in ("RGBA", "LA", "I;16", "P", "CMYK"):
        paths.append(str(tmp_path / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}"))
        image = Image.fromarray(np.full(size, 300, np.uint16)) if mode == "I;16" else Image.new(mode, size)
        image.save(paths[-1], compress_level=1, compression="tiff_lzw", **({"transparency": 0} if mode == "P" else {}))
    command = [sys.executable, "-c", MEASURED, *paths]
    measured = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert max(map(float, measured.stdout.split())) < 10, measured.stdout
    assert len(measured.stdout.split()) == len(paths)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
def test_strips_give_the_pixels_that_the_whole_gives(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(draw.integers(0, 1 << 16, (37, 23), dtype=np.uint16))
    else:
        image = Image.fromarray(draw.integers(0, 256, (37, 23, 4), dtype=np.uint8), "RGBA").convert(mode)
    image.save(tmp_path / "a.png", **({"transparency": 3} if mode == "P" else {}))
    whole = np.asarray(decode_image(tmp_path / "a.png", (9, 100, 200)))
    monkeypatch.setattr(decode, "STRIP", 100)
    assert np.array_equal(whole, np.asarray(decode_image(tmp_path / "a.png", (9, 100, 200))))


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    for name in ("pipe", "link", "device"):
        with pytest.raises(BadImage, match=rf"{name}\.png' is a pipe, socket or device; expected a regular file"):
            decode_image(tmp_path / f"{name}.png")


def test_a_path_that_a_file_names_stays_within_its_folders(tmp_path: Path) -> None:
    data, other = tmp_path / "data", tmp_path / "other"
    for folder in (data, other):
        folder.mkdir()
        Image.new("RGB", (2, 2), "red").save(folder / "a.png")
    (data / "inner.png").symlink_to("a.png")
    (data / "outer.png").symlink_to(other / "a.png")
    for allowed in (data / "a.png", "a.png", "inner.png", other / "a.png"):
        assert decode_image(allowed, within=[data, other]).size == (2, 2)
    for refused in (other / "a.png", "../other/a.png", "outer.png", data / "outer.png", "/etc/hostname"):
        with pytest.raises(BadImage, match=r"leads out of .*/data to .*; it is not followed"):
            decode_image(refused, within=[data])
