"""The digits against scikit-learn's own copy, and a split that never changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.datasets import load_digits

from gaekit_datasets import gaekit_components
from gaekit_datasets.digits import Digits


def digits(**settings: Any) -> Digits:
    return Digits(Digits.Config(use="digits", **settings))


def test_the_plugin_offers_all_data_sets() -> None:
    names = [component.name for component in gaekit_components()]
    assert names == ["digits", "image_folder", "webdataset", "huggingface", "openmoji"]


def test_every_scan_is_in_one_split_with_its_own_pixels_and_label() -> None:
    data, seen = load_digits(), []
    for split in (digits().train(), digits().validation()):
        for index in range(len(split)):
            image, label = split[index]
            number = int(split.key(index).removeprefix("digits/"))
            assert (image.mode, image.size) == ("RGB", (8, 8))
            grey = np.asarray(image)
            assert (grey == grey[..., :1]).all()
            assert np.abs(grey[..., 0] / 255 * 16 - data.images[number]).max() < 0.04
            assert label == data.target[number] == split.labels[index]
            seen.append(number)
    assert sorted(seen) == list(range(1797))


def test_a_fifth_of_each_digit_is_held_out() -> None:
    dataset = digits()
    for label in range(10):
        held_out, trained = ((split.labels == label).sum() for split in (dataset.validation(), dataset.train()))
        assert held_out == round(0.2 * (held_out + trained))
    assert dataset.classes == tuple("0123456789")
    assert dataset.on_bad_image == "error"


def test_a_larger_share_holds_out_the_same_scans_and_more() -> None:
    small, large = (set(digits(validation=share).validation().numbers.tolist()) for share in (0.1, 0.3))
    assert small < large


@pytest.mark.parametrize("share", [0.0001, 0.9999])
def test_each_split_keeps_each_digit_whatever_the_share(share: float) -> None:
    dataset = digits(validation=share)
    assert set(dataset.train().labels) == set(dataset.validation().labels) == set(range(10))


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValidationError):
        digits(validation=share)


def test_the_digest_is_that_of_data_and_split() -> None:
    assert digits().digest() == digits().digest()
    assert digits().digest() != digits(validation=0.3).digest()
    # Golden: rooms made before stay valid.
    assert digits().digest() == "7bf6a877f9f63117e505f0b16f22e551be55481fcb4b187171b00f720a027242"
