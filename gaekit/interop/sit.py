"""The parameter names of the published SiT checkpoints, which are DiT's and those of gaekit's `sit`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from gaekit.interop.dit import NEEDED, State, unwrap


def from_published(state: Mapping[str, Tensor]) -> State:
    """Weights for gaekit's `sit` from a published SiT's. Raises ArtifactError for a file of another kind."""
    return unwrap(state, needed=NEEDED, kind="SiT")


def to_published(state: Mapping[str, Tensor]) -> State:
    """Inverse of `from_published`."""
    return dict(state)
