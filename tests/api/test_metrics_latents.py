"""Numbers of latents, against closed forms and other libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gaekit.api.metrics import channel_variances, effective_rank, radial_spectrum


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_effective_rank_counts_equal_directions_and_weighs_others_by_entropy() -> None:
    assert effective_rank(torch.ones(8)) == pytest.approx(8)
    assert effective_rank(torch.tensor([3.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_rank(torch.tensor([5.0, 5.0, 0.0])) == pytest.approx(2)
    assert effective_rank(torch.zeros(4)) == 0
    p = 0.9
    assert effective_rank(torch.tensor([9.0, 1.0])) == pytest.approx(
        math.exp(-p * math.log(p) - (1 - p) * math.log(1 - p))
    )


def test_variances_of_channels_are_the_eigenvalues_of_their_covariance() -> None:
    mixed = torch.einsum("ed,ndhw->nehw", noise(5, 3, seed=1), noise(40, 3, 4, 4)) + 7
    rows = mixed.movedim(1, -1).reshape(-1, 5).numpy()
    expected = np.sort(np.linalg.eigvalsh(np.cov(rows, rowvar=False, bias=True)))[::-1]
    found = channel_variances(mixed)
    assert np.allclose(found.numpy(), expected, atol=1e-9)
    assert effective_rank(found) <= 3.0001


def test_white_noise_has_the_same_power_everywhere() -> None:
    cycles, power = radial_spectrum(3 * noise(200, 2, 16, 16) - 5)
    assert cycles == [1, 2, 3, 4, 5, 6, 7, 8]
    assert power == pytest.approx([1.0] * 8, rel=0.05)


def test_a_wave_has_its_power_at_its_frequency() -> None:
    x = torch.arange(16, dtype=torch.float64)
    wave = torch.cos(2 * math.pi * 3 * x / 16).expand(16, 16)[None, None]
    _, power = radial_spectrum(wave)
    # Variance 1 over 256 pixels is a power of 256 in all, at the two places (0, 3) and (0, -3) of the ring.
    along = np.fft.fftfreq(16, 1 / 16)
    ring = np.rint(np.hypot(along[:, None], along[None, :]))
    assert power[2] == pytest.approx(256 / (ring == 3).sum())
    assert sum(power) == pytest.approx(power[2])
