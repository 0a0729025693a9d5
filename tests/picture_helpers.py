"""A split of a data set whose images say which they are."""

from __future__ import annotations

import os
import signal

import numpy as np
from PIL import Image

from gaekit.errors import BadImage


class Pictures:
    """Images whose every pixel says which they are; those in `bad` cannot be decoded."""

    def __init__(self, n: int, bad: tuple[int, ...] = (), fatal: tuple[int, ...] = ()):
        self.n, self.bad, self.fatal = n, bad, fatal
        self.decoded: list[int] = []
        self.labels = [index % 3 for index in range(n)]

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        self.decoded.append(index)
        if index in self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        if index in self.bad:
            raise BadImage(f"/data/{index}.png: damaged")
        ramp = np.zeros((10, 14, 3), dtype=np.uint8)
        ramp[..., 0], ramp[..., 1], ramp[..., 2] = index, np.arange(14) * 10, np.arange(10)[:, None] * 20
        return Image.fromarray(ramp), index % 3

    def key(self, index: int) -> str:
        return f"{index}.png"
