"""Runs beside each other, from files alone: settings, numbers and whether they differ, curves, costs, samples."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from browser_helpers import CONTRAST, Browser, browser, needs_chromium
from compare_helpers import IMAGES, entry, make_run
from scipy import stats

from gaekit.cli import main
from gaekit.errors import ArtifactError, GaekitError
from gaekit.intervals import difference_interval
from gaekit.pipeline.view import View
from gaekit.runs.compare import compare_runs
from gaekit.runs.compare.grids import places_of
from gaekit.runs.compare.numbers import Number, change
from gaekit.runs.compare.page import make_page
from gaekit.runs.compare.text import lines_of
from gaekit.store.artifact import save_artifact

HARD = np.random.default_rng(0).normal(26, 3, IMAGES)
"""PSNR of held-out images: some are hard, for every autoencoder."""
PSNR, FID, PROBE = "reconstruction/psnr", "samples/fid", "latents/probe"


def two(out: Path) -> tuple[Path, Path]:
    """A pair whose PSNRs differ by less than their intervals are wide, but for every image."""
    better = HARD + 0.1 + np.random.default_rng(1).normal(0, 0.05, IMAGES)
    first = make_run(out, "first", {
        PSNR: entry(float(HARD.mean()), (25.2, 26.8)), FID: entry(30.0, (29, 31)), PROBE: entry(0.9, (0.85, 0.94)),
    }, per_image=HARD)  # fmt: skip
    second = make_run(out, "second", {
        PSNR: entry(float(better.mean()), (25.3, 26.9)), FID: entry(31.5, (30.5, 32.5), sampling={"seed": 1}),
        PROBE: entry(0.91, (0.86, 0.95), n=50), "samples/is": entry(3.0),
    }, per_image=better, lr=2e-3, workers=4, clamp=5.0)  # fmt: skip
    return first, second


def told(paths: tuple[Path, ...], width: int = 80) -> str:
    return "\n".join(line.plain for line in lines_of(compare_runs(paths), width))


def test_settings_differ_by_dotted_keys_and_runtime_is_apart(tmp_path: Path) -> None:
    found = compare_runs(two(tmp_path))
    assert {s.key: s.texts for s in found.settings} == {
        "diffusion.train.lr": ("0.001", "0.002"), "diffusion.clamp": ("–", "5"),
    }  # fmt: skip
    assert [s.key for s in found.runtime] == ["runtime.workers"]


def test_a_difference_image_by_image_shows_where_intervals_overlap(tmp_path: Path) -> None:
    first, second = two(tmp_path)
    rows = {row.name: row for row in compare_runs((first, second)).numbers}
    found = rows[PSNR].changes[0]
    differences = np.load(second / "per_image.npz")[PSNR] - HARD
    wanted = stats.t.interval(0.95, IMAGES - 1, differences.mean(), stats.sem(differences))
    assert found.verdict == "higher"
    assert found.interval == pytest.approx(wanted)
    (second / "per_image.npz").unlink()
    assert compare_runs((first, second)).numbers[0].changes[0].verdict == "no difference shown"


def test_other_numbers_are_compared_as_independent_and_other_protocols_are_not(tmp_path: Path) -> None:
    rows = {row.name: row.changes[0] for row in compare_runs(two(tmp_path)).numbers}
    assert rows[FID].verdict == "higher"
    assert rows[FID].interval == pytest.approx((1.5 - 2**0.5, 1.5 + 2**0.5))
    assert (rows[PROBE].verdict, rows[PROBE].why) == ("not comparable", ("n: 60 and 50",))
    assert rows["samples/is"].verdict == "absent"


def test_the_interval_of_a_difference_is_newcombes_for_shares() -> None:
    """Newcombe 1998, table II, example (a): 56/70 - 48/80 by method 10 is 0.0524 to 0.3339."""
    wilson = [stats.binomtest(k, n).proportion_ci(0.95, method="wilson") for k, n in ((48, 80), (56, 70))]
    (low, high), (other_low, other_high) = ((found.low, found.high) for found in wilson)
    found = difference_interval(48 / 80, (low, high), 56 / 70, (other_low, other_high))
    assert found == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_a_difference_is_claimed_of_equal_distributions_in_one_of_twenty() -> None:
    random, claimed = np.random.default_rng(7), {"paired": 0, "independent": 0}
    for _ in range(400):
        hard, a, b = random.normal(26, 3, 50), random.normal(0, 1, 50), random.normal(0, 1, 50)
        pair = []
        for rows in (hard + a, hard + b):
            half = 2.0096 * rows.std(ddof=1) / 50**0.5
            pair.append(Number(rows.mean(), (rows.mean() - half, rows.mean() + half), {}, rows))
        claimed["paired"] += change(*pair).verdict in ("higher", "lower")
        other = random.normal(26, 3.2, 50)
        half = 2.0096 * other.std(ddof=1) / 50**0.5
        alone = Number(other.mean(), (other.mean() - half, other.mean() + half), {})
        claimed["independent"] += change(pair[0], alone).verdict in ("higher", "lower")
    assert all(0.01 <= count / 400 <= 0.1 for count in claimed.values()), claimed


def test_the_terminal_fits_into_80_columns_and_says_all(tmp_path: Path) -> None:
    text = told(two(tmp_path))
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) <= 80  # a path is not cut
    for part in ("diffusion.train.lr", "0.002", "higher", "not comparable", "n: 60 and 50", "no such number",
                 "40 steps, 5 s (steps alone)", "40 steps, 18 s", "runtime differs too", "loss/velocity"):  # fmt: skip
        assert part in text, part


def test_eight_runs_with_long_names_fit_too(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, f"run_{i}_{'x' * 20}", {PSNR: entry(20.0 + i)}, lr=1e-3 * (i + 1), samples=False)
            for i in range(8)]  # fmt: skip
    lines = told(tuple(runs)).splitlines()
    assert max(map(len, lines[8:])) <= 80  # a path is not cut


def test_a_shared_room_is_told(tmp_path: Path) -> None:
    numbers = {PSNR: entry(float(HARD.mean()), (25, 27))}
    runs = tuple(make_run(tmp_path, name, numbers, per_image=HARD, room="one") for name in ("a", "b"))
    found = compare_runs(runs)
    assert [cost.is_shared for cost in found.costs[0].costs if cost] == [False, True]
    for text in (told(runs), make_page(found)):
        assert re.search(f"[Tt]he same in all( runs)?: {PSNR}", text)
        assert re.search(r"[Tt]he same training in all( runs, not drawn)?: diffusion", text)
        assert "loss/velocity" not in text


def test_what_a_run_lacks_is_left_out(tmp_path: Path) -> None:
    first, second = two(tmp_path)
    for name in ("metrics.json", "per_image.npz", "samples.npz", "diffusion/curves.jsonl"):
        (second / name).unlink()
    assert "no such number" in told((first, second))
    assert "loss/velocity" in told((first, second))
    assert "no setting differs" in told((first, first))


def test_mistakes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = two(tmp_path)
    with pytest.raises(GaekitError, match="compare takes 2 to 8 runs, and was given 1"):
        compare_runs((first,))
    assert main(["compare", str(first), str(tmp_path / "absent")]) == 2
    assert "not a run" in capsys.readouterr().err
    (second / "per_image.npz").write_bytes(b"PK")
    with pytest.raises(ArtifactError, match=r"per_image.npz: cannot be read"):
        compare_runs((first, second))
    np.savez_compressed(second / "per_image.npz", **{PSNR: np.zeros(100_000)})
    with monkeypatch.context() as patch, pytest.raises(ArtifactError, match="it unpacks into 800128 bytes"):
        patch.setattr("gaekit.runs.compare.numbers.LARGEST_PER_IMAGE", 1 << 19)
        compare_runs((first, second))
    (second / "per_image.npz").unlink()
    (second / "metrics.json").write_text(json.dumps({PSNR: {"value": 1.0, "interval": [1.0], "protocol": {}}}))
    with pytest.raises(ArtifactError, match=r"the interval of reconstruction/psnr is \[1.0\]"):
        compare_runs((first, second))


def test_json_holds_what_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *map(str, two(tmp_path)), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["letter"] for run in found["runs"]] == ["A", "B"]
    psnr = next(row for row in found["numbers"] if row["name"] == PSNR)
    assert psnr["changes"][0]["verdict"] == "higher"
    assert psnr["runs"][0]["interval"] == [25.2, 26.8]


def test_neither_torch_nor_plugins_are_imported(tmp_path: Path) -> None:
    paths = [str(path) for path in two(tmp_path)]
    program = f"import sys; from gaekit.cli import main; main(['compare', *{paths!r}]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_places_are_those_where_labels_agree() -> None:
    one, other = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 2, 2, 0, 1, 1, 0])
    assert places_of([one, other]) == {0: [0, 3], 1: [4], 2: [2]}
    assert places_of([one, None]) == {}
    assert places_of([np.array([0]), np.array([1])]) == {}


def test_a_page_has_every_part(tmp_path: Path) -> None:
    html = make_page(compare_runs(two(tmp_path)))
    for part in ("diffusion.train.lr", "higher than A by", "not comparable with A", "Sample 1 of label 0, run B",
                 "loss/velocity", "in all"):  # fmt: skip
        assert part in html, part
    assert "<script" not in html


def test_samples_go_by_the_names_of_their_classes_and_some_of_many_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = two(tmp_path)
    for path in paths:
        artifact = View(path).artifact("diffusion")
        save_artifact(artifact, "denoiser", {"classes": ["cat", "dog", "<owl>"]}, {"weights": {"a": torch.zeros(1)}})
    monkeypatch.setattr("gaekit.runs.compare.grids.CLASSES", 2)
    html = make_page(compare_runs(paths))
    assert re.findall(r"<h3>(Class .*?)</h3>", html) == ["Class cat", "Class dog"]
    assert "Sample 2 of class dog, run B" in html
    assert "Of 3 classes 2 are shown, evenly spread." in html
    save_artifact(artifact, "denoiser", {"classes": ["a", "b", "c"]}, {"weights": {"a": torch.zeros(1)}})
    assert "<h3>Label 1</h3>" in make_page(compare_runs(paths))


@needs_chromium
@pytest.mark.slow
def test_a_page_is_sound_in_a_browser(tmp_path: Path) -> None:
    """Run by `python -m pytest tests/runs/test_compare.py -m slow`."""
    file = tmp_path / "compare.html"
    assert main(["compare", *map(str, two(tmp_path)), "--html", str(file)]) == 0
    with browser() as opened:
        assert isinstance(opened, Browser)
        for scheme in ("light", "dark"):
            page = opened.open(file, width=390)
            page.theme(scheme)
            assert not page.problems
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
            assert min(found[0] for found in page.evaluate(CONTRAST)) >= 4.5
