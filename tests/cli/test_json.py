"""Every command that lists or measures prints one JSON document with `--json`, and nothing else on stdout."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_helpers import gaekit
from PIL import Image
from typer.main import get_command

from gaekit.cli import make_app

WITHOUT = {
    "run", "sample", "report", "demo", "pack", "export", "import", "recipes copy", "latents mend",  # they make or show
    "schema",  # is JSON
}  # fmt: skip
PLAN = {
    "recipe", "processes", "image_size", "latents", "data", "stages", "networks", "memory", "disk", "disk_free",
    "measured",
}  # fmt: skip
CHECK = {"recipe", "file", "ok", "problems", "warnings", "summary"}
ROOM = {"stage", "room", "path", "bytes", "complete", "used_by"}
CHECKPOINT = {"stage", "step", "path", "bytes", "saved", "kept", "damage"}
KEYS: dict[str, set[str]] = {
    "check smoke": CHECK,
    "check smoke --set sead=1": CHECK,
    "plan smoke --facts": PLAN,
    "recipes": {"name", "summary", "path"},
    "components": {"kind", "use", "summary", "plugin", "attribution"},
    "components tracker wandb": {"kind", "use", "plugin", "about", "attribution", "settings"},
    "plugins": {
        "name", "distribution", "version", "module", "api", "status", "error", "clashes", "components", "seconds",
    },
    "assets smoke": set(),
    "bill runs/smoke": set(),
    "data check smoke --workers 0": {"recipe", "image_size", "classes", "splits"},
    "store ls": ROOM,
    "store gc --dry-run": {"removed", "rooms"},
    "checkpoints ls runs/smoke": CHECKPOINT,
    "checkpoints verify runs/smoke": CHECKPOINT,
    "latents verify runs/smoke": {"folder", "damaged"},
    "reconstruct runs/smoke one --out two": {"images", "out", "mean_psnr", "skipped"},
    "tune-guidance runs/smoke --metric class_accuracy --tune scale --images 2 --budget 2": {
        "run", "metrics", "budget", "evaluations", "tuned_on", "reported_on", "space", "own", "best", "front", "cost",
        "trials", "gaekit",
    },
    "likelihood runs/smoke --count 1 --tolerance 0.01": {
        "run", "split", "seed", "images", "dimensions", "of", "standardised", "raw", "standard_error_nats_per_dim",
        "solver", "evaluations_per_image",
    },
}  # fmt: skip
CODES = {"check smoke --set sead=1": 2}
"""0 where nothing else is said. The doctor's, which takes its time, is in tests/doctor."""


@pytest.mark.parametrize("line", KEYS)
def test_one_document_with_these_keys(line: str, smoke: Path) -> None:
    (smoke / "one").mkdir(exist_ok=True)
    Image.new("RGB", (40, 32), "red").save(smoke / "one" / "red.png")
    found = json.loads(_stdout(smoke, line, CODES.get(line, 0)))
    first = found[0] if isinstance(found, list) and found else found
    keys = set(first) if isinstance(first, dict) else set()
    assert keys >= KEYS[line]
    json.dumps(found, allow_nan=False)


def _stdout(folder: Path, line: str, code: int) -> str:
    return gaekit(folder, *shlex.split(line), "--json", code=code).stdout


def test_a_wrong_recipe_is_told_with_lines_and_options(smoke: Path) -> None:
    done = gaekit(smoke, "check", "smoke", "--set", "sead=1", "--json", code=2)
    (problem,) = json.loads(done.stdout)["problems"]
    assert (problem["origin"], problem["key"]) == ("--set sead=1", "sead")
    assert "did you mean 'seed'" in problem["text"]
    assert not done.stderr


def _commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            if command.invoke_without_command:
                yield f"{before}{name}", command
            yield from _commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


@pytest.mark.parametrize(("name", "command"), list(_commands(get_command(make_app()))))
def test_every_other_command_makes_something(name: str, command: Any) -> None:
    has = any("--json" in parameter.opts for parameter in command.params)
    assert has != (name in WITHOUT)
