"""SiT's published numbers: the losses of 3 paths x 3 predictions x 3 weightings, ODE and SDE samples.

The network is restated here from its state, since what is on trial is the mathematics around it.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from parity_helpers import Tensors, close, load_fixture
from torch import Tensor

from gaekit.flow.field import Field
from gaekit.flow.objective import flow_matching_terms
from gaekit.flow.path import get_path
from gaekit.values import GeneratorDraws, Prediction
from gaekit_samplers.ode import Euler
from gaekit_samplers.sde import EulerMaruyama

PATHS = ("Linear", "GVP", "VP")


class Network:
    """SiT as a function of its published tensors."""

    def __init__(self, config: dict[str, Any], state: Tensors):
        self.config, self.state = config, state

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def condition(self, t: Tensor, label: Tensor) -> Tensor:
        angle = t[:, None] * torch.exp(-math.log(10000) * torch.arange(128) / 128)
        hidden = F.silu(self.linear("t_embedder.mlp.0", torch.cat([angle.cos(), angle.sin()], -1)))
        return F.silu(self.linear("t_embedder.mlp.2", hidden) + self.state["y_embedder.embedding_table.weight"][label])

    def norm(self, h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    def block(self, name: str, h: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.linear(f"{name}.adaLN_modulation.1", c).chunk(6, 1)
        qkv = self.linear(f"{name}.attn.qkv", self.norm(h, shift, scale))
        q, k, v = qkv.reshape(*h.shape[:2], 3, self.config["num_heads"], -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        h = h + gate[:, None] * self.linear(f"{name}.attn.proj", mixed)
        hidden = F.gelu(self.linear(f"{name}.mlp.fc1", self.norm(h, shift2, scale2)), approximate="tanh")
        return h + gate2[:, None] * self.linear(f"{name}.mlp.fc2", hidden)

    def __call__(self, x: Tensor, t: Tensor, label: Tensor) -> Prediction:
        patch, state = self.config["patch_size"], self.state
        tokens = F.conv2d(x, state["x_embedder.proj.weight"], state["x_embedder.proj.bias"], stride=patch)
        h, c = tokens.flatten(2).transpose(1, 2) + state["pos_embed"], self.condition(t, label)
        for index in range(self.config["depth"]):
            h = self.block(f"blocks.{index}", h, c)
        h = self.linear(
            "final_layer.linear", self.norm(h, *self.linear("final_layer.adaLN_modulation.1", c).chunk(2, 1))
        )
        h = h.reshape(len(x), *tokens.shape[2:], patch, patch, -1)
        image = h.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return Prediction(image[:, : x.shape[1]])


Published = tuple[dict[str, Any], Network, Tensors, Tensors]


@pytest.fixture(scope="module")
def published() -> Published:
    config, state, inputs, outputs = load_fixture("sit")
    return config, Network(config, state), inputs, outputs


def test_the_network_is_restated_right(published: Published) -> None:
    _, network, inputs, outputs = published
    close(network(inputs["x"], inputs["t"], inputs["y"]).out_BDHW, outputs["model"])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("predicts", ["velocity", "noise", "score"])
@pytest.mark.parametrize("weighting", ["None", "velocity", "likelihood"])
def test_losses(published: Published, path: str, predicts: str, weighting: str) -> None:
    _, network, inputs, outputs = published
    arguments = [inputs[f"loss_{name}"] for name in ("t", "x1", "y", "noise")]
    terms = flow_matching_terms(
        network,
        get_path(path.lower()),
        *arguments,
        predicts=predicts,
        weighting=weighting.lower(),  # type: ignore[arg-type]
    )
    close(terms[f"{predicts}_mse"], outputs[f"loss_{path}_{predicts}_{weighting}"])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("predicts", ["velocity", "noise"])
def test_samples(published: Published, path: str, predicts: str) -> None:
    config, network, inputs, outputs = published
    field = Field(network, get_path(path.lower()), None, inputs["sample_y"], config["num_classes"], predicts)
    draws = GeneratorDraws(2, torch.Generator().manual_seed(1234))
    ode = Euler(Euler.Config(use="euler", steps=10, compat="release"))
    close(ode.sample(field, inputs["init"], draws=draws), outputs[f"ode_euler_{path}_{predicts}"])
    settings: dict[str, Any] = {
        "steps": 12,
        "diffusion": "sigma",
        "last_step": "mean",
        "last_step_size": 0.04,
        "compat": "sit",
    }
    sde = EulerMaruyama(EulerMaruyama.Config(use="euler_maruyama", **settings))
    close(sde.sample(field, inputs["init"], draws=draws), outputs[f"sde_euler_{path}_{predicts}"])
