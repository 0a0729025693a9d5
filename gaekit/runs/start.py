"""Running a recipe from Python, as `gaekit run` does from a shell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gaekit.pipeline.run import run_recipe
from gaekit.pipeline.view import RECIPE
from gaekit.plugins import load_plugins
from gaekit.recipe.load import CheckedRecipe, check_recipe_data
from gaekit.recipe.overrides import as_document
from gaekit.runs.opened import OpenRun, open_run
from gaekit.runs.report import end_with_report
from gaekit.sizing.build import build_problems


def start(
    recipe: str | Path | Mapping[str, Any], changes: Mapping[str, Any], *, name: str | None, out: Path,
    until: str | None, redo: str | None, fresh: str | None, offline: bool,
) -> OpenRun:  # fmt: skip
    """Check a recipe and run it in this process; the run, opened. Raises GaekitError and its kin."""
    registry = load_plugins()
    checked = check_recipe_data(recipe, registry, changes=changes, name=name)
    checked.refuse(build_problems(checked.recipe, registry))
    command = ["gaekit", "run", *_arguments(recipe, changes, name, checked, out)]
    for option, value in (("--until", until), ("--redo", redo), ("--fresh", fresh)):
        command += [option, value] if value is not None else []
    view = run_recipe(
        checked.recipe, registry, out=out, until=until, redo=redo, fresh=fresh, offline=offline, command=command
    )
    end_with_report(view, checked.recipe, registry)
    return open_run(view.path, registry)


def _arguments(
    recipe: str | Path | Mapping[str, Any], changes: Mapping[str, Any], name: str | None, checked: CheckedRecipe,
    out: Path,
) -> list[str]:  # fmt: skip
    """What `gaekit run` takes to run the same: of a recipe that is no file, the resolved one that the run keeps."""
    into = [] if out == Path("runs") else ["--out", str(out)]
    if isinstance(recipe, Mapping):
        return [str(out / checked.recipe.name / RECIPE), *into]
    sets = [part for key, value in changes.items() for part in ("--set", f"{key}={json.dumps(as_document(value))}")]
    named = [] if name is None else ["--name", name]
    return [str(recipe), *sets, *named, *into]
