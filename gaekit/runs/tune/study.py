"""The study: every finished evaluation, kept in Optuna's journal, and what is to be tried next.

The next settings are a function of the seed, the number of the evaluation and the finished ones alone, so a search that
was killed goes on as if it had not been. An evaluation that was being made then is made again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gaekit.errors import ArtifactError, GaekitError, RunFailed
from gaekit.inside import require_regular
from gaekit.runs.tune.space import Choice, Space
from gaekit.seeds import seed_for

JOURNAL, NAME = "study.log", "guidance"
FIRST_RANDOM = 10
"""Evaluations before the search begins to learn from them (Optuna's default)."""
Goal = Literal["lower", "higher"]
DIRECTIONS: dict[Goal, str] = {"lower": "minimize", "higher": "maximize"}


@dataclass(frozen=True)
class Trial:
    """A finished evaluation: its number from 0, its settings, a value for each goal, what it took."""

    number: int
    choice: Choice
    values: tuple[float, ...]
    cost: dict[str, Any]


class Study:
    """The finished evaluations in a folder. One process at a time may have it open. Raises ArtifactError for a journal
    that is no such study's, or no file of its own: what is appended would be written into another."""

    def __init__(self, folder: Path, space: Space, goals: Sequence[Goal], seed: int):
        self.space, self.goals, self.seed = space, tuple(goals), seed
        self._optuna = _optuna()
        self._directions = [DIRECTIONS[goal] for goal in goals]
        self._file = folder / JOURNAL
        _mend(self._file)
        self._study = self._begin()
        _ = self.trials

    def _begin(self) -> Any:
        """The study in the journal, begun where there is none."""
        storages = self._optuna.storages
        try:
            return self._optuna.create_study(
                storage=storages.JournalStorage(storages.journal.JournalFileBackend(str(self._file))),
                study_name=NAME,
                directions=self._directions,
                load_if_exists=True,
            )
        except OSError:
            raise
        except Exception as error:  # a line that is no JSON, no operation, of no study, of no trial
            raise self._damaged(error) from error

    def __len__(self) -> int:
        return len(self._study.trials)

    @property
    def trials(self) -> list[Trial]:
        """Every finished evaluation, in order."""
        try:
            return [self._trial(trial) for trial in self._study.trials]
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise self._damaged(error) from error

    def _trial(self, trial: Any) -> Trial:
        values = tuple(map(float, trial.values))
        if trial.params.keys() != self.space.ranges.keys():
            raise ValueError(f"evaluation {trial.number} is of {', '.join(map(repr, trial.params)) or 'no settings'}")
        if len(values) != len(self.goals) or not all(map(math.isfinite, [*values, *trial.params.values()])):
            raise ValueError(f"evaluation {trial.number} has the values {values}")
        return Trial(trial.number, self.space.choice(trial.params), values, dict(trial.user_attrs))

    def _damaged(self, error: Exception) -> ArtifactError:
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        return ArtifactError(f"{self._file}: is no study of this search ({why}); remove it to begin the search anew")

    def next(self) -> dict[str, float]:
        """The parameters to be evaluated next."""
        number, first = len(self), self.space.beginning
        if number < len(first):
            return first[number]
        seed = seed_for(self.seed, "tune guidance", number) % (1 << 32)
        sampler = self._optuna.samplers.TPESampler(seed=seed, n_startup_trials=FIRST_RANDOM)
        study = self._optuna.create_study(directions=self._directions, sampler=sampler)
        study.add_trials(self._study.trials)
        return dict(study.ask(self.space.distributions).params)

    def add(self, params: Mapping[str, float], values: Sequence[float], cost: Mapping[str, Any]) -> None:
        """Keep an evaluation. Raises RunFailed for a value that is not finite."""
        if not all(math.isfinite(value) for value in values):
            choice = self.space.choice(params)
            raise RunFailed(f"{choice}: the metric gave {', '.join(map(str, values))}, which cannot be compared")
        trial = self._optuna.trial.create_trial(
            params=dict(params), distributions=self.space.distributions, values=list(values), user_attrs=dict(cost)
        )
        self._study.add_trial(trial)


def best_of(trials: Sequence[Trial], goals: Sequence[Goal]) -> list[Trial]:
    """The best trial, the first of equal ones; of two goals the Pareto front, from the best by the first goal on: those
    than which no other is as good by both and better by one."""
    keyed = [(tuple(v if goal == "lower" else -v for v, goal in zip(t.values, goals, strict=True)), t) for t in trials]
    keyed.sort(key=lambda pair: (pair[0], pair[1].number))
    front: list[Trial] = []
    least = math.inf
    for key, trial in keyed:
        if not front or (len(key) > 1 and key[1] < least):
            front.append(trial)
            least = key[-1]
    return front


def spread(front: Sequence[Trial], most: int) -> list[Trial]:
    """At most so many of a front, from one end to the other."""
    if len(front) <= most:
        return list(front)
    return [front[round(place * (len(front) - 1) / (most - 1))] for place in range(most)]


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise GaekitError(
            "tuning needs optuna, which is not installed; `pip install 'gaekit[tune]'` brings it"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _mend(file: Path) -> None:
    """Remove what a kill left: a line cut short, and the lock. The folder's own lock says that nobody else writes."""
    file.with_name(f"{file.name}.lock").unlink(missing_ok=True)
    if file.is_symlink():
        raise ArtifactError(f"{file}: is a link, and what it leads to is not written to; remove it to begin anew")
    if file.exists() and require_regular(file, "a study") and not (text := file.read_bytes()).endswith(b"\n"):
        with file.open("r+b") as opened:
            opened.truncate(text.rfind(b"\n") + 1)
