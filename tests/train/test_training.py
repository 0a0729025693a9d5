"""The loop's bookkeeping: resume is bitwise, micro-batches change nothing but rounding, bad steps are caught."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from gaekit.errors import GaekitError, RunFailed
from gaekit.recipe.schema import Runtime, Train
from gaekit.store.room import Room
from gaekit.train.guards import Divergence
from gaekit.train.optim import optimizer_tensors
from gaekit.train.progress import Reporter
from gaekit.train.track import Trackers
from gaekit.train.training import Host, OptimizerOverrides, Training
from gaekit.values import Loss


@dataclass
class Points:
    x: Tensor

    def part(self, first: int, last: int) -> Points:
        return Points(self.x[first:last])

    def to(self, device: torch.device) -> Points:
        return Points(self.x.to(device))

    def __len__(self) -> int:
        return len(self.x)


def points(start: int, first: int, last: int) -> Iterator[Points]:
    while True:
        whole = torch.randn(8, 4, generator=torch.Generator().manual_seed(start)) * 0.5 + 1
        yield Points(whole[first:last])
        start += 1


def host(folder: Path, **runtime: int) -> Host:
    settings = Runtime(trackers=(), **{"save_every": 5, **runtime})
    reporter = Reporter(Console(quiet=True))
    return Host("test", 7, Room(folder), settings, torch.device("cpu"), reporter, lambda step: Trackers([]))


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(5, 32), nn.SiLU(), nn.Dropout(0.1), nn.Linear(32, 4))
    return {"generator": generator, "critic": nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Linear(16, 1))}


def train(folder: Path, total: int = 20, stop: int | None = None, **options: object) -> Training:
    settings = Train(steps=total, batch=8, lr=1e-2, schedule="constant", warmup=3, ema=0.9)
    where = host(
        folder,
        **{k: v for k, v in options.items() if k in ("micro_batch", "save_every", "keep", "ema_offload", "log_every")},
    )  # type: ignore[arg-type]
    critic_alone = OptimizerOverrides(settings.model_copy(update={"lr": 5e-3, "ema": None}))
    made = options.get("networks") or networks()
    training = Training(settings, made, where, {"critic": critic_alone}, options.get("probe"))  # type: ignore[arg-type]
    with training:
        generator, critic = training["generator"], training["critic"]
        for step, batch in training.steps(points):
            t = step.draws("time").uniform()[:, None]
            noise = step.draws("noise").normal(4)
            velocity = generator(torch.cat([(1 - t) * noise + t * batch.x, t], 1))
            training.update("generator", {
                "flow": Loss((velocity - (batch.x - noise)).square().mean()),
                "adversary": Loss(-critic(velocity).mean(), 0.01),
            })  # fmt: skip
            training.update(
                "critic",
                {
                    "hinge": Loss(
                        torch.relu(1 - critic(batch.x)).mean() + torch.relu(1 + critic(velocity.detach())).mean()
                    )
                },
            )
            if stop and step.index + 1 == stop and step.final:
                break
    return training


def state(training: Training) -> dict[str, Tensor]:
    found = {f"{n}/{k}": v for n, m in training.modules.items() for k, v in m.state_dict().items()}
    found |= {f"ema/{k}": v for k, v in training.averaged("generator").items()}
    return found


def assert_same(a: Training, b: Training) -> None:
    ours, theirs = state(a), state(b)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_each_module_is_clipped_and_decays_by_its_own_settings(tmp_path: Path) -> None:
    """With betas 0 and eps 1 a step is lr * g / (|g| + 1): a clipped gradient hardly moves its weight of zero."""
    made = {name: nn.Linear(4, 1, bias=False) for name in ("clipped", "free", "decaying")}
    for module in made.values():
        nn.init.zeros_(module.weight) if module is not made["decaying"] else nn.init.ones_(module.weight)
    settings = Train(steps=1, batch=8, lr=0.1, betas=(0, 0), eps=1.0, clip=1e-6)
    own = {
        "free": OptimizerOverrides(settings.model_copy(update={"clip": None})),
        "decaying": OptimizerOverrides(settings.model_copy(update={"weight_decay": 2.0})),
    }
    with Training(settings, made, host(tmp_path), own) as training:
        for _, batch in training.steps(points):
            for name in made:
                training.update(name, {"sum": Loss(training[name](batch.x).sum())})
    moved = {name: float(module.weight.detach().abs().max()) for name, module in made.items()}
    assert moved["clipped"] < 1e-6
    assert moved["free"] > 0.05
    assert moved["decaying"] == pytest.approx(0.8, abs=1e-5)  # 1 - lr * 2


@pytest.mark.parametrize("stop", [1, 4, 5, 13, 19])
def test_stopped_anywhere_and_resumed_is_the_uninterrupted_run_bit_for_bit(tmp_path: Path, stop: int) -> None:
    whole = train(tmp_path / "whole")
    train(tmp_path / "cut", stop=stop)
    resumed = train(tmp_path / "cut")
    assert resumed.at == 20
    assert_same(whole, resumed)


def test_a_longer_training_under_a_constant_schedule_goes_on_from_the_shorter_one(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", total=20)
    train(tmp_path / "grown", total=10)
    grown = Training(Train(steps=20, batch=8), networks(), host(tmp_path / "grown"))
    assert grown.at == 10
    assert_same(whole, train(tmp_path / "grown", total=20))


def test_a_shorter_training_does_not_take_a_later_checkpoint(tmp_path: Path) -> None:
    train(tmp_path / "long", total=20)
    short = train(tmp_path / "long", total=10)
    assert short.at == 10
    assert_same(short, train(tmp_path / "short", total=10))


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = train(tmp_path / "whole")
    train(tmp_path / "hurt", stop=12)
    file = tmp_path / "hurt" / "checkpoints" / "step-00000010" / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    assert_same(whole, train(tmp_path / "hurt"))
    assert "step-00000010" in caplog.text


def test_two_checkpoints_are_kept_and_nothing_half_written(tmp_path: Path) -> None:
    training = train(tmp_path, save_every=3)
    assert training.checkpoints.steps() == [18, 20]
    assert sorted(p.name for p in training.checkpoints.folder.iterdir()) == ["step-00000018", "step-00000020"]


def test_micro_batches_give_the_gradients_of_the_whole_batch(tmp_path: Path) -> None:
    def without_dropout() -> dict[str, nn.Module]:
        found = networks()
        found["generator"][2] = nn.Identity()  # type: ignore[index]
        return {name: module.double() for name, module in found.items()}

    torch.set_default_dtype(torch.float64)
    try:
        whole = train(tmp_path / "whole", total=1, networks=without_dropout())
        split = train(tmp_path / "split", total=1, networks=without_dropout(), micro_batch=2)
    finally:
        torch.set_default_dtype(torch.float32)
    for name, value in whole.modules["generator"].state_dict().items():
        torch.testing.assert_close(value, split.modules["generator"].state_dict()[name], rtol=0, atol=1e-6)


def test_the_generators_update_leaves_the_critics_gradients_alone(tmp_path: Path) -> None:
    training = Training(Train(steps=1, batch=8), networks(), host(tmp_path))
    with training:
        for _, batch in training.steps(points):
            fake = training.modules["generator"](torch.cat([batch.x, batch.x[:, :1]], 1))
            training.update("generator", {"adversary": Loss(-training.modules["critic"](fake).mean())})
            assert all(p.grad is None for p in training.modules["critic"].parameters())


def test_non_finite_losses_end_the_run_naming_the_term_with_the_checkpoint_intact(tmp_path: Path) -> None:
    train(tmp_path, stop=7)
    training = Training(Train(steps=20, batch=8), networks(), host(tmp_path))
    assert training.at == 5
    before = {k: v.clone() for k, v in state(training).items()}
    with training, pytest.raises(RunFailed, match=r"step 8: loss term flow is not finite for generator, 3 steps"):
        for _, batch in training.steps(points):
            out = training.modules["generator"](torch.cat([batch.x, batch.x[:, :1]], 1))
            training.update("generator", {"flow": Loss(out.mean() * float("nan")), "other": Loss(out.square().mean())})
    assert all(torch.equal(value, before[name]) for name, value in state(training).items())
    assert training.checkpoints.steps() == [5]


def spoilt(folder: Path, bad: dict[int, float], stop: int | None = None, **runtime: int) -> Training:
    """Twelve steps, whose loss is multiplied by `bad` at some."""
    settings = Train(steps=12, batch=8, lr=1e-2, ema=0.9)
    with Training(settings, {"network": nn.Linear(4, 4)}, host(folder, **runtime)) as training:
        for step, batch in training.steps(points):
            loss = (training["network"](batch.x) - batch.x).square().mean()
            training.update("network", {"flow": Loss(loss * bad.get(step.index, 1.0)), "other": Loss(loss)})
            if stop and step.index + 1 == stop:
                break
    return training


@pytest.mark.parametrize("worst", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("runtime", [{"log_every": 1, "save_every": 1}, {"log_every": 50, "save_every": 50}])
def test_a_bad_step_is_as_if_it_had_not_been(tmp_path: Path, worst: float, runtime: dict[str, int]) -> None:
    torch.manual_seed(0)
    training = Training(
        Train(steps=3, batch=8, lr=1e-2, ema=0.9), {"network": nn.Linear(4, 4)}, host(tmp_path, **runtime)
    )
    with training:
        for step, batch in training.steps(points):
            if step.index == 1:
                before = everything(training)
            loss = training["network"](batch.x).square().mean()
            training.update("network", {"flow": Loss(loss * (worst if step.index == 1 else 1.0))})
            if step.index == 1:
                after = everything(training)
                assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert training.skipped == 1
    assert float(next(iter(training.learners["network"].optimizer.state.values()))["step"]) == 2


def everything(training: Training) -> dict[str, Tensor]:
    """Weights, averages and the optimizer's state."""
    learner = training.learners["network"]
    assert learner.ema
    found = {f"weights/{name}": value for name, value in learner.module.state_dict().items()}
    found |= {f"ema/{name}": value for name, value in learner.ema.tensors.items()}
    found |= optimizer_tensors(learner.optimizer, learner.module)
    return {name: value.clone() for name, value in found.items()}


def test_bad_steps_are_told_at_the_next_look_each_with_its_step_and_term(tmp_path: Path) -> None:
    said = StringIO()
    where = replace(host(tmp_path, log_every=6, save_every=50), reporter=Reporter(Console(file=said, width=200)))
    with Training(Train(steps=12, batch=8), {"network": nn.Linear(4, 4)}, where) as training:
        for step, batch in training.steps(points):
            loss = training["network"](batch.x).square().mean()
            bad = math.nan if step.index in (1, 3) else 1.0
            training.update("network", {"flow": Loss(loss), "other": Loss(loss * bad)})
            assert ("step" in said.getvalue()) == (step.index >= 6)
    lines = [line for line in said.getvalue().splitlines() if "skipped" in line]
    assert lines == [
        f"test: step {step}: loss term other is not finite for network; the step is skipped" for step in (2, 4)
    ]
    assert training.skipped == 2


def test_bad_steps_in_a_row_end_the_run_also_where_good_ones_came_after(tmp_path: Path) -> None:
    with pytest.raises(
        RunFailed, match=r"step 5: loss term flow is not finite for network, 3 steps in a row; there is"
    ):
        spoilt(tmp_path, dict.fromkeys((2, 3, 4), math.nan), log_every=50, save_every=8)
    assert not list(tmp_path.glob("checkpoints/step-*"))


def test_resumed_after_bad_steps_it_is_the_uninterrupted_run_bit_for_bit(tmp_path: Path) -> None:
    bad = {3: math.nan, 7: math.inf}
    torch.manual_seed(0)
    whole = spoilt(tmp_path / "whole", bad)
    torch.manual_seed(0)
    spoilt(tmp_path / "cut", bad, stop=9)
    resumed = spoilt(tmp_path / "cut", bad)
    assert whole.skipped == resumed.skipped == 2
    ours, theirs = everything(whole), everything(resumed)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_clipped_gradients_have_the_norm_of_the_limit_and_others_are_as_they_were(tmp_path: Path) -> None:
    def moved(clip: float | None) -> Tensor:
        torch.manual_seed(0)
        network = nn.Linear(4, 4)
        before = network.weight.detach().clone()
        settings = Train(steps=1, batch=8, lr=1e-2, clip=clip, eps=1.0, betas=(0.0, 0.0))  # so that norms count
        with Training(settings, {"network": network}, host(tmp_path / str(clip))) as training:
            for _, batch in training.steps(points):
                training.update("network", {"flow": Loss(training["network"](batch.x).square().mean() * 100)})
        return network.weight.detach() - before

    torch.manual_seed(0)
    network = nn.Linear(4, 4)
    batch = next(points(0, 0, 8))
    (network(batch.x).square().mean() * 100).backward()
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
    assert norm > 1
    clipped = network.weight.grad
    assert clipped is not None
    torch.testing.assert_close(moved(0.5), -1e-2 * clipped / (clipped.abs() + 1.0), rtol=1e-4, atol=1e-8)
    whole = clipped * norm / 0.5
    torch.testing.assert_close(moved(None), -1e-2 * whole / (whole.abs() + 1.0), rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(moved(1e6), moved(None), rtol=0, atol=0)


def test_gradients_that_stay_zero_end_the_run(tmp_path: Path) -> None:
    training = Training(Train(steps=200, batch=8), networks(), host(tmp_path))
    with training, pytest.raises(RunFailed, match="exactly zero"):
        for _, batch in training.steps(points):
            out = training.modules["generator"](torch.cat([batch.x, batch.x[:, :1]], 1))
            training.update("generator", {"flow": Loss(out.mean() * 0)})


def test_resuming_in_another_precision_is_refused(tmp_path: Path) -> None:
    train(tmp_path, stop=7)
    with pytest.raises(GaekitError, match="trained in float32 so far, would go on in bf16"):
        Training(Train(steps=20, batch=8, precision="bf16"), networks(), host(tmp_path))


def test_a_micro_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GaekitError, match=r"micro_batch: 3 does not divide the 8 images"):
        train(tmp_path, micro_batch=3)


def test_while_gradients_are_not_finite_no_checkpoint_is_written(tmp_path: Path) -> None:
    training = Training(Train(steps=20, batch=8), networks(), host(tmp_path, save_every=1))
    with training, pytest.raises(RunFailed, match="not finite"):
        for step, batch in training.steps(points):
            out = training["generator"](torch.cat([batch.x, batch.x[:, :1]], 1))
            bad = float("nan") if step.index >= 4 else 1.0
            training.update("generator", {"flow": Loss(out.square().mean() * bad)})
    assert training.checkpoints.steps() == [3, 4]


def test_a_training_that_ends_with_an_error_ends_what_feeds_it_though_the_error_is_kept(tmp_path: Path) -> None:
    ended = []

    def stream(start: int, first: int, last: int) -> Iterator[Points]:
        try:
            yield from points(start, first, last)
        finally:
            ended.append(first)

    training = Training(Train(steps=20, batch=8), networks(), host(tmp_path))
    with pytest.raises(ZeroDivisionError) as kept, training:
        for _ in training.steps(stream):
            _ = 1 / 0
    assert kept.tb is not None
    assert ended == [0]


def test_a_loss_that_grows_without_end_ends_the_run(tmp_path: Path) -> None:
    settings = Train(steps=1000, batch=8, lr=1.0, clip=None)
    where = host(tmp_path, log_every=5, diverging=10)
    with Training(settings, networks(), where) as training:
        with pytest.raises(RunFailed, match=r"the loss diverges: .* mostly by away"):
            for _, batch in training.steps(points):
                out = training["generator"](torch.cat([batch.x, batch.x[:, :1]], 1))
                training.update("generator", {"away": Loss(-out.square().mean()), "small": Loss(out.mean() * 0)})
        assert training.at < 1000


def test_a_loss_that_begins_at_nothing_is_measured_from_where_it_is_something() -> None:
    watch = Divergence(10)
    for value in (0.0, 1.0, 5.0, 0.0, 9.0):
        watch.look({"weighted/flow": value}, "here", lambda: "")
    with pytest.raises(RunFailed, match=r"20, 20 times what it began with, mostly by flow"):
        for _ in range(3):
            watch.look({"weighted/flow": 20.0}, "here", lambda: "")


def test_averages_kept_on_the_cpu_are_the_same(tmp_path: Path) -> None:
    here, there = train(tmp_path / "here"), train(tmp_path / "there", ema_offload=True)
    assert here.averaged("generator")
    assert_same(here, there)
