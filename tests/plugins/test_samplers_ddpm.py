from __future__ import annotations

from typing import Any

import pytest
import torch
from fake_cuda import fake_mode
from flow_helpers import GaussianDenoiser, gaussian_field
from torch import Tensor

from gaekit.errors import GaekitError
from gaekit.flow.ddpm import Ddpm
from gaekit.flow.field import Field
from gaekit.flow.guidance import Guidance
from gaekit.values import GeneratorDraws, Prediction
from gaekit_samplers.ddpm import Ddim, DdpmSampler

PROCESS = Ddpm()
BATCH = 16


def make(cls: Any, **settings: Any) -> Any:
    return cls(cls.Config(use=cls.name, **settings))


def noise() -> Tensor:
    return torch.randn(BATCH, 4, 12, 12, generator=torch.Generator().manual_seed(0))


def truth(fraction: float | None = None) -> Field:
    """A field that knows N(0.7, 0.5^2), perhaps with a constant raw variance."""
    gaussian = GaussianDenoiser(PROCESS, "noise")

    def denoiser(x: Tensor, t: Tensor, label: Tensor) -> Prediction:
        variance = None if fraction is None else torch.full_like(x, fraction)
        return Prediction(gaussian(x, t, label).out_BDHW, variance)

    return Field(denoiser, PROCESS, None, torch.zeros(BATCH, dtype=torch.long), 10, "noise")


def run(field: Field, cls: Any, **settings: Any) -> Tensor:
    draws = GeneratorDraws(BATCH, torch.Generator().manual_seed(1))
    x: Tensor = make(cls, **settings).sample(field, noise(), draws=draws)
    return x


@pytest.mark.parametrize("betas", ["linear", "cosine"])
@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (DdpmSampler, {"variance": "posterior"}),
        (DdpmSampler, {"variance": "beta"}),
        (Ddim, {}),
        (Ddim, {"eta": 0.5}),
    ],
)
def test_chains_arrive_at_the_data(cls: Any, settings: dict[str, Any], betas: Any) -> None:
    process = Ddpm(betas)
    field = Field(GaussianDenoiser(process, "noise"), process, None, torch.zeros(BATCH, dtype=torch.long), 10, "noise")
    x = run(field, cls, steps=250, **settings)
    assert float(x.mean()) == pytest.approx(0.7, abs=0.03)
    assert float(x.std()) == pytest.approx(0.5, abs=0.03)


def test_ddim_without_fresh_noise_is_the_probability_flow() -> None:
    x = run(truth(), Ddim, steps=500)
    alpha = PROCESS.alpha_bar[-1] ** 0.5
    spread = (PROCESS.alpha_bar[-1] * 0.25 + 1 - PROCESS.alpha_bar[-1]) ** 0.5
    torch.testing.assert_close(x, 0.7 + 0.5 * (noise() - alpha * 0.7) / spread, atol=0.02, rtol=0)


def test_ddim_with_all_noise_fresh_is_ddpm_with_the_posteriors_variance() -> None:
    ancestral = run(truth(), DdpmSampler, steps=30, variance="posterior")
    torch.testing.assert_close(run(truth(), Ddim, steps=30, eta=1.0), ancestral, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("fraction", "variance"), [(-1.0, "posterior"), (1.0, "beta")])
def test_the_ends_of_a_learned_variance_are_the_fixed_ones(fraction: float, variance: str) -> None:
    learned = run(truth(fraction), DdpmSampler, steps=30)
    torch.testing.assert_close(learned, run(truth(), DdpmSampler, steps=30, variance=variance))


@pytest.mark.parametrize("cls", [DdpmSampler, Ddim])
def test_one_evaluation_and_one_report_a_step(cls: Any) -> None:
    field, seen = truth(0.0), []
    draws = GeneratorDraws(BATCH, torch.Generator().manual_seed(1))
    make(cls, steps=9).sample(field, noise(), draws=draws, on_step=lambda done, total: seen.append((done, total)))
    assert field.evaluations == 9 * BATCH
    assert seen == [(done, 9) for done in range(1, 10)]


def test_a_variance_that_was_not_learned_is_refused() -> None:
    with pytest.raises(GaekitError, match="learned no variance"):
        run(truth(), DdpmSampler, steps=3)


@pytest.mark.parametrize("cls", [DdpmSampler, Ddim])
def test_a_path_has_no_integer_steps(cls: Any) -> None:
    with pytest.raises(GaekitError, match="goes with process 'ddpm', not with path 'linear'"):
        run(gaussian_field(batch=BATCH), cls)


@pytest.mark.parametrize("cls", [DdpmSampler, Ddim])
def test_every_tensor_stays_on_the_device_of_the_noise(cls: Any) -> None:
    with fake_mode():
        network = torch.nn.Conv2d(4, 8, 1, device="cuda")

        def denoiser(x: Tensor, t: Tensor, label: Tensor) -> Prediction:
            assert x.device == t.device == label.device
            out, variance = network(x).chunk(2, 1)
            return Prediction(out, variance)

        label = torch.zeros(2, dtype=torch.long, device="cuda")
        field = Field(denoiser, Ddpm(), Guidance(2.0), label, 10, "noise")  # its tables are made in here
        start = torch.randn(2, 4, 8, 8, device="cuda")
        x = make(cls, steps=4).sample(field, start, draws=GeneratorDraws(2, device="cuda"))
        assert (x.device, x.dtype, x.shape) == (start.device, torch.float32, start.shape)
