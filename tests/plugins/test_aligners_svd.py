"""The closed-form target against scikit-learn's principal components of real features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor

from gaekit.api import Latent
from gaekit.errors import GaekitError
from gaekit_aligners.svd import LatentSvdAligner, LatentSvdConfig


def digits() -> Tensor:
    """Real digits as features: the 16 pixels of each quadrant are the channels of a 2 x 2 grid."""
    images = torch.from_numpy(load_digits().images[:200]).float().view(-1, 2, 4, 2, 4)
    return images.permute(0, 2, 4, 1, 3).reshape(-1, 16, 2, 2) + 1


def aligner(latent_dim: int = 4, **settings: Any) -> LatentSvdAligner:
    config = LatentSvdConfig.model_validate({"use": "latent_svd", **settings})
    return LatentSvdAligner(config, feature_dim=16, latent_dim=latent_dim, hidden_dim=1, grid=2)


@pytest.mark.parametrize("whiten", [False, True])
def test_the_target_is_scikit_learns_projection_at_unit_rms(whiten: bool) -> None:
    features = digits()
    ours = aligner(whiten=whiten)
    ours.fit_closed(torch.split(features, 64))
    rows = features.permute(0, 2, 3, 1).reshape(-1, 16).double().numpy()
    rows = rows / np.sqrt((rows**2).mean(1, keepdims=True) + 1e-6)
    pca = PCA(4, svd_solver="full", whiten=whiten).fit(rows)
    projected = pca.transform(rows)
    expected = projected / np.sqrt((projected**2).mean(1, keepdims=True) + 1e-6)
    target = ours.target(features).permute(0, 2, 3, 1).reshape(-1, 4).numpy()
    signs = np.sign((target * expected).sum(0))
    # unwhitened rows near the mean are dominated by the norm's eps and by rounding
    np.testing.assert_allclose(target, expected * signs, atol=2e-3)


def test_the_result_does_not_depend_on_how_batches_are_cut() -> None:
    first, second = aligner(), aligner()
    first.fit_closed(torch.split(digits(), 7))
    second.fit_closed([digits()])
    for name, value in first.state_dict().items():
        torch.testing.assert_close(value, second.state_dict()[name], atol=1e-6, rtol=1e-6)


def test_what_was_solved_travels_in_the_state_and_nothing_trains() -> None:
    first, second = aligner(), aligner()
    first.fit_closed([digits()])
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.target(digits()), second.target(digits()))
    assert not list(first.parameters())
    target = first.target(digits())
    assert first.losses(target, Latent(target), target)["align"].value == 0


def test_more_directions_than_there_are_is_refused() -> None:
    with pytest.raises(GaekitError, match="latent_dim 17 is more than the teacher's 16 channels"):
        aligner(latent_dim=17)
    with pytest.raises(GaekitError, match="4 feature vectors cannot give 4 directions"):
        aligner().fit_closed([digits()[:1]])
    flat = digits()[:, :3].repeat(1, 6, 1, 1)[:, :16]
    with pytest.raises(GaekitError, match="vary in fewer than 4 directions"):
        aligner().fit_closed([flat])
