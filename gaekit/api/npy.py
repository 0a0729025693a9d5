"""The head of an array as numpy stores it, read without believing it: what it claims is for the caller to judge."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import IO

import numpy as np
from numpy.lib import format as npy

LONGEST_HEAD = 10_000
"""Bytes; numpy writes some hundred."""
UNREADABLE_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError, ValueError)
"""What zipfile raises for archives that are damaged, encrypted, packed in an unknown way, or lack a member."""


def read_npy_head(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether in Fortran's order, dtype) of the array that begins here; its numbers come next.

    Raises ValueError where there is none: also for one of objects, with a negative length, or with a head of more than
    10,000 bytes, which numpy would read into memory before it refuses it.
    """
    begin = file.read(8)
    length = file.read(2 if begin[6:8] == b"\x01\x00" else 4)
    size = int.from_bytes(length, "little")
    if size > LONGEST_HEAD:
        raise ValueError(f"a head of {size} bytes")
    head = io.BytesIO(begin + length + file.read(size))
    try:
        read = npy.read_array_header_1_0 if npy.read_magic(head) == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(head, max_header_size=LONGEST_HEAD)
    except Exception as error:  # its text is evaluated as a literal, which fails in many ways: SyntaxError, ...
        raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    if dtype.hasobject or any(isinstance(n, bool) or n < 0 for n in shape):
        raise ValueError(f"an array of {dtype}, {shape}")
    return shape, fortran, dtype
