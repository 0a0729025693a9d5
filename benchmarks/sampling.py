"""What sampling costs beside its network: a sampler over a field, against a loop that calls the network.

    python benchmarks/sampling.py [--device cuda] [--rounds 7] [--json FILE]

A LightningDiT (17M parameters on a CPU, XL/1 on a GPU) makes a batch by Euler steps: unguided, guided on all of the
interval, and guided on the upper half of it, where the second branch must cost nothing below; then by Euler-Maruyama,
which draws noise for each image and step. Each is held against the plain loop over the same network.
"""

from __future__ import annotations

import torch
from paired import Row, arguments, limits, paired, report
from torch import Tensor, nn

from gaekit.api import Denoiser, Sampler
from gaekit.flow.field import Field
from gaekit.flow.guidance import Guidance
from gaekit.flow.processes import get_process
from gaekit.plugins import Registry, build, load_plugins
from gaekit.recipe import load_component
from gaekit.train.draws import ImageDraws

SMALL = {"use": "lightning_dit", "depth": 8, "width": 384, "heads": 6, "patch": 1}
LARGE = {"use": "lightning_dit", "size": "XL", "patch": 1}


def made(registry: Registry, device: torch.device) -> tuple[Denoiser, Tensor, Tensor]:
    """(network, noise, labels) of a size that suits the device."""
    channels, grid, batch, config = (32, 16, 32, LARGE) if device.type == "cuda" else (16, 8, 16, SMALL)
    parsed = load_component("denoiser", config, registry, source="benchmark")
    torch.manual_seed(0)
    network = build(Denoiser, parsed, registry, channels=channels, grid=grid, classes=10).to(device).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.02)
    noise = torch.randn(batch, channels, grid, grid, device=device)
    return network, noise, torch.arange(batch, device=device) % 10


@torch.no_grad()
def plain(network: Denoiser, x: Tensor, label: Tensor, steps: int, scale: float, start: float) -> Tensor:
    """Euler's method, written out."""
    null = torch.full_like(label, 10)
    for step in range(steps):
        t = torch.full((len(x),), step / steps, device=x.device)
        if scale != 1 and step / steps >= start:
            strong, weak = network(torch.cat([x, x]), t.repeat(2), torch.cat([label, null])).out_BDHW.chunk(2)
            velocity = weak + scale * (strong - weak)
        else:
            velocity = network(x, t, label).out_BDHW
        x = x + velocity.float() / steps
    return x


@torch.no_grad()
def plain_sde(network: Denoiser, x: Tensor, label: Tensor, steps: int) -> Tensor:
    """The cost of Euler-Maruyama in evaluations and noise, without its arithmetic."""
    for step in range(steps):
        t = torch.full((len(x),), step / steps, device=x.device)
        x = x + network(x, t, label).out_BDHW.float() / steps + 0.01 * torch.randn_like(x)
    return x


def main() -> None:
    """Measure and print."""
    given = arguments(__doc__)
    device, registry = torch.device(given.device), load_plugins()
    network, noise, label = made(registry, device)
    steps, process, rows = 10, get_process("linear", "linear"), list[Row]()

    def ours(use: str, scale: float, start: float) -> Tensor:
        config = load_component("sampler", {"use": use, "steps": steps}, registry, source="benchmark")
        field = Field(network, process, Guidance(scale, start, 1.0, "all", None), label, 10, network.predicts)
        draws = ImageDraws(0, "benchmark", range(len(noise)), device)
        return build(Sampler, config, registry).sample(field, noise, draws=draws)

    for name, scale, start in (("unguided", 1.0, 0.0), ("guided", 2.0, 0.0), ("guided from t = 0.5", 2.0, 0.5)):
        difference = (ours("euler", scale, start) - plain(network, noise, label, steps, scale, start)).abs().max()
        rows.append(
            paired(
                f"euler, {steps} steps of {len(noise)}, {name}",
                lambda s=scale, b=start: ours("euler", s, b),  # type: ignore[misc]
                lambda s=scale, b=start: plain(network, noise, label, steps, s, b),  # type: ignore[misc]
                device, given.rounds, f"largest difference {float(difference):.1e}",
            )
        )  # fmt: skip
    rows.append(
        paired(
            f"euler_maruyama, {steps} steps of {len(noise)}",
            lambda: ours("euler_maruyama", 1.0, 0.0),
            lambda: plain_sde(network, noise, label, steps),
            device, given.rounds,
        )
    )  # fmt: skip
    report("sampling", [*limits(device), *rows], device, given.json)


if __name__ == "__main__":
    main()
