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
"""Of every setting that is tuned, so that what is copied from the screen is what was evaluated."""


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
        return [word for key, value in self.changes.items() for word in ("--set", f"{key}={value:.12g}")]


@dataclass(frozen=True)
class Space:
    """The settings among which is searched: those of `names`; the others stay as in the recipe (`own`). Ranges are
    widened until they hold the recipe's own. `left_out` are the settings that were asked for and would change nothing:
    of each its name and why."""

    own: Choice
    names: tuple[str, ...]
    max_scale: float
    left_out: tuple[tuple[str, str], ...] = ()

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
        """The settings that parameters stand for: rounded, but for those of the recipe."""
        own = self._params(self.own)
        if all(own[name] == value for name, value in params.items()):
            return self.own
        found = {name: round(params[name], DECIMALS) if name in params else own[name] for name in own}
        if "start" in params:
            end = params["start"] + params["share"] * (1 - params["start"])
            found["end"] = max(round(end, DECIMALS), round(found["start"] + 10**-DECIMALS, DECIMALS))
        return Choice(found["scale"], found["start"], found.get("end", self.own.end), found.get("shift"))

    def _params(self, choice: Choice) -> dict[str, float]:
        share = (choice.end - choice.start) / (1 - choice.start) if choice.start < 1 else 1.0
        found = {"scale": choice.scale, "start": choice.start, "share": share}
        return found if choice.shift is None else found | {"shift": choice.shift}


def space_of(section: Sample, names: Sequence[str], max_scale: float, *, can_guide: bool, can_shift: bool) -> Space:
    """The space of a recipe's section `sample`. Raises GaekitError for names that are none, and where nothing is left:
    guidance needs a null class or a weaker denoiser (`can_guide`), a shift a sampler that goes by it (`can_shift`)."""
    if wrong := [name for name in names if name not in TUNABLE]:
        raise GaekitError(f"--tune {','.join(wrong)}: no such setting; there are {', '.join(TUNABLE)}")
    if max_scale <= 1:
        raise GaekitError(f"--max-scale {max_scale:g}: expected more than 1, which is no guidance")
    own = Choice.of(section)
    why: dict[str, str] = {}
    if not can_guide:
        why[SCALE] = why[INTERVAL] = "no null class was trained (diffusion.label_dropout) and no weaker denoiser guides"
    elif SCALE not in names and own.scale == 1:
        why[INTERVAL] = "guidance of scale 1 is none in any interval, and the scale is not tuned"
    if own.shift is None:
        why[SHIFT] = f"the sampler '{section.sampler.use}' has none"
    elif not can_shift:
        why[SHIFT] = f"the sampler '{section.sampler.use}', as it is set, makes the same with any"
    asked = [name for name in TUNABLE if name in names]
    left_out = tuple((name, why[name]) for name in asked if name in why)
    if len(left_out) == len(asked):
        told = "; ".join(f"{name}: {reason}" for name, reason in left_out)
        raise GaekitError(f"--tune {','.join(names)}: nothing is left to tune: {told}")
    return Space(own, tuple(name for name in asked if name not in why), max_scale, left_out)


def facts_of(space: Space) -> dict[str, Any]:
    """The space as JSON values."""
    return {name: list(ends) for name, ends in space.ranges.items()}
