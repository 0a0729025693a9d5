"""Folders as people have them: classes or none, odd files, names of all kinds; and a split that names alone decide."""

from __future__ import annotations

import io
import logging
import os
import shutil
import struct
import unicodedata
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_sample_images

from gaekit.api import BadImage, DataAbsent, DataError
from gaekit.data.images import Images
from gaekit.errors import MachineFailed
from gaekit_datasets.holdout import held_out
from gaekit_datasets.image_folder import ImageFolder
from gaekit_datasets.scan import Names

DOCUMENT = Path(__file__).parents[2] / "docs" / "image_folder.md"


@pytest.fixture(scope="session")
def photos() -> list[Image.Image]:
    """China and flower, 640 x 427, as scikit-learn ships them, made small."""
    return [Image.fromarray(photo).resize((64, 43)) for photo in load_sample_images().images]


def folder(root: Path | str, **settings: Any) -> ImageFolder:
    return ImageFolder(ImageFolder.Config(use="image_folder", root=str(root), **{"validation": 0.5} | settings))


def fill(root: Path, *names: str, color: str = "red") -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), color).save(root / name)
    return root


def many(root: Path, name: str, count: int) -> Path:
    return fill(root, *(f"{name}/{i:03d}.png" for i in range(count)))


def names_of(dataset: ImageFolder) -> list[str]:
    splits = (dataset.train(), dataset.validation())
    return sorted(split.key(i) for split in splits for i in range(len(split)))


def one_file(root: Path) -> Any:
    """The only image of a folder with one file, as a source reads it; another beside it is held out."""
    held = root.parent / "held"
    fill(held, "a.png")
    return folder(root, validation=str(held), classes="none").train()


def pixels_of(path: Path) -> np.ndarray:
    image, label = one_file(path.parent)[0]
    assert image.mode == "RGB"
    assert label == 0
    return np.asarray(image)


class TestLayout:
    def test_sub_folders_are_classes_in_the_order_of_their_names(self, tmp_path: Path) -> None:
        for name in ("zebra", "Ape", "cat"):
            many(tmp_path, f"{name}/deep/er", 8)
        dataset = folder(tmp_path)
        assert dataset.classes == ("Ape", "cat", "zebra")
        train = dataset.train()
        for index in range(len(train)):
            assert dataset.classes[train[index][1]] == train.key(index).split("/")[0]
            assert train.labels[index] == train[index][1]
        assert sorted(train.labels) == train.labels.tolist()
        assert len(names_of(dataset)) == 24

    def test_images_alone_are_unconditional(self, tmp_path: Path) -> None:
        fill(tmp_path, *(f"{i}.png" for i in range(20)))
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "read.txt").write_text("hello")
        dataset = folder(tmp_path)
        assert dataset.classes == ()
        assert set(dataset.train().labels) == {0}
        assert len(names_of(dataset)) == 20

    @pytest.mark.parametrize("rule", ["auto", "folders"])
    def test_images_beside_class_folders_are_refused_with_an_example_of_each(self, tmp_path: Path, rule: str) -> None:
        fill(tmp_path, "stray.png", "cat/in.png")
        with pytest.raises(DataError, match=r"'stray\.png'.*'cat/in\.png'.*classes: none"):
            _ = folder(tmp_path, classes=rule).classes

    def test_images_without_folders_are_no_classes(self, tmp_path: Path) -> None:
        fill(tmp_path, "stray.png")
        with pytest.raises(DataError, match=r"beside its sub-folders \('stray\.png'\)"):
            _ = folder(tmp_path, classes="folders").classes

    def test_without_classes_every_image_below_counts(self, tmp_path: Path) -> None:
        many(fill(tmp_path, "a.png", "b.png"), "cat/x", 10)
        dataset = folder(tmp_path, classes="none")
        assert dataset.classes == ()
        assert len(names_of(dataset)) == 12

    def test_an_empty_class_folder_is_an_error_that_names_it_and_what_lies_there(self, tmp_path: Path) -> None:
        many(tmp_path, "cat", 8)
        (tmp_path / "dog").mkdir()
        (tmp_path / "dog" / "a.heic").touch()
        with pytest.raises(DataError, match=r"'dog' \(but 1 \.heic; .*empty_classes: ignore"):
            folder(tmp_path).train()

    def test_an_empty_class_folder_is_ignored_aloud_if_asked(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        many(tmp_path, "cat", 8)
        (tmp_path / "aardvark").mkdir()
        with caplog.at_level(logging.WARNING):
            dataset = folder(tmp_path, empty_classes="ignore")
            assert dataset.classes == ("cat",)
            assert set(dataset.train().labels) == {0}
        assert ["'aardvark'" in record.getMessage() for record in caplog.records] == [True]

    def test_hidden_files_and_leftovers_of_archives_are_no_images(self, tmp_path: Path) -> None:
        many(tmp_path, "cat", 8)
        expected = names_of(folder(tmp_path))
        fill(tmp_path, "cat/._001.png", ".cache/a.png", "__MACOSX/cat/a.png", "cat/@eaDir/001.png", ".hidden.png")
        (tmp_path / ".DS_Store").touch()
        (tmp_path / "Thumbs.db").touch()
        assert names_of(folder(tmp_path)) == expected

    def test_links_are_followed_and_one_that_leads_back_up_is_named(self, tmp_path: Path) -> None:
        many(tmp_path / "elsewhere", "cat", 8)
        root = tmp_path / "root"
        root.mkdir()
        (root / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
        assert len(names_of(folder(root))) == 8
        (root / "cat" / "up").symlink_to(root)
        with pytest.raises(DataError, match="cat/up/cat: this link leads to a folder that it lies in"):
            folder(root).train()

    def test_a_link_that_leads_nowhere_is_named_when_visited(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "gone.png").symlink_to(tmp_path / "nothing.png")
        with pytest.raises(BadImage, match=r"data/gone\.png: cannot be opened"):
            one_file(tmp_path / "data")[0]

    def test_a_pipe_is_no_image(self, tmp_path: Path) -> None:
        fill(tmp_path, *(f"{i}.png" for i in range(8)))
        os.mkfifo(tmp_path / "pipe.png")
        assert len(names_of(folder(tmp_path))) == 8

    def test_names_of_all_kinds_work(self, tmp_path: Path) -> None:
        names = [
            "ein ü & ' name.png",
            "写真.png",
            unicodedata.normalize("NFD", "é.png"),
            "a\nb.png",
            "UPPER.PNG",
            "-x.png",
        ]
        names += [os.fsdecode(b"latin\xe9.png")]
        fill(tmp_path, *(f"les élèves/{name}" for name in names), *(f"a b/{i}.png" for i in range(8)))
        dataset = folder(tmp_path)
        assert dataset.classes == ("a b", "les élèves")
        assert set(names_of(dataset)) >= {f"les élèves/{name}" for name in names}
        for split in (dataset.train(), dataset.validation()):
            assert all(split[index][0].size == (4, 4) for index in range(len(split)))
        assert len(dataset.digest()) == 64

    def test_other_endings_can_be_asked_for(self, tmp_path: Path) -> None:
        fill(tmp_path, *(f"{i}.PPM" for i in range(8)))
        with pytest.raises(DataError, match=r"no image in .* \(but 8 \.ppm"):
            folder(tmp_path).train()
        assert len(names_of(folder(tmp_path, extensions=("ppm",)))) == 8


class TestRoot:
    def test_an_absent_root_says_what_is_expected_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        dataset = folder(tmp_path / "nowhere")
        for ask in (dataset.train, dataset.validation, dataset.digest, lambda: dataset.classes):
            with pytest.raises(DataAbsent, match=r"root: .*nowhere does not exist; expected there: a sub-folder"):
                ask()
        monkeypatch.chdir(tmp_path)
        with pytest.raises(DataAbsent, match=f"nowhere does not exist \\(looked in {tmp_path}"):
            folder("nowhere").train()

    def test_a_relative_root_is_in_the_current_directory_and_a_tilde_at_home(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        many(tmp_path / "pictures", "cat", 8)
        monkeypatch.chdir(tmp_path)
        assert len(names_of(folder("pictures"))) == 8
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir("/")
        assert len(names_of(folder("~/pictures"))) == 8

    def test_a_root_that_is_a_file_or_empty_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match="no image in"):
            folder(tmp_path / "empty").train()
        fill(tmp_path, "a.png")
        with pytest.raises(DataError, match="is a file"):
            folder(tmp_path / "a.png").train()


class TestSplit:
    def test_names_decide_so_that_more_files_move_no_other(self, tmp_path: Path) -> None:
        many(tmp_path, "cat", 60)
        before = folder(tmp_path, validation=0.3)
        old = {before.validation().key(i) for i in range(len(before.validation()))}
        assert old == {f"cat/{i:03d}.png" for i in range(60) if held_out(f"cat/{i:03d}.png", 0.3)}
        assert 8 <= len(old) <= 28
        many(tmp_path, "dog", 60)
        after = folder(tmp_path, validation=0.3)
        new = {after.validation().key(i) for i in range(len(after.validation()))}
        assert {name for name in new if name.startswith("cat")} == old
        assert not {after.train().key(i) for i in range(len(after.train()))} & new

    def test_the_share_is_that_asked_for(self) -> None:
        share = np.mean([held_out(f"{i}.jpg", 0.1) for i in range(20000)])
        assert abs(share - 0.1) < 0.006
        # sha256("abc") begins with ba7816bf: at 0xba / 256 = 0.7266 of the way.
        assert (held_out("abc", 0.7283), held_out("abc", 0.7285)) == (False, True)

    def test_a_split_that_leaves_nothing_says_the_counts(self, tmp_path: Path) -> None:
        fill(tmp_path, "a.png", "b.png")
        with pytest.raises(DataError, match=r"1e-06 of 2 images leaves 2 to train on and 0 held out"):
            folder(tmp_path, validation=1e-6).train()
        with pytest.raises(DataError, match=r"0\.999999 of 2 images leaves 0 to train on and 2 held out"):
            folder(tmp_path, validation=0.999999).train()

    def test_a_class_whose_images_are_all_held_out_is_named(self, tmp_path: Path) -> None:
        name = next(f"{i}.png" for i in range(100) if held_out(f"rare/{i}.png", 0.5))
        many(fill(tmp_path, f"rare/{name}"), "cat", 20)
        with pytest.raises(DataError, match="holds out all 1 images of class 'rare'"):
            folder(tmp_path, validation=0.5).train()

    def test_a_folder_for_validation_keeps_the_labels_of_training(self, tmp_path: Path) -> None:
        for name in ("ape", "cat", "dog"):
            many(tmp_path / "train", name, 3)
        many(tmp_path / "val", "dog", 2)
        (tmp_path / "val" / "empty").mkdir()
        dataset = folder(tmp_path / "train", validation=str(tmp_path / "val"))
        assert len(dataset.train()) == 9
        assert dataset.validation().labels.tolist() == [2, 2]
        assert dataset.validation()[1][1] == 2
        many(tmp_path / "val", "eel", 1)
        with pytest.raises(DataError, match="holds class 'eel', which has no folder in root; known: ape, cat, dog"):
            folder(tmp_path / "train", validation=str(tmp_path / "val")).train()

    def test_validation_images_without_class_folders_are_refused_where_training_has_classes(
        self, tmp_path: Path
    ) -> None:
        many(tmp_path / "train", "cat", 3)
        fill(tmp_path / "val", "ILSVRC_1.png")
        with pytest.raises(DataError, match=r"validation: .*ILSVRC_1\.png"):
            folder(tmp_path / "train", validation=str(tmp_path / "val")).train()

    def test_an_absent_validation_folder_is_named(self, tmp_path: Path) -> None:
        many(tmp_path, "cat", 3)
        with pytest.raises(DataAbsent, match=r"validation: .*val does not exist"):
            folder(tmp_path, validation="/nowhere/val").train()

    @pytest.mark.parametrize(("root", "validation"), [("data", "data/val"), ("data/train", "data"), ("data", "data")])
    def test_training_on_held_out_images_is_refused(self, tmp_path: Path, root: str, validation: str) -> None:
        many(tmp_path / "data", "train/cat", 3)
        many(tmp_path / "data", "val/cat", 3)
        with pytest.raises(DataError, match="overlap"):
            folder(tmp_path / root, validation=str(tmp_path / validation)).train()

    @pytest.mark.parametrize("value", [0, 1, 0.0, 1.0, -0.5, 7, True, None, "", "1.5", [0.1]])
    def test_what_is_neither_fraction_nor_path_is_refused(self, value: Any) -> None:
        with pytest.raises(ValidationError) as caught:
            ImageFolder.Config(use="image_folder", root="x", validation=value)
        assert [error["loc"] for error in caught.value.errors()] == [("validation",)]

    def test_a_fraction_from_a_variable_is_a_fraction(self) -> None:
        assert ImageFolder.Config(use="image_folder", root="x", validation="0.25").validation == 0.25


class TestDigest:
    def test_it_knows_names_sizes_classes_split_and_background(self, tmp_path: Path) -> None:
        many(many(tmp_path / "a", "cat", 8), "dog", 8)
        digest = folder(tmp_path / "a").digest()
        assert digest == folder(tmp_path / "a").digest()
        seen = {
            digest,
            folder(tmp_path / "a", validation=0.4).digest(),
            folder(tmp_path / "a", classes="none").digest(),
        }
        seen |= {
            folder(tmp_path / "a", background="black").digest(),
            folder(tmp_path / "a", on_bad_image="skip").digest(),
        }
        (tmp_path / "a/cat/000.png").rename(tmp_path / "a/cat/00.png")
        seen.add(folder(tmp_path / "a").digest())
        Image.new("RGB", (9, 9)).save(tmp_path / "a/cat/00.png")
        seen.add(folder(tmp_path / "a").digest())
        (tmp_path / "a/cat").rename(tmp_path / "a/elk")
        seen.add(folder(tmp_path / "a").digest())
        assert len(seen) == 8

    def test_it_does_not_know_where_the_folder_lies_nor_how_it_was_filled(self, tmp_path: Path) -> None:
        names = [f"{animal}/{i}.png" for animal in ("cat", "dog") for i in range(10)]
        one, other = fill(tmp_path / "one", *names), fill(tmp_path / "two" / "deep", *reversed(names))
        held, moved = fill(tmp_path / "held", "cat/0.png"), fill(tmp_path / "moved", "cat/0.png")
        for path in (other / "cat").iterdir():
            os.utime(path, (1, 1))
        assert folder(one).digest() == folder(other).digest()
        assert folder(one, validation=str(held)).digest() == folder(other, validation=str(moved)).digest()

    def test_white_by_any_name_is_white(self, tmp_path: Path) -> None:
        many(tmp_path, "cat", 8)
        assert folder(tmp_path).digest() == folder(tmp_path, background="#FFffff").digest()


class TestOddFiles:
    def test_a_text_file_named_png_says_what_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "x").mkdir()
        for content, found in [
            (b"hello there", r"the text 'hello there'"),
            ("写真、写真、写真、".encode(), "the text '写真"),
            (b"", "the file is empty"),
            (b"\0\1\2\3", "the bytes 00 01 02 03"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "the text '%!PS"),
        ]:
            (tmp_path / "x" / "text.png").write_bytes(content)
            with pytest.raises(BadImage, match=rf"x/text\.png: not an image of a known kind: .*{found}"):
                one_file(tmp_path / "x")[0]

    @pytest.mark.parametrize("ending", ["jpg", "png", "webp", "gif", "bmp", "tif"])
    def test_a_file_cut_off_is_named(self, tmp_path: Path, photos: list[Image.Image], ending: str) -> None:
        path = tmp_path / "x" / f"cut.{ending}"
        path.parent.mkdir()
        photos[0].save(path)
        whole = path.read_bytes()
        assert pixels_of(path).shape == (43, 64, 3)
        path.write_bytes(whole[: len(whole) * 2 // 3])
        with pytest.raises(BadImage, match=rf"x/cut\.{ending}: (damaged|not an) image"):
            one_file(path.parent)[0]

    def test_damage_anywhere_ends_in_an_image_or_a_name(self, tmp_path: Path, photos: list[Image.Image]) -> None:
        path, random = tmp_path / "x" / "a.png", np.random.default_rng(0)
        path.parent.mkdir()
        modes, messages = set(), []
        for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP"):
            stream = io.BytesIO()
            photos[1].save(stream, kind)
            for _ in range(12):
                data = bytearray(stream.getvalue())
                for place in random.integers(0, len(data), 20):
                    data[place] = random.integers(256)
                path.write_bytes(data)
                try:
                    modes.add(one_file(path.parent)[0][0].mode)
                except BadImage as error:
                    messages.append(str(error))
        assert modes == {"RGB"}
        assert len(messages) > 10
        assert all("x/a.png: " in message for message in messages)

    def test_a_cmyk_jpeg_keeps_its_colours(self, tmp_path: Path, photos: list[Image.Image]) -> None:
        path = tmp_path / "x" / "print.jpg"
        path.parent.mkdir()
        photos[0].convert("CMYK").save(path, quality=95)
        error = pixels_of(path).astype(int) - np.asarray(photos[0]).astype(int)
        assert np.abs(error).mean() < 5

    def test_a_16_bit_png_is_scaled_not_clipped(self, tmp_path: Path) -> None:
        path = tmp_path / "x" / "deep.png"
        path.parent.mkdir()
        values = np.array([[0, 128, 129, 257, 1000, 32768, 65406, 65407, 65535]], dtype=np.uint16)
        Image.fromarray(values).save(path)
        assert pixels_of(path)[0, :, 0].tolist() == [0, 0, 1, 1, 4, 128, 254, 255, 255]

    def test_a_16_bit_colour_png_is_scaled_to_within_a_level(self, tmp_path: Path) -> None:
        path = tmp_path / "x" / "deep.png"
        path.parent.mkdir()
        values = np.array([0, 300, 32768, 65535, 257, 1000], dtype=">u2")
        path.write_bytes(_png(2, 1, 16, 2, b"\0" + values.tobytes()))
        assert np.abs(pixels_of(path).reshape(-1) - values.astype(float) / 257).max() <= 1

    def test_numbers_without_a_white_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "x" / "map.tif"
        path.parent.mkdir()
        for values, kind in [
            (np.ones((2, 2), np.float32), "floating-point"),
            (np.full((2, 2), 1 << 20, np.int32), "32-bit"),
        ]:
            Image.fromarray(values).save(path)
            with pytest.raises(BadImage, match=rf"x/map\.tif: {kind} pixels have no agreed white"):
                one_file(path.parent)[0]

    @pytest.mark.parametrize(("background", "behind"), [("white", 255), ("black", 0), ("#102030", (16, 32, 48))])
    def test_transparency_shows_the_background(self, tmp_path: Path, background: str, behind: Any) -> None:
        data = tmp_path / "x"
        data.mkdir()
        palette = Image.new("P", (2, 1), 0)
        palette.putpalette([250, 0, 0, 0, 250, 0])
        palette.putpixel((1, 0), 1)
        palette.save(data / "0.png", transparency=0)
        palette.save(data / "1.png", transparency=b"\x00\xff")
        palette.save(data / "2.gif", transparency=0)
        clear = Image.new("RGBA", (2, 1), (1, 2, 3, 0))
        clear.putpixel((1, 0), (0, 250, 0, 255))
        clear.save(data / "3.png")
        fill(tmp_path / "held", "a.png")
        source = folder(data, background=background, validation=str(tmp_path / "held")).train()
        for index in range(4):
            pixels = np.asarray(source[index][0])[0]
            assert np.array_equal(pixels[0], np.broadcast_to(behind, 3)), source.key(index)
            assert pixels[1].tolist() == [0, 250, 0], source.key(index)

    def test_half_transparent_grey_is_mixed(self, tmp_path: Path) -> None:
        path = tmp_path / "x" / "half.png"
        path.parent.mkdir()
        Image.new("LA", (1, 1), (0, 128)).save(path)
        assert pixels_of(path)[0, 0].tolist() == [127, 127, 127]

    @pytest.mark.parametrize("mode", ["1", "L", "P"])
    def test_grey_and_palettes_become_rgb(self, tmp_path: Path, photos: list[Image.Image], mode: str) -> None:
        path = tmp_path / "x" / "a.png"
        path.parent.mkdir()
        photos[0].convert(mode).save(path)
        assert np.array_equal(pixels_of(path), np.asarray(photos[0].convert(mode).convert("RGB")))

    @pytest.mark.parametrize("ending", ["jpg", "tif"])
    def test_photos_stand_upright_by_every_exif_orientation(self, tmp_path: Path, ending: str) -> None:
        upright = np.zeros((32, 16, 3), dtype=np.uint8)
        upright[:16, :8], upright[16:, 8:] = (250, 0, 0), (0, 0, 250)
        # By the EXIF standard: how the image is stored, so that its row 0 and column 0 lie where the orientation says.
        stored = {
            1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1),
            6: np.rot90(upright, 1), 7: upright[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(upright, -1),
        }  # fmt: skip
        for orientation, pixels in stored.items():
            path = tmp_path / str(orientation) / f"a.{ending}"
            path.parent.mkdir()
            exif = Image.Exif()
            exif[0x0112] = orientation
            Image.fromarray(np.ascontiguousarray(pixels)).save(path, exif=exif)
            difference = pixels_of(path).astype(int) - upright
            assert np.abs(difference).mean() < 8, orientation

    def test_damaged_metadata_does_not_cost_the_image(self, tmp_path: Path, photos: list[Image.Image]) -> None:
        path = tmp_path / "x" / "a.jpg"
        path.parent.mkdir()
        photos[0].save(path, exif=b"Exif\0\0nonsense nonsense")
        assert pixels_of(path).shape == (43, 64, 3)

    def test_an_animation_gives_its_first_frame(self, tmp_path: Path) -> None:
        path = tmp_path / "x" / "a.gif"
        path.parent.mkdir()
        frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
        for ending in ("gif", "webp", "png", "tif"):
            path = path.with_suffix(f".{ending}")
            frames[0].save(
                path, save_all=True, append_images=frames[1:], **({"lossless": True} if ending == "webp" else {})
            )
            assert pixels_of(path)[0, 0].tolist() == [255, 0, 0], ending
            path.unlink()

    def test_a_decompression_bomb_is_refused_before_it_is_decoded(self, tmp_path: Path) -> None:
        path = tmp_path / "x" / "bomb.png"
        path.parent.mkdir()
        for side in (9_460, 60_000):
            path.write_bytes(_png(side, side, 1, 0, b""))
            with pytest.raises(BadImage, match=r"x/bomb\.png: claims .*89478485"):
                one_file(path.parent)[0]

    def test_a_large_photo_below_the_limit_is_no_bomb(self, tmp_path: Path) -> None:
        path = tmp_path / "x" / "large.png"
        path.parent.mkdir()
        Image.new("1", (9450, 9450)).save(path)
        assert pixels_of(path).shape == (9450, 9450, 3)

    @pytest.mark.parametrize("size", [(1, 1), (5000, 20), (20, 5000)])
    def test_tiny_and_narrow_images_are_cropped_like_others(self, tmp_path: Path, size: tuple[int, int]) -> None:
        path = tmp_path / "x" / "a.png"
        path.parent.mkdir()
        Image.new("RGB", size, (9, 8, 7)).save(path)
        (batch,) = Images(one_file(path.parent), 32).in_order(1)
        assert ((batch.image_B3RR + 1) * 127.5).round().unique().tolist() == [7, 8, 9]

    def test_a_failing_disk_is_not_blamed_on_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = one_file(fill(tmp_path / "x", "a.png"))

        def fail(*arguments: Any, **keywords: Any) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "open", fail)
        with pytest.raises(MachineFailed, match=r"x/a\.png: cannot be read: .*Input/output error"):
            source[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_hostile_folder_trains_with_skip_and_names_every_bad_file(
    tmp_path: Path, photos: list[Image.Image], workers: int
) -> None:
    root = many(many(tmp_path, "ein ü", 6), "zwei", 6)
    shutil.copy(__file__, root / "zwei" / "text.png")
    photos[0].save(root / "zwei" / "cut.jpg")
    (root / "zwei" / "cut.jpg").write_bytes((root / "zwei" / "cut.jpg").read_bytes()[:900])
    Image.new("RGB", (1, 1)).save(root / "ein ü" / "tiny.png")
    photos[1].convert("CMYK").save(root / "ein ü" / "print.jpg")
    good = fill(tmp_path.parent / f"{tmp_path.name}-held", "zwei/0.png")
    dataset = folder(root, on_bad_image="skip", validation=str(good))
    images = Images(dataset.train(), 16, on_bad_image=dataset.on_bad_image, workers=workers)
    assert sum(len(batch) for batch in images.in_order(5)) == 14
    assert sorted(images.skipped) == ["zwei/cut.jpg", "zwei/text.png"]
    assert all(str(root) in reason for reason in images.skipped.values())
    strict = Images(dataset.train(), 16, workers=workers)
    with pytest.raises(BadImage, match=r"cut\.jpg"):
        list(strict.in_order(5))


def test_long_lists_of_names_are_kept_in_two_arrays() -> None:
    names = ["a/b.png", "", "ü/写.png", os.fsdecode(b"\xff.png")]
    kept = Names(names)
    assert [kept[i] for i in range(len(kept))] == names
    with pytest.raises(IndexError):
        kept[4]


@pytest.mark.parametrize("background", ["red", "#12345", "ffffff", ""])
def test_a_background_that_is_no_colour_is_refused(background: str) -> None:
    with pytest.raises(ValidationError):
        ImageFolder.Config(use="image_folder", root="x", background=background)


def test_every_setting_stands_in_the_document_with_its_default() -> None:
    rows = {
        line.split("|")[1].strip(" `"): line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")
    }
    for name, field in ImageFolder.Config.model_fields.items():
        if name == "use":
            continue
        assert name in rows
        default = "required" if field.is_required() else field.default
        shown = ", ".join(default) if isinstance(default, tuple) else str(default)
        assert shown in rows[name]


def _png(width: int, height: int, bits: int, color: int, rows: bytes) -> bytes:
    """A PNG of raw rows, by the specification: signature, IHDR, IDAT, IEND."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
