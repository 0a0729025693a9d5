"""Parquet files and saved data sets against what the datasets package was given; the hub where it cannot be reached."""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pyarrow
import pytest
from data_helpers import digit, pixels, png, write_folder, write_parquet
from PIL import Image
from pyarrow import parquet
from pydantic import ValidationError

from gaekit.api import BadImage, DataAbsent, DataError
from gaekit_datasets import contents
from gaekit_datasets.holdout import held_out
from gaekit_datasets.huggingface import HuggingFace

NAMES = tuple(f"n{label}" for label in range(10))


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache folder of its own, and no bars."""
    monkeypatch.setenv("GAEKIT_CACHE", str(tmp_path / "kept"))
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 digits in two splits of parquet."""
    return write_parquet(tmp_path_factory.mktemp("digits"), 100)


def table(path: Path | str, **settings: Any) -> HuggingFace:
    return HuggingFace(HuggingFace.Config(use="huggingface", path=str(path), **settings))


def decoded(row: int) -> list[Any]:
    return pixels(Image.open(io.BytesIO(png(row))))


@pytest.mark.parametrize("pattern", ["", "data/train-*.parquet", "data/train-00000-of-00001.parquet"])
def test_images_labels_and_class_names_are_those_that_were_written(digits: Path, pattern: str) -> None:
    dataset = table(digits / pattern)
    assert dataset.classes == NAMES
    rows = []
    for split in (dataset.train(), dataset.validation()):
        for index in range(len(split)):
            row = int(split.key(index).removeprefix("train/"))
            image, label = split[index]
            assert (image.mode, pixels(image), label) == ("RGB", decoded(row), digit(row))
            assert split.labels[index] == label
            rows.append(row)
    assert sorted(rows) == list(range(100))


def test_a_split_for_validation_is_taken_whole(digits: Path) -> None:
    dataset = table(digits, validation="test")
    assert (len(dataset.train()), len(dataset.validation())) == (100, 100)
    assert pixels(dataset.validation()[7][0]) == decoded(1007)
    assert dataset.validation().labels.tolist() == [digit(1000 + row) for row in range(100)]
    assert dataset.validation().key(7) == "test/000000007"
    with pytest.raises(DataError, match="'train' is the split to train on"):
        table(digits, validation="train").train()


def test_a_fraction_is_held_out_by_the_number_of_the_row(digits: Path) -> None:
    split = table(digits, validation=0.3).validation()
    keys = [split.key(index) for index in range(len(split))]
    assert keys == [f"train/{row:09d}" for row in range(100) if held_out(f"train/{row:09d}", 0.3)]


def test_labels_may_be_numbers_or_names_without_a_list_or_absent(digits: Path, tmp_path: Path) -> None:
    named = table(digits, label="text")
    assert named.classes == NAMES
    assert named.train().labels.tolist() == table(digits).train().labels.tolist()
    numbered = table(write_parquet(tmp_path, 40, names=False), label="label")
    assert numbered.classes == tuple("0123456789")
    assert table(digits, classes=tuple("abcdefghij")).classes == tuple("abcdefghij")
    unlabelled = table(digits, label=None)
    assert (unlabelled.classes, set(unlabelled.train().labels.tolist())) == ((), {0})


def test_saved_data_sets_and_folders_of_images_are_read(digits: Path, tmp_path: Path) -> None:
    loaded = datasets.load_dataset(str(digits))
    loaded.save_to_disk(tmp_path / "both")
    loaded["train"].select(range(99, 9, -1)).save_to_disk(tmp_path / "one")
    assert pixels(table(tmp_path / "both", validation="test").validation()[3][0]) == decoded(1003)
    one = table(tmp_path / "one", validation=0.2)
    row = int(one.train().key(5).removeprefix("train/"))
    assert (pixels(one.train()[5][0]), one.train()[5][1]) == (decoded(99 - row), digit(99 - row))
    assert table(tmp_path / "both", validation="test").digest() != one.digest()
    write_folder(tmp_path / "files", 60)
    files = table(tmp_path / "files")
    assert files.classes == tuple("0123456789")
    image, label = files.train()[0]
    assert pixels(image) == decoded(next(i for i in range(60) if digit(i) == label and decoded(i) == pixels(image)))


def test_the_digest_is_of_the_files_and_not_of_their_place_or_the_packages_cache(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = table(digits, validation="test").digest()
    shutil.copytree(digits, tmp_path / "moved")
    assert table(tmp_path / "moved", validation="test").digest() == digest
    monkeypatch.setenv("GAEKIT_CACHE", str(tmp_path / "other"))
    assert table(digits, validation="test").digest() == digest
    seen = {
        digest,
        table(digits).digest(),
        table(digits, label=None).digest(),
        table(digits, on_bad_image="skip").digest(),
    }
    path = tmp_path / "moved" / "data" / "test-00000-of-00001.parquet"
    before = table(tmp_path / "moved").digest()
    data = bytearray(path.read_bytes())
    place = data.find(b"IDAT", len(data) // 2) + 12
    data[place] ^= 1
    path.write_bytes(data)
    seen.add(table(tmp_path / "moved", validation="test").digest())
    assert len(seen) == 5
    assert table(tmp_path / "moved").digest() == before  # the split `test` is not in use


def test_files_are_hashed_once(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(digits, tmp_path / "data")
    os.utime(tmp_path / "data" / "data" / "train-00000-of-00001.parquet", ns=(10**18 + 1,) * 2)

    time.sleep(0.05)
    read: list[str] = []
    original = contents._hash_of
    monkeypatch.setattr(contents, "_hash_of", lambda path, whole: read.append(path.name) or original(path, whole))
    assert table(tmp_path / "data").digest() == table(tmp_path / "data").digest()
    assert read == ["train-00000-of-00001.parquet"]


def test_damaged_and_missing_images_are_named_by_split_and_row(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image()})
    cells = [{"bytes": b"hello", "path": None}, None, *({"bytes": png(i), "path": None} for i in range(20))]
    datasets.Dataset.from_dict({"image": cells}, features=features).to_parquet(str(tmp_path / "a.parquet"))
    dataset = table(tmp_path / "a.parquet", label=None)
    split = dataset.train()
    for row, found in ((0, "the text 'hello'"), (1, "the file is empty")):
        index = [split.key(i) for i in range(len(split))].index(f"train/{row:09d}")
        with pytest.raises(BadImage, match=rf"train/{row:09d}: not an image of a known kind: .*{found}"):
            split[index]


def test_a_row_names_no_file_outside_the_data_set(tmp_path: Path) -> None:
    """A table of somebody else names a private image, a key, a pipe: none becomes data, nor a part of a message."""
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "private.png").write_bytes(png(0))
    (tmp_path / "key.png").write_text("BEGIN PRIVATE KEY 1234")
    os.mkfifo(data / "pipe.png")
    (data / "link.png").symlink_to(tmp_path / "private.png")
    (data / "own.png").write_bytes(png(5))
    bad = [tmp_path / "private.png", tmp_path / "key.png", "../private.png", "link.png", data / "pipe.png"]
    paths = [*map(str, bad), str(data / "own.png"), "own.png"]
    cells = [{"bytes": None, "path": path} for path in paths] + [{"bytes": png(i), "path": "x.png"} for i in range(20)]
    parquet.write_table(pyarrow.table({"image": cells}), data / "a.parquet")  # the package looks the paths up
    dataset = table(data / "a.parquet", label=None, validation=0.5)
    rows = {}
    for split in (dataset.train(), dataset.validation()):
        for index in range(len(split)):
            row = int(split.key(index).removeprefix("train/"))
            try:
                rows[row] = pixels(split[index][0])
            except BadImage as error:
                rows[row] = str(error)
    for row in range(len(bad)):
        assert rows[row].startswith(f"train/{row:09d}: image: '"), rows[row]
        assert "KEY" not in rows[row]
        assert ("leads out of" if row < 4 else "is a pipe") in rows[row]
    assert rows[5] == rows[6] == decoded(5)
    assert rows[7] == decoded(0)


def test_a_folder_of_images_is_read_by_the_package(tmp_path: Path) -> None:
    for index in range(20):
        path = tmp_path / "pictures" / f"n{digit(index)}" / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(index))
    dataset = table(tmp_path / "pictures", validation=0.5, label=None)
    found = [dataset.train()[i] for i in range(len(dataset.train()))]
    found += [dataset.validation()[i] for i in range(len(dataset.validation()))]
    assert sorted(pixels(image) for image, _ in found) == sorted(decoded(index) for index in range(20))


def test_a_plain_column_of_bytes_is_a_column_of_images(tmp_path: Path) -> None:
    rows = {"picture": [png(i) for i in range(20)], "kind": [digit(i) for i in range(20)]}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "a.parquet"))
    split = table(tmp_path / "a.parquet", image="picture", label="kind").train()
    row = int(split.key(4).removeprefix("train/"))
    assert (pixels(split[4][0]), split[4][1]) == (decoded(row), digit(row))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "val"}, r"has no split 'val'; it has: train, test"),
        ({"validation": "val"}, r"has no split 'val'; it has: train, test"),
        ({"image": "img"}, r"image: .* has no column 'img'; it has: image, label, text"),
        ({"label": "class"}, r"label: .* has no column 'class'; it has: image, label, text"),
        ({"image": "label"}, r"cannot be loaded: "),
        ({"classes": ("a", "b")}, r"label '2' is none of the 2 classes: 0, 1"),
    ],
)
def test_what_the_table_does_not_have_is_named_with_what_it_has(
    digits: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        table(digits, **settings).train()


def test_labels_that_are_none_are_named(tmp_path: Path) -> None:
    for value in (-1, None, 0.5):
        rows = {"image": [png(i) for i in range(20)], "label": [0] * 19 + [value]}
        datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "a.parquet"))
        with pytest.raises(DataError, match=r"label is .* in row \d+ of split 'train'; .*`label: null`"):
            table(tmp_path / "a.parquet").train()


@pytest.mark.parametrize("path", ["nobody/nothing", "nothing", "/nowhere/at/all", "/nowhere/*.parquet", "no.parquet"])
def test_what_is_neither_here_nor_to_be_reached_is_absent(path: str) -> None:
    dataset = table(path)
    for ask in (dataset.train, dataset.validation, dataset.digest, lambda: dataset.classes):
        with pytest.raises(DataAbsent, match=rf"huggingface: path: .*{path.replace('*', '.')}"):
            ask()


def test_the_digest_of_a_data_set_on_the_hub_is_that_of_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    cells = {"image": [{"bytes": png(i), "path": None} for i in range(30)], "label": [0, 1] * 15}
    rows = datasets.Dataset.from_dict(cells, features=features)
    asked: list[Any] = []

    def builder(path: str, name: str | None, *, revision: str | None) -> Any:
        asked.append((path, name, revision))
        return SimpleNamespace(
            hash=f"commit of {revision}",
            info=SimpleNamespace(splits={"train": None}),
            download_and_prepare=lambda: None,
            as_dataset=lambda split: rows,
        )

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    one = table("someone/birds", config="small", revision="v1")
    assert one.classes == ("a", "b")
    assert asked == [("someone/birds", "small", "v1")]
    assert len({one.digest(), table("someone/birds", config="small", revision="v2").digest()}) == 2
    assert one.digest() == table("someone/birds", config="small", revision="v1").digest()


def test_a_fraction_must_be_one() -> None:
    with pytest.raises(ValidationError, match="is no fraction between 0 and 1"):
        table("x", validation=1.5)
    assert isinstance(table("x", validation="0.25").config.validation, float)
    assert np.isclose(table("x").config.validation, 0.1)
