"""Images that somebody else made: what their files claim is not believed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gaekit.data.given import ArraySource
from gaekit.data.parquet import ParquetSource
from gaekit.errors import ArtifactError, DataError


@pytest.mark.parametrize("labels", [[0, 10**12], [0, -1], np.array([0, 2**64 - 1], dtype=np.uint64)])
def test_labels_of_an_npz_that_count_no_classes_are_refused(tmp_path: Path, labels: Any) -> None:
    np.savez(tmp_path / "a.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8), arr_1=np.asarray(labels))
    with pytest.raises(DataError, match=r"arr_1 goes from .* labels are from 0"):
        ArraySource(tmp_path / "a.npz")


def test_an_npz_that_unpacks_into_far_more_than_it_holds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaekit.store.npz.UNPACKED", 1 << 16)
    np.savez_compressed(tmp_path / "bomb.npz", arr_0=np.zeros((64, 32, 32, 3), np.uint8))
    with pytest.raises(ArtifactError, match=r"arr_0 claims 196608 bytes of \d+, more than images are packed"):
        ArraySource(tmp_path / "bomb.npz")
    photos = np.random.default_rng(0).integers(0, 8, (64, 32, 32, 3)).astype(np.uint8)
    np.savez_compressed(tmp_path / "packed.npz", arr_0=photos)
    assert np.array_equal(np.asarray(ArraySource(tmp_path / "packed.npz")[63][0]), photos[63])


def test_images_of_an_npz_without_a_pixel_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", arr_0=np.zeros((2, 0, 0, 3), np.uint8))
    with pytest.raises(DataError, match=r"arr_0 is uint8 \(2, 0, 0, 3\); images are"):
        ArraySource(tmp_path / "a.npz")


def encoded() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "png")
    return buffer.getvalue()


def table(file: Path, **columns: Any) -> Path:
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(arrow.table(columns), file)
    return file


def test_labels_of_a_parquet_that_count_no_classes_are_refused(tmp_path: Path) -> None:
    file = table(tmp_path / "a.parquet", image=[encoded()] * 2, label=[0, 10**10])
    with pytest.raises(DataError, match=r"label of row 1 is 10000000000; there are at most 100,000 classes"):
        ParquetSource(file)


def test_a_parquet_that_unpacks_into_far_more_than_it_holds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaekit.data.parquet.MANY_ROWS", 1000)
    file = table(tmp_path / "a.parquet", image=[encoded()] * 30_000, label=[0] * 30_000)
    assert file.stat().st_size < 30_000
    with pytest.raises(DataError, match="claims 30000 rows"):
        ParquetSource(file)
    monkeypatch.setattr("gaekit.data.parquet.MANY_ROWS", 10**6)
    assert len(ParquetSource(file)) == 30_000


def test_a_damaged_page_of_a_parquet_is_told_when_it_is_read(tmp_path: Path) -> None:
    file = table(tmp_path / "a.parquet", image=[encoded()] * 3)
    source, content = ParquetSource(file), bytearray(file.read_bytes())
    content[4:40] = b"\xff" * 36
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read as parquet"):
        _ = source[0]
