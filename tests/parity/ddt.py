"""RAE's DiT-DH: the velocity, in the published convention that t = 1 is noise."""

from __future__ import annotations

import torch
from parity.fixture import Fixture, Recompute, UnknownOutput
from parity.rebuild import denoiser
from torch import Tensor

from gaekit.interop.formats import Options


def prepare(fixture: Fixture) -> Recompute:
    config = fixture.config
    heads, depth = config["num_heads"], config["depth"]
    options = Options(
        heads=heads[0],
        decoder_heads=heads[1],
        decoder_depth=depth[1],
        grid=config["input_size"],
        absolute_positions=config.get("use_pos_embed", "pos_embed" in fixture.state),
        scale=1.0,
    )
    network = denoiser("dit_dh", fixture, options)

    def recompute(name: str) -> Tensor:
        if name != "velocity":
            raise UnknownOutput("no such output of a DiT-DH is known")
        x, t, label = fixture.given("x", "t", "y")
        with torch.no_grad():
            velocity: Tensor = network(x, 1 - t, label).out_BDHW
        return -velocity

    return recompute
