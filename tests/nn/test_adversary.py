import pytest
import torch
from fake_cuda import fake_cuda
from parity_helpers import close, load_fixture
from torch import nn

from gaekit.errors import GaekitError
from gaekit.nn.adversary import (
    BatchNorm,
    PatchGAN,
    adaptive_weight,
    augment,
    critic_loss,
    generator_loss,
    hinge_loss,
    vanilla_loss,
)
from gaekit.values import Draws, GeneratorDraws


class Scripted(Draws):
    """Gives the same chosen number to all images, one a call."""

    def __init__(self, batch, *numbers):
        self.batch, self.numbers = batch, list(numbers)

    def normal(self, *tail):
        raise AssertionError("not wanted")

    def uniform(self):
        return torch.full((self.batch,), self.numbers.pop(0))


def images(count=2, side=16, channels=3):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.fixture
def published():
    _, state, inputs, outputs = load_fixture("autoencoder_losses")
    critic = PatchGAN(channels=16, norm="batch").eval()
    critic.load_state_dict(state)
    return critic, inputs, outputs


def test_logits_are_the_published_ones(published):
    critic, inputs, outputs = published
    close(critic(inputs["real"]), outputs["logits_real"])
    close(critic(inputs["fake"]), outputs["logits_fake"])


def test_losses_are_the_published_ones(published):
    _, _, outputs = published
    real, fake = outputs["logits_real"], outputs["logits_fake"]
    close(hinge_loss(real, fake), outputs["hinge_d"])
    close(vanilla_loss(real, fake), outputs["vanilla_d"])
    close(generator_loss(fake), outputs["g"])
    assert critic_loss("hinge", real, fake) == hinge_loss(real, fake)
    assert critic_loss("vanilla", real, fake) == vanilla_loss(real, fake)


def test_losses_are_float32_under_autocast():
    narrow = torch.tensor([0.3, -0.2], dtype=torch.bfloat16)
    for value in (hinge_loss(narrow, narrow), vanilla_loss(narrow, narrow), generator_loss(narrow)):
        assert value.dtype == torch.float32


@pytest.mark.parametrize(("layers", "side"), [(1, 6), (2, 12), (3, 24), (3, 48)])
def test_logits_have_the_documented_side(layers, side):
    critic = PatchGAN(4, layers)
    assert critic(torch.zeros(1, 3, side, side)).shape == (1, 1, side // 2**layers - 2, side // 2**layers - 2)


def test_images_too_small_for_the_layers_are_refused():
    with pytest.raises(GaekitError, match="3 layers need images of at least 24 px, these have 16"):
        PatchGAN(4, 3)(images(1, 16))


def test_group_norm_judges_each_image_alone_and_batch_norm_does_not():
    batch = images(4, 24)
    for norm, alone in (("group", True), ("batch", False)):
        critic = PatchGAN(16, 3, norm=norm).train()
        assert torch.allclose(critic(batch)[:1], critic(batch[:1]), atol=1e-5) is alone


def test_batch_norm_is_torchs_over_each_group_of_images_in_order():
    """As if processes of three images each had judged them, and a third pass brings no more than the first."""
    batch, critic = images(6, 24), PatchGAN(16, 3, norm="batch", norm_batch=3).train()
    plain = PatchGAN(16, 3, norm="batch").train()
    plain.load_state_dict(critic.state_dict())
    apart = torch.cat([plain(part) for part in batch.split(3)])
    torch.testing.assert_close(critic(batch), apart)
    grads = [
        torch.autograd.grad(c.square().sum(), list(m.parameters()))
        for c, m in ((critic(batch), critic), (apart, plain))
    ]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)
    reference = nn.BatchNorm2d(16).train()
    norm = BatchNorm(16, 3).train()
    x = torch.randn(3, 16, 4, 4)
    torch.testing.assert_close(norm(x), reference(x))
    assert torch.equal(norm.running_mean, torch.zeros(16))
    with pytest.raises(GaekitError, match="norm_batch: 3 does not divide the 4 images of a pass"):
        critic(images(4, 24))


def test_adaptive_weight_makes_both_gradients_equally_long():
    layer = nn.Linear(3, 2)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    out = layer(x)
    wanted, other = (out - 1).square().mean(), 0.01 * out.abs().mean()
    weight = adaptive_weight(wanted, other, layer.weight)
    lengths = [torch.autograd.grad(v, layer.weight, retain_graph=True)[0].norm() for v in (wanted, other)]
    assert weight * (lengths[1] + 1e-4) == pytest.approx(lengths[0].item(), rel=1e-5)
    assert not weight.requires_grad
    (wanted + weight * other).backward()


def test_adaptive_weight_is_limited_where_the_other_gradient_vanishes():
    layer = nn.Linear(1, 1)
    out = layer(torch.ones(1, 1)).sum()
    assert adaptive_weight(100 * out, 0 * out, layer.weight) == 1e4
    assert adaptive_weight(100 * out, 0 * out, layer.weight, limit=50.0) == 50


def test_the_adaptive_weight_of_ranks_that_share_gradients_is_that_of_the_whole_batch():
    layer = nn.Linear(3, 2)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))

    def losses(rows):
        out = layer(rows)
        return (out - 1).square().mean(), 0.01 * out.tanh().mean()

    sent = []

    def send(gradient):
        sent.append(gradient)
        return gradient

    ranks = [losses(part) for part in x.chunk(2)]
    alone = [adaptive_weight(*pair, layer.weight, reduce=send) for pair in ranks]
    means = iter([(sent[0] + sent[2]) / 2, (sent[1] + sent[3]) / 2])
    shared = adaptive_weight(*ranks[0], layer.weight, reduce=lambda _: next(means))
    whole = adaptive_weight(*losses(x), layer.weight)
    torch.testing.assert_close(shared, whole)
    assert all(abs(weight - whole) > 0.01 * whole for weight in alone)


@pytest.mark.parametrize("detached", [False, True])
def test_an_adaptive_weight_of_a_loss_without_the_layer_is_refused(detached):
    layer, other = nn.Linear(3, 2), nn.Linear(3, 2)
    x = torch.ones(1, 3)
    loss = other(x).sum().detach() if detached else other(x).sum()
    with pytest.raises(GaekitError, match=r"does not depend on the layer .* a weight of shape \(2, 3\)"):
        adaptive_weight(layer(x).sum(), loss, layer.weight)


def test_brightness_saturation_and_contrast_change_what_they_are_named_after():
    image = images()
    neutral = (0.5, 0.5, 0.5)
    torch.testing.assert_close(augment(image, Scripted(2, *neutral), ["color"]), image)
    brighter = augment(image, Scripted(2, 0.75, 0.5, 0.5), ["color"])
    torch.testing.assert_close(brighter, image + 0.25)
    grey = augment(image, Scripted(2, 0.5, 0.0, 0.5), ["color"])
    torch.testing.assert_close(grey, image.mean(1, keepdim=True).expand_as(image))
    flat = augment(image, Scripted(2, 0.5, 0.5, 0.0), ["color"])
    torch.testing.assert_close(flat.mean((1, 2, 3)), image.mean((1, 2, 3)))
    torch.testing.assert_close(flat.std((1, 2, 3)), image.std((1, 2, 3)) / 2)


@pytest.mark.parametrize(("number", "shift"), [(0.0, -2), (0.3, -1), (0.5, 0), (0.999, 2)])
def test_translation_moves_by_up_to_an_eighth_and_fills_with_zeros(number, shift):
    image = images(2, 16)
    moved = augment(image, Scripted(2, number, 0.5), ["translation"])
    expected = torch.zeros_like(image)
    kept = slice(max(0, -shift), 16 - max(0, shift))
    source = slice(max(0, shift), 16 - max(0, -shift))
    expected[:, :, kept] = image[:, :, source]
    assert torch.equal(moved, expected)


def test_translation_of_both_axes_is_independent():
    image = images(1, 16)
    moved = augment(image, Scripted(1, 0.999, 0.0), ["translation"])
    assert torch.equal(moved[..., :14, 2:], image[..., 2:, :14])
    assert not moved[..., 14:, :].any()
    assert not moved[..., :2].any()


def test_cutout_zeroes_a_square_of_half_the_side_and_nothing_else():
    image = images(1, 16)
    cut = augment(image, Scripted(1, 0.5, 0.5), ["cutout"])
    expected = image.clone()
    expected[..., 4:12, 4:12] = 0
    assert torch.equal(cut, expected)
    corner = augment(image, Scripted(1, 0.0, 0.999), ["cutout"])
    assert int((corner == 0).all(1).sum()) == 16  # a quarter of the square is inside


def test_augmentation_differs_by_image_and_passes_gradients():
    image = images(1, 16).expand(3, -1, -1, -1).clone().requires_grad_()
    out = augment(image, GeneratorDraws(3, torch.Generator().manual_seed(1)))
    assert not torch.equal(out[0], out[1])
    out.sum().backward()
    assert image.grad.abs().amax((1, 2, 3)).gt(0).all()


@pytest.mark.parametrize("bf16", [False, True])
def test_critic_runs_on_cuda_in_either_precision(bf16):
    with fake_cuda(bf16) as inner:
        critic = PatchGAN(8)
        seen = inner(critic.main[2])
        logits = critic(torch.randn(2, 3, 48, 48))
        assert hinge_loss(logits, logits).dtype == torch.float32
    assert logits.device.type == "cuda"
    assert seen == [torch.bfloat16 if bf16 else torch.float32]
