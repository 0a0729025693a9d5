"""The perceptual distance orders real photos as a person would, and can be descended."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from gaekit.api import ComponentConfig, Perceptual
from gaekit.plugins import build, load_plugins
from gaekit_perceptual.none import NoneConfig, NoPerceptual
from gaekit_perceptual.teacher import TeacherDistance, TeacherDistanceConfig
from gaekit_teachers.efficientnet import EfficientNetLite0, EfficientNetLiteConfig

SIDE = 64


@pytest.fixture(scope="module")
def distance() -> TeacherDistance:
    teacher = EfficientNetLiteConfig(use="efficientnet_lite0", layer="stage3")
    return TeacherDistance(
        TeacherDistanceConfig(use="teacher", teacher=teacher),
        image_size=SIDE,
        teacher=partial(EfficientNetLite0, teacher),
    )


def photos(blur: float = 0.0) -> Tensor:
    from sklearn.datasets import load_sample_images

    cut = []
    for pixels in load_sample_images().images:
        crop = Image.fromarray(pixels[100:356, 150:406]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        cut.append(np.array(crop.filter(ImageFilter.GaussianBlur(blur)) if blur else crop))
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2) / 127.5 - 1


def test_equal_images_are_at_zero(distance: TeacherDistance) -> None:
    assert torch.equal(distance(photos(), photos()), torch.zeros(2))


def test_a_heavier_blur_is_farther(distance: TeacherDistance) -> None:
    rows = torch.stack([distance(photos(), photos(blur)) for blur in (0.5, 1.0, 2.0, 4.0)])
    assert (rows.diff(dim=0) > 0).all()
    assert (rows > 0).all()
    assert (rows <= 4).all()


def test_another_photo_is_farther_than_a_slight_blur(distance: TeacherDistance) -> None:
    assert (distance(photos(), photos().flip(0)) > 2 * distance(photos(), photos(0.5))).all()


def test_it_is_symmetric(distance: TeacherDistance) -> None:
    assert torch.equal(distance(photos(), photos(1.0)), distance(photos(1.0), photos()))


def test_on_unit_features_it_is_twice_one_minus_cosine(distance: TeacherDistance) -> None:
    first, second = distance.teacher(photos()), distance.teacher(photos(2.0))
    cosine = torch.cosine_similarity(first, second, dim=1).mean((1, 2))
    torch.testing.assert_close(distance(photos(), photos(2.0)), 2 - 2 * cosine)


@pytest.mark.parametrize("which", [0, 1])
def test_descending_its_gradient_brings_the_images_nearer(distance: TeacherDistance, which: int) -> None:
    pair = [photos(2.0), photos()]
    pair[which].requires_grad_()
    before = distance(*pair)
    (gradient,) = torch.autograd.grad(before.sum(), pair[which])
    step = 0.5 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    pair[which] = pair[which].detach() - step
    assert (distance(*pair) < before).all()


def test_the_frozen_network_is_neither_trained_nor_saved_and_still_moves(distance: TeacherDistance) -> None:
    assert not list(distance.parameters())
    assert not distance.state_dict()
    distance.train()
    assert not distance.teacher.training
    distance.to(torch.float64)
    assert next(distance.teacher.parameters()).dtype == torch.float64
    distance.to(torch.float32)
    assert next(distance.teacher.parameters()).dtype == torch.float32


@pytest.mark.parametrize(("settings", "grid"), [({}, 8), ({"grid": 3}, 3)])
def test_from_a_recipe_it_builds_its_teacher_for_the_grid(settings: dict[str, Any], grid: int) -> None:
    registry = load_plugins()
    teacher: ComponentConfig = EfficientNetLiteConfig(use="efficientnet_lite0")
    config = TeacherDistanceConfig.model_validate({"use": "teacher", "teacher": teacher, **settings})
    perceptual = build(Perceptual, config, registry, image_size=SIDE)  # type: ignore[type-abstract]
    assert isinstance(perceptual, TeacherDistance)
    assert perceptual.teacher.grid == grid
    assert perceptual(photos(), photos(1.0)).shape == (2,)


def test_none_is_zero_with_a_gradient_of_zero() -> None:
    image = photos().requires_grad_()
    value = NoPerceptual(NoneConfig(use="none"), image_size=SIDE)(image, photos(2.0))
    assert torch.equal(value, torch.zeros(2))
    (gradient,) = torch.autograd.grad(value.sum(), image)
    assert torch.equal(gradient, torch.zeros_like(image))
