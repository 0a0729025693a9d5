"""Every error that gaekit raises for a person to read, and the exit code each ends a command with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class GaekitError(Exception):
    """Something the user can mend: the message says what, where, what was given and what would be right (exit 2)."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a recipe: `path` are the keys that lead to it.

    The loader fills in where it was written: `line` (from 1) of the file, or `origin`, the option that set it.
    `related` are other keys of which it speaks: where an option set one of them, that option is to blame.
    """

    path: tuple[str | int, ...]
    text: str
    line: int | None = None
    origin: str | None = None
    related: tuple[tuple[str | int, ...], ...] = ()

    @property
    def dotted(self) -> str:
        """The key path as a person writes it: `autoencoder.train.steps`, `evaluate.metrics[1].use`."""
        text = ""
        for part in self.path:
            text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
        return text.replace("\n", "\\n")  # a problem is one line, whatever the keys of a file hold


class RecipeError(GaekitError):
    """All problems of one recipe, a line each, sorted by line: `recipes/x.yaml:12: a.b: unknown key`."""

    def __init__(self, source: str | Path, problems: Sequence[Problem]):
        self.source = str(source)
        self.problems = sorted(problems, key=lambda p: (p.line or 0, p.origin or "", p.dotted))
        super().__init__("\n".join(self._describe(p) for p in self.problems))

    def _describe(self, problem: Problem) -> str:
        where = problem.origin or (self.source if problem.line is None else f"{self.source}:{problem.line}")
        return f"{where}: {problem.dotted}: {problem.text}" if problem.path else f"{where}: {problem.text}"


class PluginError(GaekitError):
    """A plugin that breaks the contract: a clash of names, a misspelt hook, an incomplete component."""


class ArtifactError(GaekitError):
    """A file of a run that is absent, incomplete or of another kind than asked for."""


class DataError(GaekitError):
    """Images that cannot be used; the message names the file."""


class DataAbsent(DataError):
    """The data set is not where the recipe says; `check` and `plan` work without it, `run` does not."""


class BadImage(DataError):
    """One file that cannot be decoded; data sets with `on_bad_image: skip` go on without it, counted."""


class RunFailed(GaekitError):
    """The training itself failed: a non-finite loss, dead gradients (exit 3). Checkpoints stay as they were."""

    exit_code = 3


class MachineFailed(GaekitError):
    """The machine failed: a full disk, a killed worker (exit 4)."""

    exit_code = 4


class ReportedByRank0(GaekitError):
    """What another process of this run failed with and reports itself: this one ends with the same code, in silence."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class Interrupted(GaekitError):
    """Stopped by Ctrl-C after saving; the same command goes on (exit 130)."""

    exit_code = 130


class Preempted(GaekitError):
    """Stopped by SIGTERM or SIGUSR1 after saving; the same command goes on (exit 85)."""

    exit_code = 85
