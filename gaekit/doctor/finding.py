"""What `gaekit doctor` looks at, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gaekit.plugins import Registry
from gaekit.recipe.schema import Recipe


@dataclass(frozen=True)
class Finding:
    """What one check found. `fix` is a command or an action; without one nothing is wrong."""

    check: str
    what: str
    fix: str = ""

    @property
    def is_problem(self) -> bool:
        """Whether something has to be done."""
        return bool(self.fix)

    def __str__(self) -> str:
        return f"PROBLEM {self.check}: {self.what} FIX {self.fix}" if self.fix else f"OK {self.check}: {self.what}"


@dataclass(frozen=True)
class Case:
    """The installation with its plugins, the folder of all runs, and the recipe to be run, if one was given."""

    registry: Registry
    out: Path
    recipe: Recipe | None = None
