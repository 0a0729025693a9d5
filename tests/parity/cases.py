"""The settings of a published sampler, out of the words in which a fixture's `config` tells them.

`sampling` maps the name of an output to a sentence: "Euler-Maruyama, SBDM, last step Mean 0.004, num_steps 12, shift
0.4, noise: torch.manual_seed(1234) ...". A sentence may lean on another ("as ode_euler, cfg scale 3.0"); the number of
steps and the seed may be said once for all that begin alike. What is not said anywhere has the published default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from parity.fixture import UnknownOutput
from torch import Tensor

from gaekit.api import Sampler
from gaekit.flow.guidance import Guidance
from gaekit.values import Draws, GeneratorDraws
from gaekit_samplers.adaptive import Dopri5, TorchDiffEq
from gaekit_samplers.ode import Euler, Heun
from gaekit_samplers.sde import EulerMaruyama, SdeHeun

NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
FORMS = "increasing-decreasing|decreasing|constant|linear|sigma|sbdm"
METHODS = "euler|heun2|heun3|heun|midpoint|rk4|dopri5|dopri8|bosh3|fehlberg2|adaptive_heun"
LAST_STEP_SIZE = 0.04
"""The published default."""


@dataclass(frozen=True)
class Case:
    """What a sentence says; None is not said."""

    method: str | None = None
    points: int | None = None
    shift: float | None = None
    atol: float | None = None
    rtol: float | None = None
    diffusion: str | None = None
    norm: float | None = None
    last_step: str | None = None
    last_step_size: float | None = None
    seed: int | None = None
    doubled: bool | None = None
    scale: float | None = None
    start: float | None = None
    end: float | None = None
    channels: str | None = None
    eta: float | None = None
    path: str | None = None
    predicts: str | None = None

    def over(self, other: Case) -> Case:
        """This case, with what it does not say taken from the other."""
        said = {name: value for name, value in vars(self).items() if value is not None}
        return replace(other, **said)

    @property
    def guidance(self) -> Guidance | None:
        """None where no scale is said."""
        if self.scale is None:
            return None
        return Guidance(self.scale, self.start or 0.0, 1.0 if self.end is None else self.end, self.channels or "all")  # type: ignore[arg-type]

    def draws(self, batch: int) -> Draws:
        """The published noise. Raises UnknownOutput without a seed."""
        if self.seed is None:
            raise UnknownOutput("the config says no seed of the noise")
        generator = torch.Generator().manual_seed(self.seed)
        return (DoubledDraws if self.doubled else GeneratorDraws)(batch, generator)


class DoubledDraws(GeneratorDraws):
    """Published guidance that draws for both halves of its doubled batch, of which the first is kept."""

    def normal(self, *tail: int) -> Tensor:
        return torch.randn(2 * self.batch, *tail, generator=self.generator)[: self.batch]


def find_case(sampling: Mapping[str, str], name: str) -> Case:
    """The case of one output. Raises UnknownOutput if the config has no sentence for it."""
    if name not in sampling:
        raise UnknownOutput(f"config.sampling says nothing of {name}; it tells of {', '.join(sampling) or 'nothing'}")
    case = _resolved(sampling, name, ())
    for other in sorted(sampling, key=lambda other: other[:3] != name[:3]):  # those that begin alike come first
        sibling = _resolved(sampling, other, ())
        case = case.over(Case(points=sibling.points if other[:3] == name[:3] else None, seed=sibling.seed))
    return case


def _resolved(sampling: Mapping[str, str], name: str, seen: tuple[str, ...]) -> Case:
    if name in seen:
        raise UnknownOutput(f"config.sampling: {name} leans on itself")
    text = sampling[name].lower()
    case = parse_case(text).over(_by_name(name))
    leaned = re.search(r"\bas (\w+)", text)
    if leaned and leaned[1] in {other.lower() for other in sampling}:
        base = next(other for other in sampling if other.lower() == leaned[1])
        case = parse_case(text).over(_resolved(sampling, base, (*seen, name)))
    return case


def parse_case(text: str) -> Case:
    """What a sentence in lower case says."""
    text = text.replace("inccreasing", "increasing")  # as published
    form = re.search(rf"diffusion(?: form)?[ :=]+({FORMS})\b", text) or re.search(r"\b(sbdm)\b", text)
    last = re.search(rf"last[ _]step[ :=]+(none|mean|tweedie|euler)(?:[ ,]+(?:of )?(?:size )?{NUMBER})?", text)
    none = re.search(r"\b(?:no|without(?: a)?) last[ _]step\b", text)
    size = re.search(rf"last[ _]step[ _]size[ :=]+{NUMBER}", text)
    return Case(
        method=_method(text),
        points=_points(text),
        shift=1.0
        if re.search(r"\b(?:no|without) shift\b", text)
        else _number(text, rf"(?:\b|_)shift[ :=]+(?:of )?{NUMBER}"),
        atol=_number(text, rf"\batol[ :=]+{NUMBER}"),
        rtol=_number(text, rf"\brtol[ :=]+{NUMBER}"),
        diffusion=form[1] if form else None,
        norm=_number(text, rf"\b(?:diffusion )?norm[ :=]+{NUMBER}"),
        last_step="none" if none else last[1] if last else None,
        last_step_size=float(size[1]) if size else float(last[2]) if last and last[2] else None,
        seed=_whole(text, r"(?:manual_seed\(|\bseed[ :=]+)(\d+)"),
        doubled=True if re.search(r"\b2n\b", text) else None,
        **_guidance(text),
        eta=_number(text, rf"\beta[ :=]+{NUMBER}"),
        path=_word(text, r"\bpath[ :=]+(linear|gvp|vp)\b"),
        predicts=_word(text, r"\bprediction[ :=]+(velocity|noise|score|data)\b"),
    )


def _guidance(text: str) -> dict[str, Any]:
    interval = re.search(rf"(?:interval|guided (?:in|on)|\bt in)[ :=]+[\[(]{NUMBER}, *{NUMBER}[\])]", text)
    start = _number(text, rf"alone (?:while|where|if|for) t < {NUMBER}")
    start = start if start is not None else _number(text, rf"guided (?:from|while t >=?|for t >=?) ?(?:t = ?)?{NUMBER}")
    end = _number(text, rf"alone (?:while|where|if|for|from) t >=? ?{NUMBER}")
    return {
        "scale": _number(text, rf"(?:\b|_)scale[ :=]+(?:of )?{NUMBER}"),
        "start": float(interval[1]) if interval else start,
        "end": float(interval[2]) if interval else end,
        "channels": "first3" if re.search(r"first (?:three|3) channels", text) else None,
    }


def _method(text: str) -> str | None:
    if "euler-maruyama" in text:
        return "euler"
    return _word(text, rf"\btorchdiffeq ({METHODS})\b") or _word(text, rf"(?<!last step )\b({METHODS})\b")


def _points(text: str) -> int | None:
    points = _whole(text, r"(\d+) (?:\w+ )?points") or _whole(text, r"num_steps[ :=]+(\d+)")
    steps = _whole(text, rf"(\d+) (?:(?:{METHODS}|integration) )?steps") if points is None else None
    return points if steps is None else steps + 1


def _by_name(name: str) -> Case:
    """What the name of an output says by itself: ode_heun2, sde_heun_sigma_tweedie."""
    parts = name.lower().split("_")[1:]
    method = next((part for part in parts if re.fullmatch(METHODS, part)), None)
    form = next((part for part in parts if re.fullmatch(FORMS, part)), None)
    last = next((part for part in parts if part in ("none", "mean", "tweedie")), None)
    return Case(method=method, diffusion=form, last_step=last)


def _word(text: str, pattern: str) -> str | None:
    found = re.search(pattern, text)
    return found[1] if found else None


def _whole(text: str, pattern: str) -> int | None:
    found = _word(text, pattern)
    return None if found is None else int(found)


def _number(text: str, pattern: str) -> float | None:
    found = _word(text, pattern)
    return None if found is None else float(found)


def ode_sampler(case: Case) -> Sampler:
    """The published ODE sampler: `points` grid points, so one step less. Raises UnknownOutput."""
    method, shift = case.method, case.shift or 1.0
    tolerances = {"atol": case.atol or 1e-6, "rtol": case.rtol or 1e-3}
    if method == "dopri5":
        return _made(Dopri5, compat="release", **tolerances)
    if case.points is None:
        raise UnknownOutput("the config says no number of steps or grid points")
    grid = {"steps": case.points - 1, "shift": shift, "compat": "release"}
    if method in ("euler", "heun", "heun2"):
        return _made(Euler if method == "euler" else Heun, **grid)
    if method is None:
        raise UnknownOutput("the config says no method")
    return _made(TorchDiffEq, method=method, **grid, **tolerances)


def sde_sampler(case: Case, compat: str) -> Sampler:
    """The published SDE sampler: `num_steps` counts the last step, and grid points where there is none."""
    if case.points is None:
        raise UnknownOutput("the config says no number of steps")
    last = case.last_step or "mean"
    solvers: dict[str | None, Callable[[Any], Sampler]] = {"euler": EulerMaruyama, "heun": SdeHeun}
    if case.method not in solvers:
        raise UnknownOutput(f"the config says no known SDE method (found: {case.method})")
    settings: dict[str, Any] = {
        "steps": case.points - (last == "none"),
        "shift": case.shift or 1.0,
        "diffusion": case.diffusion or "sbdm",
        "diffusion_norm": case.norm or 1.0,
        "last_step": last,
        "compat": compat,
    }
    if last != "none":
        settings["last_step_size"] = case.last_step_size or LAST_STEP_SIZE
    return _made(solvers[case.method], **settings)


def _made(cls: Any, **settings: Any) -> Sampler:
    sampler: Sampler = cls(cls.Config(use=cls.name, **settings))
    return sampler
