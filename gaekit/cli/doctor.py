"""`gaekit doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gaekit.cli.options import JsonOption, SetOption

FORMAT = 1
"""Of the JSON: a list of findings, each with check, status (ok, problem), what, and fix or null."""


def doctor(
    recipe: Annotated[str | None, typer.Argument(help="A recipe, to see whether it could run here.")] = None,
    set_: SetOption = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of all runs.")] = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Check installation, machine and recipe, and say what to mend.

    A line OK or PROBLEM ... FIX ... for each. Ends with 1 for a problem.
    """
    from gaekit.cli.output import print_json, say
    from gaekit.doctor.report import examine

    found = []
    for finding in examine(recipe, out=out, overrides=set_ or ()):
        found.append(finding)
        if not as_json:
            say(str(finding))
    problems = sum(finding.is_problem for finding in found)
    if as_json:
        rows = [
            {"check": f.check, "status": "problem" if f.is_problem else "ok", "what": f.what, "fix": f.fix or None}
            for f in found
        ]
        shown = {"format": FORMAT, "recipe": recipe, "problems": problems, "findings": rows}
        print_json(shown)
    raise typer.Exit(1 if problems else 0)
