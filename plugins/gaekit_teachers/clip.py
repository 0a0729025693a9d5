"""Image towers of open_clip as teachers."""

from __future__ import annotations

import difflib
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor, nn

from gaekit.api import Asset, ComponentConfig, Download, GaekitError, HubFile, require, weights
from gaekit_teachers.frozen import Backbone, FrozenTeacher

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
        return weights.identity(config.weights, _asset(config), config.seed)

    @classmethod
    def assets(cls, config: Any) -> tuple[Asset, ...]:
        """The file of the whole CLIP, unless it is random. Raises GaekitError."""
        return weights.assets(config.weights, _asset(config))

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
        tap, blank = ClipTap(tower, layer, self.config.norm), torch.zeros(1, 3, side, side)
        whole = layer == len(reductions) - 1 and self.config.norm and not hasattr(tower, "attnpool")
        with torch.no_grad():  # towers do not tell their widths in one way
            channels, pooled_dim = tap(blank).shape[1], tap.pooled(blank).shape[1] if whole else None
        return Backbone(tap, channels, reductions[layer], tower.image_mean, tower.image_std, pooled_dim)


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

    def pooled(self, pixels: Tensor) -> Tensor:
        """CLIP's image embedding: pooled and projected, not yet of length 1."""
        embedding: Tensor = self.tower(pixels)
        return embedding


def _cut_resnet(tower: Any, layer: int) -> None:
    """Take out what lies after the layer: these towers run it whatever is asked, and small grids do not survive it."""
    tower.attnpool = nn.Identity()
    for stage in range(layer + 1, len(RESNET_REDUCTIONS)):
        setattr(tower, f"layer{stage}", nn.Identity())


def _open_clip() -> Any:
    return require("open_clip", wanted_by="teacher 'clip'")


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
    open_clip, owner = _open_clip(), "teacher 'clip'"
    make = partial(open_clip.create_model, config.model, force_image_size=side)
    if config.weights == weights.RANDOM:
        return weights.random_network(partial(make, load_weights=False), config.seed, f"{owner} ({config.model})")
    torch.manual_seed(config.seed)  # the caller forked the generator
    asset = weights.chosen(config.weights, _asset(config))
    assert asset is not None
    path = asset.fetch(owner)  # where open_clip finds it
    if config.weights == weights.HUB:
        make = partial(make, pretrained=config.tag, force_quick_gelu=bool(_published(config).get("quick_gelu")))
    else:
        make = partial(make, pretrained=str(path))
    try:
        return make(require_pretrained=True)
    except Exception as error:  # hub clients and loaders raise dozens of types; whatever it is, the file does not do
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise GaekitError(
            f"{owner}: weights {path} of open_clip's {config.model} cannot be loaded: {reason}\n"
            "  the file should hold a whole CLIP of this model; `gaekit assets RECIPE` tells whether it is damaged"
        ) from error


def _asset(config: ClipConfig) -> Asset | None:
    """The file that open_clip would fetch; None where another is wanted."""
    if config.weights != weights.HUB:
        return None
    published, what = _published(config), f"the weights '{config.tag}' of open_clip's {config.model}"
    if where := published.get("hf_hub"):
        repo, _, file = where.rpartition("/")
        return HubFile(what, repo, hub_names(file or "open_clip_pytorch_model.bin"), alias=where)
    url = str(published["url"])
    digest = url.split("/")[-2] if "openaipublic" in url else ""
    return Download(what, url, digest, folder=Path.home() / ".cache/clip")


def hub_names(file: str) -> tuple[str, ...]:
    """The names under which open_clip looks for a file on the hub, as safetensors first."""
    if file == "open_clip_pytorch_model.bin":
        return "open_clip_model.safetensors", file
    return (f"{file[:-4]}.safetensors", file) if file.endswith((".bin", ".pth")) else (file,)


def _published(config: ClipConfig) -> dict[str, Any]:
    open_clip = _open_clip()
    _vision_config(config.model)
    known = open_clip.list_pretrained_tags_by_model(config.model)
    if config.tag not in known:
        raise GaekitError(
            f"open_clip's {config.model} has no weights tagged '{config.tag}'; tags: {', '.join(known) or 'none'}"
        )
    published: dict[str, Any] = open_clip.get_pretrained_cfg(config.model, config.tag)
    return published
