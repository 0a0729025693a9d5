"""The table of a sweep: its numbers are the runs', its intervals Student's, and it fits where it is read."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from scipy import stats
from sweep_helpers import GRID, make_sweep

from gaekit.pipeline.view import View
from gaekit.plugins import Registry, load_plugins
from gaekit.recipe import to_yaml
from gaekit.runs.compare.reference import read_reference
from gaekit.sweeps.members import Member, Sweep
from gaekit.sweeps.page import _plots, write_page
from gaekit.sweeps.student import Mean
from gaekit.sweeps.table import Row, RunNumbers, Table, blocks, collect, in_words
from gaekit.sweeps.writing import as_data, markdown, write_references, write_results

PSNR, ACCURACY = "reconstruction/psnr", "samples_unguided/class_accuracy"


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_plugins()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Sweep:
    return make_sweep(tmp_path_factory.mktemp("sweep"), registry, GRID.replace("[0, 1]", "[0, 1, 2]"))


def finish(
    out: Path,
    member: Member,
    numbers: dict[str, float],
    *,
    yaml: str | None = None,
    ended: bool = True,
    protocol: dict[str, Any] | None = None,
) -> None:
    """Leave what a finished run leaves."""
    view = View(out / member.run)
    view.write({"finished": "2026-01-01" if ended else None, "stages": {}})
    (view.path / "recipe.yaml").write_text(yaml or to_yaml(member.recipe))
    entries = {name: {"value": value, "protocol": protocol or {}} for name, value in numbers.items()}
    (view.path / "metrics.json").write_text(json.dumps(entries))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, sweep: Sweep) -> Path:
    """The first setting has three runs, the second two, the third one, the fourth none that counts."""
    out = tmp_path_factory.mktemp("runs")
    for place, member in enumerate(sweep.members[:7]):
        if place != 5:
            finish(out, member, {PSNR: 20 + place**2 / 3, ACCURACY: 0.5 + 0.1 * place})
    finish(out, sweep.members[9], {PSNR: 1.0}, ended=False)
    finish(out, sweep.members[10], {PSNR: 1.0}, yaml=to_yaml(sweep.members[0].recipe))
    return out


@pytest.fixture(scope="module")
def table(sweep: Sweep, out: Path, registry: Registry) -> Table:
    return collect(sweep, out, registry)


def test_only_finished_runs_of_the_very_recipe_count(table: Table) -> None:
    assert [(len(row.runs), row.of) for row in table.rows] == [(3, 3), (2, 3), (1, 3), (0, 3)]
    assert (table.finished, table.runs) == (6, 12)


def test_a_run_with_another_runtime_counts(sweep: Sweep, registry: Registry, tmp_path: Path) -> None:
    member = sweep.members[0]
    other = member.recipe.model_copy(update={"runtime": member.recipe.runtime.model_copy(update={"workers": 3})})
    finish(tmp_path, member, {PSNR: 1.0}, yaml=to_yaml(other))
    assert collect(sweep, tmp_path, registry).finished == 1


def test_means_and_intervals_are_students(table: Table) -> None:
    values = [20, 20 + 1 / 3, 20 + 4 / 3]
    low, high = stats.t.interval(0.95, 2, sum(values) / 3, stats.sem(values))
    mean = table.rows[0].mean(PSNR)
    assert mean is not None
    assert mean.half is not None
    assert (mean.value - mean.half, mean.value + mean.half) == pytest.approx((low, high))
    assert mean.n == 3
    only = table.rows[2].mean(PSNR)
    assert only is not None
    assert (only.value, only.half, only.n) == (32.0, None, 1)
    assert table.rows[3].mean(PSNR) is None


def test_settings_of_several_runs_leave_reference_curves(table: Table, sweep: Sweep, out: Path, tmp_path: Path) -> None:
    files, reasons = write_references(table, tmp_path, out)
    labels = [setting.label for setting in sweep.definition.settings]
    assert ([file.stem for file in files], reasons) == (labels[:2], [])  # of three runs and of two
    reference = read_reference(files[0])
    assert (reference.seeds, reference.recipe) == ([0, 1, 2], f"tiny.yaml, {labels[0]}")
    assert reference.numbers[PSNR].values == [20, 20 + 1 / 3, 20 + 4 / 3]
    (tmp_path / "runs").mkdir()
    for member in sweep.members[:3]:
        finish(tmp_path / "runs", member, {PSNR: 1.0}, protocol={"n": member.seed})
    files, reasons = write_references(collect(sweep, tmp_path / "runs", load_plugins()), tmp_path, tmp_path / "runs")
    assert files == []
    assert [reason.partition(":")[0] for reason in reasons] == [f"no reference curves of {labels[0]}"]
    assert not (tmp_path / "curves" / f"{labels[0]}.json").exists()  # that of the runs before


def test_the_files_hold_every_number(table: Table, sweep: Sweep, tmp_path: Path) -> None:
    files = {path.name: path for path in write_results(table, tmp_path)}
    runs = list(csv.DictReader(files["runs.csv"].read_text().splitlines()))
    assert len(runs) == 12
    assert runs[2] == {
        "run": "tries.depth_1-scale_1.0-seed_1", "setting": "depth_1-scale_1.0", "diffusion.denoiser.depth": "1",
        "sample.guidance.scale": "1.0", "seed": "1", "metric": PSNR, "value": str(20 + 1 / 3),
    }  # fmt: skip
    rows = list(csv.DictReader(files["table.csv"].read_text().splitlines()))
    assert [(row["setting"], row["metric"], row["n"]) for row in rows] == [
        (setting, metric, n) for setting, n in zip([s.label for s in sweep.definition.settings], "321", strict=False)
        for metric in (PSNR, ACCURACY)
    ]  # fmt: skip
    mean = table.rows[0].mean(PSNR)
    assert mean is not None
    assert mean.half is not None
    assert [float(rows[0][key]) for key in ("mean", "low", "high")] == [
        mean.value, mean.value - mean.half, mean.value + mean.half,
    ]  # fmt: skip
    assert (rows[4]["low"], rows[4]["high"]) == ("", "")
    data = json.loads(json.dumps(as_data(table)))
    assert data["settings"][0]["numbers"][PSNR]["n"] == 3
    assert data["settings"][2]["numbers"][PSNR]["interval"] is None


def test_the_markdown_says_how_many_runs_there_are(table: Table) -> None:
    text = markdown(table)
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[0] == f"| setting | n | {PSNR} | {ACCURACY} |"
    assert [line.split(" | ")[1] for line in lines[2:]] == ["3", "2 of 3", "1 of 3", "0 of 3"]
    assert "6 of 12 runs are finished" in text
    assert "Student's t" in text


def test_the_page_shows_each_number_and_links_runs_that_have_pages(
    table: Table, sweep: Sweep, out: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="the page needs the extra `report`")
    (out / sweep.members[0].run / "report.html").write_text("")
    folder = out / "tries.sweep"
    folder.mkdir()
    page = write_page(table, folder, out).read_text()
    shown = in_words(table.rows[0].mean(PSNR), 3)
    assert page.count(shown) >= 2  # in the plot and in the table
    assert page.count('<svg class="plot"') == 2
    assert f'<a href="../{sweep.members[0].run}/report.html">' in page
    assert page.count('<a href="../') == 1
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_a_number_of_three_values_is_an_axis(sweep: Sweep) -> None:
    pytest.importorskip("matplotlib", reason="the page needs the extra `report`")
    members, values = sweep.members, (0.5, 1.0, 2.0)
    rows = [
        Row(f"{depth}", {"d.depth": depth, "s.scale": scale}, (RunNumbers(members[0], {PSNR: depth + scale}),), 1)
        for depth in (1, 2)
        for scale in values
    ]
    table = Table("tries", "tiny", ("d.depth", "s.scale"), (None,), tuple(rows), (PSNR,))
    (plot,) = _plots(table)
    assert {"depth 1", "depth 2", "scale"} <= set(re.findall(r">([^<>]+)<", plot))
    assert "depth 1 from 1.5 to 3" in plot


@pytest.mark.parametrize(
    ("mean", "text"),
    [
        (Mean(12.3456, 0.0678, 3), "12.346 ± 0.068"),
        (Mean(12.3456, 6.78, 3), "12.3 ± 6.8"),
        (Mean(1234.5, 678.0, 3), "1234 ± 678"),
        (Mean(0.5, 0.0, 3), "0.5 ± 0"),
        (Mean(0.123456, None, 1), "0.1235 (n 1)"),
        (Mean(1e-12, 2e-13, 3), "1e-12 ± 2e-13"),
        (None, "-"),
    ],
)
def test_numbers_have_the_digits_that_their_interval_gives_sense_to(mean: Mean | None, text: str) -> None:
    assert in_words(mean, 3) == text


def test_the_table_in_a_terminal_fits_into_80_columns(table: Table) -> None:
    assert len(blocks(table, 200)) == 1
    found = blocks(table, 60)
    assert [head[2:] for head, _ in found] == [[PSNR], [ACCURACY]]
    for head, rows in blocks(table, 80):
        columns = zip(head, *rows, strict=True)
        assert sum(max(map(cell_len, column)) + 2 for column in columns) - 2 <= 80
