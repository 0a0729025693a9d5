"""A small game of two networks, trained by as many processes as torchrun starts: `python ranks_program.py JOBS...`.

A job is FOLDER:STRATEGY:STEPS. Each leaves its weights, averages and losses in FOLDER/result.safetensors, or where it
failed how each rank heard of it, in FOLDER/rank-<n>.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from gaekit.errors import GaekitError
from gaekit.parallel import World, join_world
from gaekit.recipe.schema import Runtime, Train
from gaekit.store.room import Room
from gaekit.train import checkpoint
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
        return self

    def __len__(self) -> int:
        return len(self.x)


def points(start: int, first: int, last: int) -> Iterator[Points]:
    while True:
        whole = torch.randn(12, 4, generator=torch.Generator().manual_seed(start)).double() * 0.5 + 1
        yield Points(whole[first:last])
        start += 1


class Level(nn.Module):
    """A block with blocks of its own."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.SiLU()])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Blocks(nn.Module):
    """Repeated blocks, so that FSDP has something to shard one by one; nested ones, as of convolutional networks."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.blocks = nn.ModuleList(Level(inputs) for _ in range(2))
        self.out = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.out(x)  # type: ignore[no-any-return]


def train(folder: Path, strategy: str, steps: int, world: World) -> None:
    torch.manual_seed(0)
    networks = {"generator": Blocks(5, 4).double(), "critic": Blocks(4, 1).double()}
    runtime = Runtime(trackers=(), save_every=7, log_every=1, micro_batch=3, strategy=strategy)  # type: ignore[arg-type]
    logged: list[Tensor] = []

    class Log(Trackers):
        def log(self, step: int, scalars: dict[str, float], images: dict[str, Tensor]) -> None:
            terms = sorted(name for name in scalars if name.startswith(("loss/", "train/grad")))
            logged.append(torch.tensor([scalars[name] for name in terms], dtype=torch.float64))

    reporter = Reporter(Console(quiet=True))
    host = Host("t", 7, Room(folder), runtime, torch.device("cpu"), reporter, lambda step: Log([]), world)
    settings = Train(steps=steps, batch=12, lr=1e-2, warmup=3, ema=0.9)
    critic_alone = OptimizerOverrides(settings.model_copy(update={"lr": 5e-3, "ema": None, "clip": None}))
    with Training(settings, networks, host, {"critic": critic_alone}) as training:
        for step, batch in training.steps(points):
            t = step.draws("time").uniform()[:, None].double()
            noise = step.draws("noise").normal(4).double()
            fake = training["generator"](torch.cat([(1 - t) * noise + t * batch.x, t], 1))
            terms = {"flow": Loss((fake - batch.x + noise).square().mean())}
            if strategy == "ddp":  # a sharded critic has no bare weights for the generator's pass
                terms["adversary"] = Loss(-networks["critic"](fake).mean(), 0.01)
            training.update("generator", terms)
            judged = torch.relu(1 - training["critic"](batch.x)) + torch.relu(1 + training["critic"](fake.detach()))
            training.update("critic", {"hinge": Loss(judged.mean())})
        found = {f"{name}/{k}": v for name in networks for k, v in training.weights(name).items()}
        found |= {f"ema/{k}": v for k, v in training.averaged("generator").items()}
    if world.is_rank0:
        found["losses"] = torch.stack(logged)
        save_file({name: value.contiguous() for name, value in found.items()}, folder / "result.safetensors")


def train_where_a_loss_is_bad(folder: Path, steps: int, world: World) -> None:
    """Train without clipping, where the last rank's loss alone is not finite in step 2, and keep this rank's weights
    and how many steps were skipped."""
    torch.manual_seed(0)
    runtime = Runtime(trackers=(), save_every=50, log_every=50)
    host = Host("t", 7, Room(folder), runtime, torch.device("cpu"), Reporter(Console(quiet=True)),
                lambda step: Trackers([]), world)  # fmt: skip
    with Training(Train(steps=steps, batch=12, clip=None, ema=0.9), {"net": Blocks(4, 4).double()}, host) as training:
        for step, batch in training.steps(points):
            bad = step.index == 1 and world.rank == world.size - 1
            training.update("net", {"flow": Loss(training["net"](batch.x).square().mean() * (torch.inf if bad else 1))})
        found = training.weights("net") | {f"ema/{k}": v for k, v in training.averaged("net").items()}
    found["skipped"] = torch.tensor(training.skipped)
    save_file({name: value.contiguous() for name, value in found.items()}, folder / f"rank-{world.rank}.safetensors")


class Aside(Blocks):
    """With a parameter whose value is in no result: what its gradient made of it, no loss tells."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.idle = nn.Parameter(torch.ones(2, 2))

    def forward(self, x: Tensor, root: bool = False) -> Tensor:
        aside = torch.where(torch.zeros_like(self.idle, dtype=torch.bool), self.idle, 0.0).sum()
        if root:  # of the first row alone, which is one rank's where weights are sharded
            aside = aside + (self.idle[0] * 0.0).sum().sqrt()
        return super().forward(x) + aside


def train_where_a_gradient_is_bad(folder: Path, strategy: str, steps: int, world: World) -> None:
    """Train without clipping, where in step 3 the last rank's gradient alone is not finite, though every loss is."""
    torch.manual_seed(0)
    runtime = Runtime(trackers=(), save_every=2, log_every=50, strategy=strategy)  # type: ignore[arg-type]
    host = Host("t", 7, Room(folder), runtime, torch.device("cpu"), Reporter(Console(quiet=True)),
                lambda step: Trackers([]), world)  # fmt: skip
    with Training(Train(steps=steps, batch=12, clip=None), {"net": Aside().double()}, host) as training:
        for step, batch in training.steps(points):
            bad = step.index == 2 and world.rank == world.size - 1
            training.update("net", {"flow": Loss(training["net"](batch.x, root=bad).square().mean())})


def reads_nothing(path: Path) -> Any:
    raise AssertionError(f"{path}: read by more than the first rank")


def main(jobs: list[str]) -> None:
    checkpoint.RETRY_SECONDS = 0.0
    with join_world(torch.device("cpu")) as world:
        if not world.is_rank0:  # checkpoints are read once, however many processes there are
            checkpoint.load_file = checkpoint.read_json = reads_nothing
        for job in jobs:
            folder, strategy, steps = job.rsplit(":", 2)
            try:
                if strategy == "bad":
                    train_where_a_loss_is_bad(Path(folder), int(steps), world)
                elif strategy.startswith("root-"):
                    train_where_a_gradient_is_bad(Path(folder), strategy.removeprefix("root-"), int(steps), world)
                else:
                    train(Path(folder), strategy, int(steps), world)
            except GaekitError as error:
                told = f"{type(error).__name__} {error.exit_code}"
                (Path(folder) / f"rank-{world.rank}").write_text(told)


if __name__ == "__main__":
    main(sys.argv[1:])
