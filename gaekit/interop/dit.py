"""The parameter names of the published DiT checkpoints: gaekit's `dit` has the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from gaekit.errors import ArtifactError

State = dict[str, Tensor]

_WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before a parameter's name."""
NEEDED = ("x_embedder.proj.weight", "t_embedder.mlp.0.weight", "blocks.0.mlp.fc1.weight", "final_layer.linear.weight")
"""What tells DiT's and SiT's checkpoints from others."""


def from_published(state: Mapping[str, Tensor]) -> State:
    """Weights for gaekit's `dit` from a published DiT's. Raises ArtifactError for a file of another kind."""
    return unwrap(state, needed=NEEDED, kind="DiT")


def to_published(state: Mapping[str, Tensor]) -> State:
    """Inverse of `from_published`."""
    return dict(state)


def unwrap(state: Mapping[str, Tensor], *, needed: Iterable[str], kind: str) -> State:
    """`state` with its wrappers' prefixes cut off the names. Raises ArtifactError unless all of `needed` is there."""
    bare = {_bare(key): value for key, value in state.items()}
    if missing := [key for key in needed if key not in bare]:
        raise ArtifactError(
            f"not the weights of a published {kind}: {', '.join(missing)} should be there; "
            f"it holds {', '.join(sorted(bare)[:5]) or 'nothing'}"
        )
    return bare


def _bare(key: str) -> str:
    while key.startswith(_WRAPPERS):
        key = key.partition(".")[2]
    return key
