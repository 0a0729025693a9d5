"""Crops against ADM's, exact conversions, and batches that do not depend on workers, caches or where one starts."""

from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_helpers import Pictures
from PIL import Image
from safetensors import safe_open

from gaekit import cli
from gaekit.data.images import ImageBatch, Images, center_crop, to_float, to_uint8
from gaekit.errors import BadImage, DataError, MachineFailed

GOLDEN = Path(__file__).parent.parent / "golden" / "adm_center_crop.safetensors"


def same(one: ImageBatch, other: ImageBatch) -> bool:
    names = ("image_B3RR", "label_B", "index_B", "flip_B")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def taken(images: Images, count: int, *, seed: int = 0, batch: int = 4, start: int = 0) -> list[ImageBatch]:
    return list(itertools.islice(images.training(seed, batch, start=start, flip=True), count))


def test_crops_are_those_of_adm_byte_for_byte() -> None:
    with safe_open(str(GOLDEN), framework="np") as file:
        assert json.loads(file.metadata()["config"])["kind"] == "adm_center_crop"
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 -- the file is no mapping
    crops = [key for key in tensors if key.startswith("out.")]
    assert len(crops) == 4
    for key in crops:
        number, size = key.removeprefix("out.crop").split("_")
        ours = center_crop(Image.fromarray(tensors[f"in.image{number}"]), int(size))
        assert ours.dtype == np.uint8
        assert np.array_equal(ours, tensors[key])


def test_a_real_photo_keeps_its_centre() -> None:
    photo = Image.fromarray(_photos()[0])
    crop = center_crop(photo, 213)  # 427 x 640: halved once, to 213 x 320, then cut
    halved = np.array(photo.resize((320, 213), Image.Resampling.BOX))
    assert np.array_equal(crop, halved[:, 53:266])


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (5, 3), (20, 5000), (5000, 20)])
@pytest.mark.parametrize("size", [8, 32])
def test_small_and_narrow_images_become_squares_of_their_colour(shape: tuple[int, int], size: int) -> None:
    crop = center_crop(Image.new("RGB", (shape[1], shape[0]), (10, 200, 30)), size)
    assert crop.shape == (size, size, 3)
    assert (crop == (10, 200, 30)).all()


def test_a_strip_too_large_to_resize_whole_gives_the_centre_that_resizing_it_whole_would() -> None:
    width, size = 30000, 40  # 1,200,000 x 40 after resizing whole, beyond what is made whole
    pixels = np.random.default_rng(0).integers(0, 256, (1, width, 3), dtype=np.uint8)
    crop = center_crop(Image.fromarray(pixels), size)
    middle = Image.fromarray(pixels[:, width // 2 - 500 : width // 2 + 500])
    expected = np.array(middle.resize((1000 * size, size), Image.Resampling.BICUBIC))[:, 500 * size - size // 2 :][
        :, :size
    ]
    assert np.abs(crop.astype(int) - expected.astype(int)).max() <= 1
    assert crop.std() > 0


def test_grey_images_are_taken_too() -> None:
    assert (center_crop(Image.new("L", (9, 9), 77), 4) == 77).all()


def test_every_grey_value_survives_the_round_trip() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    image = to_float(values)
    assert image.dtype == torch.float32
    assert image.shape == (1, 3, 16, 16)
    assert (image.min(), image.max()) == (-1, 1)
    assert torch.equal(to_uint8(image), torch.from_numpy(values))


def test_to_uint8_clamps_and_rounds_at_the_middle_between_two_values() -> None:
    x = (
        torch.tensor([-9.0, -1.0, (0.49 / 127.5) - 1, (0.51 / 127.5) - 1, 1.0, 9.0])
        .reshape(1, 1, 1, 6)
        .expand(1, 3, 1, 6)
    )
    assert to_uint8(x)[0, 0, :, 0].tolist() == [0, 0, 0, 1, 255, 255]


def test_to_float_takes_read_only_and_mirrored_arrays_and_refuses_floats() -> None:
    values = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    values.flags.writeable = False
    assert torch.equal(to_float(values[:, :, ::-1]), to_float(values).flip(-1))
    with pytest.raises(TypeError, match="uint8"):
        to_float(torch.zeros(1, 2, 2, 3))


def test_a_batch_holds_the_images_asked_for_mirrored_where_asked() -> None:
    source = Pictures(9)
    batch = Images(source, 10).batch([4, 7, 4], [False, False, True])
    assert batch.index_B.tolist() == [4, 7, 4]
    assert batch.label_B.tolist() == [1, 1, 1]
    assert batch.flip_B.tolist() == [False, False, True]
    expected = to_float(np.array(source[4][0])[None, :, 2:12])[0]
    assert torch.equal(batch.image_B3RR[0], expected)
    assert torch.equal(batch.image_B3RR[2], expected.flip(-1))
    assert len(batch.part(1, 3)) == 2
    assert same(batch.to("cpu"), batch)


def test_training_goes_on_exactly_from_any_step() -> None:
    images = Images(Pictures(10), 8)
    whole = taken(images, 9)
    assert len({tuple(batch.index_B.tolist()) for batch in whole}) > 5
    assert {int(index) for batch in whole[:5] for index in batch.index_B} == set(range(10))
    for start in (1, 2, 6):
        resumed = taken(Images(Pictures(10), 8), 9 - start, start=start)
        assert all(same(a, b) for a, b in zip(whole[start:], resumed, strict=True))
    assert not all(same(a, b) for a, b in zip(whole, taken(images, 9, seed=1), strict=True))


def test_ranks_see_their_rows_of_the_global_batch() -> None:
    whole = taken(Images(Pictures(10), 8), 4, batch=6)
    for first, last in ((0, 2), (2, 6)):
        stream = Images(Pictures(10), 8).training(0, 6, flip=True, first=first, last=last)
        assert all(same(batch.part(first, last), next(stream)) for batch in whole)


@pytest.mark.parametrize("bad", [(), (0, 3, 4)])
def test_cached_images_are_decoded_once_and_equal_the_others(bad: tuple[int, ...]) -> None:
    source = Pictures(10, bad)
    cached = Images(source, 8, cache_bytes=10 * 8 * 8 * 3, on_bad_image="skip")
    fresh = Images(Pictures(10, bad), 8, cache_bytes=10 * 8 * 8 * 3 - 1, on_bad_image="skip")
    assert all(same(a, b) for a, b in zip(taken(cached, 12), taken(fresh, 12), strict=True))
    assert all(same(a, b) for a, b in zip(cached.in_order(4), fresh.in_order(4), strict=True))
    assert len(fresh.source.decoded) > 40  # type: ignore[attr-defined]
    assert set(source.decoded) == set(range(10))
    assert len(source.decoded) <= 10 + 2 * len(
        bad
    )  # a bad image is found out once, and its stand-in decoded in its place


@pytest.mark.parametrize("cache_bytes", [0, 10**6])
def test_worker_processes_change_nothing(cache_bytes: int) -> None:
    def settings(workers: int) -> Images:
        return Images(Pictures(11, (2, 5, 6)), 8, on_bad_image="skip", workers=workers, cache_bytes=cache_bytes)

    alone, helped = settings(0), settings(2)
    before = torch.get_rng_state()
    for _ in range(2):
        assert all(same(a, b) for a, b in zip(taken(alone, 8), taken(helped, 8), strict=True))
        assert all(same(a, b) for a, b in zip(alone.in_order(4), helped.in_order(4), strict=True))
    assert alone.skipped == helped.skipped
    assert sorted(alone.skipped) == ["2.png", "5.png", "6.png"]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [1, 3, 5, 12, 20])
def test_in_order_gives_each_image_once(size: int) -> None:
    batches = list(Images(Pictures(12), 8).in_order(size))
    assert [len(batch) for batch in batches] == [min(size, 12 - i) for i in range(0, 12, size)]
    assert torch.cat([batch.index_B for batch in batches]).tolist() == list(range(12))


@pytest.mark.parametrize("workers", [0, 1])
def test_in_order_takes_spans_and_no_batch_crosses_their_borders(workers: int) -> None:
    batches = Images(Pictures(12), 8, workers=workers).in_order(4, spans=[range(5), range(5, 7), range(9, 12)])
    assert [batch.index_B.tolist() for batch in batches] == [[0, 1, 2, 3], [4], [5, 6], [9, 10, 11]]


def test_an_image_and_its_mirror_come_from_one_decode() -> None:
    source = Pictures(5)
    batches = [view for batch in Images(source, 8).in_order(3) for view in (batch, batch.mirrored())]
    assert source.decoded == [0, 1, 2, 3, 4]
    assert [batch.index_B.tolist() for batch in batches] == [[0, 1, 2], [0, 1, 2], [3, 4], [3, 4]]
    assert torch.equal(batches[1].image_B3RR, batches[0].image_B3RR.flip(-1))
    assert not torch.equal(batches[1].image_B3RR, batches[0].image_B3RR)
    assert [bool(batch.flip_B.all()) for batch in batches] == [False, True, False, True]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_stops_with_its_path(workers: int) -> None:
    images = Images(Pictures(8, bad=(5,)), 8, workers=workers)
    stream = images.in_order(4)
    assert next(stream).index_B.tolist() == [0, 1, 2, 3]
    with pytest.raises(BadImage) as caught:
        next(stream)
    assert str(caught.value) == "/data/5.png: damaged"


def test_a_batch_larger_than_the_split_decodes_each_image_once() -> None:
    source = Pictures(3)
    batch = Images(source, 8).batch([place % 3 for place in range(20)], [False] * 20)
    assert len(batch) == 20
    assert sorted(source.decoded) == [0, 1, 2]


def test_a_skipped_image_is_left_out_in_order_and_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    images = Images(Pictures(9, bad=(1, 6, 7, 8)), 8, on_bad_image="skip")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert [batch.index_B.tolist() for batch in images.in_order(3)] == [[0, 2], [3, 4, 5]]
    assert images.skipped == {f"{i}.png": f"/data/{i}.png: damaged" for i in (1, 6, 7, 8)}
    assert [record.getMessage() for record in caplog.records] == [
        f"skipped: /data/{i}.png: damaged" for i in (1, 6, 7, 8)
    ]


def test_the_next_readable_image_stands_in_while_training() -> None:
    good = Images(Pictures(9), 8)
    holey = Images(Pictures(9, bad=(3, 4, 8)), 8, on_bad_image="skip")
    instead = {3: 5, 4: 5, 8: 0}
    for whole, patched in zip(taken(good, 8), taken(holey, 8), strict=True):
        expected = [instead.get(index, index) for index in whole.index_B.tolist()]
        assert patched.index_B.tolist() == expected
        assert patched.label_B.tolist() == [index % 3 for index in expected]
        assert same(patched, good.batch(expected, whole.flip_B.tolist()))


def test_if_no_image_can_be_read_training_says_so() -> None:
    images = Images(Pictures(3, bad=(0, 1, 2)), 8, on_bad_image="skip")
    assert list(images.in_order(2)) == []
    for _ in range(2):
        with pytest.raises(DataError, match="none of the 3 images"):
            taken(images, 1)
    with pytest.raises(DataError, match="no image to train on"):
        taken(Images(Pictures(0), 8), 1)


def test_a_killed_worker_is_the_machines_failure() -> None:
    with pytest.raises(MachineFailed, match=r"runtime\.workers"):
        list(Images(Pictures(8, fatal=(5,)), 8, workers=1).in_order(4))


def test_a_worker_that_is_killed_while_its_program_does_something_else_ends_that_with_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch raises by its handler of SIGCHLD, wherever the main thread is."""

    def command(arguments: list[str]) -> None:
        with closing(Images(Pictures(200), 8, workers=1).in_order(2)) as stream:  # type: ignore[type-var]
            next(stream)
            (worker,) = multiprocessing.active_children()
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
            time.sleep(30)

    monkeypatch.setattr(cli, "_run", command)
    assert cli.main([]) == 4
    assert "error: a process that decodes images died" in capsys.readouterr().err


def test_workers_outlive_the_signals_that_ask_the_training_to_save() -> None:
    stream = Images(Pictures(200), 8, workers=1).training(0, 2, flip=False)
    next(stream)
    (worker,) = multiprocessing.active_children()
    for number in ("INT", "TERM", "USR1"):
        subprocess.run(["sh", "-c", f"kill -{number} {worker.pid}"], check=True)
    for _ in range(50):
        next(stream)
    assert multiprocessing.active_children() == [worker]
    stream.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_workers_end_at_once_with_a_batch_that_cannot_be_used_or_a_program_that_leaves_them_running() -> None:
    program = """
import sys
import time
from contextlib import closing
sys.path[:0] = sys.argv[1:]
from test_images import *
images = Images(Pictures(40, bad=(9,)), 8, workers=2)
kept = images.in_order(2)
next(kept)
stream = images.in_order(5)
next(stream)
try:
    next(stream)
except BadImage as error:
    kept_too = error
print(len(multiprocessing.active_children()))
"""
    folders = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    arguments = [sys.executable, "-c", program, *folders]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["2"]


def test_labels_are_known_without_decoding() -> None:
    source = Pictures(5)
    labels = Images(source, 8).labels
    assert labels is not None
    assert labels.tolist() == [0, 1, 2, 0, 1]
    assert source.decoded == []


def _photos() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images

    return list(load_sample_images().images)
