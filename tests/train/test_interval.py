"""Rates are images by seconds of the whole interval, and its time is told apart by what it went to."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from train.test_training import Points, points

from gaekit.api import Tracker
from gaekit.parallel import World
from gaekit.rates import Peak
from gaekit.recipe.schema import Runtime, Train
from gaekit.store.room import Room
from gaekit.train.flops import FlopMeter
from gaekit.train.interval import IntervalTimes
from gaekit.train.progress import Reporter
from gaekit.train.track import Trackers
from gaekit.train.training import Host, Training
from gaekit.values import Loss


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def take_steps(times: IntervalTimes, clock: Clock, steps: list[tuple[float, float]]) -> None:
    """Steps of (seconds of waiting, seconds of work)."""
    for waiting, work in steps:
        with times.step():
            with times.waiting():
                clock.now += waiting
            clock.now += work


def test_a_rate_is_of_the_times_and_no_mean_of_rates() -> None:
    clock = Clock()
    times = IntervalTimes(8, torch.device("cpu"), clock)
    take_steps(times, clock, [(0.5, 0.5), (2.0, 5.0)])
    clock.now += 2.0  # the device's work, saving
    found = times.take(World())
    # 16 images in 10 seconds; the mean of the steps' rates would be (8 / 1 + 8 / 7) / 2.
    assert found == {"train/images_per_second": 1.6, "train/data_wait": 0.25, "train/host_seconds": 2.75}


def test_what_is_left_out_is_in_no_scalar() -> None:
    clock, other = Clock(), Clock()
    with_probe, without = IntervalTimes(8, torch.device("cpu"), clock), IntervalTimes(8, torch.device("cpu"), other)
    for times, its_clock in ((with_probe, clock), (without, other)):
        take_steps(times, its_clock, [(0.5, 0.5), (2.0, 5.0)])
        if times is with_probe:
            with times.left_out():
                its_clock.now += 100.0
        take_steps(times, its_clock, [(1.0, 1.0)])
    assert with_probe.take(World()) == without.take(World())


def test_an_interval_begins_where_the_last_was_taken() -> None:
    clock = Clock()
    times = IntervalTimes(8, torch.device("cpu"), clock)
    take_steps(times, clock, [(3.0, 3.0)])
    times.take(World())
    clock.now += 1.0
    take_steps(times, clock, [(0.0, 1.0)] * 3)
    found = times.take(World())
    assert found == {"train/images_per_second": 6.0, "train/data_wait": 0.0, "train/host_seconds": 1.0}


def test_the_memory_of_the_card_is_its_peak_in_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks, resets = iter([3 * 2**30, 2**29]), list[torch.device]()
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: next(peaks))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    clock, card = Clock(), torch.device("cuda", 0)
    times, found = IntervalTimes(8, card, clock), list[float]()
    for _ in range(2):
        take_steps(times, clock, [(0.0, 1.0)])
        found.append(times.take(World())["train/peak_memory_gib"])
    assert (found, resets) == ([3.0, 0.5], [card, card])


class Kept(Tracker):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.logged: dict[int, dict[str, float]] = {}

    def log(self, step: int, scalars: dict[str, float], images: dict[str, Tensor]) -> None:
        self.logged[step] = scalars

    def close(self) -> None:
        pass


def test_a_training_logs_its_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    timed = partial(IntervalTimes, clock=lambda: float(next(ticks)))
    monkeypatch.setattr("gaekit.train.training.IntervalTimes", timed)
    kept = Kept()
    host = Host(
        "test", 7, Room(tmp_path), Runtime(log_every=2, save_every=100), torch.device("cpu"),
        Reporter(Console(quiet=True)), lambda step: Trackers([("kept", lambda: kept)]),
    )  # fmt: skip
    network = nn.Linear(4, 1)
    with Training(Train(steps=5, batch=8, lr=1e-3), {"net": network}, host) as training:
        for _, batch in training.steps(points):
            assert isinstance(batch, Points)
            training.update("net", {"size": Loss(training["net"](batch.x).square().mean())})
    assert list(kept.logged) == [2, 4, 5]
    # Readings of the clock: one as an interval begins and one at its end, four a step: two tell the wait, between two.
    for step, steps in ((2, 2), (4, 2), (5, 1)):
        seconds = 4 * steps + 1
        told = {k: v for k, v in kept.logged[step].items() if k.startswith("train/") and k.count("/") == 1}
        expected = {"images_per_second": 8 * steps / seconds, "data_wait": steps / seconds, "host_seconds": 2.0}
        assert told == pytest.approx({f"train/{name}": value for name, value in expected.items()})


def test_a_rate_of_arithmetic_is_of_the_interval_and_its_share_of_what_the_card_can_do() -> None:
    network, flops, clock = nn.Linear(1000, 500), FlopMeter(), Clock()
    flops.watch(network)
    with torch.no_grad():
        network(torch.rand(7, 1000))  # before the training
        times = IntervalTimes(8, torch.device("cpu"), clock, flops, Peak(4e-6, "4 MFLOP/s"))
        for calls in (1, 3):
            take_steps(times, clock, [(1.0, 1.0)])
            for _ in range(calls):
                network(torch.rand(2, 1000))
            found = times.take(World())
            assert found["train/tflops"] == pytest.approx(calls * 2 * 2 * 1000 * 500 / 2.0 / 1e12)
            assert found["train/mfu"] == pytest.approx(calls * 0.25)
