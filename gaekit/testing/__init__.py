"""Contract tests that any component must pass; third parties run `check_component` on theirs.

It needs no pytest: a broken promise is an AssertionError that says which. Everything is small and on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from gaekit.api import KINDS, Component
from gaekit.plugins import Plugin, Registry, construct, load_plugins, slots
from gaekit.testing import autoencoding, diffusing, measuring
from gaekit.testing.outside import check_config, check_outside
from gaekit.testing.promises import Make

SIZES: dict[str, dict[str, Any]] = {
    "teacher": {"grid": 4},
    "encoder": {"image_size": 32, "stride": 8, "channels": 6},
    "decoder": {"latent_dim": 6, "grid": 4, "stride": 8},
    "aligner": {"feature_dim": 64, "latent_dim": 6, "hidden_dim": 16, "grid": 4},
    "regularizer": {"latent_dim": 6, "grid": 4},
    "times": {"dimension": 96},
    "denoiser": {"channels": 6, "grid": 4, "classes": 3},
    "perceptual": {"image_size": 32},
    "metric": {"image_size": 32, "classes": ("a", "b", "c")},
}
"""What each kind is built with; kinds that are not named take no sizes."""


CHECKS: dict[str, Callable[[Make, Mapping[str, Any]], None]] = {
    "dataset": measuring.check_dataset,
    "teacher": autoencoding.check_teacher,
    "aligner": autoencoding.check_aligner,
    "encoder": autoencoding.check_encoder,
    "decoder": autoencoding.check_decoder,
    "regularizer": autoencoding.check_regularizer,
    "noise": autoencoding.check_noise,
    "perceptual": autoencoding.check_perceptual,
    "times": diffusing.check_times,
    "denoiser": diffusing.check_denoiser,
    "sampler": diffusing.check_sampler,
    "metric": measuring.check_metric,
    "tracker": measuring.check_tracker,
}
"""What is checked, by kind."""


def check_component(
    cls: type[Component], *, registry: Registry | None = None, sizes: Mapping[str, Any] | None = None, **settings: Any
) -> None:
    """Build `cls` with `settings` (those of its recipe) and see that it keeps the promises of its kind.

    `sizes` replace some of SIZES; `registry` provides what stands in its slots (the installed plugins by default), and
    those settings are configs: `teacher=MyTeacher.Config(use="my_teacher")`. Raises AssertionError, which names the
    promise and what was given in its place.
    """
    config = check_config(cls, settings)
    check_outside(cls, config, settings)
    registry = _with(cls, registry or (load_plugins() if slots(cls.Config) else Registry()))
    given = {**SIZES.get(cls.kind, {}), **(sizes or {})}

    def make(**others: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return construct(KINDS[cls.kind], config, registry, **{**given, **others})

    CHECKS[cls.kind](make, given)


def _with(cls: type[Component], registry: Registry) -> Registry:
    """A registry in which this class, not another of its name, is found."""
    if registry.classes[cls.kind].get(cls.name) is not cls:
        registry.classes[cls.kind][cls.name] = cls
        registry.origin[cls.kind, cls.name] = Plugin("checked", "checked", "0", cls.__module__)
    return registry
