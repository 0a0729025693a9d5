"""What a stage is: one object that declares everything that planning, sizing and running read of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaekit.plugins import Registry
from gaekit.recipe.schema import From, Recipe, StageSection, Train
from gaekit.stages.job import Job
from gaekit.stages.network import Network


@dataclass(frozen=True)
class External:
    """An artifact of `stage` that another stage's section names: `key` is where in the recipe, `path` what a person
    wrote there."""

    stage: Stage
    path: Path
    key: str


def _nothing_external(recipe: Recipe) -> Mapping[str, External]:
    return {}


def _no_networks(recipe: Recipe, registry: Registry, classes: int | None) -> Iterable[Network]:
    return ()


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe; its name is also that of the recipe's section.

    revision: raised when the stage gives other numbers than before. artifact: what its result is called in its room.
    parts: the fields of the recipe that decide the result. run: does the work; returns what DONE records. needs: the
    stages whose artifacts it cannot do without. optional: those whose artifacts it reads where the recipe has them.
    reads_data: whether it reads the data set. kind: of its artifact, where that is one safetensors file. external:
    artifacts that its section names beside `needs`, by the input that each becomes. train: the training alone, for
    measuring it; it leaves no artifact. networks: what the training holds, built on the default device, for so many
    classes (None: unknown). previews: the names of the networks that the training draws samples with.
    """

    name: str
    revision: int
    artifact: str
    parts: Callable[[Recipe], dict[str, Any]]
    run: Callable[[Job], dict[str, Any]]
    needs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    reads_data: bool = False
    kind: str | None = None
    external: Callable[[Recipe], Mapping[str, External]] = _nothing_external
    networks: Callable[[Recipe, Registry, int | None], Iterable[Network]] = _no_networks
    previews: tuple[str, ...] = ()
    train: Callable[[Job], object] | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The stages whose artifacts it reads."""
        return (*self.needs, *self.optional)

    def section(self, recipe: Recipe) -> StageSection | None:
        """The recipe's section of this stage; None where it has none."""
        return dict(recipe.sections()).get(self.name)

    def is_imported(self, recipe: Recipe) -> bool:
        """Whether the recipe takes this stage's artifact from elsewhere."""
        return isinstance(self.section(recipe), From)

    def training(self, recipe: Recipe) -> Train | None:
        """How the recipe trains in this stage; None where it does not."""
        section = self.section(recipe)
        return None if section is None else section.training
