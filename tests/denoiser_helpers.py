"""The four denoisers, small enough to run in a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from parity_helpers import load_fixture
from torch import Tensor, nn

from gaekit.api import Prediction
from gaekit_denoisers.dit import DiT
from gaekit_denoisers.dit_dh import DiTDH
from gaekit_denoisers.lightning_dit import LightningDiT
from gaekit_denoisers.sit import SiT
from gaekit_denoisers.transformer import TransformerDenoiser

State = dict[str, Tensor]
WIDTH_64 = {"depth": 2, "width": 64, "heads": 4}


@dataclass(frozen=True)
class Small:
    """A denoiser's class, the settings that make it small, and the latents that it is tried on: always 16 tokens."""

    kind: type[Any]
    settings: dict[str, Any]
    channels: int
    grid: int

    def build(
        self, classes: int = 10, channels: int | None = None, grid: int | None = None, **settings: Any
    ) -> TransformerDenoiser:
        """A fresh one."""
        config = self.kind.Config(use=self.kind.name, **{**self.settings, **settings})
        sizes = {"channels": channels or self.channels, "grid": grid or self.grid, "classes": classes}
        network: TransformerDenoiser = self.kind(config, **sizes)
        return network

    def busy(self, **settings: Any) -> TransformerDenoiser:
        """With weights everywhere: a fresh one answers zero. The first block's learned norms stay as they start."""
        torch.manual_seed(0)
        network = self.build(**settings)
        for name, parameter in network.named_parameters():
            if parameter.requires_grad and not name.startswith("blocks.0.norm"):
                nn.init.normal_(parameter, std=0.1)
        return network

    def sized(self, size: str, *, channels: int, grid: int, **settings: Any) -> TransformerDenoiser:
        """A published size for 1000 classes, without memory."""
        with torch.device("meta"):
            config = self.kind.Config(use=self.kind.name, size=size, **settings)
            network: TransformerDenoiser = self.kind(config, channels=channels, grid=grid, classes=1000)
        return network

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Three latents, their times and their labels, the last of which is the null label."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(3, self.channels, self.grid, self.grid, generator=generator)
        return x, torch.rand(3, generator=generator), torch.tensor([0, 4, 10])


DENOISERS = {
    "dit": Small(DiT, WIDTH_64, channels=4, grid=8),
    "sit": Small(SiT, WIDTH_64, channels=4, grid=8),
    "lightning_dit": Small(LightningDiT, WIDTH_64, channels=8, grid=4),
    "dit_dh": Small(
        DiTDH,
        {"depth": 2, "width": 32, "heads": 4, "decoder_depth": 1, "decoder_width": 64, "decoder_heads": 4},
        channels=8,
        grid=4,
    ),
}


def published_plain(
    name: str, from_published: Callable[[State], State], **settings: Any
) -> tuple[TransformerDenoiser, State, State]:
    """The network of a fixture of DiT's or SiT's own code, with the inputs and outputs of that code."""
    config, state, given, outputs = load_fixture(name)
    network = DENOISERS[name].build(
        config["num_classes"],
        config["in_channels"],
        config["input_size"],
        depth=config["depth"],
        width=config["hidden_size"],
        heads=config["num_heads"],
        patch=config["patch_size"],
        mlp_ratio=config["mlp_ratio"],
        learn_sigma=config["learn_sigma"],
        **settings,
    )
    network.load_state_dict(from_published(state))
    return network, given, outputs


def answers(prediction: Prediction) -> list[Tensor]:
    """What was predicted: the quantity, and the variance where there is one."""
    return [out for out in (prediction.out_BDHW, prediction.variance_BDHW) if out is not None]


def count(network: nn.Module, *, learned: bool | None = None) -> int:
    """Number of parameters: all of them, those that learn, or those that are fixed."""
    return sum(p.numel() for p in network.parameters() if learned in (None, p.requires_grad))
