"""What docs/sweeps.md shows is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from gaekit.errors import RecipeError
from gaekit.intervals import student_t
from gaekit.plugins import Registry, load_plugins
from gaekit.sweeps.definition import read_sweep, sweep_of_options
from gaekit.sweeps.members import check_members
from gaekit.sweeps.there import Planned, shares

PAGE = (Path(__file__).parents[1] / "docs/sweeps.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_plugins()


def example() -> str:
    (found,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.S)
    return str(found)


def test_the_example_is_valid_and_has_as_many_runs_as_it_says(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "sweep.yaml").write_text(example())
    sweep = check_members(read_sweep(tmp_path / "sweep.yaml", registry), registry)
    assert (len(sweep.definition.settings), len(sweep.members)) == (5, 15)
    assert f"`runs/{sweep.members[0].run}`" in PAGE
    rooms = {share.stage: share.rooms for share in shares(Planned(sweep, tmp_path / "runs", registry))}
    assert (rooms["semantic"], rooms["autoencoder"]) == (6, 6)
    assert "six semantic teachers, six autoencoders" in PAGE


def test_the_mistake_is_told_as_shown(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = next(line.strip() for line in PAGE.splitlines() if line.startswith("    sweep.yaml:"))
    Path("sweep.yaml").write_text(example().replace("depth: [2, 4]", "depth: [2, four]"))
    with pytest.raises(RecipeError) as caught:
        check_members(read_sweep(Path("sweep.yaml"), registry), registry)
    assert str(caught.value) == line


def test_the_sweeps_without_a_file_are_valid(registry: Registry) -> None:
    commands = [shlex.split(line) for line in PAGE.splitlines() if re.match(r" {4}gaekit run .*--sweep", line)]
    assert len(commands) == 2
    for _, _, recipe, *options in commands:
        pairs = list(zip(options[::2], options[1::2], strict=True))
        swept, overrides = ([value for flag, value in pairs if flag == name] for name in ("--sweep", "--set"))
        assert len(check_members(sweep_of_options(recipe, swept, registry, overrides), registry).members) in (2, 6)


def test_the_widths_of_intervals_are_students() -> None:
    for n, width in ((2, "12.7"), (3, "4.3"), (5, "2.8")):
        assert f"{student_t(n - 1):.1f}" == width
        assert width in PAGE
