"""The autoencoder's objective: a learned log-variance settles where calculus says, adaptive terms get the gradient that
they ask for."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from gaekit.api import Aligner, GeneratorDraws, Latent, Loss, NoiseSampler, Perceptual, Regularizer
from gaekit.errors import GaekitError
from gaekit.plugins import Registry, build, load_plugins
from gaekit.recipe import load_recipe, load_recipe_data
from gaekit.recipe.schema import Autoencoder as Section
from gaekit.recipe.schema import Recipe
from gaekit.stages.adversary import reconstruction
from gaekit.stages.autoencoder import Objective, _check_strategy
from gaekit.stages.job import Job
from gaekit.store.models import Autoencoder, AutoencoderSpec
from gaekit.train.training import Step
from gaekit.values import Losses

VIT = {"use": "vit", "depth": 1, "width": 16, "heads": 2}
CONV = {"use": "conv", "ch": 32, "ch_mult": [1, 1, 1], "num_res_blocks": 1}
FEATURE = 12


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_plugins()


def recipe(registry: Registry, **section: Any) -> Recipe:
    aligner = section.pop("aligner", {"use": "none"})
    data: dict[str, Any] = {
        "recipe": 1,
        "name": "tiny",
        "image": {"size": 16, "stride": 4},
        "latent_dim": 4,
        "dataset": {"use": "digits"},
        "teacher": {"use": "efficientnet_lite0"},
        "aligner": aligner,
        "autoencoder": {
            "encoder": VIT,
            "decoder": VIT,
            "regularizer": {"use": "rms_norm"},
            "noise": {"use": "dynamic"},
            "train": {"steps": 2, "batch": 4},
            **section,
        },
    }
    return load_recipe_data(data, registry)


def made(
    registry: Registry, reduce: Callable[[Tensor], Tensor] | None = None, **settings: Any
) -> tuple[Autoencoder, Objective]:
    torch.manual_seed(0)
    given = recipe(registry, **settings)
    section = given.autoencoder
    assert isinstance(section, Section)
    model = Autoencoder(AutoencoderSpec(16, 4, 4, section.encoder, section.decoder, section.regularizer), registry)
    sizes = {"feature_dim": FEATURE, "latent_dim": 4, "hidden_dim": model.encoder.hidden_dim, "grid": 4}
    aligner = build(Aligner, given.aligner, registry, **sizes)
    perceptual = build(Perceptual, section.perceptual, registry, image_size=16) if section.perceptual else None
    noise = build(NoiseSampler, section.noise, registry)
    return model, Objective(section, aligner, perceptual, noise, reduce)


def losses(model: Autoencoder, objective: Objective) -> Losses:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(4, 3, 16, 16, generator=generator) * 2 - 1
    feature = torch.randn(4, FEATURE, 4, 4, generator=generator)
    step = cast(Step, SimpleNamespace(draws=lambda name: GeneratorDraws(4, torch.Generator().manual_seed(2))))
    found: Losses = objective(model, image, feature, step)[1]
    return found


def total(terms: Losses) -> Tensor:
    return torch.stack([term.weighted for term in terms.values()]).sum()


@pytest.mark.parametrize(("weights", "expected"), [({}, 0.3), ({"l1": 2.0, "l2": 10.0}, 2 * 0.3 + 10 * 0.09)])
def test_the_log_variance_settles_at_the_log_of_a_constant_error(
    registry: Registry, weights: dict[str, float], expected: float
) -> None:
    """d/ds (r exp(-s) + s) = 0 at s = log r, where the loss is 1 + log r."""
    _, objective = made(registry, weights={**weights, "log_variance": 0.0})
    image = torch.zeros(2, 3, 16, 16)
    optimizer = torch.optim.SGD([objective.get_parameter("log_variance")], lr=0.2)
    for _ in range(200):
        optimizer.zero_grad()
        loss = total(objective.reconstruction(image + 0.3, image))
        torch.autograd.backward(loss)
        optimizer.step()
    torch.testing.assert_close(objective.log_variance, torch.nn.Parameter(torch.tensor(expected).log()))
    torch.testing.assert_close(loss.detach(), 1 + torch.tensor(expected).log())


def test_the_log_variance_divides_the_weights_of_all_reconstruction_terms_and_of_no_other(registry: Registry) -> None:
    settings: dict[str, Any] = {
        "aligner": {"use": "post"},
        "perceptual": {"use": "lpips", "net": "vgg", "backbone": "random"},
        "regularizer": {"use": "kl"},
    }
    plain = losses(*made(registry, **settings, weights={"l2": 3.0, "perceptual": 0.5}))
    scaled = losses(*made(registry, **settings, weights={"l2": 3.0, "perceptual": 0.5, "log_variance": -1.0}))
    assert list(plain) == ["l1", "l2", "perceptual", "penalty", "align"]
    assert set(scaled) - set(plain) == {"log_variance"}
    for name, term in plain.items():
        torch.testing.assert_close(scaled[name].value, term.value)
        factor = torch.e if name in ("l1", "l2", "perceptual") else 1.0
        torch.testing.assert_close(scaled[name].weighted, factor * term.weighted)
    assert scaled["log_variance"].weighted == scaled["log_variance"].value == -1


def test_without_it_the_objective_has_no_parameter_of_its_own(registry: Registry) -> None:
    assert not list(made(registry)[1].parameters())
    assert [name for name, _ in made(registry, weights={"log_variance": 0.5})[1].named_parameters()] == ["log_variance"]


def ldm_terms(
    image: Tensor, fake: Tensor, mean: Tensor, log_variance: Tensor, kl_weight: float
) -> tuple[Tensor, Tensor]:
    """LDM's L1 and its weighted KL as contperceptual.py and distributions.py state them: sums over an image's numbers,
    averaged over the batch."""
    rec = torch.abs(image - fake)
    kl = 0.5 * torch.sum(torch.pow(mean, 2) + torch.exp(log_variance) - 1.0 - log_variance, dim=[1, 2, 3])
    return torch.sum(rec) / rec.shape[0], kl_weight * torch.sum(kl) / kl.shape[0]


@pytest.mark.parametrize(("side", "stride", "width"), [(16, 4, 4), (16, 8, 32), (32, 8, 3), (64, 16, 32)])
def test_kl_weighs_against_the_reconstruction_as_in_ldms_sums(
    registry: Registry, side: int, stride: int, width: int
) -> None:
    """Both gradients at the moments are LDM's up to one common factor, so an optimizer sees LDM's balance."""
    torch.manual_seed(0)
    kl = build(Regularizer, recipe(registry, regularizer={"use": "kl", "weight": 1e-3}).autoencoder.regularizer,
               registry, latent_dim=width, grid=side // stride)  # fmt: skip
    objective = made(registry, noise={"use": "constant"})[1]
    moments = torch.randn(2, 2 * width, side // stride, side // stride, requires_grad=True)
    image, to_pixels = torch.rand(2, 3, side, side) * 2 - 1, torch.randn(3 * stride**2, width) / width**0.5

    def decode(latent: Tensor) -> Tensor:
        patches = torch.einsum("pd,bdhw->bphw", to_pixels, latent)
        return torch.nn.functional.pixel_shuffle(patches, stride)

    model = cast(Autoencoder, SimpleNamespace(encode=lambda image: (moments, kl(moments)), decode=decode))
    step = cast(Step, SimpleNamespace(draws=lambda name: GeneratorDraws(2, torch.Generator().manual_seed(2))))
    fake, terms = objective(model, image, None, step)
    theirs = ldm_terms(image, fake, *moments.chunk(2, dim=1), 1e-3)

    def gradients(*losses: Tensor) -> Tensor:
        return torch.stack([torch.autograd.grad(loss, moments, retain_graph=True)[0] for loss in losses])

    ours = gradients(terms["l1"].weighted, terms["penalty"].weighted)
    torch.testing.assert_close(ours * 3 * side**2, gradients(*theirs))


def test_the_kl_ablation_has_the_balance_of_gaes_means(registry: Registry) -> None:
    """GAE's release: mean of |error| + kl_weight * mean of KL, kl_weight 1e-6."""
    found = load_recipe("ablations/kl", registry)
    assert isinstance(found.autoencoder, Section)
    numbers = found.latent_dim * found.image.grid**2
    ours = found.autoencoder.regularizer.weight * numbers / (3 * found.image.size**2)  # of the mean KL, per mean error
    assert ours == pytest.approx(1e-6)


@pytest.mark.parametrize("half", [VIT, CONV])
@pytest.mark.parametrize("loss", ["mse", "vf"])
def test_adaptive_alignment_has_its_share_of_the_reconstructions_gradient(
    registry: Registry, loss: str, half: dict[str, Any]
) -> None:
    """At the encoder's last layer: |weighted alignment| = weight * |reconstruction|, whatever the distance's size."""
    aligner = {"use": "post", "loss": loss, "adaptive": True, "weight": 0.1, "cosine_margin": 0, "distance_margin": 0}
    model, objective = made(registry, aligner=aligner, encoder=half, decoder=half, weights={"log_variance": 0.7})
    terms = losses(model, objective)
    alignment = [term.weighted for term in terms.values() if term.adaptive]
    assert len(alignment) == (2 if loss == "vf" else 1)
    lengths = [
        torch.autograd.grad(loss, model.encoder.last_layer, retain_graph=True)[0].norm()
        for loss in (torch.stack(alignment).sum(), reconstruction(terms))
    ]
    torch.testing.assert_close(lengths[0], 0.1 * lengths[1], rtol=0.02, atol=0)
    torch.autograd.backward(total(terms))
    assert next(objective.aligner.parameters()).grad is not None


def test_only_adaptive_terms_change_and_both_gradients_are_reduced(registry: Registry) -> None:
    seen: list[Tensor] = []

    def mean_over_ranks(gradient: Tensor) -> Tensor:
        seen.append(gradient)
        return gradient / 2

    aligner = {"use": "post", "weight": 2.0}
    plain = losses(*made(registry, aligner=aligner))
    model, objective = made(registry, mean_over_ranks, aligner={**aligner, "adaptive": True})
    adaptive = losses(model, objective)
    assert [gradient.shape for gradient in seen] == [model.encoder.last_layer.shape] * 2
    expected = 2 * seen[0].norm() / (seen[1].norm() + 2e-4)
    torch.testing.assert_close(torch.as_tensor(adaptive["align"].weight), expected)
    torch.testing.assert_close(adaptive["align"].value, plain["align"].value)
    assert adaptive["l1"].weighted == plain["l1"].weighted


class Shared(Aligner):
    """Uses one weight, which trains with the autoencoder, in its target and in its term."""

    name = "shared"

    def __init__(self, config: Any, *, adaptive: bool = False, **sizes: int):
        super().__init__(config, **sizes)
        self.project = torch.nn.Conv2d(FEATURE, 4, 1)
        self.adaptive = adaptive

    def target(self, feature_BFHW: Tensor) -> Tensor:
        return cast(Tensor, self.project(feature_BFHW)).detach()

    def losses(self, hidden_BEHW: Tensor, latent: Latent, target: Tensor) -> Losses:
        shown = torch.einsum("fd,bdhw->bfhw", self.project.weight[:, :4, 0, 0], latent.mean_BDHW)
        return {"align": Loss((shown - target).square().mean(), adaptive=self.adaptive)}


def test_a_weight_of_target_and_term_gets_its_gradient_under_autocast_in_float32(registry: Registry) -> None:
    """Autocast keeps the casts of weights: made for a target, without a gradient, they would serve the term too."""
    objective = made(registry)[1]
    sizes = {"feature_dim": FEATURE, "latent_dim": 4, "hidden_dim": 16, "grid": 4}
    objective.aligner = Shared(SimpleNamespace(use="shared"), **sizes)
    weight = cast(torch.nn.Conv2d, objective.aligner.get_submodule("project")).weight
    feature, hidden, mean = torch.randn(2, FEATURE, 4, 4), torch.randn(2, 16, 4, 4), torch.randn(2, 4, 4, 4)
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            (term,) = objective._alignment(hidden, Latent(mean), feature).values()
        gradients.append(torch.autograd.grad(term.value, weight)[0])
    assert gradients[0].any()
    assert torch.equal(*gradients)


@pytest.mark.parametrize("adaptive", [False, True])
def test_fsdp_is_refused_for_the_adaptive_terms_of_anybodys_aligner(registry: Registry, adaptive: bool) -> None:
    """By what the aligner says, not by a setting of that name."""
    aligner = Shared(SimpleNamespace(use="shared"), adaptive=adaptive, feature_dim=FEATURE, latent_dim=4, hidden_dim=16,
                     grid=4)  # fmt: skip
    given = recipe(registry)
    given = given.model_copy(update={"runtime": given.runtime.model_copy(update={"strategy": "fsdp"})})
    job = cast(Job, SimpleNamespace(recipe=given, autoencoder_section=given.autoencoder, world=SimpleNamespace(size=2)))
    if adaptive:
        with pytest.raises(GaekitError, match="fsdp shards the layers whose gradients adaptive weights compare"):
            _check_strategy(job, aligner)
    else:
        _check_strategy(job, aligner)
