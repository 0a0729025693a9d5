"""What autoencoders are trained with: VA-VAE's losses, the PatchGAN's logits and losses, ADM's centre crop."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from parity.fixture import Fixture, Recompute, Tensors, UnknownOutput
from PIL import Image
from torch import Tensor

from gaekit.api import weights
from gaekit.data.images import center_crop
from gaekit.nn.adversary import PatchGAN, critic_loss, generator_loss
from gaekit_aligners.losses import marginal_cosine, marginal_distances


def prepare_losses(fixture: Fixture) -> Recompute:
    critic = _critic(fixture.state, fixture.path)
    sides = ("real", "fake")

    def recompute(name: str) -> Tensor:
        if name.startswith("vf_"):
            return _vf(fixture, name)
        with torch.no_grad():
            logits: Tensors = {side: critic(image) for side, image in zip(sides, fixture.given(*sides), strict=True)}
        if found := re.fullmatch(r"logits_(real|fake)", name):
            return logits[found[1]]
        if name in ("hinge_d", "vanilla_d"):
            return critic_loss("hinge" if name == "hinge_d" else "vanilla", logits["real"], logits["fake"])
        if name == "g":
            return generator_loss(logits["fake"])
        raise UnknownOutput("no such loss of an autoencoder is known")

    return recompute


def _critic(state: Tensors, source: Path) -> PatchGAN:
    """Its layers, width and norm stand in its tensors; the convolutions at both ends are not counted."""
    convolutions = [value for value in state.values() if value.ndim == 4]
    norm = "batch" if any(key.endswith("running_mean") for key in state) else "group"
    critic = PatchGAN(len(state["main.0.weight"]), len(convolutions) - 2, norm)  # type: ignore[arg-type]
    weights.load_into(critic, state, source)
    return critic.eval()


def _vf(fixture: Fixture, name: str) -> Tensor:
    h, frozen = fixture.given("h", "h_frozen")
    terms = {
        "vf_cos": marginal_cosine(h, frozen, fixture.config["vf_cos_margin"]),
        "vf_distmat": marginal_distances(h, frozen, fixture.config["vf_distmat_margin"]),
    }
    terms["vf_total"] = terms["vf_cos"] + terms["vf_distmat"]
    if name not in terms:
        raise UnknownOutput("no such term of the VF loss is known")
    return terms[name]


def prepare_crop(fixture: Fixture) -> Recompute:
    def recompute(name: str) -> Tensor:
        found = re.fullmatch(r"crop(\d+)_(\d+)", name)
        if not found:
            raise UnknownOutput("outputs are called crop<image>_<size>")
        (pixels,) = fixture.given(f"image{found[1]}")
        return torch.from_numpy(center_crop(Image.fromarray(pixels.numpy()), int(found[2])))

    return recompute
