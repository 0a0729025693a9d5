"""class_accuracy on real digits and photos, against scikit-learn's own classifier."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_sample_image
from sklearn.svm import SVC
from torch import Tensor

from gaekit.api import GaekitError, Metric
from gaekit.plugins import Plugin, Registry, build
from gaekit_metrics import gaekit_components

TEN = tuple("0123456789")


def metric(classes: tuple[str, ...] = TEN, image_size: int = 32, **settings: Any) -> Any:
    registry = Registry()
    for cls in gaekit_components():
        registry.add(cls, Plugin("metrics", "gaekit", "0", "gaekit_metrics"))
    config = registry.find("metric", "class_accuracy").Config(use="class_accuracy", **settings)
    return build(Metric, config, registry, image_size=image_size, classes=classes)


@cache
def digits() -> tuple[Tensor, Tensor]:
    """All 1797 real digits at 32 px in [-1, 1] in a fixed random order, and their labels."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    pixels = np.kron(np.minimum(data.images[order] * 16, 255), np.ones((1, 4, 4)))
    image = torch.tensor(pixels, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1) / 127.5 - 1
    return image, torch.tensor(data.target[order], dtype=torch.long)


def judge(made: Any, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], cut: int = 256) -> float:
    for image, label in zip(train[0].split(cut), train[1].split(cut), strict=True):
        made.reference(made.extract(image), label)
    for image, label in zip(test[0].split(cut), test[1].split(cut), strict=True):
        made.update(made.extract(image), label)
    return made.compute()["class_accuracy"]


def split(count: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    image, label = digits()
    return (image[:count], label[:count]), (image[count:], label[count:])


def test_real_held_out_digits_are_recognised_and_the_protocol_knows_it_beforehand() -> None:
    train, test = split(1437)
    made = metric()
    accuracy = judge(made, train, test)
    assert accuracy >= 0.986
    protocol = made.protocol()
    assert protocol["real_accuracy"] == pytest.approx(accuracy, abs=0.015)
    assert (protocol["n_reference"], protocol["n"]) == (1437, 360)
    assert protocol["classes_without_reference"] == []
    assert json.loads(json.dumps(protocol, allow_nan=False)) == protocol


def test_it_is_scikit_learns_support_vector_machine_on_the_8_by_8_digits() -> None:
    train, test = split(300)
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    pixels = (np.minimum(data.images * 16, 255) / 255).reshape(-1, 64)[order]
    expected = SVC(C=3, gamma=0.1).fit(pixels[:300], data.target[order][:300]).predict(pixels[300:])
    accuracy = judge(metric(C=3, gamma=0.1, cross_validate=False), train, test)
    assert accuracy == pytest.approx((expected == data.target[order][300:]).mean(), abs=1e-12)


def test_wrong_labels_score_at_chance() -> None:
    train, (image, label) = split(600)
    assert judge(metric(cross_validate=False), train, (image, (label + 1) % 10)) < 0.02
    wrong = torch.randint(0, 10, label.shape, generator=torch.Generator().manual_seed(0))
    assert judge(metric(cross_validate=False), train, (image, wrong)) == pytest.approx(0.1, abs=0.04)


def test_no_cut_into_batches_changes_the_value() -> None:
    train, test = split(400)
    test = test[0][:200], test[1][:200]
    assert len({judge(metric(limit=300, cross_validate=False), train, test, cut) for cut in (1, 37, 400)}) == 1


def test_the_limit_keeps_an_equal_quota_of_each_class_and_the_first_ones() -> None:
    train, test = split(600)
    made = metric(limit=205, cross_validate=False)
    limited = judge(made, train, test)
    assert made.protocol()["n_reference"] == 200
    first = torch.cat([(train[1] == k).nonzero()[:20, 0] for k in range(10)]).sort().values
    alone = judge(metric(cross_validate=False), (train[0][first], train[1][first]), test)
    assert limited == alone
    with pytest.raises(GaekitError, match="limit = 9 is below the 10 classes"):
        metric(limit=9)


def test_photos_are_told_apart_in_grey_and_hues_only_in_color() -> None:
    photos = [torch.tensor(load_sample_image(f"{name}.jpg")).permute(2, 0, 1) for name in ("china", "flower")]
    crops = [
        p[:, :384].unfold(1, 64, 32).unfold(2, 64, 64).permute(1, 2, 0, 3, 4).reshape(-1, 3, 64, 64) for p in photos
    ]
    image, label = torch.cat(crops) / 127.5 - 1, torch.tensor([0] * len(crops[0]) + [1] * len(crops[1]))
    even, odd = (image[::2], label[::2]), (image[1::2], label[1::2])
    assert judge(metric(("china", "flower"), 64, color=True), even, odd) > 0.9
    grey = photos[0].double().mul(torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0) / 4 + 64
    patch = grey[:256, :512].unfold(0, 32, 32).unfold(1, 32, 32).reshape(-1, 1, 32, 32)
    tint = torch.tensor([40 * 0.587, -40 * 0.299, 0]).view(1, 3, 1, 1)  # no change of grey
    hues = torch.cat([patch + tint, patch - tint]).round().float() / 127.5 - 1
    label = torch.tensor([0] * len(patch) + [1] * len(patch))
    even, odd = (hues[::2], label[::2]), (hues[1::2], label[1::2])
    assert judge(metric(("red", "green"), color=True), even, odd) == 1
    assert judge(metric(("red", "green"), color=False), even, odd) < 0.7


def test_a_class_without_reference_is_named_and_its_samples_count_as_wrong() -> None:
    train, test = split(400)
    keep, sevens = train[1] != 7, test[1] == 7
    made = metric(cross_validate=False)
    assert judge(made, (train[0][keep], train[1][keep]), (test[0][sevens], test[1][sevens])) == 0
    assert made.protocol()["classes_without_reference"] == ["7"]


def test_too_few_images_of_a_class_leave_the_real_accuracy_unknown() -> None:
    train, test = split(400)
    keep = torch.cat([(train[1] == k).nonzero()[: 2 if k == 3 else 20, 0] for k in range(10)])
    made = metric()
    judge(made, (train[0][keep], train[1][keep]), test)
    assert made.protocol()["real_accuracy"] is None


def test_data_without_classes_and_null_labels_are_refused() -> None:
    with pytest.raises(GaekitError, match="at least two classes; this one has 0"):
        metric(())
    train, test = split(100)
    made = metric(cross_validate=False)
    made.reference(made.extract(train[0]), train[1])
    with pytest.raises(GaekitError, match="label 10 is no class; the data set's labels are 0 to 9"):
        made.update(made.extract(test[0][:2]), torch.tensor([3, 10]))


def test_a_reference_of_one_class_no_samples_and_a_side_above_the_image_are_refused() -> None:
    train, test = split(100)
    ones = train[1] == 1
    with pytest.raises(GaekitError, match="at least two classes; the training split gave"):
        judge(metric(), (train[0][ones], train[1][ones]), test)
    with pytest.raises(GaekitError, match="was given no samples"):
        metric().compute()
    with pytest.raises(GaekitError, match=r"side = 33 exceeds image\.size = 32"):
        metric(side=33)


def test_a_reference_after_the_fit_is_a_fault_of_the_caller() -> None:
    train, test = split(100)
    made = metric(cross_validate=False)
    judge(made, train, test)
    with pytest.raises(RuntimeError, match="fitted already"):
        made.reference(made.extract(train[0]), train[1])
