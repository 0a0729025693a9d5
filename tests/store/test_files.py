"""Files appear whole or not at all; artifacts say what is wrong with them."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib import format as npy

from gaekit.errors import ArtifactError, MachineFailed
from gaekit.store.artifact import open_artifact, resolve, save_artifact
from gaekit.store.files import atomic, human_size, sha256_json
from gaekit.store.npz import NpzWriter, npz_names, npz_rows


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")

    def fail() -> None:
        with atomic(file) as part:
            part.write_text("new")
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_named() -> None:
    with pytest.raises(MachineFailed, match="the disk is full"), atomic(Path("/tmp/x")), open("/dev/full", "w") as full:
        full.write("x" * 100000)


def test_hashes_of_json_do_not_depend_on_the_order_of_keys() -> None:
    assert sha256_json({"a": 1, "b": [1.5, None]}) == sha256_json({"b": [1.5, None], "a": 1})
    assert human_size(1536e6) == "1.5 GB"


def test_artifacts_are_equal_byte_for_byte_and_tell_their_kind(tmp_path: Path) -> None:
    groups = {"weights": {"b": torch.ones(2), "a": torch.zeros(3)}, "ema": {}}
    for name in ("one", "two"):
        save_artifact(tmp_path / name, "denoiser", {"z": 1, "a": [2]}, groups)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    opened = open_artifact(tmp_path / "one", "denoiser")
    assert opened.config == {"z": 1, "a": [2]}
    assert set(opened.tensors("weights")) == {"a", "b"}
    with pytest.raises(ArtifactError, match="holds a denoiser, wanted: autoencoder"):
        open_artifact(tmp_path / "one", "autoencoder")


def test_a_damaged_or_foreign_artifact_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ArtifactError, match="cannot be read as safetensors"):
        open_artifact(tmp_path / "text", "denoiser")
    with pytest.raises(ArtifactError, match="no such artifact"):
        open_artifact(tmp_path / "absent", "denoiser")
    with pytest.raises(ArtifactError, match="no artifact of the stage diffusion"):
        resolve(tmp_path, "diffusion", "denoiser.safetensors")


def test_weights_that_do_not_fit_name_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_artifact(path, "denoiser", {}, {"weights": {"weight": torch.zeros(2, 2), "other": torch.zeros(1)}})
    with pytest.raises(
        ArtifactError, match=r"1 missing: bias; 1 unexpected: other; 1 of another shape: weight \(2, 2\) for \(3, 3\)"
    ):
        open_artifact(path, "denoiser").load_into(torch.nn.Linear(3, 3), "weights")


def test_npz_is_numpys_and_reads_back_in_blocks(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (25, 4, 4, 3), dtype=np.uint8)
    for name in ("a.npz", "b.npz"):
        with NpzWriter(tmp_path / name) as npz:
            npz.add("arr_0", images.dtype, images.shape, [images[:10], images[10:]])
            npz.add("arr_1", np.dtype(np.int64), (25,), [np.arange(25)])
    with np.load(tmp_path / "a.npz") as read:
        assert np.array_equal(read["arr_0"], images)
        assert np.array_equal(read["arr_1"], np.arange(25))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert np.array_equal(np.concatenate(list(npz_rows(tmp_path / "a.npz", "arr_0", 7))), images)
    assert npz_names(tmp_path / "a.npz") == {"arr_0", "arr_1"}
    np.savez(tmp_path / "c.npz", arr_0=images)
    assert np.array_equal(np.concatenate(list(npz_rows(tmp_path / "c.npz", "arr_0", 9))), images)


def test_a_damaged_npz_is_named_and_its_claims_are_not_believed(tmp_path: Path) -> None:
    images = np.zeros((25, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=images, arr_1=np.asfortranarray(images), arr_2=np.uint8(3))
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive:
        for name, shape in (("rows", (10**12, 4)), ("row", (4, 10**12))):
            head = io.BytesIO()
            npy.write_array_header_2_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
            archive.writestr(f"{name}.npy", head.getvalue() + bytes(100))
    (tmp_path / "text.npz").write_text("no archive")
    os.mkfifo(tmp_path / "pipe.npz")
    for file, name, told in (
        ("a", "arr_1", "arr_1 is not stored row by row"),
        ("a", "arr_2", "arr_2 is not stored row by row"),
        ("a", "arr_9", "cannot be read as an .npz .*arr_9"),
        ("claims", "rows", "rows ends before row 1000000000000, which it claims to have"),
        ("claims", "row", "row claims to have rows of 1000000000000 bytes"),
        ("text", "arr_0", "cannot be read as an .npz"),
        ("pipe", "arr_0", "expected a regular file"),
    ):
        with pytest.raises(ArtifactError, match=rf"{file}\.npz.*{told}"):
            list(npz_rows(tmp_path / f"{file}.npz", name, 25))
