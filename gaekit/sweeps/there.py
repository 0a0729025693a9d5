"""What of a sweep's runs is there: finished ones, and the rooms that the others still need."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gaekit.errors import GaekitError
from gaekit.pipeline.generations import RoomChooser, earlier_record, rooms_of_run
from gaekit.pipeline.plan import Plan, StagePlan, make_plan
from gaekit.pipeline.view import RECIPE, STORE, View
from gaekit.plugins import Registry
from gaekit.recipe import canonical, load_recipe
from gaekit.recipe.schema import Recipe
from gaekit.stages.data import Data
from gaekit.store.files import sha256_json
from gaekit.sweeps.members import Member, Sweep


class Planned:
    """The plans of a sweep's runs against the store in `out`, for so many processes a run.

    Raises DataAbsent and ArtifactError if `need_data` and a run could not begin.
    """

    def __init__(self, sweep: Sweep, out: Path, registry: Registry, *, processes: int = 1, need_data: bool = False):
        self.sweep, self.out = sweep, out
        data: dict[str, Data] = {}  # listed once for all runs of one data set
        self._plans: dict[str, Plan] = {}
        for member in sweep.members:
            own = data.setdefault(sha256_json(canonical(member.recipe.dataset)), Data(member.recipe, registry))
            self._plans[member.label] = make_plan(
                member.recipe, registry, out / STORE, data=own, need_data=need_data, processes=processes
            )

    def view(self, member: Member) -> View:
        """The folder of a run."""
        return View(self.out / member.run)

    def plan(self, member: Member) -> Plan:
        """The plan of a run as things stand now."""
        plan = self._plans[member.label]
        plan.place(RoomChooser(self.out / STORE, rooms_of_run(self.view(member))))
        return plan

    def missing(self, member: Member) -> StagePlan | None:
        """The first stage that a run has yet to make; None where all are there."""
        stages = (stage for stage in self.plan(member).stages if stage.status not in ("cached", "from"))
        return next(stages, None)

    def is_finished(self, member: Member) -> bool:
        """Whether the run has come to its end, with just what its recipe, its data and this gaekit would make now."""
        record = earlier_record(self.view(member))
        if record.get("finished") is None or self.missing(member) is not None:
            return False
        made = {stage: entry["identity"] for stage, entry in record["stages"].items()}
        return made == {stage.name: stage.identity for stage in self._plans[member.label].stages}


@dataclass(frozen=True)
class Share:
    """How often a stage is made for all runs of a sweep. `rooms` are its different results, of which some are `there`;
    `runs` are the least and the most that one result serves."""

    stage: str
    rooms: int
    there: int
    runs: tuple[int, int]


def shares(planned: Planned) -> Iterator[Share]:
    """How often each stage is made, in the order of the stages."""
    used: dict[str, Counter[str]] = defaultdict(Counter)
    there: dict[str, set[str]] = defaultdict(set)
    for member in planned.sweep.members:
        for stage in planned.plan(member).stages:
            if stage.room is not None:
                used[stage.name][str(stage.room.out)] += 1
                there[stage.name] |= {str(stage.room.out)} if stage.status == "cached" else set()
    for name, rooms in used.items():
        yield Share(name, len(rooms), len(there[name]), (min(rooms.values()), max(rooms.values())))


def has_results(view: View, recipe: Recipe, registry: Registry) -> bool:
    """Whether a run of this recipe, whatever its `runtime`, has come to its end. Needs no data."""
    if earlier_record(view).get("finished") is None:
        return False
    try:
        made = load_recipe(view.path / RECIPE, registry)
    except (GaekitError, OSError):
        return False
    same = {"runtime": recipe.runtime}
    return bool(canonical(made.model_copy(update=same)) == canonical(recipe))
