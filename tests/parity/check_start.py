"""Compare fresh networks with published ones as they start: `python tests/parity/check_start.py FILE...`

A file tells names, shapes, means, standard deviations and trained flags of a published network's tensors, and which
network that is: by a shipped recipe or by settings. Ours is built from those alone and named as `gaekit export` names
it. A line for each difference. Exit code 1 if there is one or a file describes nothing that is known.
"""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, `parity` is not on the path

from parity.starts import Expected, Settings, UnknownStart, build_published, read_start
from torch import Tensor

TOLERANCE = 0.05
"""Of a standard deviation, for it and for the mean."""
ENOUGH = 4096
"""Numbers from which on a tensor's mean and standard deviation tell something."""
DRAWS = 4
"""Starts that are averaged where one differs: the mean of 4,096 numbers strays by 1.6 % of a standard deviation, in
the file as in ours, and one tensor in a few hundred would be beyond the tolerance by chance."""


@dataclass(frozen=True)
class Found:
    """One tensor of ours; `constant` is the number that it holds everywhere, if it does."""

    shape: tuple[int, ...]
    mean: float
    std: float
    constant: float | None
    trained: bool

    @classmethod
    def of(cls, tensor: Tensor) -> Found:
        values = tensor.detach().float()
        first = float(values.flatten()[0])
        constant = first if bool((values == first).all()) else None
        std = float(values.std()) if values.numel() > 1 else 0.0
        return cls(tuple(tensor.shape), float(values.mean()), std, constant, tensor.requires_grad)


def differences(path: Path) -> list[str]:
    """A line for each difference of ours from the published start in a file."""
    try:
        start = read_start(path)
        lines = list(compare(start.tensors, [measure(start.config, 0)]))
        if lines:
            lines = list(compare(start.tensors, [measure(start.config, seed) for seed in range(DRAWS)]))
    except UnknownStart as error:
        return [str(error)]
    except Exception:  # settings of another form, or a fault of gaekit's: shown whole, and counted like any other
        traceback.print_exc()
        return ["raised; see the traceback"]
    return lines


def measure(config: Settings, seed: int) -> dict[str, Found]:
    """The tensors of a fresh network. Its memory is freed: one network is held at a time."""
    return {name: Found.of(tensor) for name, tensor in build_published(config, seed).items()}


def compare(expected: dict[str, Expected], draws: list[dict[str, Found]]) -> Iterator[str]:
    """What is missing, not expected, or different in the mean over the draws."""
    ours = draws[0]
    yield from (f"{name}: is missing" for name in expected if name not in ours)
    yield from (f"{name}: is not in the published network" for name in ours if name not in expected)
    for name, theirs in expected.items():
        if name in ours:
            yield from (f"{name}: {text}" for text in _faults(theirs, [draw[name] for draw in draws]))


def _faults(theirs: Expected, draws: list[Found]) -> Iterator[str]:
    ours = draws[0]
    if ours.shape != theirs.shape:
        yield f"of shape {ours.shape}, published {theirs.shape}"
        return
    if ours.trained != theirs.trained:
        yield f"trained {ours.trained}, published {theirs.trained}"
    if theirs.std == 0 or ours.constant is not None:
        if any(draw.constant != theirs.mean for draw in draws) or theirs.std != 0:
            yield f"{_shown(ours.mean, ours.std)}, published {_shown(theirs.mean, theirs.std)}"
        return
    if math.prod(theirs.shape) < ENOUGH:
        return
    mean, std = fmean(draw.mean for draw in draws), fmean(draw.std for draw in draws)
    # Not `>`: a number that is none differs.
    if not (abs(std - theirs.std) <= TOLERANCE * theirs.std and abs(mean - theirs.mean) <= TOLERANCE * theirs.std):
        yield f"{_shown(mean, std)}, published {_shown(theirs.mean, theirs.std)}"


def _shown(mean: float, std: float) -> str:
    return f"{mean:.4g} everywhere" if std == 0 else f"mean {mean:.4g} and deviation {std:.4g}"


def main(arguments: Sequence[str]) -> int:
    """Compare the files and print a line a difference; 0 without any, 1 with some, 2 without files."""
    if not arguments:
        print("usage: python tests/parity/check_start.py FILE...", file=sys.stderr)
        return 2
    bad = 0
    for argument in arguments:
        lines = differences(Path(argument))
        print(f"{argument}: " + (f"{len(lines)} differences" if lines else "as published"))
        for line in lines:
            print(f"  {line}", flush=True)
        bad += len(lines)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
