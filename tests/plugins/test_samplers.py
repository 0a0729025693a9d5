from __future__ import annotations

import math
import weakref
from typing import Any

import pytest
import torch
from fake_cuda import fake_mode
from flow_helpers import GaussianDenoiser, gaussian_field
from pydantic import ValidationError
from torch import Tensor

from gaekit.errors import GaekitError
from gaekit.flow.ddpm import Ddpm
from gaekit.flow.field import Field
from gaekit.flow.guidance import Guidance
from gaekit.flow.path import get_path
from gaekit.flow.process import Process
from gaekit.values import Draws, GeneratorDraws, Prediction
from gaekit_samplers import gaekit_components as components
from gaekit_samplers._grid import grid
from gaekit_samplers.adaptive import Dopri5, TorchDiffEq
from gaekit_samplers.ddpm import Ddim, DdpmSampler
from gaekit_samplers.ode import AdamsBashforth2, Euler, Heun
from gaekit_samplers.sde import EulerMaruyama, SdeHeun

SAMPLERS: list[Any] = list(components())
FORMS = ("sbdm", "sigma", "linear", "constant", "decreasing", "increasing-decreasing")
SDES: tuple[Any, ...] = (EulerMaruyama, SdeHeun)
FIXED_STEP: tuple[Any, ...] = (Euler, Heun, AdamsBashforth2, EulerMaruyama, SdeHeun)


def make(cls: Any, **settings: Any) -> Any:
    return cls(cls.Config(use=cls.name, **settings))


def noise(batch: int = 4, side: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(batch, 4, side, side, generator=torch.Generator().manual_seed(seed))


def draws(batch: int = 4, seed: int = 1) -> GeneratorDraws:
    return GeneratorDraws(batch, torch.Generator().manual_seed(seed))


class CountingDraws(Draws):
    def __init__(self, batch: int):
        self.batch = batch
        self.shapes: list[tuple[int, ...]] = []

    def normal(self, *tail: int) -> Tensor:
        self.shapes.append((self.batch, *tail))
        return torch.randn(self.batch, *tail)

    def uniform(self) -> Tensor:
        raise AssertionError("samplers draw normal numbers only")


# --- order ---------------------------------------------------------------------------------------------------------


def error(cls: Any, steps: int, path: str, predicts: str = "velocity", **settings: Any) -> float:
    field, truth = gaussian_field(path, predicts), GaussianDenoiser(get_path(path))
    start = field.process.bounds(predicts)[0]
    x = make(cls, steps=steps, **settings).sample(field, noise(), draws=draws())
    return float((x - truth.flow(noise(), start)).abs().max())


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
@pytest.mark.parametrize(("cls", "order"), [(Euler, 1), (Heun, 2), (AdamsBashforth2, 2)])
def test_ode_solvers_show_their_order(cls: Any, order: int, path: str) -> None:
    coarse, fine = (error(cls, steps, path) for steps in (40, 80))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("shift", [0.4, 2.0])
@pytest.mark.parametrize(("cls", "order"), [(Euler, 1), (Heun, 2), (AdamsBashforth2, 2)])
def test_ode_solvers_keep_their_order_on_a_shifted_grid(cls: Any, order: int, shift: float) -> None:
    coarse, fine = (error(cls, steps, "linear", shift=shift) for steps in (20, 40))
    assert math.log2(coarse / fine) > order - 0.25  # leading errors may cancel, and do at 0.4


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
@pytest.mark.parametrize("predicts", ["noise", "score", "data"])
@pytest.mark.parametrize("cls", [Euler, Heun, AdamsBashforth2])
def test_ode_solvers_reach_the_data_from_any_prediction(cls: Any, predicts: str, path: str) -> None:
    assert error(cls, 200, path, predicts) < 0.02


@pytest.mark.parametrize("path", ["linear", "vp"])
@pytest.mark.parametrize("method", ["dopri5", "bosh3", "midpoint", "heun3", "rk4"])
def test_torchdiffeq_reaches_the_data(method: str, path: str) -> None:
    assert error(TorchDiffEq, 50, path, method=method, rtol=1e-6) < (1e-4 if path == "linear" else 5e-3)


@pytest.mark.parametrize("compat", [None, "release"])
def test_dopri5_looks_beyond_the_end_only_where_the_release_does(compat: str | None) -> None:
    field, denoiser = gaussian_field(), GaussianDenoiser(get_path("linear"))
    seen: list[float] = []

    def spy(x: Tensor, t: Tensor, label: Tensor) -> Prediction:
        seen.append(float(t[0]))
        return denoiser(x, t, label)

    field.denoiser = spy
    x = make(Dopri5, compat=compat).sample(field, noise(), draws=draws())
    assert (x - denoiser.flow(noise())).abs().max() < (0.05 if compat else 0.005)  # the look beyond is interpolated
    assert (max(seen) > 1) == (compat == "release")


# --- SDE -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", SDES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_sde_solvers_keep_the_marginals(cls: Any, form: str, path: str) -> None:
    field = gaussian_field(path, batch=16)
    x = make(cls, steps=100, diffusion=form, last_step="euler").sample(field, noise(16, 12), draws=draws(16))
    assert float(x.mean()) == pytest.approx(0.7, abs=0.025)
    assert float(x.std()) == pytest.approx(0.5, abs=0.025)


@pytest.mark.parametrize("last_step", ["none", "mean", "tweedie", "euler"])
@pytest.mark.parametrize("predicts", ["velocity", "noise", "data"])
def test_every_last_step_arrives_at_the_data(last_step: str, predicts: str) -> None:
    field = gaussian_field("linear", predicts, batch=16)
    x = make(EulerMaruyama, steps=200, last_step=last_step).sample(field, noise(16, 16), draws=draws(16))
    assert float(x.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(x.std()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("last_step", ["none", "mean", "tweedie"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cls", SDES)
def test_every_form_keeps_the_marginals_with_every_last_step(cls: Any, form: str, last_step: str) -> None:
    field = gaussian_field(batch=16)
    x = make(cls, steps=200, diffusion=form, last_step=last_step).sample(field, noise(16, 12), draws=draws(16))
    assert float(x.mean()) == pytest.approx(0.7, abs=0.025)  # 9,216 numbers: 0.005 is one standard error
    assert float(x.std()) == pytest.approx(0.5, abs=0.025)  # `constant` with `mean`: 0.015 off, a bias of order 1


def test_sde_marginals_hold_on_the_grid_of_the_published_gae_sampler() -> None:
    field = gaussian_field(batch=16)
    x = make(EulerMaruyama, steps=250, shift=0.4).sample(field, noise(16, 16), draws=draws(16))
    assert float(x.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(x.std()) == pytest.approx(0.5, abs=0.02)


def test_sde_forgets_the_noise_that_it_started_from_where_the_ode_keeps_it() -> None:
    def correlation(cls: Any) -> float:
        field = gaussian_field()
        x = make(cls, steps=100).sample(field, noise(), draws=draws())
        return float(torch.corrcoef(torch.stack([x.flatten(), noise().flatten()]))[0, 1])

    assert correlation(Euler) > 0.999
    assert abs(correlation(EulerMaruyama)) < 0.1


def test_default_plan_covers_the_whole_shifted_path_without_a_gap() -> None:
    plan = make(EulerMaruyama, steps=250, shift=0.4).plan(get_path("linear"), "velocity")
    assert plan.times[0] == 0
    assert plan.times[-1] == plan.last_from == pytest.approx(0.4 * 0.996 / (1 - 0.6 * 0.996))
    assert plan.last_from + plan.last_size == 1
    assert len(plan.times) == 250


def test_published_plan_keeps_its_gap_and_its_eps() -> None:
    plan = make(EulerMaruyama, steps=250, shift=0.4, compat="release").plan(get_path("linear"), "velocity")
    assert plan.times[0] == pytest.approx(0.4 * 1e-5, rel=1e-4)
    assert plan.times[-1] == pytest.approx(0.990, abs=5e-4)
    assert (plan.last_from, plan.last_size) == (pytest.approx(0.996), pytest.approx(0.004))


@pytest.mark.parametrize(
    ("compat", "path", "predicts", "settings", "interval"),
    [
        ("release", "linear", "velocity", {"diffusion": "sigma"}, (0.0, 0.96)),
        ("release", "linear", "noise", {"diffusion": "sigma"}, (1e-5, 0.96)),
        ("release", "linear", "velocity", {"diffusion": "linear", "last_step": "none"}, (0.0, 1 - 1e-5)),
        ("sit", "gvp", "score", {"diffusion": "sigma"}, (1e-3, 0.96)),
        ("sit", "gvp", "velocity", {"diffusion": "sigma", "last_step": "none"}, (0.0, 1.0)),
        ("sit", "vp", "noise", {"diffusion": "sbdm"}, (0.0, 0.96)),
    ],
)
def test_published_intervals(
    compat: str | None, path: str, predicts: str, settings: dict[str, Any], interval: tuple[float, float]
) -> None:
    sampler = make(EulerMaruyama, steps=10, last_step_size=0.04, compat=compat, **settings)
    times = sampler.plan(get_path(path), predicts).times
    assert (times[0], times[-1]) == (pytest.approx(interval[0]), pytest.approx(interval[1]))


# --- cost, randomness, memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "evaluations"),
    [
        (make(Euler, steps=7), 7),
        (make(AdamsBashforth2, steps=7), 7),
        (make(Heun, steps=7), 14),
        (make(EulerMaruyama, steps=7), 7),
        (make(EulerMaruyama, steps=7, last_step="none"), 7),
        (make(SdeHeun, steps=7), 13),
        (make(TorchDiffEq, steps=7, method="midpoint"), 14),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_steps_count_what_they_say(sampler: Any, evaluations: int) -> None:
    field = gaussian_field()
    seen: list[tuple[int, int]] = []
    sampler.sample(field, noise(), draws=draws(), on_step=lambda done, total: seen.append((done, total)))
    assert field.evaluations == 4 * evaluations
    assert seen == [(done, 7) for done in range(1, 8)]


def test_guidance_on_an_interval_costs_what_it_covers() -> None:
    def denoiser(x: Tensor, t: Tensor, label: Tensor) -> Prediction:
        return Prediction(-x)

    field = Field(denoiser, get_path("linear"), Guidance(2.5, 0.3), torch.zeros(4, dtype=torch.long), 10, "velocity")
    make(Euler, steps=50).sample(field, noise(), draws=draws())
    assert field.evaluations / (4 * 50) == pytest.approx(1.70)


@pytest.mark.parametrize(
    ("sampler", "count"),
    [
        (make(Euler, steps=5), 0),
        (make(Heun, steps=5), 0),
        (make(EulerMaruyama, steps=5), 4),
        (make(EulerMaruyama, steps=5, last_step="none"), 5),
        (make(SdeHeun, steps=5, diffusion="sigma"), 4),
    ],
)
def test_one_draw_of_the_latents_shape_for_each_noisy_step(sampler: Any, count: int) -> None:
    counting = CountingDraws(4)
    sampler.sample(gaussian_field(), noise(), draws=counting)
    assert counting.shapes == [(4, 4, 8, 8)] * count


@pytest.mark.parametrize(
    "sampler",
    [
        *(make(cls, steps=60) for cls in FIXED_STEP),
        make(TorchDiffEq, steps=60, method="rk4"),
        make(Dopri5, rtol=1e-5),
        make(DdpmSampler, steps=60, variance="beta"),
        make(Ddim, steps=60),
    ],
    ids=lambda sampler: sampler.name,
)
def test_no_past_state_is_kept(sampler: Any) -> None:
    """Of the states and predictions of the way, as many are alive at any evaluation as at one of the first fifteen."""
    process = Ddpm() if "steps" in sampler.needs else get_path("linear")
    truth = GaussianDenoiser(process, "noise")
    seen: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def watched(x: Tensor, t: Tensor, label: Tensor) -> Prediction:
        prediction = truth(x, t, label)
        seen.extend([weakref.ref(x), weakref.ref(prediction.out_BDHW)])
        alive.append(sum(ref() is not None for ref in seen))
        return prediction

    field = Field(watched, process, None, torch.zeros(4, dtype=torch.long), 10, "noise")
    sampler.sample(field, noise(), draws=draws())
    assert len(alive) >= 40
    assert max(alive) == max(alive[:15]) <= 5


@pytest.mark.parametrize("cls", [*FIXED_STEP, TorchDiffEq, Dopri5])
def test_no_graph_is_kept_and_the_noise_is_left_as_it_was(cls: Any) -> None:
    start = noise().requires_grad_()
    x = make(cls).sample(gaussian_field(), start, draws=draws())
    assert not x.requires_grad
    assert x.dtype == torch.float32
    assert torch.equal(start, noise())


@pytest.mark.parametrize("path", ["linear", "vp"])
@pytest.mark.parametrize("cls", FIXED_STEP)
def test_every_tensor_stays_on_the_device_of_the_noise(cls: Any, path: str) -> None:
    with fake_mode():
        network = torch.nn.Conv2d(4, 4, 1, device="cuda")

        def denoiser(x: Tensor, t: Tensor, label: Tensor) -> Prediction:
            assert x.device == t.device == label.device
            return Prediction(network(x) + t.view(-1, 1, 1, 1) + label.view(-1, 1, 1, 1))

        label = torch.zeros(2, dtype=torch.long, device="cuda")
        field = Field(denoiser, get_path(path), Guidance(2.0, 0.3, 0.8), label, 10, "velocity")
        start = torch.randn(2, 4, 8, 8, device="cuda")
        x = make(cls, steps=6, shift=0.5).sample(field, start, draws=GeneratorDraws(2, device="cuda"))
        assert (x.device, x.dtype, x.shape) == (start.device, torch.float32, start.shape)


# --- settings ------------------------------------------------------------------------------------------------------


def test_grid_ends_exactly_where_it_says() -> None:
    for shift in (0.3, 0.4, 1.0, 3.7):
        for steps in (1, 7, 50):
            times = grid(steps + 1, 1e-3, 1.0, shift)
            assert times[-1] == 1
            assert len(times) == steps + 1
            assert times == sorted(set(times))


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (Euler, {"steps": 0}),
        (Euler, {"shift": 0}),
        (Euler, {"compat": "sit"}),
        (EulerMaruyama, {"steps": 1}),
        (EulerMaruyama, {"last_step": "Mean"}),
        (EulerMaruyama, {"last_step_size": 1.0}),
        (EulerMaruyama, {"diffusion": "SBDM"}),
        (TorchDiffEq, {"method": "explicit_adams"}),
        (Heun, {"stpes": 3}),
    ],
)
def test_settings_out_of_range_are_refused(cls: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(cls, **settings)


def test_a_process_without_velocity_is_refused_by_name() -> None:
    class Still(Process):
        name = "still"

        def alpha(self, t: Tensor) -> Tensor:
            return t

        def sigma(self, t: Tensor) -> Tensor:
            return 1 - t

    field = Field(lambda x, t, y: Prediction(x), Still(), None, torch.zeros(4, dtype=torch.long), 10, "noise")
    for cls in FIXED_STEP:
        with pytest.raises(GaekitError, match="'still' has no velocity"):
            make(cls).sample(field, noise(), draws=draws())


def test_the_plugin_lists_every_sampler() -> None:
    assert {cls.name for cls in SAMPLERS} == {
        "euler",
        "heun",
        "ab2",
        "euler_maruyama",
        "sde_heun",
        "torchdiffeq",
        "dopri5",
        "ddpm",
        "ddim",
    }
    of_a_chain = {cls.name for cls in SAMPLERS if "steps" in cls.needs}
    assert of_a_chain == {"ddpm", "ddim"}
    assert all(cls.needs <= {"velocity", "score"} for cls in SAMPLERS if cls.name not in of_a_chain)
