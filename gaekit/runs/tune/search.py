"""The search: evaluate settings until the budget is spent, then make the numbers of the best anew with another seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from gaekit import __version__
from gaekit.errors import GaekitError
from gaekit.recipe import dump
from gaekit.recipe.rules import guidance_has_a_null_class
from gaekit.recipe.schema import Sample
from gaekit.runs.opened import OpenRun
from gaekit.runs.tune.judge import Judge, Outcome, Wanted, read_wanted
from gaekit.runs.tune.space import TUNABLE, Choice, Space, facts_of, space_of
from gaekit.runs.tune.study import Goal, Study, Trial, best_of, spread
from gaekit.store.files import human_duration, read_json, sha256_file, sha256_json, write_json
from gaekit.store.room import Room

FOLDER, QUESTION, ANEW, RESULT = "tuning", "question.json", "anew.json", "result.json"
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
    space = space_of(section, task.names, task.max_scale, can_guide=_can_guide(run, section))
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
        anew = dict(self._anew({"own": trials[0].choice} | {str(t.number): t.choice for t in shown}))
        made = list({str(entry["settings"]): entry for entry in anew.values()}.values())
        return {
            "run": str(self.run.path),
            "metrics": [{"name": n, "better": goal} for n, goal in zip(self.names, self.goals, strict=True)],
            "budget": budget,
            "evaluations": len(trials),
            "tuned_on": {"seed": self.seed, "images": self.images},
            "reported_on": {"seed": self.seed + 1, "images": self.reported_images},
            "space": facts_of(self.space),
            "own": self._told(trials[0], anew["own"]),
            "best": [self._told(trial, anew[str(trial.number)]) for trial in shown],
            "front": [trial.number for trial in front],
            "cost": _cost([*(trial.cost for trial in trials), *(entry["cost"] for entry in made)]),
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
            "reported": anew["numbers"],
        }

    def _anew(self, choices: Mapping[str, Choice]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The numbers of settings with the seed that nothing was tuned on, each made once and kept."""
        file = self.folder / ANEW
        kept: dict[str, Any] = read_json(file) if file.exists() else {}
        for name, choice in choices.items():
            key = str(choice)
            if key not in kept:
                self.run.reporter.say(f"  anew, with seed {self.seed + 1}: {choice}")
                outcome = self.judge(choice, self.seed + 1, self.reported_images, intervals=True)
                kept[key] = {"settings": key, "numbers": _plain(outcome.entries), "cost": outcome.cost}
                write_json(file, kept)
            yield name, kept[key]


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
