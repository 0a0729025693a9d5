"""What a training step costs beside its network: gaekit's loop against loops written out plainly.

    python benchmarks/training_step.py [--device cuda] [--rounds 5] [--json FILE]

Paired (A B A B), so that ratios hold while a machine's speed drifts; below 1 gaekit is the faster.
- a denoiser's steps, eager and compiled, against a plain LightningDiT of the same weights with a plain loop (17M
  parameters on a CPU; -B and XL in bf16 on a GPU, with images a second and the share of the card's rate);
- an autoencoder's steps with all losses (L1, penalty, adversary), against the same networks in a plain loop;
- the host: a step of a network with XL's 351 tensors, each of one number, so that there is no arithmetic;
- the noise of 1,024 rows of (32, 16, 16) in sixteen passes, against one draw of all of it;
- the average of 351 tensors, against one by one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from paired import Row, arguments, limits, paired, report
from plain_step import Plain, train
from rich.console import Console
from torch import Tensor, nn

from gaekit.api import Aligner, Denoiser, NoiseSampler
from gaekit.flow.objective import drop_labels, flow_matching
from gaekit.flow.path import Linear
from gaekit.nn.adversary import PatchGAN
from gaekit.nn.regions import compile_regions
from gaekit.plugins import Registry, build, load_plugins
from gaekit.recipe import load_component, load_recipe_data
from gaekit.recipe.schema import Autoencoder as Section
from gaekit.recipe.schema import Runtime, Train
from gaekit.stages.adversary import AdversarialLoss
from gaekit.stages.autoencoder import Autoencoding, Objective
from gaekit.store.models import Autoencoder, AutoencoderSpec
from gaekit.store.room import Room
from gaekit.train.draws import BatchDraws
from gaekit.train.ema import EMA
from gaekit.train.progress import Reporter
from gaekit.train.track import Trackers
from gaekit.train.training import Host, Training
from gaekit.values import Loss, Losses

STEPS, CLASSES = 10, 10


@dataclass
class Rows:
    """A batch that lies on its device."""

    value: Tensor

    def part(self, first: int, last: int) -> Rows:
        """Rows first to last."""
        return Rows(self.value[first:last])

    def to(self, device: torch.device) -> Rows:
        """Itself."""
        return self

    def __len__(self) -> int:
        return len(self.value)


def training(modules: dict[str, nn.Module], settings: Train, device: torch.device, folder: str) -> Training:
    """A training that logs once in ten steps and saves nothing before its end, which it does not reach."""
    runtime = Runtime(trackers=(), log_every=10, save_every=10**6)
    host = Host("t", 0, Room(Path(folder)), runtime, device, Reporter(Console(quiet=True)), lambda step: Trackers([]))
    return Training(settings, modules, host)


def some_steps(made: Training, batch: Tensor, losses: Callable[[Any, Tensor], None]) -> Callable[[], None]:
    """An action that takes STEPS steps of one endless training."""
    steps = made.steps(lambda start, first, last: iter(lambda: Rows(batch), None))

    def run() -> None:
        for _ in range(STEPS):
            step, rows = next(steps)
            losses(step, rows.value)

    made.__enter__()
    next(steps)  # the first is begun here, so that `run` ends between two passes
    return run


def denoisers(device: torch.device, registry: Registry, rounds: int, folder: str) -> Iterator[Row]:
    """Ours and the plain one, eager and compiled."""
    gpu = device.type == "cuda"
    sizes = [(12, 768, 12, 32, 16, 128), (28, 1152, 16, 32, 16, 64)] if gpu else [(6, 384, 6, 16, 8, 16)]
    for depth, width, heads, channels, grid, batch in sizes:
        latent = torch.randn(batch, channels, grid, grid, device=device)
        settings = Train(
            steps=10**7, batch=batch, lr=2e-4, ema=0.9999, clip=1.0, precision="bf16" if gpu else "float32"
        )
        for compiled in (False, True):
            config = {"use": "lightning_dit", "depth": depth, "width": width, "heads": heads, "patch": 1}
            parsed = load_component("denoiser", config, registry, source="benchmark")
            ours = build(Denoiser, parsed, registry, channels=channels, grid=grid, classes=CLASSES).to(device)
            plain = Plain(depth, width, heads, channels, grid, CLASSES).to(device)
            plain.load_state_dict(ours.state_dict())
            call: Any = plain
            if compiled:
                compile_regions(ours)
                call = torch.compile(plain)
            parameters = [p for p in plain.parameters() if p.requires_grad]
            made = training({"denoiser": ours}, settings, device, f"{folder}/{depth}-{compiled}")

            def losses(step: Any, rows: Tensor, made: Training = made) -> None:
                t, noise = step.draws("time").uniform(), step.draws("noise").normal(*rows.shape[1:])
                label = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
                label = drop_labels(label, CLASSES, 0.1, step.draws("label").uniform())
                given = (made["denoiser"], Linear(), t, rows, label, noise)
                with made.autocast():
                    found = flow_matching(*given, predicts="velocity", weighting="none", cosine=1.0)
                made.update("denoiser", found)

            count = sum(p.numel() for p in parameters) / 1e6
            kind = "compiled" if compiled else "eager"
            row = paired(
                f"{STEPS} steps of LightningDiT {count:.0f}M, batch {batch}, {kind}",
                some_steps(made, latent, losses),
                lambda c=call, p=parameters, x=latent: train(c, p, x, CLASSES, STEPS, gpu),  # type: ignore[misc]
                device, rounds,
            )  # fmt: skip
            yield Row(row.name, row.seconds, row.other, row.ratio, rate(row, ours, latent, device))


def rate(row: Row, network: nn.Module, latent: Tensor, device: torch.device) -> str:
    """Images a second, and the arithmetic of the network a second (forward and backward as thrice the forward)."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.compiler.set_stance("force_eager"):
        network(latent[:1], torch.rand(1, device=device), torch.zeros(1, dtype=torch.int64, device=device))
    images = STEPS * len(latent) / row.seconds
    return f"{images:.4g} images/s, {3 * counter.get_total_flops() * images / 1e12:.3g} TFLOP/s"


RECIPE = {
    "recipe": 1, "name": "benchmark", "image": {"size": 64, "stride": 8}, "latent_dim": 16,
    "dataset": {"use": "digits"},
    "autoencoder": {
        "encoder": {"use": "vit", "depth": 3, "width": 192, "heads": 3},
        "decoder": {"use": "vit", "depth": 3, "width": 192, "heads": 3},
        "regularizer": {"use": "kl", "weight": 1e-6}, "noise": {"use": "constant", "level": 1.0},
        "adversary": {"channels": 32, "layers": 2, "start": 0, "norm": "group"},
        "train": {"steps": 10000000, "batch": 16},
    },
}  # fmt: skip


def autoencoder(device: torch.device, registry: Registry, rounds: int, folder: str) -> Row:
    """An autoencoder with its adversary: gaekit's loop, and the same networks in a plain one."""
    recipe = load_recipe_data(RECIPE, registry)
    section = recipe.autoencoder
    assert isinstance(section, Section)
    assert section.adversary is not None
    image = torch.rand(section.train.batch, 3, 64, 64, device=device) * 2 - 1

    def parts() -> tuple[Autoencoding, nn.Module]:
        spec = AutoencoderSpec.of_recipe(recipe)
        assert spec is not None
        torch.manual_seed(0)
        model = Autoencoder(spec, registry)
        aligner = build(Aligner, recipe.aligner, registry, feature_dim=0, latent_dim=16, hidden_dim=192, grid=8)
        noise = build(NoiseSampler, section.noise, registry)
        network = Autoencoding(model, Objective(section, aligner, None, noise))
        return network.to(device), PatchGAN(channels=32, layers=2, norm="group").to(device)

    network, critic = parts()
    adversarial = AdversarialLoss(section.adversary, section.train, lambda value: value)
    made = training({"autoencoder": network, "adversary": critic}, section.train, device, f"{folder}/autoencoder")

    def ours(step: Any, rows: Tensor) -> None:
        fake, losses = made["autoencoder"](rows, None, step)
        losses |= adversarial.generator_losses(critic, fake, losses, network.model.decoder.last_layer, step)
        made.update("autoencoder", losses)
        judged, accuracy = adversarial.critic_losses(made["adversary"], rows, fake.detach(), step)
        made.update("adversary", judged)
        made.note("train/accuracy/adversary", accuracy)

    other, judge = parts()
    both = [[p for p in module.parameters() if p.requires_grad] for module in (other, judge)]
    one, two = (torch.optim.AdamW(parameters, lr=1e-4, fused=True) for parameters in both)

    def plain() -> None:
        for _ in range(STEPS):
            latent = other.model.encode(image)[1]
            fake = other.model.decode(latent.mean_BDHW + latent.std_BDHW * torch.randn_like(latent.mean_BDHW)).float()
            assert latent.penalty is not None
            loss = (
                (fake - image).abs().mean() + 1e-6 * latent.penalty.value / image[0].numel() - 0.5 * judge(fake).mean()
            )
            gradients = torch.autograd.grad(loss, both[0])
            for parameter, gradient in zip(both[0], gradients, strict=True):
                parameter.grad = gradient
            nn.utils.clip_grad_norm_(both[0], 1.0)
            one.step()
            hinge = (torch.relu(1 - judge(image)).mean() + torch.relu(1 + judge(fake.detach())).mean()) / 2
            two.zero_grad(set_to_none=True)
            hinge.backward()
            two.step()

    return paired(
        f"{STEPS} steps of an autoencoder with its adversary", some_steps(made, image, ours), plain, device, rounds
    )


class Tensors(nn.Module):
    """As many parameters as LightningDiT-XL has, of one number each, and no arithmetic."""

    def __init__(self, count: int = 351):
        super().__init__()
        self.numbers = nn.ParameterList(nn.Parameter(torch.ones(1, 1)) for _ in range(count))

    def forward(self) -> Tensor:
        """Their sum."""
        return torch.stack(list(self.numbers)).sum()


def host(device: torch.device, rounds: int, folder: str) -> Row:
    """The work of the host in a step."""
    ours, plain = Tensors().to(device), Tensors().to(device)
    settings = Train(steps=10**7, batch=1, lr=1e-6, ema=0.9999, clip=1.0)
    made = training({"net": ours}, settings, device, f"{folder}/host")
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-6, fused=True)
    averages = [p.detach().clone() for p in plain.parameters()]

    def losses(step: Any, rows: Tensor) -> None:
        found: Losses = {"sum": Loss(made["net"]())}
        made.update("net", found)

    def other() -> None:
        for step in range(STEPS):
            loss = plain()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                for average, parameter in zip(averages, plain.parameters(), strict=True):
                    average.lerp_(parameter, 1e-4)
            if step % 10 == 9:
                loss.item()

    run = some_steps(made, torch.zeros(1, 1, device=device), losses)
    return paired(f"the host's work in {STEPS} steps of XL's 351 tensors", run, other, device, rounds)


def noise(device: torch.device, rounds: int) -> Row:
    """The noise of a step in sixteen passes, against one draw."""
    rows, passes, shape = 1024, 16, (32, 16, 16)
    size = rows // passes

    def ours() -> None:
        for first in range(0, rows, size):
            BatchDraws((0, "diffusion", 0, "noise"), first, first + size, device).normal(*shape)

    name = f"noise of {rows} rows of {shape} in {passes} passes, against one draw"
    return paired(name, ours, lambda: torch.randn(rows, *shape, device=device), device, rounds)


def average(device: torch.device, rounds: int) -> Row:
    """The average of XL's tensor list, against one by one."""
    network = Tensors().to(device)
    ema, tensors = EMA(network, 0.9999), [p.detach().clone() for p in network.parameters()]
    parameters = list(network.parameters())

    @torch.no_grad()
    def one_by_one() -> None:
        for own, parameter in zip(tensors, parameters, strict=True):
            own.lerp_(parameter, 1e-4)

    return paired("average of 351 tensors, against one by one", lambda: ema.update(0), one_by_one, device, rounds)


def main() -> None:
    """Measure and print."""
    given = arguments(__doc__)
    device, registry = torch.device(given.device), load_plugins()
    with tempfile.TemporaryDirectory() as folder:
        report("training_step", measured(device, registry, given.rounds, folder), device, given.json)


def measured(device: torch.device, registry: Registry, rounds: int, folder: str) -> Iterator[Row]:
    """Every comparison, as it is made."""
    yield from limits(device)
    yield average(device, rounds)
    yield noise(device, rounds)
    yield host(device, rounds, folder)
    yield autoencoder(device, registry, rounds, folder)
    yield from denoisers(device, registry, rounds, folder)


if __name__ == "__main__":
    main()
