"""Aligners: GAE's semantic teacher reproduced, fitted on real features, and the other paradigms."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity_helpers import close, load_fixture
from torch import Tensor

from gaekit.api import Aligner, Latent
from gaekit.errors import ArtifactError, GaekitError
from gaekit.interop.semantic_teacher import from_gae
from gaekit.nn.norm import rms_normalize
from gaekit_aligners.features import PostAligner, PostConfig, PreAligner
from gaekit_aligners.latent import LatentAligner, LatentConfig
from gaekit_aligners.none import NoAligner, NoneConfig
from gaekit_aligners.semantic_teacher import from_windows, to_windows
from gaekit_aligners.svd import LatentSvdAligner, LatentSvdConfig
from gaekit_regularizers.norms import RmsNorm, UnitNorm

MARGINS = {"cosine_margin": 0.1, "distance_margin": 0.02}
SIZES: dict[str, int] = {"feature_dim": 112, "latent_dim": 8, "hidden_dim": 24, "grid": 4}


def latent_aligner(sizes: dict[str, int] | None = None, **settings: Any) -> LatentAligner:
    settings.setdefault("head_dim", 28)
    return LatentAligner(LatentConfig.model_validate({"use": "latent", **settings}), **(sizes or SIZES))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def published() -> tuple[LatentAligner, dict[str, Tensor], dict[str, Tensor]]:
    config, state, inputs, outputs = load_fixture("semantic_teacher")
    sizes = {
        "feature_dim": config["feature_dim"],
        "latent_dim": config["latent_dim"],
        "hidden_dim": 1,
        "grid": config["grid"],
    }
    aligner = latent_aligner(sizes, head_dim=config["head_dim"], decoder_depth=config["decoder_layers"])
    aligner.load_state_dict(from_gae(state))
    return aligner, inputs, outputs


def test_it_reproduces_the_published_semantic_teacher() -> None:
    aligner, inputs, outputs = published()
    close(aligner.target(inputs["features"]), outputs["latent_target"])
    reconstructed, original = aligner.semantic(inputs["features"])
    close(reconstructed, outputs["reconstructed_features"])
    close(original, outputs["normalized_features"])
    close(aligner.fit_losses(inputs["features"])["feature"].value, outputs["loss"])


def test_published_names_come_over_with_the_wrappers_prefix_and_without_the_frozen_model() -> None:
    _, state, _, _ = load_fixture("semantic_teacher")
    wrapped = {f"module.{key}": value for key, value in state.items()} | {
        "module.base_model.norm.weight": torch.ones(3)
    }
    plain = from_gae(state)
    assert from_gae(wrapped).keys() == plain.keys()
    with pytest.raises(ArtifactError, match=r"to_latent\.weight is missing"):
        from_gae({key: value for key, value in state.items() if key != "to_latent.weight"})
    with pytest.raises(ArtifactError, match="besides"):
        from_gae(state | {"extra.weight": torch.ones(3)})


@pytest.mark.parametrize(("grid", "window"), [(4, 1), (4, 2), (6, 3), (4, 4)])
def test_windows_gather_neighbours_and_come_back(grid: int, window: int) -> None:
    tokens = noise(2, grid * grid, 5)
    windows = to_windows(tokens, grid, window)
    unfolded = F.unfold(tokens.transpose(1, 2).reshape(2, 5, grid, grid), window, stride=window)
    expected = unfolded.view(2, 5, window * window, -1).permute(0, 3, 2, 1).flatten(2)  # unfold puts channels first
    assert torch.equal(windows, expected)
    assert torch.equal(from_windows(windows, grid, window), tokens)


def test_with_windows_the_grid_stays_and_positions_of_a_window_share_the_squeeze() -> None:
    aligner = latent_aligner(window=2)
    assert aligner.semantic.to_latent.weight.shape == (4 * 8, 4 * 112)
    assert aligner.target(noise(2, 112, 4, 4)).shape == (2, 8, 4, 4)


def test_the_target_has_unit_rms_carries_no_gradient_and_ignores_the_features_scale() -> None:
    aligner, feature = latent_aligner(), noise(2, 112, 4, 4)
    target = aligner.target(feature.requires_grad_())
    assert not target.requires_grad
    torch.testing.assert_close(target.square().mean(1), torch.ones(2, 4, 4), atol=1e-4, rtol=0)
    torch.testing.assert_close(aligner.target(feature * 7), target, atol=1e-4, rtol=0)


def test_the_term_is_the_weighted_mse_of_mean_and_target_and_pulls_the_mean_alone() -> None:
    aligner = latent_aligner(weight=0.5)
    target = aligner.target(noise(2, 112, 4, 4))
    mean = noise(2, 8, 4, 4, seed=1).requires_grad_()
    loss = aligner.losses(noise(2, 24, 4, 4), Latent(mean), target)["align"]
    torch.testing.assert_close(loss.value, (mean - target).square().mean())
    torch.testing.assert_close(loss.weighted, 0.5 * (mean - target).square().mean())
    torch.autograd.backward(loss.weighted)
    torch.testing.assert_close(mean.grad, (mean - target).detach() / mean.numel())
    assert all(p.grad is None for p in aligner.parameters())


def test_on_unit_rms_mse_is_twice_one_minus_cosine() -> None:
    features = noise(2, 112, 4, 4)
    losses = [latent_aligner(fit_loss=kind) for kind in ("mse", "cosine")]
    losses[1].load_state_dict(losses[0].state_dict())
    mse, cosine = (aligner.fit_losses(features)["feature"].value for aligner in losses)
    torch.testing.assert_close(mse, 2 * cosine, atol=1e-4, rtol=0)


def test_fitting_on_real_photos_beats_the_best_linear_bottleneck() -> None:
    """The D principal components are the best that a linear bottleneck can do; all parameters help to beat it."""
    features = photo_features()
    rows = rms_normalize(features, dim=1).transpose(0, 1).flatten(1)
    spectrum = torch.linalg.svdvals(rows - rows.mean(1, keepdim=True))
    linear = spectrum[8:].square().sum().item() / rows.numel()
    torch.manual_seed(0)
    aligner = latent_aligner()
    optimizer = torch.optim.AdamW(aligner.parameters(), lr=3e-3)
    start = {name: p.detach().clone() for name, p in aligner.named_parameters()}
    for _ in range(50):
        optimizer.zero_grad()
        torch.autograd.backward(aligner.fit_losses(features)["feature"].weighted)
        optimizer.step()
    assert aligner.fit_losses(features)["feature"].value < 0.8 * linear
    assert all(not torch.equal(p, start[name]) for name, p in aligner.named_parameters())


def photo_features() -> Tensor:
    from sklearn.datasets import load_sample_images

    from gaekit_teachers.efficientnet import EfficientNetLite0, EfficientNetLiteConfig

    teacher = EfficientNetLite0(EfficientNetLiteConfig(use="efficientnet_lite0"), grid=4)
    photos = [torch.from_numpy(np.array(p)).permute(2, 0, 1) / 127.5 - 1 for p in load_sample_images().images]
    crops = [p[:, y : y + 128, x : x + 128] for p in photos for y in (0, 128, 256) for x in (0, 128, 256, 384)]
    features: Tensor = teacher(torch.stack(crops))
    return features


def test_heads_and_windows_that_do_not_fit_are_answered_with_what_would() -> None:
    with pytest.raises(
        GaekitError, match=r"head_dim: 64 does not divide the teacher's 112 channels; possible: 8, 14, 16, 28, 56"
    ):
        latent_aligner(head_dim=64)
    with pytest.raises(GaekitError, match=r"windows of 3 x 3 do not tile the 4 x 4"):
        latent_aligner(window=3)


def test_none_asks_for_no_teacher_and_adds_no_term() -> None:
    aligner = NoAligner(NoneConfig(use="none"), **SIZES)
    assert not aligner.needs_teacher
    assert aligner.fit is None
    assert not list(aligner.parameters())
    assert aligner.losses(noise(1, 24, 4, 4), Latent(noise(1, 8, 4, 4)), noise(1, 112, 4, 4)) == {}


@pytest.mark.parametrize("cls", [PreAligner, PostAligner])
def test_pre_and_post_reproduce_va_vaes_losses_with_margins(cls: type[PreAligner] | type[PostAligner]) -> None:
    config, _, inputs, outputs = load_fixture("autoencoder_losses")
    settings = cls.Config(
        use=cls.name, loss="vf", cosine_margin=config["vf_cos_margin"], distance_margin=config["vf_distmat_margin"]
    )
    aligner = cls(settings, feature_dim=16, latent_dim=16, hidden_dim=16, grid=4)
    with torch.no_grad():
        aligner.project.weight.copy_(torch.eye(16)[:, :, None, None])
    terms = aligner.losses(inputs["h"], Latent(inputs["h"]), aligner.target(inputs["h_frozen"]))
    close(terms["align_cosine"].value, outputs["vf_cos"])
    close(terms["align_distance"].value, outputs["vf_distmat"])
    close(sum(term.weighted for term in terms.values()), outputs["vf_total"])


def test_pre_trains_the_encoders_features_and_post_the_latents_mean() -> None:
    hidden, mean = noise(2, 24, 4, 4).requires_grad_(), noise(2, 8, 4, 4, seed=1).requires_grad_()
    for cls, moved, still in ((PreAligner, hidden, mean), (PostAligner, mean, hidden)):
        aligner = cls(cls.Config(use=cls.name), **SIZES)
        hidden.grad = mean.grad = None
        torch.autograd.backward(
            aligner.losses(hidden, Latent(mean), aligner.target(noise(2, 112, 4, 4, seed=2)))["align"].weighted
        )
        assert moved.grad is not None
        assert still.grad is None
        assert aligner.project.weight.grad is not None


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("loss", ["mse", "vf"])
def test_post_asks_for_an_adaptive_weight_as_its_settings_say(adaptive: bool, loss: str) -> None:
    settings = PostConfig.model_validate({"use": "post", "loss": loss, "adaptive": adaptive})
    aligner, feature = PostAligner(settings, **SIZES), noise(2, 112, 4, 4)
    terms = aligner.losses(noise(2, 24, 4, 4), Latent(noise(2, 8, 4, 4)), aligner.target(feature))
    assert {term.adaptive for term in terms.values()} == {adaptive}


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_a_latent_that_holds_the_features_is_aligned(kind: str) -> None:
    feature = noise(2, 112, 4, 4)
    aligner = PostAligner(
        PostConfig.model_validate({"use": "post", "loss": kind}),
        feature_dim=112,
        latent_dim=112,
        hidden_dim=1,
        grid=4,
    )
    with torch.no_grad():
        aligner.project.weight.copy_(3 * torch.eye(112)[:, :, None, None])
    assert aligner.losses(feature, Latent(feature), aligner.target(feature))["align"].value < 1e-5
    assert aligner.losses(feature, Latent(feature.flip(0)), aligner.target(feature))["align"].value > 0.5


def fitted(name: str) -> Aligner:
    """An aligner in the bottleneck, its target not trivial."""
    torch.manual_seed(0)
    if name == "latent":
        return latent_aligner()
    aligner = LatentSvdAligner(LatentSvdConfig(use="latent_svd"), **SIZES)
    aligner.fit_closed([noise(8, 112, 4, 4)])
    return aligner


@pytest.mark.parametrize("name", ["latent", "latent_svd"])
def test_a_latent_on_the_unit_sphere_reaches_the_target_and_is_pulled_as_one_of_unit_rms(name: str) -> None:
    aligner = fitted(name)
    target = aligner.target(noise(2, 112, 4, 4))
    sizes = {"latent_dim": 8, "grid": 4}
    rms = RmsNorm(RmsNorm.Config(use="rms_norm"), **sizes)
    unit = UnitNorm(UnitNorm.Config(use="unit_norm"), **sizes)
    hidden = noise(2, 24, 4, 4)
    assert aligner.losses(hidden, unit(3 * target), target)["align"].value < 1e-9
    grads = []
    for norm in (rms, unit):
        moments = noise(2, 8, 4, 4, seed=4).requires_grad_()
        grads.append(torch.autograd.grad(aligner.losses(hidden, norm(moments), target)["align"].weighted, moments)[0])
    assert grads[0].any()
    torch.testing.assert_close(*grads, atol=1e-6, rtol=1e-4)


ALIGNERS: dict[str, Callable[[], Aligner]] = {
    "latent": partial(fitted, "latent"),
    "latent_svd": partial(fitted, "latent_svd"),
    **{
        f"{cls.name}_{loss}": partial(lambda cls, loss: cls(cls.Config(use=cls.name, loss=loss, **MARGINS), **SIZES),
                                      cls, loss)
        for cls in (PreAligner, PostAligner)
        for loss in ("mse", "cosine", "vf")
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ALIGNERS)
def test_autocast_changes_no_number_of_targets_and_terms(name: str) -> None:
    aligner = ALIGNERS[name]()
    feature, hidden, mean = noise(2, 112, 4, 4), noise(2, 24, 4, 4, seed=1), noise(2, 8, 4, 4, seed=2)

    def numbers() -> list[Tensor]:
        target = aligner.target(feature)
        return [target, *(term.value for term in aligner.losses(hidden, Latent(mean), target).values())]

    plain = numbers()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = numbers()
    assert all(torch.equal(one, other) and one.dtype == torch.float32 for one, other in zip(plain, under, strict=True))


def test_fitting_compares_in_float32_under_autocast() -> None:
    aligner, feature = latent_aligner(), noise(2, 112, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert aligner.fit_losses(feature)["feature"].value.dtype == torch.float32
