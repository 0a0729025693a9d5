"""linear_probe against scikit-learn's pipeline on real digits, and on latents whose answer is known."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from gaekit.api import GaekitError, Metric
from gaekit.plugins import Plugin, Registry, build
from gaekit_metrics import gaekit_components

Labelled = tuple[Tensor, Tensor]


def metric(classes: int = 10, **settings: Any) -> Any:
    registry = Registry()
    for cls in gaekit_components():
        registry.add(cls, Plugin("metrics", "gaekit", "0", "gaekit_metrics"))
    config = registry.find("metric", "linear_probe").Config(use="linear_probe", **settings)
    return build(Metric, config, registry, image_size=32, classes=tuple(str(k) for k in range(classes)))


@cache
def digits() -> tuple[Labelled, Labelled]:
    """Real digits as latents of width 4 on a grid of 4, each position its 2 x 2 pixels: 600 to fit, 300 to test."""
    data = load_digits()
    latent = torch.nn.functional.pixel_unshuffle(torch.tensor(data.images, dtype=torch.float32)[:, None], 2)
    label = torch.tensor(data.target, dtype=torch.long)
    return (latent[:600], label[:600]), (latent[600:900], label[600:900])


def probe(made: Any, train: Labelled, test: Labelled, cut: int = 128) -> dict[str, float]:
    for latent, label in zip(train[0].split(cut), train[1].split(cut), strict=True):
        made.reference(latent, label)
    for latent, label in zip(test[0].split(cut), test[1].split(cut), strict=True):
        made.update(latent, label)
    return made.compute()


def test_both_numbers_are_those_of_scikit_learns_pipeline() -> None:
    train, test = digits()
    expected = {}
    for name, view in (("flat", lambda x: x.flatten(1)), ("pool", lambda x: x.mean((2, 3)))):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=2000))
        model.fit(view(train[0].double()).numpy(), train[1].numpy())
        score = model.score(view(test[0].double()).numpy(), test[1].numpy())
        expected[f"linear_probe_{name}"] = pytest.approx(score, abs=1e-12)
    values = probe(metric(C=0.3, max_iter=2000), train, test)
    assert values == expected
    assert values["linear_probe_flat"] > 0.85 > 0.5 > values["linear_probe_pool"]


def test_a_class_in_the_mean_is_seen_by_both_and_one_in_the_layout_only_flat() -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(400) % 2
    noise = torch.randn(400, 2, 2, 2, generator=generator) * 0.3
    sign = (label * 2 - 1).view(-1, 1, 1, 1)
    layout = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    for latent, pool in ((noise + sign, 1.0), (noise - noise.mean((2, 3), keepdim=True) + sign * layout, 0.5)):
        values = probe(metric(2), (latent[:200], label[:200]), (latent[200:], label[200:]))
        assert values["linear_probe_flat"] == 1
        assert values["linear_probe_pool"] == pytest.approx(pool, abs=0.1)


def test_the_scale_and_offset_of_a_channel_do_not_matter() -> None:
    train, test = digits()
    scale, shift = torch.tensor([1e3, 1, 1e-3, 1]).view(4, 1, 1), torch.tensor([0.0, 5, 0, -5]).view(4, 1, 1)
    moved = [(latent.double() * scale + shift, label) for latent, label in (train, test)]
    assert probe(metric(), moved[0], moved[1]) == probe(metric(), train, test)


def test_no_cut_into_batches_changes_the_values() -> None:
    train, test = digits()
    assert probe(metric(limit=200), train, test, cut=600) == probe(metric(limit=200), train, test, cut=7)


def test_a_fit_cut_short_is_no_warning_and_no_crash_but_stands_in_the_protocol() -> None:
    train, test = digits()
    short, full = metric(max_iter=2), metric(max_iter=2000)
    assert probe(short, train, test)["linear_probe_flat"] > 0.5
    probe(full, train, test)
    assert short.protocol()["converged"] == {"flat": False, "pool": False}
    assert full.protocol()["converged"] == {"flat": True, "pool": True}


def test_the_protocol_is_json_with_the_settings_and_counts() -> None:
    train, test = digits()
    made = metric(limit=405)
    probe(made, train, test)
    protocol = made.protocol()
    assert json.loads(json.dumps(protocol, allow_nan=False)) == protocol
    assert protocol["implementation"] == "gaekit linear_probe 2"
    assert (protocol["latent"], protocol["n_reference"], protocol["n"]) == ([4, 4, 4], 400, 300)
    assert (protocol["C"], protocol["max_iter"], protocol["classes"]) == (1.0, 1000, 10)


def test_what_cannot_be_probed_is_refused() -> None:
    train, test = digits()
    with pytest.raises(GaekitError, match="at least two classes; this one has 0"):
        metric(0)
    with pytest.raises(GaekitError, match="no held-out latents"):
        metric().compute()
    with pytest.raises(GaekitError, match="label 9 is no class"):
        metric(9).reference(*train)
    with pytest.raises(GaekitError, match="not finite"):
        metric().reference(train[0] / 0, train[1])
    made = metric()
    probe(made, train, test)
    with pytest.raises(RuntimeError, match="fitted already"):
        made.reference(*train)


def test_two_probes_of_the_same_latents_are_equal() -> None:
    train, test = digits()
    np.testing.assert_equal(probe(metric(), train, test), probe(metric(), train, test))


def test_minibatches_of_all_latents_reach_scikit_learns_optimum_without_a_penalty() -> None:
    """On the means over positions, which no line parts: the optimum is one, and SGD's predictions are nearly its."""
    train, test = digits()
    made = metric(solver="sgd", epochs=40, batch=200, lr=1.0, limit=20)
    values = probe(made, train, test)
    rows, others = (part[0].double().mean((2, 3)).numpy() for part in (train, test))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e6, max_iter=5000)).fit(rows, train[1].numpy())
    agree = (made._probes["pool"].predict(others) == model.predict(others)).mean()
    assert agree > 0.95
    assert values["linear_probe_sgd_pool"] == pytest.approx(model.score(others, test[1].numpy()), abs=0.02)
    assert values["linear_probe_sgd_flat"] > 0.85
    protocol = json.loads(json.dumps(made.protocol()))
    assert protocol["n_reference"] == 600  # the limit is of L-BFGS
    assert (protocol["epochs"], protocol["batch"], protocol["seed"]) == (40, 200, 0)


def test_sgd_depends_on_its_seed_and_not_on_how_batches_are_cut() -> None:
    train, test = digits()
    one, cut, other = (metric(solver="sgd", epochs=2, batch=64, seed=seed) for seed in (0, 0, 1))
    assert probe(one, train, test) == probe(cut, train, test, cut=7)
    probe(other, train, test)
    weights = [made._probes["flat"]._layer.weight for made in (one, cut, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
