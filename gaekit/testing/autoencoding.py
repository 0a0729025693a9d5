"""Promises of the parts of an autoencoder, and of what shapes its latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from gaekit.api import Aligner, Decoder, Encoder, Latent, NoiseSampler, Perceptual, Regularizer, Teacher
from gaekit.guard import check_encoder as check_answer_of_encoder
from gaekit.guard import check_latent
from gaekit.testing.promises import (
    BATCH,
    Make,
    check_autocast,
    check_gradient,
    check_losses,
    check_module,
    check_regions,
    check_tensor,
    check_training_mode,
    disturb,
    draws,
    expect,
    images,
    numbers,
    own_randomness,
)


def check_teacher(make: Make, sizes: Mapping[str, Any]) -> None:
    """Features on the grid, frozen, deterministic, with a gradient to the image."""
    teacher: Teacher = make()
    image = images(2, 48)
    shape = (2, teacher.feature_dim, sizes["grid"], sizes["grid"])
    check_tensor(teacher(image), shape, "a teacher's feature, of images of any size,")
    trained = [name for name, p in teacher.named_parameters() if p.requires_grad]
    expect(not trained, "a teacher is frozen", f"parameters that require gradients: {', '.join(trained[:3])}")
    teacher.train()
    first, second = teacher(image), teacher(image)
    expect(torch.equal(first, second), "a teacher stays in eval mode when its owner trains")
    image.requires_grad_(True)
    check_gradient(teacher(image).square().mean(), {"the image, for perceptual distances": image})
    check_module(make, lambda module: cast(Tensor, module(images(2, 48))), module=teacher, types=(torch.float32,))
    if teacher.pooled_dim is not None:
        check_tensor(teacher.pooled(image.detach()), (2, teacher.pooled_dim), "a teacher's pooled embedding")
    told = type(teacher).width(teacher.config)
    expect(told in (None, teacher.feature_dim), f"`width` is feature_dim, {teacher.feature_dim}, or None", told)


def check_encoder(make: Make, sizes: Mapping[str, Any]) -> None:
    """Hidden features and moments of the sizes that it was built for, trainable unless all of it is frozen."""
    encoder: Encoder = make()
    grid, image = sizes["image_size"] // sizes["stride"], images(side=sizes["image_size"]).requires_grad_(True)
    disturb(encoder)
    out = encoder(image)
    check_answer_of_encoder(encoder, out, image)
    hidden, moments = out
    check_tensor(hidden, (BATCH, encoder.hidden_dim, grid, grid), "hidden")
    check_tensor(moments, (BATCH, sizes["channels"], grid, grid), "moments")
    if any(p.requires_grad for p in encoder.parameters()):
        _check_layer(encoder, moments, {"the image": image})
    else:  # a frozen encoder has no layer whose gradient could be adapted to
        check_gradient(moments.square().mean(), {"the image": image})
    check_module(make, lambda module: cast(Tensor, module(images(side=sizes["image_size"]))[1]))


def check_decoder(make: Make, sizes: Mapping[str, Any]) -> None:
    """Images of grid * stride pixels, trainable."""
    decoder: Decoder = make()
    shape = (BATCH, sizes["latent_dim"], sizes["grid"], sizes["grid"])
    latent, side = numbers(*shape).requires_grad_(True), sizes["grid"] * sizes["stride"]
    disturb(decoder)
    image = decoder(latent)
    check_tensor(image, (BATCH, 3, side, side), "the image")
    _check_layer(decoder, image, {"the latent": latent})
    check_module(make, lambda module: cast(Tensor, module(numbers(*shape))))


def _check_layer(module: Any, out: Tensor, others: Mapping[str, Tensor]) -> None:
    layer = module.last_layer
    expect(any(layer is p for p in module.parameters()), "last_layer is one of the module's parameters")
    check_gradient(out.square().mean(), {"last_layer": layer, **others} if layer.requires_grad else others)


def check_aligner(make: Make, sizes: Mapping[str, Any]) -> None:
    """A fit in its own way, a target without gradient, terms that pull on the autoencoder."""
    aligner: Aligner = make()
    side = sizes["grid"]
    feature = numbers(BATCH, sizes["feature_dim"], side, side)
    _prepare(aligner, feature)
    target = aligner.target(feature)
    expect(not target.requires_grad, "no gradient flows into the target", "one that requires a gradient")
    hidden = numbers(BATCH, sizes["hidden_dim"], side, side, seed=2).requires_grad_(True)
    mean = numbers(BATCH, sizes["latent_dim"], side, side, seed=3).requires_grad_(True)
    terms = aligner.losses(hidden, Latent(mean), target)
    total = check_losses(terms, "alignment term")
    expect(aligner.adaptive or not any(term.adaptive for term in terms.values()),
           "an aligner with adaptive terms says so: adaptive = True")  # fmt: skip
    if total is not None:
        expect(total.requires_grad, "alignment pulls on the hidden or the latent", "terms that require no gradient")
        grads = torch.autograd.grad(total, [hidden, mean], allow_unused=True)
        pulls = any(g is not None and bool((g != 0).any()) for g in grads)
        expect(pulls, "alignment pulls on the hidden or the latent", "terms that depend on neither")
    _check_training(aligner, feature, hidden, Latent(mean), target)
    if aligner.fit == "train":
        check_regions(make, lambda module: cast(Tensor, check_losses(module.fit_losses(feature), "fit loss")))
    other = make()
    other.load_state_dict(aligner.state_dict(), strict=True)
    expect(torch.equal(other.target(feature), target), "a state dict restores what was fitted")
    expect(_fit_shapes(make(hidden_dim=32)) == _fit_shapes(aligner), "what is fitted does not depend on hidden_dim")


def _check_training(aligner: Aligner, feature: Tensor, hidden: Tensor, latent: Latent, target: Tensor) -> None:
    """While it trains, and under autocast: no global randomness, finite terms."""
    check_training_mode(aligner, lambda module: module.losses(hidden, latent, target))
    if aligner.fit == "train":
        check_training_mode(aligner, lambda module: module.fit_losses(feature))
    aligner.train()
    with torch.autocast("cpu", torch.bfloat16):
        for name, loss in aligner.losses(hidden, latent, target).items():
            finite = bool(torch.isfinite(loss.value).all())
            expect(
                finite, f"'{name}' is finite under autocast to bfloat16", None if finite else float(loss.value.detach())
            )
    aligner.eval()


def _fit_shapes(aligner: Aligner) -> set[tuple[str, tuple[int, ...]]]:
    """Names and shapes of what does not train with the autoencoder: the fitted part, which recipes share."""
    trained = {name for name, p in aligner.named_parameters() if p.requires_grad} if aligner.fit is None else set()
    if aligner.fit == "train":
        feature = numbers(2, aligner.feature_dim, aligner.grid, aligner.grid)
        total = check_losses(aligner.fit_losses(feature), "fit loss")
        parameters = dict(aligner.named_parameters())
        grads = torch.autograd.grad(cast(Tensor, total), list(parameters.values()), allow_unused=True)
        trained = {name for name, grad in zip(parameters, grads, strict=True) if grad is None}
    return {(name, tuple(value.shape)) for name, value in aligner.state_dict().items() if name not in trained}


def _prepare(aligner: Aligner, feature: Tensor) -> None:
    """Fit an aligner a little, in the way that it asks for."""
    expect(aligner.fit in ("train", "closed", None), f"fit is 'train', 'closed' or None, not {aligner.fit!r}")
    if aligner.fit == "closed":
        aligner.fit_closed([feature[:2], feature[2:]])
    if aligner.fit == "train":
        disturb(aligner)
        total = check_losses(aligner.fit_losses(feature), "fit loss")
        expect(total is not None and total.requires_grad, "an aligner with fit = 'train' has something to minimise")
        for parameter in aligner.parameters():
            parameter.grad = None


def check_regularizer(make: Make, sizes: Mapping[str, Any]) -> None:
    """A latent of the width asked for, with a gradient to the moments."""
    regularizer: Regularizer = make()
    side = sizes["grid"]
    shape = (BATCH, sizes["latent_dim"], side, side)
    moments = numbers(BATCH, regularizer.channels, side, side).requires_grad_(True)
    latent: Latent = regularizer(moments)
    expect(isinstance(latent, Latent), "a regularizer gives a gaekit.api.Latent", type(latent).__name__)
    check_tensor(latent.mean_BDHW, shape, "the latent's mean")
    _check_scale(regularizer, moments.detach(), latent)
    if isinstance(latent.std_BDHW, Tensor):
        check_latent(regularizer, latent, moments)
        expect(bool((latent.std_BDHW >= 0).all()), "std is not negative")
    if latent.penalty is not None:
        check_losses({"penalty": latent.penalty}, "the")
    check_gradient((latent.mean_BDHW * numbers(*shape, seed=5)).sum(), {"the moments": moments})
    check_module(make, lambda module: cast(Tensor, module(moments.detach()).mean_BDHW))


def _check_scale(regularizer: Regularizer, moments: Tensor, latent: Latent) -> None:
    """A norm, which takes the moments' scale away, tells the one that it gives, and noise has it as its unit."""
    mean, wider = latent.mean_BDHW.detach(), regularizer(8 * moments).mean_BDHW.detach()
    if not torch.allclose(mean, wider, rtol=1e-3, atol=1e-3 * float(mean.abs().max())):
        return
    rms = float(mean.square().mean().sqrt())
    for name, value in (("scale", latent.scale), ("std_BDHW", latent.std_BDHW)):
        kept = isinstance(value, Tensor) or abs(value - rms) <= 0.05 * rms
        expect(kept, f"a norm that holds the latent's mean at RMS {rms:.3g} says so in Latent.{name}, not {value}")


def check_noise(make: Make, sizes: Mapping[str, Any]) -> None:
    """z depends on the latent and on `draws`, on nothing else."""
    sampler: NoiseSampler = make()
    shape = (BATCH, 6, 4, 4)
    for std in (1.0, numbers(*shape, seed=2).abs()):
        mean = numbers(*shape).requires_grad_(True)
        with own_randomness():
            z = sampler.perturb(Latent(mean, std), draws())
        check_tensor(z, shape, "z")
        check_gradient(z.sum(), {"the mean": mean})
        again = sampler.perturb(Latent(mean, std), draws())
        expect(torch.equal(z, again), "the same draws give the same z")


def check_perceptual(make: Make, sizes: Mapping[str, Any]) -> None:
    """A distance: not negative, 0 for equal images, differentiable in both."""
    perceptual: Perceptual = make()
    first = images(side=sizes["image_size"]).requires_grad_(True)
    second = images(side=sizes["image_size"], seed=2).requires_grad_(True)
    distance = perceptual(first, second)
    check_tensor(distance, (BATCH,), "the distance")
    expect(bool((distance >= 0).all()), "a distance is not negative", float(distance.min().detach()))
    zero = perceptual(first, first)
    expect(
        bool((zero.abs() <= 1e-5).all()), "the distance of an image to itself is 0", float(zero.detach().abs().max())
    )
    expect(distance.requires_grad, "a distance is differentiable", "a result that is detached from its input")
    grads = torch.autograd.grad(distance.sum(), [first, second])
    expect(all(bool(torch.isfinite(grad).all()) for grad in grads), "gradients are finite")
    if bool((distance > 0).any()):
        expect(all(bool((grad != 0).any()) for grad in grads), "gradients reach both images")
    check_training_mode(perceptual, lambda module: cast(Tensor, module(first, second)))
    with torch.no_grad():
        types = (torch.float32, torch.bfloat16)
        check_autocast(perceptual, lambda module: cast(Tensor, module(first, second)), distance, types)
