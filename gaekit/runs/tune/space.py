"""What is tuned: the scale of the guidance, the interval of times in which it acts, and the sampler's time shift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gaekit.errors import GaekitError
from gaekit.recipe.schema import Sample

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

SCALE, INTERVAL, SHIFT = "scale", "interval", "shift"
TUNABLE = (SCALE, INTERVAL, SHIFT)
LATEST_START, SHORTEST = 0.9, 0.1
"""The interval begins at latest here, and takes at least this share of the time that is left."""
SHIFTS = (0.2, 5.0)
DECIMALS = 3
"""Of every setting, so that what is copied from the screen is what was evaluated."""


@dataclass(frozen=True)
class Choice:
    """Settings of sampling; `shift` None where the sampler has none."""

    scale: float
    start: float
    end: float
    shift: float | None = None

    @classmethod
    def of(cls, section: Sample) -> Choice:
        """Those of a recipe."""
        guidance = section.guidance
        return cls(guidance.scale, guidance.start, guidance.end, getattr(section.sampler, "shift", None))

    def __str__(self) -> str:
        shift = "" if self.shift is None else f", shift {self.shift:g}"
        return f"scale {self.scale:g} from {self.start:g} to {self.end:g}{shift}"

    @property
    def changes(self) -> dict[str, float]:
        """By the recipe's keys."""
        found = {f"sample.guidance.{key}": getattr(self, key) for key in ("scale", "start", "end")}
        return found if self.shift is None else found | {"sample.sampler.shift": self.shift}

    @property
    def options(self) -> list[str]:
        """As words of a command: --set sample.guidance.scale=1.8 and so on."""
        return [word for key, value in self.changes.items() for word in ("--set", f"{key}={value:g}")]


@dataclass(frozen=True)
class Space:
    """The settings among which is searched: those of `names`; the others stay as in the recipe (`own`). Ranges are
    widened until they hold the recipe's own."""

    own: Choice
    names: tuple[str, ...]
    max_scale: float

    @cached_property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """By parameter, the least and the greatest value. `share` is the interval's part of what lies behind its start,
        so that every combination is an interval."""
        share = self._params(self.own)["share"]
        found: dict[str, tuple[float, float]] = {}
        if SCALE in self.names:
            found["scale"] = (min(1.0, self.own.scale), max(self.max_scale, self.own.scale))
        if INTERVAL in self.names:
            found["start"] = (0.0, max(LATEST_START, self.own.start))
            found["share"] = (min(SHORTEST, share), 1.0)
        if SHIFT in self.names and self.own.shift is not None:
            found["shift"] = (min(SHIFTS[0], self.own.shift), max(SHIFTS[1], self.own.shift))
        return found

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """As Optuna takes them: the shift, a ratio, on a logarithmic scale."""
        from optuna.distributions import FloatDistribution

        return {name: FloatDistribution(*ends, log=name == "shift") for name, ends in self.ranges.items()}

    @property
    def beginning(self) -> list[dict[str, float]]:
        """What is tried before anything is searched: the recipe's own settings, and no guidance."""
        tried = [self._params(self.own)]
        if SCALE in self.names and self.own.scale != 1:
            tried.append(tried[0] | {"scale": 1.0})
        return [{name: params[name] for name in self.ranges} for params in tried]

    def choice(self, params: Mapping[str, float]) -> Choice:
        """The settings that parameters stand for."""
        own = self._params(self.own)
        found = {name: params.get(name, own[name]) for name in own}
        start, shift = round(found["start"], DECIMALS), self.own.shift
        end = found["start"] + found["share"] * (1 - found["start"])
        return Choice(
            round(found["scale"], DECIMALS),
            start,
            max(round(end, DECIMALS), round(start + 10**-DECIMALS, DECIMALS)),
            None if shift is None else round(found["shift"], DECIMALS),
        )

    def _params(self, choice: Choice) -> dict[str, float]:
        share = (choice.end - choice.start) / (1 - choice.start) if choice.start < 1 else 1.0
        found = {"scale": choice.scale, "start": choice.start, "share": share}
        return found if choice.shift is None else found | {"shift": choice.shift}


def space_of(section: Sample, names: Sequence[str], max_scale: float, *, can_guide: bool) -> Space:
    """The space of a recipe's section `sample`. Raises GaekitError for names that are none, and where nothing is left:
    guidance needs a null class or a weaker denoiser (`can_guide`), a shift a sampler that has one."""
    if wrong := [name for name in names if name not in TUNABLE]:
        raise GaekitError(f"--tune {','.join(wrong)}: no such setting; there are {', '.join(TUNABLE)}")
    if max_scale <= 1:
        raise GaekitError(f"--max-scale {max_scale:g}: expected more than 1, which is no guidance")
    own = Choice.of(section)
    without = {SCALE: not can_guide, INTERVAL: not can_guide, SHIFT: own.shift is None}
    left = tuple(name for name in TUNABLE if name in names and not without[name])
    if not left:
        why = "its null class was never trained (diffusion.label_dropout: 0) and no weaker denoiser guides it"
        why = f"{why}, and " * (not can_guide) + f"the sampler '{section.sampler.use}' has no shift" * without[SHIFT]
        raise GaekitError(f"--tune {','.join(names)}: nothing is left to tune: {why.removesuffix(', and ')}")
    return Space(own, left, max_scale)


def facts_of(space: Space) -> dict[str, Any]:
    """The space as JSON values."""
    return {name: list(ends) for name, ends in space.ranges.items()}
