"""Tensors copied aside into CPU memory, laid out as a safetensors file: writing them needs neither the tensors nor
torch, and holds no lock of Python's while bytes are hashed and written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gaekit.store.dtypes import DTYPE_NAMES

BLOCK = 4 << 20


class Snapshot:
    """One file's tensors as they were at `take`. The memory is kept for the next one of the same size."""

    def __init__(self) -> None:
        self._header, self._buffer, self._pinned = b"", torch.empty(0, dtype=torch.uint8), False

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self._header) + self._buffer.numel()

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy named tensors, from whatever device; when this returns they may change. Raises ValueError for a type
        that safetensors has no name for."""
        # The widest types first: each tensor then starts at a multiple of its element's size.
        order = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
        header, places, end = {}, {}, 0
        for name, tensor in order:
            if tensor.dtype not in DTYPE_NAMES:
                raise ValueError(f"{name}: a tensor of {tensor.dtype} cannot be saved")
            start, end = end, end + tensor.numel() * tensor.element_size()
            header[name] = {
                "dtype": DTYPE_NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [start, end],
            }
            places[name] = slice(start, end)
        self._header = _encoded(header)
        self._reserve(end, pinned=any(tensor.is_cuda for _, tensor in order))
        for name, tensor in order:
            place = self._buffer[places[name]].view(tensor.dtype).view(tensor.shape)
            place.copy_(tensor.detach(), non_blocking=True)
        for device in {tensor.device for _, tensor in order if tensor.is_cuda}:
            torch.cuda.synchronize(device)

    def write(self, path: Path) -> str:
        """Write the file, flushed to disk, and return its sha256. Raises OSError."""
        digest, data = hashlib.sha256(), self._buffer.numpy().data
        blocks: list[bytes | memoryview] = [self._header, *(data[i : i + BLOCK] for i in range(0, len(data), BLOCK))]
        with path.open("wb") as file:
            for block in blocks:
                file.write(block)
                digest.update(block)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()

    def _reserve(self, size: int, *, pinned: bool) -> None:
        if self._buffer.numel() != size or self._pinned != pinned:
            self._buffer = torch.empty(0, dtype=torch.uint8)  # the old goes before the new comes
            # numpy asks the kernel for huge pages: to touch small ones for the first time takes most of a first save.
            plain = np.empty(0 if pinned else size, dtype=np.uint8)
            pages = torch.empty(size, dtype=torch.uint8, pin_memory=True) if pinned else torch.from_numpy(plain)
            self._buffer, self._pinned = pages, pinned


def _encoded(header: Mapping[str, object]) -> bytes:
    """Length (8 bytes, little-endian) and JSON, filled up with spaces to a multiple of 8 bytes."""
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
