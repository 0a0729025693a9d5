"""docs/results.md is made from the results that lie beside it, and its verdicts follow from the numbers."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from gaekit.cli import main
from gaekit.plugins import load_plugins
from gaekit.recipe import list_sweeps
from gaekit.sweeps.definition import read_sweep
from gaekit.sweeps.members import check_members

ROOT = Path(__file__).parents[1]
NUMBER = "samples/frechet_efficientnet_lite2"


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_results", ROOT / "docs" / "make_results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def definitions(make: ModuleType) -> dict[str, Any]:
    return dict(yaml.safe_load(make.DEFINITIONS.read_text()))


def results(make: ModuleType, values: dict[str, list[float]]) -> Any:
    """Of settings, by seed, one number."""
    runs = {
        (setting, seed): {"numbers": {NUMBER: value}, "rooms": {f"sample/{setting}{seed}": 1800.0, "latents/a": 60.0}}
        for setting, of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    }
    return make.Results("claims/x", tuple(values), runs)


def test_the_page_is_up_to_date(make: ModuleType) -> None:
    assert make.main(["--check"]) == 0, "run python docs/make_results.py"


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([1.0, 1.1, 0.9], [2.0, 2.1, 1.9], "holds"),
        ([2.0, 2.1, 1.9], [1.0, 1.1, 0.9], "does not hold"),
        ([1.0, 3.0, 2.0], [1.5, 2.0, 2.6], "cannot be told"),
        ([1.0, 9.0, 5.0], [1.1, 9.1, 5.1], "holds"),  # seeds differ by more than settings do: runs are paired
        ([1.0], [2.0], "cannot be told"),
        ([], [2.0], "cannot be told"),
    ],
)
def test_a_verdict_follows_the_interval_of_paired_differences(
    make: ModuleType, first: list[float], second: list[float], verdict: str
) -> None:
    found = results(make, {"a": first, "b": second})
    assert make.judge(found, {"number": NUMBER, "best": "a", "than": ["b"]}, "lower")[0] == verdict
    other_way = {"holds": "does not hold", "does not hold": "holds"}.get(verdict, verdict)
    assert make.judge(found, {"number": NUMBER, "best": "a", "than": ["b"]}, "higher")[0] == other_way
    assert make.judge(found, {"number": NUMBER, "best": "a", "than": ["b"], "worst": True}, "lower")[0] == other_way


def test_one_setting_on_the_other_side_is_enough_against_an_ordering(make: ModuleType) -> None:
    found = results(make, {"a": [1.0, 1.1, 0.9], "b": [2.0, 2.1, 1.9], "c": [0.5, 0.6, 0.4], "d": [0.8, 1.3, 1.0]})
    for than, verdict in ((["b"], "holds"), (["b", "d"], "cannot be told"), (["b", "c", "d"], "does not hold")):
        assert make.judge(found, {"number": NUMBER, "best": "a", "than": than}, "lower")[0] == verdict


def test_what_runs_share_is_billed_once(make: ModuleType) -> None:
    assert results(make, {"a": [1.0, 2.0], "b": [3.0]}).hours == pytest.approx((3 * 1800 + 60) / 3600)


def test_page_and_plots_are_made_of_a_folder_of_results(
    make: ModuleType, definitions: dict[str, Any], tmp_path: Path
) -> None:
    keys = [number["key"] for number in definitions["numbers"]]
    claim = next(claim for claim in definitions["claims"] if "lines" in claim)
    prefix = claim["lines"]["prefix"]
    settings = sorted({name for o in claim["orderings"] for name in (o["best"], *o["than"])})
    runs = [
        {
            "setting": setting,
            "seed": seed,
            "numbers": dict.fromkeys(keys, place + seed / 10) | {f"{prefix}0.1": 20.0, f"{prefix}0.5": 10.0 + place},
            "rooms": {},
        }
        for place, setting in enumerate(settings)
        for seed in (0, 1)
    ]
    data = {"sweep": claim["sweep"], "settings": settings, "runs": runs}
    folder = tmp_path / "results"
    folder.mkdir()
    make.file_of(claim["sweep"], folder).write_text(json.dumps(data))
    written = make.write(tmp_path, definitions)
    text = (tmp_path / "results.md").read_text()
    assert claim["title"] in text
    assert f"| {settings[1]} | 2 | 1.05 ± 0.64 |" in text  # 12.706 * 0.0707 / sqrt(2)
    assert "## Not run yet" in text
    assert {path.name for path in written} >= {"results.md", "noises.svg", "noises-lines.svg"}
    assert all(path.stat().st_size for path in written)
    before = {path: path.read_bytes() for path in written}
    make.write(tmp_path, definitions)
    assert {path: path.read_bytes() for path in written} == before


def test_finished_runs_are_collected_with_what_they_took_and_kept_beside_later_ones(
    make: ModuleType, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run.parent, "runs")
    shutil.copy(tiny_run.parents[1] / "tiny.yaml", "tiny.yaml")
    Path("tries.yaml").write_text(
        "sweep: 1\nname: tries\nrecipe: ./tiny.yaml\nseeds: [0, 1]\nmembers: [{name: only}]\n"
    )
    assert main(["run", "tiny.yaml", "--name", "tries.seed_0"]) == 0  # all its stages are there
    definitions = {"claims": [{"sweep": "tries.yaml"}]}
    told = list(make.collect(Path("runs"), tmp_path, definitions))
    assert told == ["tries.yaml: 1 of 2 runs, 1 found in runs"]
    found = make.read(make.file_of("tries.yaml", tmp_path))
    metrics = json.loads(Path("runs/tries.seed_0/metrics.json").read_text())
    assert found.values("only", "reconstruction/psnr") == {0: pytest.approx(metrics["reconstruction/psnr"]["value"])}
    assert found.hours > 0
    assert list(make.collect(Path("elsewhere"), tmp_path, definitions)) == [
        "tries.yaml: 1 of 2 runs, 0 found in elsewhere"
    ]
    assert make.read(make.file_of("tries.yaml", tmp_path)) == found
    Path("tiny.yaml").write_text(Path("tiny.yaml").read_text().replace("steps: 4", "steps: 5"))
    assert list(make.collect(Path("runs"), tmp_path, definitions)) == [
        "tries.yaml: 0 of 2 runs, 0 found in runs, 1 that would be made otherwise now dropped"
    ]
    assert not make.read(make.file_of("tries.yaml", tmp_path)).runs


def test_every_ordering_is_of_settings_that_a_shipped_sweep_has(
    definitions: dict[str, Any],
) -> None:
    registry, shipped = load_plugins(), {sweep.name for sweep in list_sweeps()}
    assert {claim["sweep"] for claim in definitions["claims"]} == shipped
    keys = {number["key"] for number in definitions["numbers"]}
    for claim in definitions["claims"]:
        sweep = check_members(read_sweep(Path(claim["sweep"]), registry), registry, build=False)
        labels = {setting.label for setting in sweep.definition.settings}
        for ordering in claim["orderings"]:
            assert {ordering["best"], *ordering["than"]} <= labels, claim["sweep"]
            assert ordering["number"] in keys
        assert len(sweep.definition.seeds) >= 3
