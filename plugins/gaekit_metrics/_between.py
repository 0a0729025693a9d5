"""Points between latents: whose, and how they are interpolated."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Way = Literal["linear", "slerp", "mask"]


def between(first_BDHW: Tensor, second_BDHW: Tensor, share: float, way: Way) -> Tensor:
    """The point `share` of the way from one latent to the other: on the line, or on the arc, both of whole latents as
    vectors; `mask`: the upper half of the rows from the second, the rest from the first, whatever the share."""
    if way == "linear":
        return (1 - share) * first_BDHW + share * second_BDHW
    if way == "mask":
        upper = torch.zeros_like(first_BDHW)
        upper[..., : first_BDHW.shape[-2] // 2, :] = 1
        return (1 - upper) * first_BDHW + upper * second_BDHW
    return _arc(first_BDHW, second_BDHW, share)


def _arc(first_BDHW: Tensor, second_BDHW: Tensor, share: float) -> Tensor:
    """Shoemake's slerp, with the lengths of both: the line where they point the same way."""
    first, second = first_BDHW.flatten(1).double(), second_BDHW.flatten(1).double()
    cosine = torch.nn.functional.cosine_similarity(first, second, dim=1).clamp(-1, 1)
    angle = cosine.acos()[:, None]
    sine = angle.sin()
    alike = sine < 1e-6
    safe = torch.where(alike, 1.0, sine)
    one = torch.where(alike, 1 - share, ((1 - share) * angle).sin() / safe)
    other = torch.where(alike, share, (share * angle).sin() / safe)
    return (one * first + other * second).view_as(first_BDHW).to(first_BDHW)
