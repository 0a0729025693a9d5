"""What the shapes of a network's tensors tell of its settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from gaekit.errors import ArtifactError

_PUBLISHED_HEADS = {
    (12, 384): 6, (12, 768): 12, (24, 1024): 16, (28, 1152): 16, (24, 1536): 24, (28, 1792): 28,
}  # fmt: skip
"""Heads by depth and width, of the sizes that were published."""


def tensor(state: Mapping[str, Tensor], name: str, kind: str) -> Tensor:
    """The tensor of that name. Raises ArtifactError where it is missing: the file is of another kind."""
    if name not in state:
        raise ArtifactError(
            f"not the weights of {kind}: {name} should be there; it holds {', '.join(sorted(state)[:5]) or 'nothing'}"
        )
    return state[name]


def depth_of(state: Mapping[str, Tensor], stem: str, kind: str) -> int:
    """The number of blocks `<stem>0.`, `<stem>1.`, ...: one more than the last. Raises ArtifactError for none, and for
    more than there are tensors."""
    numbers = {key.removeprefix(stem).partition(".")[0] for key in state if key.startswith(stem)}
    indices = [int(number) for number in numbers if number.isdecimal() and len(number) < 20]
    if not indices:
        raise ArtifactError(f"not the weights of {kind}: it has no {stem}0")
    if max(indices) >= len(state):
        raise ArtifactError(
            f"not the weights of {kind}: it has a {stem}{max(indices)}, and {len(state)} tensors in all"
        )
    return max(indices) + 1


def in_some_block(state: Mapping[str, Tensor], stem: str, name: str) -> Tensor | None:
    """The tensor `name` of the first block that has it, so that a lost one is told among what is missing."""
    found = {key[len(stem) :].partition(".")[0]: value for key, value in state.items()
             if key.startswith(stem) and key.endswith(f".{name}")}  # fmt: skip
    return min(((int(index), value) for index, value in found.items()), key=lambda pair: pair[0])[1] if found else None


def of_blocks(state: Mapping[str, Tensor], stem: str, name: str, kind: str) -> Tensor:
    """As `in_some_block`; raises ArtifactError where no block has it."""
    found = in_some_block(state, stem, name)
    return tensor(state, f"{stem}0.{name}", kind) if found is None else found


def side_of(tokens: int, name: str) -> int:
    """The side of a square of so many tokens. Raises ArtifactError for another shape."""
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ArtifactError(f"{name} holds {tokens} positions, which are no square; gaekit's grids are square")
    return side


def heads_of(depth: int, width: int, *, head_dim: int | None, given: int | None, option: str = "--heads") -> int:
    """Attention heads: by the width of a head where tensors tell it, else as said, else those of the published size.

    Raises ArtifactError where none of these says it, or where they contradict each other.
    """
    if head_dim is not None:
        if given is not None and given * head_dim != width:
            raise ArtifactError(
                f"{option} {given}: the file's heads have {head_dim} channels, so {width // head_dim} share {width}"
            )
        return width // head_dim
    heads = given or _PUBLISHED_HEADS.get((depth, width))
    if heads is None:
        raise ArtifactError(
            f"the tensors do not tell how many heads share the {width} channels, and depth {depth} with this width is "
            f"no published size; say it with {option} N"
        )
    if width % heads:
        raise ArtifactError(f"{option} {heads}: {heads} heads cannot share {width} channels")
    return heads


def ratio_of(width: int, hidden: int, made: Callable[[float], int]) -> float:
    """A ratio for which `made(ratio)` is `hidden`, the published 4 first. Raises ArtifactError where there is none."""
    for ratio in _ratios(width, hidden):
        if made(ratio) == hidden:
            return ratio
    raise ArtifactError(f"an MLP of {hidden} hidden channels in a width of {width} has no ratio that makes it")


def _ratios(width: int, hidden: int) -> Iterator[float]:
    yield 4.0
    for target in (hidden, 1.5 * hidden, math.ceil(1.5 * hidden)):
        for within in (0.0, 0.25, 0.5, 1.0, 1.25):  # widths are cut to whole numbers: aim between two
            yield (target + within) / width


def classes_of(rows: int, names: list[str] | None) -> tuple[tuple[str, ...], bool]:
    """(class names, whether the label table of `rows` has a row of no class). Without names they are "0", "1", ...

    Raises ArtifactError for a number of names that fits neither way.
    """
    if names is None:
        return tuple(str(index) for index in range(rows - 1)), True
    if len(names) not in (rows, rows - 1):
        raise ArtifactError(
            f"--classes names {len(names)} classes; the label table has {rows} rows, so {rows - 1} classes and the row "
            f"of no class, or {rows} classes without one"
        )
    return tuple(names), len(names) == rows - 1
