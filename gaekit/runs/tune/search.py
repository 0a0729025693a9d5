"""The search: evaluate settings until the budget is spent, then make the numbers of the best anew with another seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from gaekit import __version__
from gaekit.api import ComponentConfig, Sampler
from gaekit.errors import ArtifactError, GaekitError
from gaekit.flow.field import Field
from gaekit.flow.gaussian import GaussianDenoiser
from gaekit.flow.processes import get_process
from gaekit.plugins import build
from gaekit.recipe import dump
from gaekit.recipe.rules import guidance_has_a_null_class
from gaekit.recipe.schema import Sample
from gaekit.runs.opened import OpenRun
from gaekit.runs.tune.judge import Judge, Outcome, Wanted, read_wanted
from gaekit.runs.tune.space import SHIFTS, TUNABLE, Choice, Space, facts_of, space_of
from gaekit.runs.tune.study import JOURNAL, Goal, Study, Trial, best_of, spread
from gaekit.store.files import human_duration, read_json, sha256_file, sha256_json, write_json
from gaekit.store.record import is_finite, is_metrics
from gaekit.store.room import Room
from gaekit.train.draws import ImageDraws

FOLDER, QUESTION, ANEW, RESULT = "tuning", "question.json", "anew.json", "result.json"
COSTS = ("images", "evaluations_per_image", "seconds")
FEWEST = 2
MOST_ANEW = 5
"""Of a Pareto front, the settings whose numbers are made anew."""
DIGITS = 6


class Evaluate(Protocol):
    """Judges settings: a `Judge`, or what stands in for one."""

    def __call__(self, choice: Choice, seed: int, images: int, *, intervals: bool = False) -> Outcome:
        """The numbers of so many images by these settings and this seed."""

    def goals(self, labels: Sequence[str]) -> list[Goal]:
        """Whether less or more of each number is better."""


@dataclass(frozen=True)
class Task:
    """What is asked: the number to improve, and a second one where a front of both is wanted; so many evaluations in
    all, of `images` each (the recipe's count by default), by images of `seed` (the recipe's and one by default)."""

    metric: str
    also: str | None = None
    budget: int = 40
    images: int | None = None
    seed: int | None = None
    names: tuple[str, ...] = TUNABLE
    max_scale: float = 5.0


@dataclass(frozen=True)
class Found:
    """What a search found: its folder and the result as JSON values, as it stands in `result.json` there. `new`: how
    many evaluations this call made."""

    folder: Path
    result: dict[str, Any]
    new: int


def tune_guidance(run: OpenRun, task: Task, evaluate: Evaluate | None = None) -> Found:
    """Search the settings of a run's sampling until the budget is spent; a second call of the same task goes on.

    Raises GaekitError for a task that this run cannot be given, RoomInUse where another process is at it, RunFailed for
    a number that is not finite.
    """
    section, seed = _checked(run, task)
    wanted = [read_wanted(run, text) for text in (task.metric, task.also) if text is not None]
    if len({one.label for one in wanted}) < len(wanted):
        raise GaekitError(f"--also {task.also}: is called as the metric is; name another number: NAME={{use: ...}}")
    can = {"can_guide": _can_guide(run, section), "can_shift": _can_shift(run, section)}
    space = space_of(section, task.names, task.max_scale, **can)
    for name, why in space.left_out:
        run.reporter.say(f"{name}: left out, since {why}")
    judge = evaluate or Judge(run, wanted)
    images = task.images or section.count
    question = _question(run, section, judge, wanted, space, seed, images)
    folder = run.path / FOLDER / f"{_named(wanted)}-{sha256_json(question)[:DIGITS]}"
    with Room(folder).lock():
        write_json(folder / QUESTION, question)
        names = [one.label for one in wanted]
        search = _Search(run, folder, space, judge, names, judge.goals(names), seed, images, section.count)
        new = search.spend(task.budget)
        result = search.result(task.budget)
        write_json(folder / RESULT, result)
    return Found(folder, result, new)


def _checked(run: OpenRun, task: Task) -> tuple[Sample, int]:
    section = run.recipe.sample
    if section is None:
        raise GaekitError(f"{run.path}: its recipe has no section 'sample', so there is nothing to tune")
    if task.budget < FEWEST:
        raise GaekitError(
            f"--budget {task.budget}: expected {FEWEST} evaluations or more: the recipe's own, and others"
        )
    seed = run.recipe.seed + 1 if task.seed is None else task.seed
    if run.recipe.seed in (seed, seed + 1):
        raise GaekitError(
            f"--seed {seed}: is tuned on, and {seed + 1} is reported on; neither may be the recipe's own, "
            f"{run.recipe.seed}"
        )
    return section, seed


def _can_guide(run: OpenRun, section: Sample) -> bool:
    """Whether a guided image differs from one that is not: by a weaker denoiser, or a null class that was trained."""
    if section.guidance.weak is not None:
        return True
    guided = section.model_copy(update={"guidance": section.guidance.model_copy(update={"scale": 2.0})})
    recipe = run.recipe.model_copy(update={"sample": guided})
    return bool(run.classes) and not list(guidance_has_a_null_class(recipe, run.registry))


def _can_shift(run: OpenRun, section: Sample) -> bool:
    """Whether the sampler's shift changes what it makes; a solver that chooses its steps itself, or takes one alone,
    makes the same with any. It is tried on a field that is known."""
    shift = getattr(section.sampler, "shift", None)
    if shift is None:
        return False
    other = next(end for end in SHIFTS if end != shift)
    return not torch.equal(*(_sampled(run, section.sampler.model_copy(update={"shift": s})) for s in (shift, other)))


def _sampled(run: OpenRun, config: ComponentConfig) -> Tensor:
    """What a sampler makes of two places of noise by the best denoiser of normal data."""
    spec, predicts = run.denoiser.spec, run.denoiser.network.predicts
    process = get_process(spec.path, spec.betas)
    known = GaussianDenoiser(process, predicts, torch.tensor([0.5]), torch.tensor([0.25]), learned_variance=True)
    draws = ImageDraws(0, "shift", range(2), torch.device("cpu"))
    field = Field(known, process, None, torch.zeros(2, dtype=torch.int64), 0, predicts)
    sampler: Sampler = build(Sampler, config, run.registry)
    return sampler.sample(field, draws.normal(1, 1, 1), draws=draws)


def _question(
    run: OpenRun, section: Sample, judge: Evaluate, wanted: Sequence[Wanted], space: Space, seed: int, images: int
) -> dict[str, Any]:
    """All that decides what an evaluation gives and what is tried: a study is about one question."""
    return {
        "metrics": [one.text for one in wanted],
        "judged_by": [dump(config) for config in judge.configs] if isinstance(judge, Judge) else None,
        "sample": dump(section),
        "space": facts_of(space),
        "seed": seed,
        "images": images,
        "dataset": run.data.digest,
        "sha256": {name: sha256_file(run.view.artifact(name)) for name in ("autoencoder", "diffusion")},
    }


def _named(wanted: Sequence[Wanted]) -> str:
    """The numbers in letters that a folder's name may have."""
    words = ("".join(c if c.isalnum() or c == "_" else "_" for c in one.label) for one in wanted)
    return "-".join(words)[:60]


@dataclass
class _Search:
    run: OpenRun
    folder: Path
    space: Space
    judge: Evaluate
    names: list[str]
    goals: list[Goal]
    seed: int
    images: int
    reported_images: int

    def __post_init__(self) -> None:
        self.study = Study(self.folder, self.space, self.goals, self.seed)
        for trial in self.study.trials:
            _check_cost(trial.cost, self.folder / JOURNAL)

    def spend(self, budget: int) -> int:
        """Evaluate until there are so many evaluations; -> how many were made now."""
        done, say = len(self.study), self.run.reporter.say
        if done:
            left = max(0, budget - done)
            say(f"{done} of {budget} evaluations are there; {f'{left} to go' if left else 'none is left to make'}")
        with self.run.reporter.bar("evaluations", budget, min(done, budget), "evaluations") as bar:
            for number in range(done, budget):
                params = self.study.next()
                choice = self.space.choice(params)
                outcome = self.judge(choice, self.seed, self.images)
                self.study.add(params, outcome.values, outcome.cost)
                bar.advance()
                numbers = ", ".join(f"{name} {v:.4g}" for name, v in zip(self.names, outcome.values, strict=True))
                say(f"  [{number + 1}/{budget}] {choice}: {numbers}, {human_duration(outcome.seconds)}")
        return max(0, budget - done)

    def result(self, budget: int) -> dict[str, Any]:
        """What was found, with the numbers of the best and of the recipe's own settings made anew."""
        trials = self.study.trials
        front = best_of(trials, self.goals)
        shown = spread(front, MOST_ANEW)
        anew = self._anew([trials[0].choice, *(trial.choice for trial in shown)])
        return {
            "run": str(self.run.path),
            "metrics": [{"name": n, "better": goal} for n, goal in zip(self.names, self.goals, strict=True)],
            "budget": budget,
            "evaluations": len(trials),
            "tuned_on": {"seed": self.seed, "images": self.images},
            "reported_on": {"seed": self.seed + 1, "images": self.reported_images},
            "space": facts_of(self.space),
            "own": self._told(trials[0], anew),
            "best": [self._told(trial, anew) for trial in shown],
            "front": [trial.number for trial in front],
            "cost": _cost([*(trial.cost for trial in trials), *(entry["cost"] for entry in anew.values())]),
            "trials": [{"number": t.number, "settings": asdict(t.choice), "values": list(t.values), "cost": t.cost}
                       for t in trials],
            "gaekit": __version__,
        }  # fmt: skip

    def _told(self, trial: Trial, anew: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "trial": trial.number,
            "settings": asdict(trial.choice),
            "set": trial.choice.changes,
            "tuned": dict(zip(self.names, trial.values, strict=True)),
            "reported": anew[str(trial.choice)]["numbers"],
        }

    def _anew(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The numbers of settings with the seed that nothing was tuned on, each made once and kept; -> those that are
        kept, by the settings in words, of earlier searches too."""
        file = self.folder / ANEW
        kept = read_anew(file)
        for choice in choices:
            key = str(choice)
            if key not in kept:
                self.run.reporter.say(f"  anew, with seed {self.seed + 1}: {choice}")
                outcome = self.judge(choice, self.seed + 1, self.reported_images, intervals=True)
                kept[key] = {"settings": key, "numbers": _plain(outcome.entries), "cost": outcome.cost}
                write_json(file, kept)
        return kept


def read_anew(file: Path) -> dict[str, Any]:
    """What was made anew before. Raises ArtifactError for a file that holds something else."""
    kept = read_json(file) if file.exists() else {}
    if not isinstance(kept, dict):
        raise ArtifactError(f"{file}: is no record of numbers that were made anew; remove it to make them again")
    for one in kept.values():
        if not isinstance(one, dict) or not is_metrics(one.get("numbers")):
            raise ArtifactError(f"{file}: damaged: an entry without numbers; remove it to make them again")
        _check_cost(one.get("cost"), file)
    return kept


def _check_cost(cost: Any, file: Path) -> None:
    """Raise ArtifactError where what an evaluation took cannot be summed."""
    given = [cost.get(key) for key in COSTS] if isinstance(cost, dict) else []
    if not given or not all(is_finite(value) and 0 <= value <= 1e15 for value in given):
        raise ArtifactError(f"{file}: damaged: an evaluation's cost is {cost!r:.100}; remove it to begin anew")


def _plain(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {k: entry[k] for k in ("value", "interval", "protocol") if k in entry}
            for name, entry in entries.items()}  # fmt: skip


def _cost(costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums over evaluations, those anew included."""
    total: Callable[[str], float] = lambda key: sum(cost[key] for cost in costs)  # noqa: E731
    return {
        "evaluations": len(costs),
        "images": total("images"),
        "network_evaluations": round(sum(cost["images"] * cost["evaluations_per_image"] for cost in costs)),
        "seconds": round(total("seconds"), 1),
    }
