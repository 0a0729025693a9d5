"""The kept index of a folder: the digest knows contents, and only files that may have changed are opened again."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gaekit.errors import MachineFailed
from gaekit.pipeline.plan import make_plan
from gaekit.plugins import load_plugins
from gaekit.recipe import load_recipe
from gaekit_datasets import cache, contents
from gaekit_datasets.contents import EDGE, UNREADABLE, content_hash
from gaekit_datasets.image_folder import ImageFolder


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own."""
    monkeypatch.setenv("GAEKIT_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept" / "index"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read, by name."""
    names: list[str] = []
    read = contents._hash_of

    def watched(path: Path, whole: bool) -> bytes:
        names.append(path.name)
        return read(path, whole)

    monkeypatch.setattr(contents, "_hash_of", watched)
    return names


def folder(root: Path, **settings: Any) -> ImageFolder:
    return ImageFolder(ImageFolder.Config(use="image_folder", root=str(root), **{"validation": 0.5} | settings))


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def pictures(root: Path, count: int = 12) -> Path:
    """Bitmaps, which all have the same number of bytes, written a while ago."""
    for index in range(count):
        path = root / f"{'ab'[index % 2]}" / f"{index:02d}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(index).save(path)
    time.sleep(0.05)  # files just written are read again, as another write might bear the same time
    return root


def test_files_are_read_once_and_again_only_where_they_may_have_changed(tmp_path: Path, opened: list[str]) -> None:
    root = pictures(tmp_path / "data")
    digest = folder(root).digest()
    assert sorted(opened) == [f"{index:02d}.bmp" for index in range(12)]
    opened.clear()
    assert folder(root).digest() == digest
    assert folder(root, validation=0.4).digest() != digest
    assert opened == []
    os.utime(root / "a" / "04.bmp", (1, 1))
    noise(99).save(root / "b" / "50.bmp")
    (root / "a" / "02.bmp").unlink()
    changed = folder(root).digest()
    assert sorted(opened) == ["04.bmp", "50.bmp"]
    assert changed != digest
    (root / "b" / "50.bmp").unlink()
    noise(2).save(root / "a" / "02.bmp")
    assert folder(root).digest() == digest


@pytest.mark.parametrize("keeps_its_time", [False, True])
def test_a_file_replaced_by_another_of_the_same_name_and_size_changes_the_digest(
    tmp_path: Path, keeps_its_time: bool
) -> None:
    root = pictures(tmp_path / "data")
    path = root / "a" / "04.bmp"
    before, digest = path.stat(), folder(root).digest()
    noise(77).save(path)
    if keeps_its_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert folder(root).digest() != digest
    noise(4).save(path)
    assert folder(root).digest() == digest


def test_a_file_replaced_while_its_time_stands_still_is_seen(tmp_path: Path, opened: list[str]) -> None:
    root = pictures(tmp_path / "data")
    folder(root).digest()
    noise(70).save(root / "a" / "04.bmp")
    folder(root).digest()
    opened.clear()
    folder(root).digest()
    assert opened == ["04.bmp"]  # read at once after it was written: not yet taken for known


def test_the_digest_is_of_the_data_and_not_of_what_is_kept(tmp_path: Path, kept: Path) -> None:
    root = pictures(tmp_path / "data")
    digest = folder(root).digest()
    shutil.copytree(root, tmp_path / "elsewhere")
    assert folder(tmp_path / "elsewhere").digest() == digest
    (file, _) = sorted(kept.glob("*.npz"))
    for damage in (b"", b"PK\3\4 no archive", file.read_bytes()[:500]):
        for path in kept.glob("*.npz"):
            path.write_bytes(damage)
        assert folder(root).digest() == digest
    shutil.rmtree(kept)
    assert folder(root).digest() == digest
    assert sorted(path.suffix for path in kept.iterdir()) == [".lock", ".npz"]


def test_a_cache_that_cannot_be_written_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = pictures(tmp_path / "data")
    digest = folder(root).digest()
    (tmp_path / "file").touch()
    monkeypatch.setenv("GAEKIT_CACHE", str(tmp_path / "file"))
    cache._warn_unwritable.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert [folder(root).digest() for _ in range(3)] == [digest] * 3
    (record,) = caplog.records
    assert "cannot be written" in record.getMessage()
    assert "GAEKIT_CACHE" in record.getMessage()


def test_a_folder_for_validation_has_an_index_of_its_own(tmp_path: Path, opened: list[str], kept: Path) -> None:
    train, held = pictures(tmp_path / "train"), pictures(tmp_path / "held", 4)
    digest = folder(train, validation=str(held)).digest()
    assert len(list(kept.glob("*.npz"))) == 2
    opened.clear()
    noise(55).save(held / "a" / "00.bmp")
    assert folder(train, validation=str(held)).digest() != digest
    assert opened == ["00.bmp"]


def test_a_link_that_leads_nowhere_is_tried_again(tmp_path: Path) -> None:
    root = pictures(tmp_path / "data")
    (root / "a" / "gone.bmp").symlink_to(tmp_path / "later.bmp")
    digest = folder(root).digest()
    assert folder(root).digest() == digest
    noise(5).save(tmp_path / "later.bmp")
    assert folder(root).digest() != digest


def test_a_failing_disk_is_not_taken_for_a_file_that_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pictures(tmp_path / "data")

    def fail(*arguments: Any) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(contents, "content_hash", fail)
    with pytest.raises(MachineFailed, match=r"\.bmp: cannot be read: .*Input/output error"):
        folder(root).digest()


def test_large_files_are_known_by_their_ends_and_small_ones_by_all(tmp_path: Path) -> None:
    def hashed(data: bytes) -> bytes:
        (tmp_path / "x").write_bytes(data)
        with (tmp_path / "x").open("rb") as file:
            return content_hash(file, 0, len(data))

    small = bytes(2 * EDGE)
    assert len({hashed(small), hashed(small[:EDGE] + b"\1" + small[EDGE + 1 :]), hashed(small[:-1]), UNREADABLE}) == 4
    large = bytes(8 * EDGE)
    assert len({hashed(large), hashed(b"\1" + large[1:]), hashed(large[:-1] + b"\1")}) == 3
    assert hashed(large[: 4 * EDGE] + b"\1" + large[4 * EDGE + 1 :]) == hashed(large)


def test_processes_that_start_together_read_each_file_once(tmp_path: Path) -> None:
    root, context = pictures(tmp_path / "data"), multiprocessing.get_context("fork")
    reads, barrier = context.Value("i", 0), context.Barrier(3)
    read = contents._hash_of

    def counted(path: Path, whole: bool) -> bytes:
        with reads.get_lock():
            reads.value += 1
        return read(path, whole)

    def start() -> None:
        contents._hash_of = counted
        barrier.wait()
        folder(root).digest()

    processes = [context.Process(target=start) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert ([process.exitcode for process in processes], reads.value) == ([0, 0, 0], 12)


def test_a_changed_image_makes_every_stage_that_reads_data_run_again(tmp_path: Path) -> None:
    root, registry = pictures(tmp_path / "data"), load_plugins()
    change = f"dataset={{use: image_folder, root: {root}, validation: 0.5}}"
    recipe = load_recipe("smoke", registry, overrides=[change])

    def fingerprints() -> dict[str, str]:
        return {stage.name: stage.fingerprint for stage in make_plan(recipe, registry, tmp_path / "store").stages}

    before = fingerprints()
    assert fingerprints() == before
    noise(123).save(root / "a" / "02.bmp")
    after = fingerprints()
    assert before.keys() == after.keys() >= {"autoencoder", "latents", "diffusion"}
    assert all(after[name] != before[name] for name in before)
    assert make_plan(recipe, registry, tmp_path / "store").data == folder(root, validation=0.5).digest()
