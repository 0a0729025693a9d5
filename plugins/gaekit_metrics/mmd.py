"""The squared maximum mean discrepancy of two sets of features (Gretton et al. 2012), and without groups of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gaekit.api.metrics import GROUPS

BLOCK = 4096
"""Rows of a kernel's matrix at once, and columns: 128 MiB, whatever the number of images."""

Kernel = Callable[[Tensor, Tensor], Tensor]
"""Rows (N, F) and (M, F), float64 -> k of each pair (N, M)."""


def cubic(row_NF: Tensor, other_MF: Tensor) -> Tensor:
    """(x . y / F + 1)^3, the polynomial kernel of KID (arXiv 1801.01401, section 4)."""
    return (row_NF @ other_MF.T / row_NF.shape[1] + 1).pow_(3)


def gaussian(sigma: float) -> Kernel:
    """exp(-|x - y|^2 / 2 sigma^2)."""

    def kernel(row_NF: Tensor, other_MF: Tensor) -> Tensor:
        size = row_NF.square().sum(1)[:, None] + other_MF.square().sum(1)
        distance = torch.addmm(size, row_NF, other_MF.T, alpha=-2).clamp_min_(0)
        return distance.mul_(-0.5 / sigma**2).exp_()

    return kernel


@dataclass(frozen=True)
class KernelSums:
    """Sums of a kernel over pairs of rows: of generated ones by their groups, without (`own_GG`) and with
    (`itself_G`) the row itself; of generated with real ones, by the group of the generated (`cross_G`); of real ones
    with others (`real`) and with themselves (`real_itself`). counts_G generated rows are in a group, real_count real.
    """

    own_GG: Tensor
    itself_G: Tensor
    cross_G: Tensor
    counts_G: Tensor
    real: float
    real_itself: float
    real_count: int

    def unbiased(self, *left_out: int) -> float:
        """MMD^2 without some groups, no row paired with itself (their eq. 3): 0 on average between equal
        distributions, so that it can be negative."""
        kept = self._kept(left_out)
        count, reals = int(self.counts_G[kept].sum()), self.real_count
        own = float(self.own_GG[kept][:, kept].sum()) / (count * (count - 1))
        real = self.real / (reals * (reals - 1))
        return own + real - 2 * float(self.cross_G[kept].sum()) / (count * reals)

    def biased(self, *left_out: int) -> float:
        """MMD^2 without some groups, every row also paired with itself (their eq. 5): never negative."""
        kept = self._kept(left_out)
        count, reals = int(self.counts_G[kept].sum()), self.real_count
        own = float(self.own_GG[kept][:, kept].sum() + self.itself_G[kept].sum()) / count**2
        real = (self.real + self.real_itself) / reals**2
        return own + real - 2 * float(self.cross_G[kept].sum()) / (count * reals)

    def _kept(self, left_out: tuple[int, ...]) -> Tensor:
        kept = torch.ones(len(self.counts_G), dtype=torch.bool)
        kept[list(left_out)] = False
        return kept


def kernel_sums(fake_NF: Tensor, real_MF: Tensor, kernel: Kernel, group_N: Tensor, block: int = BLOCK) -> KernelSums:
    """The sums over all pairs; `group_N` says the group, of `GROUPS`, of each generated row."""
    fake_NF, real_MF = fake_NF.double(), real_MF.double()
    member_NG = torch.nn.functional.one_hot(group_N, GROUPS).to(fake_NF)
    real_M1 = real_MF.new_ones(len(real_MF), 1)
    own_GG, itself_N = _sums(fake_NF, fake_NF, kernel, member_NG, member_NG, block)
    itself_G = member_NG.T @ itself_N
    own_GG = own_GG - itself_G.diag()
    cross_G = _sums(fake_NF, real_MF, kernel, member_NG, real_M1, block)[0][:, 0]
    real, real_itself_M = _sums(real_MF, real_MF, kernel, real_M1, real_M1, block)
    itself = float(real_itself_M.sum())
    return KernelSums(
        own_GG.cpu(), itself_G.cpu(), cross_G.cpu(), member_NG.sum(0).cpu(), float(real) - itself, itself, len(real_MF)
    )


def _sums(
    row_NF: Tensor, other_MF: Tensor, kernel: Kernel, member_NG: Tensor, member_MH: Tensor, block: int
) -> tuple[Tensor, Tensor]:
    """(sums (G, H) of the kernel between groups, the kernel of each row with itself (N,) where both are the same)."""
    sums, itself = row_NF.new_zeros(member_NG.shape[1], member_MH.shape[1]), []
    for first in range(0, len(row_NF), block):
        rows, own = row_NF[first : first + block], member_NG[first : first + block]
        for start in range(0, len(other_MF), block):
            values = kernel(rows, other_MF[start : start + block])
            sums += own.T @ (values @ member_MH[start : start + block])
            if first == start and row_NF is other_MF:
                itself.append(values.diagonal().clone())
    return sums, torch.cat(itself) if itself else row_NF.new_zeros(0)
