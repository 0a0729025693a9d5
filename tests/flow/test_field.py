from __future__ import annotations

from typing import Any

import pytest
import torch
from flow_helpers import GaussianDenoiser, gaussian_field
from torch import Tensor

from gaekit.errors import GaekitError
from gaekit.flow.field import Field
from gaekit.flow.guidance import Guidance
from gaekit.flow.path import get_path
from gaekit.values import Prediction

NULL = 10
X = torch.randn(4, 5, 2, 2, generator=torch.Generator().manual_seed(0))


class ByLabel:
    """Says the label in every channel, the label's square as variance; keeps the labels and times of each call."""

    def __init__(self, gain: float = 1.0):
        self.gain = gain
        self.calls: list[tuple[list[float], list[int]]] = []

    def __call__(self, x: Tensor, t: Tensor, label: Tensor) -> Prediction:
        self.calls.append((t.tolist(), label.tolist()))
        value = self.gain * label.float().view(-1, 1, 1, 1).expand_as(x)
        return Prediction(value, variance_BDHW=value**2)


def field(label: list[int], guidance: Guidance | None) -> tuple[Field, ByLabel]:
    denoiser = ByLabel()
    return Field(denoiser, get_path("linear"), guidance, torch.tensor(label), NULL, "velocity"), denoiser


def test_guidance_extrapolates_from_the_null_label() -> None:
    guided = field([1, 2, 3, 4], Guidance(3.0))[0].velocity(X, 0.5)
    assert guided[:, 0, 0, 0].tolist() == [10 + 3 * (label - 10) for label in (1, 2, 3, 4)]


def test_interval_is_closed_at_its_start_and_open_at_its_end() -> None:
    subject = field([1, 2, 3, 4], Guidance(2.0, 0.25, 0.5))[0]
    cost = []
    for t in (0.2499, 0.25, 0.4999, 0.5):
        before = subject.evaluations
        subject.velocity(X, t)
        cost.append(subject.evaluations - before)
    assert cost == [4, 8, 8, 4]


@pytest.mark.parametrize(
    ("label", "guidance"),
    [
        ([1, 2, 3, 4], Guidance(1.0)),
        ([1, 2, 3, 4], Guidance(2.0, 0.6)),
        ([NULL] * 4, Guidance(2.0)),
        ([1, 2, 3, 4], None),
    ],
    ids=["scale 1", "outside the interval", "null label", "no guidance"],
)
def test_the_weak_branch_is_not_evaluated_where_it_would_be_discarded(
    label: list[int], guidance: Guidance | None
) -> None:
    subject, denoiser = field(label, guidance)
    out = subject.velocity(X, 0.5)
    assert subject.evaluations == 4
    assert [labels for _, labels in denoiser.calls] == [label]
    assert out[:, 0, 0, 0].tolist() == label


def test_images_without_a_class_cost_one_evaluation_in_a_mixed_batch() -> None:
    subject = field([1, NULL, 3, NULL], Guidance(2.0))[0]
    out = subject.velocity(X, 0.5)
    assert subject.evaluations == 6
    assert out[:, 0, 0, 0].tolist() == [2 * 1 - NULL, NULL, 2 * 3 - NULL, NULL]


def test_each_image_may_have_its_own_time() -> None:
    subject, denoiser = field([1, 2, NULL, 4], Guidance(2.0, 0.5))
    out = subject.velocity(X, torch.tensor([0.1, 0.6, 0.7, 0.8]))
    assert out[:, 0, 0, 0].tolist() == [1, 4 - NULL, NULL, 8 - NULL]
    assert subject.evaluations == 6
    times, labels = denoiser.calls[1]
    assert labels == [NULL, NULL]
    assert times == pytest.approx([0.6, 0.8])


def test_first3_guides_three_channels_and_leaves_the_rest_conditional() -> None:
    out = field([1, 2, 3, 4], Guidance(2.0, channels="first3"))[0].velocity(X, 0.5)
    assert out[0, :, 0, 0].tolist() == [2 - NULL] * 3 + [1, 1]


def test_autoguidance_uses_the_weaker_denoiser_under_the_same_label() -> None:
    weak = ByLabel(gain=0.5)
    subject = field([1, 2, NULL, 4], Guidance(3.0, other=weak))[0]
    out = subject.velocity(X, 0.5)
    assert out[:, 0, 0, 0].tolist() == [0.5 * y + 3 * 0.5 * y for y in (1, 2, NULL, 4)]
    assert weak.calls[0][1] == [1, 2, NULL, 4]


def test_variance_comes_from_the_conditional_branch() -> None:
    estimate = field([1, 2, 3, 4], Guidance(4.0))[0].evaluate(X, 0.5)
    assert estimate.variance[:, 0, 0, 0].tolist() == [1, 4, 9, 16]


def test_asking_for_a_variance_that_was_not_learned_is_refused() -> None:
    with pytest.raises(GaekitError, match="learned no variance"):
        _ = gaussian_field().evaluate(X, 0.5).variance


@pytest.mark.parametrize("predicts", ["velocity", "noise", "score", "data"])
@pytest.mark.parametrize("t", [0.3, torch.tensor([0.2, 0.4, 0.6, 0.8])], ids=["scalar", "per image"])
def test_every_quantity_is_offered_whatever_the_denoiser_predicts(predicts: str, t: float | Tensor) -> None:
    subject = gaussian_field("gvp", predicts)
    truth = GaussianDenoiser(get_path("gvp"))
    t_B = torch.as_tensor(t).expand(4)
    for wanted in ("velocity", "noise", "score", "data"):
        torch.testing.assert_close(getattr(subject, wanted)(X, t), truth.truth(X, t_B, wanted), rtol=1e-4, atol=1e-4)


def test_one_evaluation_gives_all_quantities() -> None:
    subject = gaussian_field()
    estimate = subject.evaluate(X, 0.5)
    _ = estimate.velocity, estimate.score, estimate.noise, estimate.data
    assert subject.evaluations == 4


def test_arithmetic_is_float32_when_the_denoiser_answers_in_bf16() -> None:
    def denoiser(x: Tensor, t: Tensor, label: Tensor) -> Prediction:
        assert x.dtype == t.dtype == torch.float32
        return Prediction(torch.full_like(x, 1 / 3, dtype=torch.bfloat16))

    subject = Field(denoiser, get_path("linear"), Guidance(2.0), torch.zeros(4, dtype=torch.long), NULL, "velocity")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        estimate = subject.evaluate(X.double(), 0.5)
        assert estimate.velocity.dtype == estimate.score.dtype == torch.float32
    third = float(torch.tensor(1 / 3, dtype=torch.bfloat16))
    torch.testing.assert_close(estimate.data, X + 0.5 * third)


def test_a_quantity_that_the_process_lacks_is_refused_when_the_field_is_made() -> None:
    with pytest.raises(GaekitError, match="knows data, noise, score, velocity"):
        Field(ByLabel(), get_path("linear"), None, torch.zeros(4), NULL, "curl")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"scale": -1.0}, "negative"),
        ({"start": 0.6, "end": 0.4}, "start <= end"),
        ({"end": 1.5}, "start <= end"),
        ({"channels": "last"}, "known: all, first3"),
    ],
)
def test_impossible_guidance_is_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(GaekitError, match=message):
        Guidance(**keywords)
