"""Image towers of open_clip as teachers."""

from __future__ import annotations

import difflib
import logging
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor, nn

from gaekit.api import ComponentConfig, require
from gaekit.errors import GaekitError
from gaekit_teachers import weights
from gaekit_teachers.frozen import Backbone, FrozenTeacher

log = logging.getLogger(__name__)

RESNET_REDUCTIONS = (4, 4, 8, 16, 32)
"""Of CLIP's own ResNets: after the stem and after each stage."""


class ClipConfig(ComponentConfig):
    """Settings of `clip`."""

    model: str = Field(default="ViT-B-16", description="open_clip's name of the architecture")
    tag: str = Field(default="openai", description="which published weights, for `weights: hub`")
    weights: str = Field(
        default=weights.HUB,
        description="hub: the published ones of `tag`; random: untrained; else a path to a file of the whole CLIP",
    )
    seed: NonNegativeInt = Field(default=0, description="of `weights: random`")
    layer: int = Field(default=-1, description="which block (transformers) or stage; negative counts from the end")
    norm: bool = Field(default=True, description="apply the tower's final norm to the patch tokens")


class Clip(FrozenTeacher):
    """The image tower of a CLIP (arXiv 2103.00020) by open_clip: patch tokens after the final norm.

    It looks at images of `grid * patch` pixels; learned positions are resampled by open_clip.
    """

    name = "clip"
    Config = ClipConfig

    config: ClipConfig

    @classmethod
    def external(cls, config: Any) -> str:
        """Identity of the weights: where the tag's are published, `random:<seed>` or a file's sha256."""
        published = str(_published(config)["where"]) if config.weights == weights.HUB else ""
        return weights.identity(config.weights, hub=published, seed=config.seed)

    def load(self) -> Backbone:
        """Build the CLIP by open_clip for the wanted input size and keep its image tower."""
        vision = _vision_config(self.config.model)
        reductions = _reductions(vision)
        if not -len(reductions) <= self.config.layer < len(reductions):
            raise GaekitError(
                f"teacher 'clip': layer {self.config.layer} of {self.config.model}; it has {len(reductions)} layers: "
                f"0 to {len(reductions) - 1}, or -{len(reductions)} to -1 from the end"
            )
        layer = self.config.layer % len(reductions)
        side = self.grid * reductions[layer]
        tower = _create(self.config, side).visual.eval()
        if hasattr(tower, "attnpool"):
            _cut_resnet(tower, layer)
        tap = ClipTap(tower, layer, self.config.norm)
        with torch.no_grad():  # towers do not tell their width in one way
            channels = tap(torch.zeros(1, 3, side, side)).shape[1]
        return Backbone(tap, channels, reductions[layer], tower.image_mean, tower.image_std)


class ClipTap(nn.Module):
    """An image tower up to one of its layers: pixels (B, 3, R, R) -> features (B, F, H, W), without prefix tokens."""

    def __init__(self, tower: Any, layer: int, norm: bool):
        super().__init__()
        self.tower, self.layer, self.norm = tower, layer, norm

    def forward(self, pixels: Tensor) -> Tensor:
        """The features of the layer."""
        out: dict[str, list[Tensor]] = self.tower.forward_intermediates(
            pixels,
            indices=[self.layer],
            stop_early=True,
            normalize_intermediates=self.norm,
            intermediates_only=True,
            output_fmt="NCHW",
        )
        return out["image_intermediates"][0]


def _cut_resnet(tower: Any, layer: int) -> None:
    """Take out what lies after the layer: these towers run it whatever is asked, and small grids do not survive it."""
    tower.attnpool = nn.Identity()
    for stage in range(layer + 1, len(RESNET_REDUCTIONS)):
        setattr(tower, f"layer{stage}", nn.Identity())


def _open_clip() -> Any:
    return require("open_clip", extra="all", wanted_by="teacher 'clip'")


def _vision_config(model: str) -> dict[str, Any]:
    open_clip = _open_clip()
    config = open_clip.get_model_config(model) if model in open_clip.list_models() else None
    if config is None:
        close = difflib.get_close_matches(model, open_clip.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "a newer open_clip may have it"
        raise GaekitError(f"open_clip {open_clip.__version__} has no model '{model}'; {hint}")
    vision: dict[str, Any] = config["vision_cfg"]
    return vision


def _reductions(vision: dict[str, Any]) -> list[int]:
    """Pixels of a side for each feature, by layer."""
    if name := vision.get("timm_model_name"):
        import timm

        with torch.device("meta"):
            model: Any = timm.create_model(name, pretrained=False)
        return [int(info["reduction"]) for info in model.feature_info]
    if isinstance(vision["layers"], (list, tuple)):
        return list(RESNET_REDUCTIONS)
    return [int(vision["patch_size"])] * int(vision["layers"])


def _create(config: ClipConfig, side: int) -> Any:
    open_clip = _open_clip()
    torch.manual_seed(config.seed)  # the caller forked the generator
    if config.weights == weights.RANDOM:
        log.warning(
            "teacher %s has random weights (seed %d): good for tests, it teaches nothing", config.model, config.seed
        )
        return open_clip.create_model(config.model, load_weights=False, force_image_size=side)
    if config.weights == weights.HUB:
        published = _published(config)
        source, quick_gelu = config.tag, bool(published["quick_gelu"])
        how = "keep the hub's cache from a machine with a network, or download the file and set `weights: PATH`"
    else:
        weights.identity(config.weights, hub="", seed=0)  # refuses an absent file by its path
        source, quick_gelu, how = str(Path(config.weights)), False, "the file should hold a whole CLIP of this model"
    try:
        return open_clip.create_model(
            config.model, pretrained=source, force_image_size=side, force_quick_gelu=quick_gelu, require_pretrained=True
        )
    except (
        Exception
    ) as error:  # hub clients and loaders raise dozens of types; whatever it is, these weights are not here
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise GaekitError(
            f"weights '{source}' of open_clip's {config.model} cannot be loaded: {reason}\n  {how}"
        ) from error


def _published(config: ClipConfig) -> dict[str, Any]:
    open_clip = _open_clip()
    _vision_config(config.model)
    known = open_clip.list_pretrained_tags_by_model(config.model)
    if config.tag not in known:
        raise GaekitError(
            f"open_clip's {config.model} has no weights tagged '{config.tag}'; tags: {', '.join(known) or 'none'}"
        )
    found = open_clip.get_pretrained_cfg(config.model, config.tag)
    return {"where": found.get("hf_hub") or found.get("url"), "quick_gelu": found.get("quick_gelu", False)}
