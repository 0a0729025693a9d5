"""Any model of timm as a teacher: patch tokens of vision transformers, feature maps of convolutional networks."""

from __future__ import annotations

import difflib
import sys
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor, nn

from gaekit.api import Asset, ComponentConfig, Download, GaekitError, HubFile, weights
from gaekit_teachers.frozen import Backbone, FrozenTeacher


class TimmSettings(ComponentConfig):
    """What every teacher from timm can be told."""

    weights: str = Field(
        default=weights.HUB,
        description="hub: timm's published ones; random: untrained, for tests; else a path (.safetensors or .pth)",
    )
    seed: NonNegativeInt = Field(default=0, description="of `weights: random`")
    layer: int = Field(
        default=-1,
        description="which block (transformers) or stage (convolutional networks); negative counts from the end",
    )
    norm: bool = Field(
        default=True, description="apply the model's final norm to the tokens, also to those of inner blocks"
    )


class TimmConfig(TimmSettings):
    """Settings of `timm`."""

    model: str = Field(description="timm's name, with or without tag: vit_base_patch16_224.mae, resnet50")


class FromTimm(FrozenTeacher):
    """A teacher whose network timm builds; a subclass says which by `model_name`."""

    config: Any

    @classmethod
    @abstractmethod
    def model_name(cls, config: Any) -> str:
        """timm's name of the model, with the tag of its weights."""

    @classmethod
    def external(cls, config: Any) -> str:
        """Identity of the weights: the hub's repository, `random:<seed>` or a file's sha256. Raises GaekitError."""
        return weights.identity(config.weights, _published(cls.model_name(config), config.weights), config.seed)

    @classmethod
    def assets(cls, config: Any) -> tuple[Asset, ...]:
        """The file of weights, unless they are random. Raises GaekitError."""
        return weights.assets(config.weights, _published(cls.model_name(config), config.weights))

    @classmethod
    def width(cls, config: Any) -> int:
        """Channels of the layer, from a network without memory. Raises GaekitError where there is no such layer."""
        import timm

        name = cls.model_name(config)
        _pretrained_cfg(name)
        with torch.device("meta"):
            info = _feature_info(timm.create_model(name, pretrained=False, num_classes=0), name)
        return int(info[_place(config.layer, info, name, f"teacher '{cls.name}'")]["num_chs"])

    def load(self) -> Backbone:
        """Build by timm, load the weights, fit positions to the input size, drop what lies after `layer`."""
        name = self.model_name(self.config)
        model = _create(name, self.config, f"teacher '{self.name}'")
        info = _feature_info(model, name)
        layer = _place(self.config.layer, info, name, f"teacher '{self.name}'")
        channels, reduction = int(info[layer]["num_chs"]), int(info[layer]["reduction"])
        self.fit_input(model, self.grid * reduction)
        cfg, whole = model.pretrained_cfg, layer == len(info) - 1 and self.config.norm
        pooled_dim = int(getattr(model, "head_hidden_size", model.num_features)) if whole else None
        tap = Tap(model, layer, self.config.norm, whole=whole)
        return Backbone(tap, channels, reduction, cfg["mean"], cfg["std"], pooled_dim)

    def fit_input(self, model: Any, side: int) -> None:
        """Make the model take `side` x `side` pixels, resampling learned positions. Raises GaekitError if it cannot."""
        native = model.pretrained_cfg["input_size"][-1]
        if hasattr(model, "set_input_size"):
            model.set_input_size(img_size=(side, side))
        elif model.pretrained_cfg.get("fixed_input_size") and side != native:
            raise GaekitError(
                f"teacher '{self.name}': {self.model_name(self.config)} takes {native} px only, "
                f"a grid of {self.grid} needs {side} px; choose another model"
            )


class Timm(FromTimm):
    """Any model of timm by its name: patch tokens after the final norm, or a stage of a convolutional network.

    It looks at images of `grid * patch` pixels (grid times stride for convolutional networks), standardised as the
    model's own configuration says; learned positions are resampled by timm.
    """

    name = "timm"
    Config = TimmConfig

    @classmethod
    def model_name(cls, config: TimmConfig) -> str:
        """As the recipe says."""
        return config.model


class Tap(nn.Module):
    """A timm model up to one of its layers: pixels (B, 3, R, R) -> features (B, F, H, W), without prefix tokens. What
    lies behind the layer is dropped, unless the model is `whole` and also asked for its pooled embedding."""

    def __init__(self, model: Any, layer: int, norm: bool, *, whole: bool = False):
        super().__init__()
        self.model, self.norm = model, norm
        self.indices = list(model.prune_intermediate_layers([layer], prune_norm=not norm, prune_head=not whole))

    def forward(self, pixels: Tensor) -> Tensor:
        """The features of the layer."""
        features: list[Tensor] = self.model.forward_intermediates(
            pixels, indices=self.indices, norm=self.norm, stop_early=True, output_fmt="NCHW", intermediates_only=True
        )
        return features[0]

    def pooled(self, pixels: Tensor) -> Tensor:
        """The class token after the final norm; of models without one, what their head pools."""
        features = self.model.forward_features(pixels)
        if features.ndim == 3 and getattr(self.model, "num_prefix_tokens", 0):
            token: Tensor = features[:, 0]
            return token
        embedding: Tensor = self.model.forward_head(features, pre_logits=True)
        return embedding


def _create(name: str, config: TimmSettings, owner: str) -> Any:
    import timm

    cfg = _pretrained_cfg(name)
    asset = weights.chosen(config.weights, _published(name, config.weights))
    build = partial(timm.create_model, name, num_classes=0)
    if asset is None:
        return weights.random_network(partial(build, pretrained=False), config.seed, f"{owner} ({name})")
    path = asset.fetch(owner)
    if config.weights == weights.HUB:
        return _from_hub(build, path, {"custom_load": False} if isinstance(asset, HubFile) else {}, owner)
    model = build(pretrained=False)
    classifier = cfg.classifier or ()
    modules = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    weights.load_into(model, _wanted(weights.read(path), model, modules), path)
    return model


def _wanted(state: dict[str, Tensor], model: Any, classifiers: tuple[str, ...]) -> dict[str, Tensor]:
    """By timm's own names, where it knows how to convert the original authors', and without the classifier's."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        state = convert(state, model)
    unwanted = tuple(f"{module}." for module in classifiers)
    return {key: value for key, value in state.items() if not key.startswith(unwanted)}


def _from_hub(build: Callable[..., Any], path: Path, how: dict[str, Any], owner: str) -> Any:
    """By timm's own loader from the very file that is the asset: nothing is looked up, and nothing else fetched."""
    try:
        return build(pretrained=True, pretrained_cfg_overlay={"file": str(path), **how})
    except Exception as error:  # loaders raise dozens of types; whatever it is, these weights are not whole
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise GaekitError(
            f"{owner}: weights {path} cannot be loaded: {reason[0]}\n"
            "  `gaekit assets RECIPE` tells whether the file is damaged"
        ) from error


def _published(name: str, setting: str) -> Asset | None:
    """The file that timm would fetch; None where another is wanted."""
    if setting != weights.HUB:
        return None
    cfg = _pretrained_cfg(name)
    what = f"the published weights of the timm model {name}"
    if cfg.hf_hub_id:
        repo, _, revision = cfg.hf_hub_id.partition("@")
        alias = f"{cfg.hf_hub_id}/{cfg.hf_hub_filename}" if cfg.hf_hub_filename else cfg.hf_hub_id
        return HubFile(what, repo, hub_names(cfg.hf_hub_filename or "pytorch_model.bin"), revision or None, alias)
    if cfg.url:
        return Download(what, cfg.url)
    raise GaekitError(
        f"the timm model {name} has no published weights; set `weights` to a path, or to random for a test"
    )


def hub_names(file: str) -> tuple[str, ...]:
    """The names under which timm looks for a file on the hub, as safetensors first."""
    known = {"pytorch_model.bin": "model.safetensors", "open_clip_pytorch_model.bin": "open_clip_model.safetensors"}
    if file in known:
        return known[file], file
    return (f"{file.removesuffix('.bin')}.safetensors", file) if file.endswith(".bin") else (file,)


def _pretrained_cfg(name: str) -> Any:
    import timm
    from timm.models import get_pretrained_cfg

    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        close = difflib.get_close_matches(base, timm.list_models(), n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(close)}?" if close else "a newer timm may have it"
        raise GaekitError(f"timm {timm.__version__} has no model '{base}'; {hint}")
    try:
        return get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        tags = [known.partition(".")[2] for known in timm.list_models(f"{base}.*", pretrained=True)]
        raise GaekitError(f"timm's {base} has no weights tagged '{tag}'; tags: {', '.join(tags) or 'none'}") from error


def _place(layer: int, info: Sequence[Any], name: str, owner: str) -> int:
    """The layer counted from the first. Raises GaekitError where the network has none of this number."""
    if not -len(info) <= layer < len(info):
        raise GaekitError(
            f"{owner}: layer {layer} of {name}; "
            f"it has {len(info)} layers: 0 to {len(info) - 1}, or -{len(info)} to -1 from the end"
        )
    return layer % len(info)


def _feature_info(model: Any, name: str) -> list[dict[str, Any]]:
    if not (hasattr(model, "forward_intermediates") and getattr(model, "feature_info", None)):
        raise GaekitError(f"the timm model {name} does not tell its intermediate features; choose another model")
    return list(model.feature_info)
