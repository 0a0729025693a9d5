"""Reference curves and their bands: what they cover, what leaves them, and what is refused."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_helpers import gaekit
from compare_helpers import PSNR, entry, make_run
from scipy import stats

from gaekit.errors import ArtifactError, GaekitError
from gaekit.intervals import prediction_interval
from gaekit.plugins import load_plugins
from gaekit.recipe import dump, find_recipe, load_recipe
from gaekit.runs.compare import compare_to
from gaekit.runs.compare.bands import CurveInBand, judge_curve, most_by_chance, number_band
from gaekit.runs.compare.bands_text import curve_text, notes, verdict_of
from gaekit.runs.compare.reference import (
    CurveRuns,
    NumberRuns,
    as_text,
    find_reference,
    make_reference,
    means_between,
    read_reference,
    recipe_differences,
    revision_differences,
    shipped_references,
)
from gaekit.runs.opened import open_run
from gaekit.stages import STAGES

LOSS = "loss/velocity"
SEEDS = (0, 1, 2)
FID = "samples/fid"


def curve(seed: int, steps: int = 40, bend: int = 10**9) -> list[tuple[int, float]]:
    """A loss that falls, noisy by the seed; from step `bend` on it rises."""
    noise = np.random.default_rng(seed).normal(0, 0.02, steps)
    return [
        (10 * (n + 1), 1 / (n + 1) + float(noise[n]) + 0.05 * max(0, 10 * (n + 1) - bend) / 10) for n in range(steps)
    ]


def a_run(out: Path, name: str, seed: int, points: list[tuple[int, float]] | None = None, **more: Any) -> Path:
    psnr = 26 + float(np.random.default_rng(seed).normal(0, 0.1))
    numbers = more.pop("numbers", {PSNR: entry(psnr), FID: entry(30.0 + seed, sampling={"seed": seed})})
    path = make_run(out, name, numbers, seed=seed, samples=False, steps=10_000, **more)
    times = {"train/lr": 1.0, "probe/seconds": 1.0}
    points = curve(seed) if points is None else points
    lines = [{"step": s, "seconds": s / 8, "scalars": times | {LOSS: v}} for s, v in points]
    (path / "diffusion/curves.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def source(tmp_path: Path) -> str:
    """The file of a reference of three runs."""
    runs = [open_run(a_run(tmp_path, f"of.seed_{seed}", seed)) for seed in SEEDS]
    (tmp_path / "three.json").write_text(as_text(make_reference(runs, "mine")))
    return str(tmp_path / "three.json")


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_prediction_interval_covers_one_more_run_in_95_of_100_cases(n: int) -> None:
    cases = 4000
    values = np.random.default_rng(n).normal(3, 2, (cases, n + 1))
    found = [prediction_interval(row[:n].tolist()) for row in values]
    inside = [band is not None and band.low <= row[n] <= band.high for band, row in zip(found, values, strict=True)]
    assert np.mean(inside) == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / cases))
    row = values[0, :n]
    wanted = stats.t.interval(0.95, n - 1, row.mean(), row.std(ddof=1) * math.sqrt(1 + 1 / n))
    assert found[0] is not None
    assert (found[0].low, found[0].high) == pytest.approx(wanted, rel=1e-6)
    assert prediction_interval([1.0]) is None


@pytest.mark.parametrize("points", [1, 4, 20, 50, 200])
def test_the_count_that_chance_explains_is_the_binomials_or_a_fifth(points: int) -> None:
    assert most_by_chance(points) == max(stats.binom.ppf(0.95, points, 0.05), points // 5)


@pytest.mark.parametrize("memory", [0.0, 0.8, 0.99])
def test_few_curves_of_the_same_recipe_are_told_to_have_left(memory: float) -> None:
    """Whether their noise is of each step alone or carried on (an autoregressive process of stationary spread)."""
    generator, cases, steps = np.random.default_rng(5), 250, 40
    noise = generator.normal(0, 1, (cases, 4, steps))
    for step in range(1, steps):
        noise[..., step] = memory * noise[..., step - 1] + math.sqrt(1 - memory**2) * noise[..., step]
    left = sum(judged(runs[:3], runs[3]).left is not None for runs in noise)
    assert left / cases <= 0.1
    assert judged(noise[0, :3], noise[0, 3] + 40).left is not None


def judged(runs: Any, own: Any) -> CurveInBand:
    steps = list(range(1, len(own) + 1))
    known = CurveRuns(steps=steps, runs=[list(map(float, run)) for run in runs])
    return judge_curve("diffusion", LOSS, known, list(zip(steps, map(float, own), strict=True)))


def test_where_a_curve_left_its_band_is_the_step_from_which_more_points_lie_outside() -> None:
    runs = [[1.0] * 30, [1.1] * 30, [0.9] * 30]  # mean 1, s 0.1: the band is 1 +- 4.3027 * 0.1 * sqrt(4 / 3)
    own = [1.0, 2.0, *([1.0] * 10), *([3.0] * 6), 1.0, *([0.1] * 5), *([1.0] * 6)]
    left = judged(runs, own).left
    assert left is not None
    assert (left.first, left.last, left.outside, left.points) == (13, 24, 11, 12)
    assert left.band == pytest.approx((1 - 0.49683, 1 + 0.49683), abs=1e-4)
    assert (left.step, left.value, left.by) == (13, 3.0, pytest.approx(3 - 1.49683, abs=1e-4))
    assert judged(runs, [1.0] * 30).left is None
    for few in (1, 4, 10):  # however few, and whatever else lies outside
        broken = judged(runs, [*([3.0] * 5), *([1.0] * (25 - few)), *([math.nan] * few)])
        assert broken.left is not None
        assert (broken.left.first, broken.left.outside, math.isnan(broken.left.by)) == (31 - few, few, True)
        assert curve_text(broken) == f"left at step {31 - few}, to the end ({few} of {few} steps not finite)"


def test_runs_that_agree_say_nothing_of_a_spread() -> None:
    known = NumberRuns(values=[1.0, 1.0, 1.0], interval=(0.992, 1.0))
    assert number_band(known) == (0.992, 1.0)
    runs = [[0.5, 1.0, 1.0], [0.6, 1.0, 1.0], [0.7, 1.0, 1.0]]
    found = judged(runs, [0.6, 0.9, 1.0])
    assert found.outside == 0  # by the spread of the step before
    assert judged([[2.0] * 9] * 3, [2.0 + 1e-6] * 9).left is None
    assert judged([[2.0] * 9] * 3, [2.1] * 9).left is not None


def test_a_long_curve_is_thinned_to_means_and_a_run_is_taken_alike(tmp_path: Path) -> None:
    runs = [open_run(a_run(tmp_path, f"long_{seed}", seed, curve(seed, 1000))) for seed in SEEDS]
    curves = make_reference(runs, "long").curves["diffusion"]
    known = curves[LOSS]
    assert list(curves) == [LOSS]  # times and rates are no results
    assert len(known.steps) == 200
    assert known.steps[-1] == 10_000
    first = [value for step, value in curve(0, 1000) if step <= known.steps[0]]
    assert len(first) == 5
    assert known.runs[0][0] == pytest.approx(np.mean(first), rel=1e-5)
    assert means_between([(10, 1.0), (20, 3.0), (30, 5.0)], [20, 40]) == [2.0, None]  # the second is not whole yet


def test_a_run_that_is_alike_lies_inside_and_one_that_is_not_is_told(tmp_path: Path, source: str) -> None:
    alike = compare_to(open_run(a_run(tmp_path, "alike", 7, numbers={PSNR: entry(26.0)})), source)
    assert alike.is_inside
    assert "alike lies within the band of three: 1 of 1 numbers and 1 of 1 curves are inside." in verdict_of(alike)
    assert [(n.name, n.verdict) for n in alike.numbers] == [(PSNR, "inside"), (FID, "absent")]
    more = {f"samples/{letter}": entry(1.0) for letter in "zbyaxc"}
    bent = gaekit(tmp_path, "compare", str(a_run(tmp_path, "bent", 8, curve(8, bend=200), numbers={
        PSNR: entry(20.0), FID: entry(31.0, n=9)} | more)), "--to", source).stdout  # fmt: skip
    assert re.findall(r"samples/([a-z]) ", bent) == list("zbyaxc")  # as metrics.json has them, in every process
    assert "bent leaves the band of three: 0 of 1 numbers and 0 of 1 curves are inside." in bent
    assert "below" in bent
    assert "n: 60 and 9" in bent
    assert f"note: numbers of another protocol, which no band is about: {FID}" in bent
    assert "to the end (" in bent
    assert "loss/velocity  left its band" in bent
    assert all(len(line) <= 80 for line in bent.splitlines()[1:])
    left = json.loads(gaekit(tmp_path, "compare", "bent", "--to", source, "--json").stdout)["curves"][0]["left"]
    assert 210 <= left["first"] <= 260
    assert (left["last"], left["by"] > 0.3) == (400, True)


def test_a_run_that_is_still_training_is_held_against_the_steps_that_it_has(tmp_path: Path, source: str) -> None:
    found = compare_to(open_run(a_run(tmp_path, "young", 7, curve(7, 12), numbers={})), source)
    assert (found.curves[0].points, found.is_inside) == (12, True)
    new = compare_to(open_run(a_run(tmp_path, "new", 7, [], numbers={})), source)
    assert "nothing can be compared yet" in verdict_of(new)
    assert new.to_json()["inside"] is None
    told = gaekit(tmp_path, "compare", "young", "--to", source).stdout
    assert "up to step 120" in told
    assert "its seed, 7" not in told
    assert "its seed, 1, is one of" in gaekit(tmp_path, "compare", "of.seed_1", "--to", source).stdout


def test_another_recipe_is_refused_by_its_settings_unless_asked_for(tmp_path: Path, source: str) -> None:
    other = a_run(tmp_path, "other", 7, lr=0.5, workers=3)
    told = gaekit(tmp_path, "compare", str(other), "--to", source, code=2).stderr
    assert "diffusion.train.lr is 0.5, and 0.001 in the reference" in told
    assert "workers" not in told
    assert "--anyway" in told
    told = gaekit(tmp_path, "compare", str(other), "--to", source, "--anyway").stdout
    assert "the recipe is not the reference's" in told
    newer = a_run(tmp_path, "newer", 7, clamp=5.0)  # a key beside known ones, as of another version
    assert "diffusion.clamp (– and 5)" in gaekit(tmp_path, "compare", str(newer), "--to", source).stdout.replace(
        "\n  ", " "
    )


def test_what_is_no_reference_is_told(tmp_path: Path, source: str) -> None:
    run = str(a_run(tmp_path, "run", 7))
    told = gaekit(tmp_path, "compare", run, "--to", "quickstrat", code=2).stderr
    assert "there are no reference curves 'quickstrat'" in told
    (tmp_path / "bad.json").write_text('{"reference": 1, "recipe": 3}')
    with pytest.raises(ArtifactError, match=r"bad\.json: no reference curves: recipe: Input should be a valid string"):
        find_reference(str(tmp_path / "bad.json"))
    (tmp_path / "torn.json").write_text(Path(source).read_text()[:-9])
    with pytest.raises(ArtifactError, match=r"torn\.json: reference curves that cannot be read"):
        find_reference(str(tmp_path / "torn.json"))
    assert "takes one run, and was given 2" in gaekit(tmp_path, "compare", run, run, "--to", source, code=2).stderr
    assert "--anyway belongs to --to" in gaekit(tmp_path, "compare", run, run, "--anyway", code=2).stderr


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("seeds",), [0], "seeds: 1; a band is about the spread"),
        (("numbers", PSNR, "values"), [1.0], f"numbers.{PSNR}: has 1 values of 3 runs"),
        (("numbers", PSNR, "values"), [1.0, 1e308, -1e308], f"numbers.{PSNR}: holds no number"),
        (("curves", "diffusion", LOSS, "runs"), [[1.0]], "is not of 3 runs with a value at each of its steps"),
        (("curves", "diffusion", LOSS), {"steps": [], "runs": [[], [], []]}, "its steps do not rise"),
        (("curves", "diffusion", LOSS), {"steps": [10**400], "runs": [[1.0]] * 3}, "steps.0: Unable to parse|rise"),
        (("curves", "diffusion", LOSS), {"steps": [1, 1], "runs": [[1.0, 1.0]] * 3}, "its steps do not rise"),
        (("settings", "deep"), json.loads("[" * 400 + "]" * 400), "more than 100 deep"),
        (("numbers", PSNR, "values"), [1.0, math.nan, 2.0], f"numbers.{PSNR}: holds no number"),
    ],
)
def test_a_reference_of_which_no_band_can_be_made_is_refused(
    tmp_path: Path, source: str, place: tuple[str, ...], value: Any, told: str
) -> None:
    part = whole = json.loads(Path(source).read_text())
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    (tmp_path / "bad.json").write_text(json.dumps(whole))
    with pytest.raises(ArtifactError, match=told):
        find_reference(str(tmp_path / "bad.json"))


def test_runs_that_are_no_seeds_of_one_recipe_make_no_reference(tmp_path: Path) -> None:
    first, same = a_run(tmp_path, "a", 0), a_run(tmp_path, "b", 0)
    other = a_run(tmp_path, "c", 1, lr=0.5)
    unfinished = a_run(tmp_path, "d", 2)
    record = json.loads((unfinished / "run.json").read_text())
    (unfinished / "run.json").write_text(json.dumps(record | {"finished": None}))
    protocol = a_run(tmp_path, "e", 3, numbers={PSNR: entry(20.0, n=9)})
    for paths, text in [
        ((first,), "two runs or more, and was given 1"),
        ((first, same), "runs of different seeds, and was given 0, 0"),
        ((first, other), r"diffusion\.train\.lr \(0\.001 and 0\.5\)"),
        ((first, unfinished), "not finished: .*d"),
        ((first, protocol), f"{PSNR} differs in n: 60 and 9"),
    ]:
        with pytest.raises(GaekitError, match=text):
            make_reference([open_run(path) for path in paths], "mine")


SHIPPED = pytest.mark.parametrize("name", sorted(shipped_references()))


def remake(name: str) -> str:
    """What is to be done where the curves of a shipped recipe are out of date."""
    made = f"runs/{name}-seeds.sweep/curves/base.json"
    return f"make it anew: gaekit run {name} --sweep seed=0,1,2 && cp {made} recipes/curves/{name}.json"


@SHIPPED
def test_a_shipped_reference_is_of_the_shipped_recipe(name: str) -> None:
    path = shipped_references()[name]
    reference = read_reference(path)
    differing, _ = recipe_differences(reference, dump(load_recipe(find_recipe(name), load_plugins())))
    assert [f"{s.key}: {' and '.join(s.texts)}" for s in differing] == [], remake(name)
    assert len(reference.seeds) >= 3
    assert path.stat().st_size < 200_000


@SHIPPED
def test_a_shipped_reference_was_made_by_the_revisions_of_today(name: str) -> None:
    registry, reference = load_plugins(), read_reference(shipped_references()[name])
    today = {f"stage:{stage.name}": stage.revision for stage in STAGES}
    today |= {key: registry.find(*key.split(":")).revision for key in reference.revisions if key not in today}
    assert "stage:evaluate" in reference.revisions
    assert revision_differences(reference.revisions, today) == [], remake(name)


def test_runs_of_other_revisions_make_no_reference_and_are_told_of_one(tmp_path: Path, source: str) -> None:
    paths = [a_run(tmp_path, f"rev_{seed}", seed) for seed in SEEDS]
    for seed, path in enumerate(paths):
        facts = {"revision": 4 + seed // 2, "components": {"metric:psnr:0a1b": {"revision": 1}}}
        (path / "diffusion/stage.json").write_text(json.dumps(facts))
    reference = make_reference([open_run(path) for path in paths[:2]], "mine")
    assert reference.revisions == {"metric:psnr": 1, "stage:diffusion": 4}
    with pytest.raises(GaekitError, match=r"of other revisions are stage:diffusion \(4 and 5\)"):
        make_reference([open_run(path) for path in paths], "mine")
    (tmp_path / "two.json").write_text(as_text(reference))
    found = compare_to(open_run(paths[2]), str(tmp_path / "two.json"))
    assert found.revisions == ("stage:diffusion (4 and 5)",)
    assert any("stage:diffusion (4 and 5)" in note for note in notes(found))
    assert compare_to(open_run(paths[2]), source).revisions == ()  # made before they were kept


def test_the_page_shows_the_run_over_its_band(tmp_path: Path, source: str) -> None:
    pytest.importorskip("matplotlib")
    bent = a_run(tmp_path, "bent", 8, curve(8, bend=200), numbers={PSNR: entry(20.0)})
    gaekit(tmp_path, "compare", str(bent), "--to", source, "--html", "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count("<svg") >= 2
    assert "below its band" in text
    assert "left at step" in text
