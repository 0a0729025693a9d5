"""The adversary of an autoencoder: a patch discriminator, its losses, the adaptive weight, and DiffAug."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gaekit.errors import GaekitError
from gaekit.values import Draws

Norm = Literal["group", "batch"]
CriticLoss = Literal["hinge", "vanilla"]
Augmentation = Literal["color", "translation", "cutout"]
Reduce = Callable[[Tensor], Tensor]
"""Makes of one process's gradient that of the whole batch: the mean over ranks."""


class PatchGAN(nn.Module):
    """Convolutional judge of overlapping patches: positive logits for real, negative for generated (arXiv 1611.07004).

    `layers` convolutions of stride 2, then two of stride 1; `channels` after the first, doubled up to eightfold.
    `norm` is batch norm as in VQGAN, over `norm_batch` images (`BatchNorm`), or group norm, which looks at each image
    alone.
    """

    def __init__(self, channels: int = 64, layers: int = 3, norm: Norm = "group", norm_batch: int | None = None):
        super().__init__()
        widths = [channels * min(2**level, 8) for level in range(layers + 1)]
        stages: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for level in range(1, layers + 1):
            # The norm's own offset follows, so these convolutions have none.
            stride = 2 if level < layers else 1
            conv = nn.Conv2d(widths[level - 1], widths[level], 4, stride=stride, padding=1, bias=False)
            stages += [conv, _norm(norm, widths[level], norm_batch), nn.LeakyReLU(0.2)]
        self.main = nn.Sequential(*stages, nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.layers = layers
        self.reset_parameters()

    @property
    def smallest_image(self) -> int:
        """Side in pixels of the smallest image that this many layers can judge."""
        return 3 << self.layers

    def forward(self, image_B3RR: Tensor) -> Tensor:
        """-> logits (B, 1, h, h), one a patch, h = R / 2^layers - 2. Raises GaekitError for smaller images."""
        if min(image_B3RR.shape[2:]) < self.smallest_image:
            raise GaekitError(
                f"autoencoder.adversary.layers: {self.layers} layers need images of at least {self.smallest_image} px, "
                f"these have {min(image_B3RR.shape[2:])}; use fewer layers"
            )
        return self.main(image_B3RR)  # type: ignore[no-any-return]

    def reset_parameters(self) -> None:
        """Normal weights of standard deviation 0.02, norms around 1, offsets 0 (pix2pix)."""
        for part in self.main:
            if isinstance(part, nn.Conv2d | nn.BatchNorm2d | nn.GroupNorm):
                nn.init.normal_(part.weight, 0.0 if isinstance(part, nn.Conv2d) else 1.0, 0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm by the statistics of each `count` images in order, of all where it is None.

    So did each process of the published trainings by its own images; here it does not depend on how many there are.
    Training leaves the running statistics as they are: evaluation takes those that were loaded.
    """

    def __init__(self, width: int, count: int | None = None):
        super().__init__(width)
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape. Raises GaekitError where B is no multiple of `count`."""
        if not self.training:
            return super().forward(x)
        batch, width, *sides = x.shape
        count = self.count or batch
        if batch % count:
            raise GaekitError(
                f"autoencoder.adversary.norm_batch: {count} does not divide the {batch} images of a pass; choose a "
                "divisor, or another runtime.micro_batch"
            )
        groups = batch // count
        # each group has channels of its own: one batch norm over `count` images does them all
        x = x.view(groups, count, width, *sides).transpose(0, 1).reshape(count, groups * width, *sides)
        scale, offset = self.weight.repeat(groups), self.bias.repeat(groups)
        x = F.batch_norm(x, None, None, scale, offset, training=True, eps=self.eps)
        return x.view(count, groups, width, *sides).transpose(0, 1).reshape(batch, width, *sides)


def _norm(norm: Norm, width: int, count: int | None) -> nn.Module:
    return BatchNorm(width, count) if norm == "batch" else nn.GroupNorm(math.gcd(32, width), width)


def hinge_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Discriminator's loss: half of mean relu(1 - real) + mean relu(1 + fake) (arXiv 1705.02894); float32."""
    return 0.5 * (F.relu(1 - real_logits.float()).mean() + F.relu(1 + fake_logits.float()).mean())


def vanilla_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Discriminator's loss: half of the cross-entropies of real and fake (arXiv 1406.2661); float32."""
    return 0.5 * (F.softplus(-real_logits.float()).mean() + F.softplus(fake_logits.float()).mean())


def critic_loss(name: CriticLoss, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The discriminator's loss of that name."""
    return hinge_loss(real_logits, fake_logits) if name == "hinge" else vanilla_loss(real_logits, fake_logits)


def generator_loss(fake_logits: Tensor) -> Tensor:
    """What the autoencoder minimises: the mean of -logits of its reconstructions; float32."""
    return -fake_logits.float().mean()


def adaptive_weight(
    wanted: Tensor, other: Tensor, last_layer: Tensor, *, limit: float = 1e4, reduce: Reduce | None = None
) -> Tensor:
    """The factor that gives `other` as much gradient at `last_layer` as `wanted` has there, detached.

    |grad wanted| / (|grad other| + 1e-4), at most `limit` (VQGAN, arXiv 2012.09841, eq. 7). Both losses are scalars;
    their graphs stay. `reduce` is applied to both gradients before their norms are taken. Raises GaekitError where a
    loss does not depend on `last_layer`.
    """
    strong, weak = (_gradient(loss, last_layer, reduce).norm() for loss in (wanted, other))
    ratio: Tensor = strong / (weak + 1e-4)
    return ratio.clamp(0.0, limit).detach()


def _gradient(loss: Tensor, at: Tensor, reduce: Reduce | None) -> Tensor:
    found = torch.autograd.grad(loss, at, retain_graph=True, allow_unused=True)[0] if loss.requires_grad else None
    if found is None:
        raise GaekitError(
            "adaptive weight: a loss does not depend on the layer whose gradients are compared, a weight of shape "
            f"{tuple(at.shape)}; set `adaptive: false`, or let the term reach the last layer of the network"
        )
    return reduce(found.float()) if reduce else found.float()


def augment(
    image_B3RR: Tensor, draws: Draws, policy: Sequence[Augmentation] = ("color", "translation", "cutout")
) -> Tensor:
    """Differentiable augmentation of what the critic sees, other numbers for each image (DiffAug, arXiv 2006.10738).

    Both real and generated images go through it, in either side's pass; the generator's gradient comes back through it.
    """
    steps = {"color": _color, "translation": _translation, "cutout": _cutout}
    for name in policy:
        image_B3RR = steps[name](image_B3RR, draws)
    return image_B3RR


def _uniform(image_B3RR: Tensor, draws: Draws) -> Tensor:
    return draws.uniform().to(image_B3RR.device).view(-1, 1, 1, 1)


def _color(image_B3RR: Tensor, draws: Draws) -> Tensor:
    """Brightness by up to a half, saturation by a factor in [0, 2), contrast by one in [0.5, 1.5)."""
    image_B3RR = image_B3RR + (_uniform(image_B3RR, draws) - 0.5)
    grey = image_B3RR.mean(1, keepdim=True)
    image_B3RR = grey + (image_B3RR - grey) * (2 * _uniform(image_B3RR, draws))
    level = image_B3RR.mean((1, 2, 3), keepdim=True)
    return level + (image_B3RR - level) * (0.5 + _uniform(image_B3RR, draws))


def _shifts(image_B3RR: Tensor, draws: Draws, low: int, high: int) -> Tensor:
    """A whole number in low..high for each image, (B, 1)."""
    steps = (_uniform(image_B3RR, draws).view(-1, 1) * (high - low + 1)).floor().long()
    return low + steps.clamp(max=high - low)


def _translation(image_B3RR: Tensor, draws: Draws) -> Tensor:
    """Move by up to an eighth of a side along both axes; what comes in from outside is zero."""
    reach_y, reach_x = (int(side / 8 + 0.5) for side in image_B3RR.shape[2:])
    rows, row_inside = _sources(image_B3RR, 2, _shifts(image_B3RR, draws, -reach_y, reach_y))
    columns, column_inside = _sources(image_B3RR, 3, _shifts(image_B3RR, draws, -reach_x, reach_x))
    batch = torch.arange(image_B3RR.shape[0], device=image_B3RR.device).view(-1, 1, 1)
    moved = image_B3RR.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return moved * (row_inside[:, :, None] & column_inside[:, None, :])[:, None]


def _sources(image_B3RR: Tensor, axis: int, shift_B1: Tensor) -> tuple[Tensor, Tensor]:
    """Along `axis`, which row (B, R) each row comes from, clamped, and whether it is inside."""
    side = image_B3RR.shape[axis]
    source = torch.arange(side, device=image_B3RR.device)[None] + shift_B1
    return source.clamp(0, side - 1), (source >= 0) & (source < side)


def _cutout(image_B3RR: Tensor, draws: Draws) -> Tensor:
    """Zero a rectangle of half the side, centred anywhere in the image."""
    covered = [_covered(image_B3RR, axis, draws) for axis in (2, 3)]
    hole = covered[0][:, :, None] & covered[1][:, None, :]
    return image_B3RR * ~hole[:, None]


def _covered(image_B3RR: Tensor, axis: int, draws: Draws) -> Tensor:
    side = image_B3RR.shape[axis]
    length = int(side / 2 + 0.5)
    # The centre of an even hole lies between two rows: one more place for it.
    first = _shifts(image_B3RR, draws, 0, side - length % 2) - length // 2
    row = torch.arange(side, device=image_B3RR.device)[None]
    return (row >= first) & (row < first + length)
