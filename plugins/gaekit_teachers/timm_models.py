"""Any model of timm as a teacher: patch tokens of vision transformers, feature maps of convolutional networks."""

from __future__ import annotations

import difflib
import logging
from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor, nn

from gaekit.api import ComponentConfig
from gaekit.errors import GaekitError
from gaekit_teachers import weights
from gaekit_teachers.frozen import Backbone, FrozenTeacher

log = logging.getLogger(__name__)


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
        published = _published(cls.model_name(config)) if config.weights == weights.HUB else ""
        return weights.identity(config.weights, hub=published, seed=config.seed)

    @classmethod
    def width(cls, config: Any) -> int:
        """Channels of the layer, from a network without memory."""
        import timm

        name = cls.model_name(config)
        _pretrained_cfg(name)
        with torch.device("meta"):
            info = _feature_info(timm.create_model(name, pretrained=False, num_classes=0), name)
        return int(info[config.layer]["num_chs"])

    def load(self) -> Backbone:
        """Build by timm, load the weights, fit positions to the input size, drop what lies after `layer`."""
        name = self.model_name(self.config)
        model = _create(name, self.config)
        info = _feature_info(model, name)
        if not -len(info) <= self.config.layer < len(info):
            raise GaekitError(
                f"teacher '{self.name}': layer {self.config.layer} of {name}; "
                f"it has {len(info)} layers: 0 to {len(info) - 1}, or -{len(info)} to -1 from the end"
            )
        layer = self.config.layer % len(info)
        channels, reduction = int(info[layer]["num_chs"]), int(info[layer]["reduction"])
        self.fit_input(model, self.grid * reduction)
        cfg = model.pretrained_cfg
        return Backbone(Tap(model, layer, self.config.norm), channels, reduction, cfg["mean"], cfg["std"])

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
    """A timm model up to one of its layers: pixels (B, 3, R, R) -> features (B, F, H, W), without prefix tokens."""

    def __init__(self, model: Any, layer: int, norm: bool):
        super().__init__()
        self.model, self.norm = model, norm
        self.indices = list(model.prune_intermediate_layers([layer], prune_norm=not norm, prune_head=True))

    def forward(self, pixels: Tensor) -> Tensor:
        """The features of the layer."""
        features: list[Tensor] = self.model.forward_intermediates(
            pixels, indices=self.indices, norm=self.norm, stop_early=True, output_fmt="NCHW", intermediates_only=True
        )
        return features[0]


def _create(name: str, config: TimmSettings) -> Any:
    import timm

    cfg = _pretrained_cfg(name)
    if config.weights == weights.HUB:
        return _from_hub(name)
    torch.manual_seed(config.seed)  # the caller forked the generator
    model = timm.create_model(name, pretrained=False, num_classes=0)
    if config.weights == weights.RANDOM:
        log.warning("teacher %s has random weights (seed %d): good for tests, it teaches nothing", name, config.seed)
    else:
        classifier = cfg.classifier or ()
        weights.load_into(
            model, Path(config.weights), ignore=(classifier,) if isinstance(classifier, str) else tuple(classifier)
        )
    return model


def _from_hub(name: str) -> Any:
    import timm

    published = _published(name)
    try:
        return timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # hub clients raise dozens of types; whatever it is, these weights are not here
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise GaekitError(
            f"weights of the timm model {name} ({published}) cannot be loaded: {reason[0]}\n"
            f"  fetch them once where there is a network (python -c \"import timm; timm.create_model('{name}', "
            "pretrained=True)\") and keep the hub's cache, or download the file and set `weights: PATH`"
        ) from error


def _published(name: str) -> str:
    cfg = _pretrained_cfg(name)
    source = cfg.hf_hub_id or cfg.url
    if not source:
        raise GaekitError(
            f"the timm model {name} has no published weights; set `weights` to a path, or to random for a test"
        )
    return f"{source}/{cfg.hf_hub_filename}" if cfg.hf_hub_filename else str(source)


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


def _feature_info(model: Any, name: str) -> list[dict[str, Any]]:
    if not (hasattr(model, "forward_intermediates") and getattr(model, "feature_info", None)):
        raise GaekitError(f"the timm model {name} does not tell its intermediate features; choose another model")
    return list(model.feature_info)
