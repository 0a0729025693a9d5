"""What is not finite is found, with clipping and without, at the cost that is stated."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from train.test_training import everything, host, points

from gaekit.errors import RunFailed
from gaekit.parallel import World
from gaekit.recipe.schema import Train
from gaekit.train.guards import Outcome, StepGuard, Terms
from gaekit.train.learner import Learner
from gaekit.train.optim import optimizer_tensors
from gaekit.train.training import Training
from gaekit.values import Loss


class GradientReads(TorchDispatchMode):
    """Notes every operation on a gradient of the parameters, each time that it is called."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.gradients = {p.grad.data_ptr() for p in parameters if p.grad is not None}
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func is not torch.ops.aten.detach.default and any(t.data_ptr() in self.gradients for t in given):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("clip", [None, 1.0])
def test_without_clipping_a_step_that_does_not_log_reads_its_gradients_in_the_optimizer_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: float | None
) -> None:
    end, reads = Learner.step, list[list[str]]()

    def watched(learner: Learner, *args: Any, **options: Any) -> Outcome:
        with GradientReads(learner.parameters) as watch:
            outcome = end(learner, *args, **options)
        reads.append(watch.found)
        return outcome

    monkeypatch.setattr(Learner, "step", watched)
    settings = Train(steps=8, batch=8, clip=clip, ema=0.9)
    with Training(
        settings, {"net": nn.Linear(4, 4, bias=False)}, host(tmp_path, log_every=3, save_every=5)
    ) as training:
        for _, batch in training.steps(points):
            training.update("net", {"flow": Loss(training["net"](batch.x).square().mean())})
    alone, measured = ["aten._fused_adamw_.default"], ["aten._foreach_norm.Scalar", "aten._fused_adamw_.default"]
    looked = [step in (3, 5, 6, 8) or clip is not None for step in range(1, 9)]
    assert reads == [measured if look else alone for look in looked]


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("log_every", [1, 50])
def test_a_loss_that_is_not_finite_changes_nothing_clipped_or_not_logged_or_not(
    tmp_path: Path, clip: float | None, log_every: int
) -> None:
    network = nn.Linear(4, 1)
    settings = Train(steps=4, batch=8, clip=clip, ema=0.9)
    with Training(settings, {"network": network}, host(tmp_path, log_every=log_every)) as training:
        for step, batch in training.steps(points):
            if step.index in (1, 2):
                before = everything(training)
            loss = training["network"](batch.x).square().mean()
            training.update("network", {"flow": Loss(loss * (math.inf if step.index == 1 else 1.0))})
            if step.index == 1:
                after = everything(training)
                assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert training.skipped == 1


def root_at_zero(
    folder: Path, clip: float | None, part: int, bad: int | None = 2, stop: int | None = None, **runtime: int
) -> Training:
    """Train where the gradient at one part of a network is not finite in step `bad` + 1, though the loss is: part 0
    takes part in each step's loss, part 1 in no other's. SIGTERM comes in step `stop` + 1."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Linear(2, 2, bias=False))
    training = Training(Train(steps=8, batch=8, clip=clip), {"net": net}, host(folder, **runtime))
    with training:
        for step, batch in training.steps(points):
            loss = net[0](batch.x).square().mean()
            if step.index == bad:
                loss = loss + (net[part].weight * 0.0).sum().sqrt()
                assert loss.isfinite()
            if step.index == stop:
                signal.raise_signal(signal.SIGTERM)
            training.update("net", {"flow": Loss(loss)})
    return training


@pytest.mark.parametrize(("clip", "log_every"), [(1.0, 50), (None, 3)])
@pytest.mark.parametrize("part", [0, 1])
def test_a_gradient_that_is_not_finite_of_a_loss_that_is_changes_nothing_where_the_norm_is_taken(
    tmp_path: Path, clip: float | None, log_every: int, part: int
) -> None:
    training = root_at_zero(tmp_path, clip, part, log_every=log_every)
    assert training.skipped == 1
    assert all(parameter.isfinite().all() for parameter in training.modules["net"].parameters())


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (0, "step 6: loss term flow is not finite for net, 3 steps in a row"),
        (1, "step 4: the weights of net are not finite"),
    ],
)
def test_without_clipping_weights_that_such_a_gradient_has_spoilt_are_never_saved(
    tmp_path: Path, part: int, told: str
) -> None:
    with pytest.raises(RunFailed, match=f"{told}.* the checkpoint of step 2 is intact"):
        root_at_zero(tmp_path, None, part, save_every=2)
    assert [path.name for path in tmp_path.glob("checkpoints/step-*")] == ["step-00000002"]


@pytest.mark.parametrize("part", [0, 1])
def test_from_the_checkpoint_before_such_a_gradient_it_is_the_training_that_had_none(tmp_path: Path, part: int) -> None:
    whole = root_at_zero(tmp_path / "whole", None, part, bad=None, save_every=2)
    with pytest.raises(RunFailed):
        root_at_zero(tmp_path / "hit", None, part, save_every=2)
    again = root_at_zero(tmp_path / "hit", None, part, bad=None, save_every=2)
    assert (again.at, again.skipped) == (8, 0)
    expected, found = (
        learner.module.state_dict() | optimizer_tensors(learner.optimizer, learner.module)
        for learner in (whole.learners["net"], again.learners["net"])
    )
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_asked_to_stop_after_such_a_gradient_it_ends_without_a_save(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"step 3: the weights of net are not finite: .* step 2 is intact"):
        root_at_zero(tmp_path, None, 0, stop=2, save_every=2)
    assert [path.name for path in tmp_path.glob("checkpoints/step-*")] == ["step-00000002"]


def test_steps_whose_norm_was_not_taken_are_dead_between_two_that_are() -> None:
    def guard() -> StepGuard:
        return StepGuard("test", "net", World(), lambda line: None)

    def take(watch: StepGuard, norms: list[float | None]) -> None:
        for index, norm in enumerate(norms):
            watch.add(index, Outcome(torch.zeros(()), None if norm is None else torch.tensor(norm)), Terms())
        watch.look(lambda: "all is kept")

    watch = guard()
    take(watch, [1.0, None, None, 0.0, None, None, 0.0, None])
    assert watch.dead == 4
    take(watch, [None, 0.0])
    assert watch.dead == 7
    take(watch, [2.0])
    assert watch.dead == 0
    with pytest.raises(RunFailed, match="exactly zero for 101 steps"):
        take(guard(), [0.0, *[None] * 99, 0.0])
