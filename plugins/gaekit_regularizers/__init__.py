"""Bounds on the latent: normalisations and penalties."""

from __future__ import annotations

from gaekit.api import Component, hookimpl
from gaekit_regularizers.kl import Kl
from gaekit_regularizers.norms import LayerNorm, Plain, RmsNorm, UnitNorm
from gaekit_regularizers.standardize import Standardize


@hookimpl
def gaekit_components() -> list[type[Component]]:
    """The regularizers."""
    return [RmsNorm, Kl, UnitNorm, LayerNorm, Plain, Standardize]
