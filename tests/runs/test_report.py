"""`gaekit report`: all that a run has, on one page; what it lacks is a sentence, and nothing fails."""

from __future__ import annotations

import html
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser_helpers import CONTRAST, Browser, Page, browser, needs_chromium
from recipe_helpers import tiny_recipe
from rich.console import Console

from gaekit.cli import main
from gaekit.errors import GaekitError
from gaekit.pipeline.run import run_recipe
from gaekit.pipeline.view import View
from gaekit.plugins import Registry, load_plugins
from gaekit.recipe import load_recipe
from gaekit.recipe.schema import Recipe
from gaekit.recipe.writing import dump
from gaekit.runs.report import REPORT, end_with_report, making, write_report
from gaekit.runs.report.neighbours import choose_space, neighbours
from gaekit.runs.report.pictures import Pictures
from gaekit.runs.report.samples import samples
from gaekit.runs.report.settings import SHOWN, Parent, differences_from, find_parent
from gaekit.runs.report.source import Source
from gaekit.stages.machine import cpu_name
from gaekit.store.npz import npz_rows
from gaekit.train.progress import Reporter

QUIET = Reporter(Console(quiet=True))
TINY = tiny_recipe("""
teacher: {use: efficientnet_lite0, layer: stage3}
aligner: {use: latent, head_dim: 20}
semantic: {train: {steps: 2, batch: 8}}
autoencoder: {train: {steps: 4, lr: 1e-3}}
sample: {sampler: {use: euler, steps: 2}, guidance: {scale: 2.0}, count: 40, batch: 20, also_unguided: true}
evaluate: {metrics: [{use: psnr}, {use: class_accuracy}]}
runtime: {save_every: 4, log_every: 1}
""")


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_plugins()


@pytest.fixture(scope="module")
def recipe(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    file = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    file.write_text(TINY)
    return load_recipe(file, registry)


@pytest.fixture(scope="module")
def view(recipe: Recipe, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> View:
    return run_recipe(recipe, registry, out=tmp_path_factory.mktemp("project") / "runs", reporter=QUIET)


@pytest.fixture(scope="module")
def warned() -> list[str]:
    return []


@pytest.fixture(scope="module")
def page(view: View, registry: Registry, warned: list[str]) -> str:
    return write_report(view, registry, say=warned.append).read_text(encoding="utf-8")


@pytest.fixture
def source(view: View, registry: Registry) -> Source:
    return Source(view, registry, QUIET, Pictures())


@pytest.fixture
def copied(view: View, tmp_path: Path) -> View:
    """The run with its store, to be changed."""
    shutil.copytree(view.path.parent, tmp_path / "runs", symlinks=True, ignore=shutil.ignore_patterns(REPORT))
    return View(tmp_path / "runs" / view.path.name)


def text_of(page: str, section: str) -> str:
    found = re.search(rf'<section id="{section}".*?</section>', page, flags=re.DOTALL)
    assert found is not None, section
    return html.unescape(re.sub(r"<[^>]+>", " ", found[0].replace("<wbr>", "")))


def left_out(page: str) -> dict[str, str]:
    """The sentence of each section that is left out."""
    sections = re.findall(r'<section id="(\w+)"(.*?)</section>', page, flags=re.DOTALL)
    found = {name: re.search(r'class="absent">([^<]*)', body) for name, body in sections}
    return {name: html.unescape(match[1]) for name, match in found.items() if match}


def test_a_whole_run_has_every_section(page: str, warned: list[str]) -> None:
    assert warned == []
    assert left_out(page) == {}
    assert "<script" not in page
    assert len(re.findall(r'<section id="', page)) == len(making.SECTIONS)
    assert len(page.encode()) < 3_000_000


def test_it_says_what_the_run_is_and_what_was_measured(page: str, view: View) -> None:
    what, how, how_good = re.findall(r'<p class="lead">(.*?)</p>', page, flags=re.DOTALL)
    assert "tiny makes images of 16 × 16 pixels of 10 classes: a lightning_dit denoiser draws" in what
    assert "autoencoder 4 steps of 8 images, diffusion 4 steps of 8 images" in how
    assert f" on {html.escape(cpu_name())} (" in how
    assert "psnr of reconstructions" in how_good
    numbers, shown = json.loads((view.path / "metrics.json").read_text()), text_of(page, "numbers")
    for name, entry in numbers.items():
        assert name in shown
        assert f"{entry['value']:#.4g}" in shown


def test_samples_of_each_class_are_shown_unselected(page: str, view: View) -> None:
    labels = np.concatenate(list(npz_rows(view.path / "samples.npz", "arr_1", 100)))
    for digit in range(10):
        places = np.flatnonzero(labels == digit)[:8]
        assert re.findall(rf'alt="Sample number (\d+) of class {digit}"', page) == [str(place + 1) for place in places]
    assert len(re.findall('alt="Unguided sample number', page)) == 10


def test_of_many_classes_some_are_shown_in_rows_that_their_samples_fill(source: Source, monkeypatch: Any) -> None:
    monkeypatch.setattr("gaekit.runs.report.samples.CLASSES", 3)
    shown = samples(source)
    assert "The first 4 of each of 3 of 10 classes, evenly spread, unselected, of 40." in shown
    assert re.findall(r"<h3>Class (\d)</h3>", shown) == ["0", "3", "6"]
    assert shown.count("--columns: 4") == 3
    few = {3: [0, 1], 7: [2]}
    monkeypatch.setattr("gaekit.runs.report.samples.first_of_classes", lambda file, classes, size: few)
    assert samples(source).count("--columns: 2") == len(few)


def test_curves_of_every_loss_and_the_recipe_s_teacher_are_named(page: str, view: View) -> None:
    shown = text_of(page, "curves")
    for stage in ("semantic", "autoencoder", "diffusion"):
        lines = [json.loads(line) for line in (view.path / stage / "curves.jsonl").read_text().splitlines()]
        names = {name for line in lines for name in line["scalars"] if name.startswith("loss/")}
        assert names
        assert all(name in shown for name in names)
    assert "the features of the teacher efficientnet_lite0" in text_of(page, "neighbours")


def test_fingerprints_and_the_command_are_there(page: str, view: View) -> None:
    shown = text_of(page, "fingerprints")
    for entry in view.record["stages"].values():
        assert entry["identity"] in shown
    assert f"gaekit run {view.path / 'recipe.yaml'}" in text_of(page, "again")


# What a run lacks.


def test_a_run_that_has_not_got_far_leaves_out_the_rest(recipe: Recipe, registry: Registry, tmp_path: Path) -> None:
    view = run_recipe(recipe, registry, out=tmp_path, until="semantic", reporter=QUIET)
    warned: list[str] = []
    found = write_report(view, registry, say=warned.append).read_text(encoding="utf-8")
    assert warned == []
    assert set(left_out(found)) == {"samples", "reconstructions", "neighbours", "numbers", "latent"}
    assert left_out(found)["samples"] == "Left out. This recipe has no stage “sample”."
    assert "it has not got that far" in found


def test_other_data_than_that_of_the_run_is_not_shown_as_its_own(copied: View, registry: Registry) -> None:
    change(copied, lambda record: record.update(data="0" * 64))
    found = write_report(copied, registry, say=pytest.fail).read_text(encoding="utf-8")
    assert set(left_out(found)) == {"reconstructions", "neighbours"}
    assert "not that on which this run was trained" in left_out(found)["neighbours"]


def test_a_run_of_before_curves_and_one_without_plugins_of_its_data_is_shown(copied: View, registry: Registry) -> None:
    for file in copied.path.parent.glob("store/*/*/curves.jsonl"):
        file.unlink()
    recipe = copied.path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("use: digits", "use: gone"))
    found = write_report(copied, registry, say=pytest.fail).read_text(encoding="utf-8")
    assert "has no curves" in left_out(found)["curves"]
    assert "unknown dataset 'gone'" in left_out(found)["reconstructions"]
    assert {"numbers", "stages", "recipe", "fingerprints", "again"}.isdisjoint(left_out(found))


def change(view: View, edit: Callable[[dict[str, Any]], None]) -> None:
    record = view.record
    edit(record)
    (view.path / "run.json").write_text(json.dumps(record))


def test_whom_to_name_is_said_once_and_as_text(
    copied: View, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "SECTIONS", ())
    text = "Drawings: <b>somebody</b>, CC BY-SA 4.0"
    change(copied, lambda record: record.update(attributions={"dataset:a": text, "teacher:b": text}))
    found = write_report(copied, registry, say=pytest.fail).read_text(encoding="utf-8")
    assert found.count(f'<p class="note">{html.escape(text)}</p>') == 1
    assert making.is_current(copied)
    change(copied, lambda record: record.update(attributions={}))
    assert not making.is_current(copied)


# Nearest training images.


def test_reconstructed_training_images_are_called_copies_of_their_originals(source: Source, monkeypatch: Any) -> None:
    places = list(range(0, 1400, 70))
    pixels = source.training_batch(places).pixels_BRR3
    monkeypatch.setattr("gaekit.runs.report.neighbours.rows_of", lambda file, wanted: pixels)
    monkeypatch.setattr("gaekit.runs.report.neighbours.npz_length", lambda file, name: len(pixels))
    told = neighbours(source)
    assert f"{len(places)} of {len(places)} samples are copies" in told
    assert told.count(">a copy<") == 10  # all that are shown


@pytest.mark.parametrize("space", ["teacher", "latents"])
def test_the_nearest_to_a_training_image_is_itself(source: Source, monkeypatch: Any, space: str) -> None:
    from gaekit.runs.report.measures import nearest

    if space == "latents":
        monkeypatch.setattr("gaekit.runs.report.neighbours._features_room", lambda source: None)
    chosen = choose_space(source)
    assert (chosen.searched, chosen.total) == (1438, 1438)
    assert ("teacher" in chosen.told) == (space == "teacher")
    places = [3, 700, 1437]
    distance, found = nearest(chosen.of(source.training_batch(places).pixels_BRR3), chosen.training(), 2)
    assert found[:, 0].tolist() == places
    assert float(distance[:, 0].max()) < 1e-5 < float(distance[:, 1].min())


# The recipe beside its parent.


@pytest.mark.parametrize("more", [0, 1])
def test_many_differences_from_the_parent_are_folded(more: int) -> None:
    page = differences_from(Parent("dit_xl", [(f"autoencoder.key{n}", n, n + 1) for n in range(SHOWN + more)]))
    assert ("<details" in page) == bool(more)
    assert page.count("<tr") == SHOWN + more + 1
    assert f"{SHOWN + more} of its settings differ" in page


def test_the_parent_is_the_shipped_recipe_from_which_least_differs(registry: Registry) -> None:
    changed = load_recipe("quickstart", registry, overrides=["diffusion.train.steps=700"], name="mine")
    parent = find_parent(dump(changed), registry)
    assert parent is not None
    assert (parent.name, parent.differences) == ("quickstart", [("diffusion.train.steps", 700, 1000)])
    assert find_parent({"a": 1, "b": 2}, registry) is None


# At the end of a run.


def test_a_run_ends_with_its_report_and_makes_it_anew_where_results_changed(
    copied: View, recipe: Recipe, registry: Registry, monkeypatch: Any
) -> None:
    wanted = recipe.model_copy(update={"runtime": recipe.runtime.model_copy(update={"report": True})})
    made: list[str] = []
    monkeypatch.setattr(making, "make_report", lambda view, registry, say: made.append("") or head(view))
    for _ in range(2):
        end_with_report(copied, wanted, registry, QUIET)
    assert len(made) == 1
    change(copied, lambda record: record["stages"]["sample"].update(identity="other"))
    end_with_report(copied, wanted, registry, QUIET)
    assert len(made) == 2
    end_with_report(copied, recipe, registry, QUIET)  # which wants none
    monkeypatch.setenv("RANK", "1")
    for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "2")
    change(copied, lambda record: record["stages"]["sample"].update(identity="third"))
    end_with_report(copied, wanted, registry, QUIET)
    assert len(made) == 2


def head(view: View) -> str:
    return f'<meta name="gaekit-results" content="{making.identity_of(view)}">'


def test_a_report_that_fails_is_a_line_and_fails_no_run(
    copied: View, recipe: Recipe, registry: Registry, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = recipe.model_copy(update={"runtime": recipe.runtime.model_copy(update={"report": True})})
    monkeypatch.setattr(making, "SECTIONS", making.SECTIONS[-2:])
    monkeypatch.setattr(making, "render", lambda *given, **named: 1 / 0)
    end_with_report(copied, wanted, registry)
    assert "warning: no report: division by zero" in capsys.readouterr().err
    assert not (copied.path / REPORT).exists()

    def absent() -> None:
        raise GaekitError("plots need matplotlib, which is not installed; pip install 'gaekit[report]' brings it")

    monkeypatch.setattr(making, "require_extra", absent)
    end_with_report(copied, wanted, registry)
    told = capsys.readouterr().err
    assert "no report: plots need matplotlib" in told
    assert "pip install 'gaekit[report]'" in told


def test_a_section_that_fails_is_named_and_the_others_stay(copied: View, registry: Registry, monkeypatch: Any) -> None:
    def broken(source: Source) -> Any:
        raise RuntimeError("a plugin's fault")

    sections = (making.Section("samples", "Samples", broken), *making.SECTIONS[-2:])
    monkeypatch.setattr(making, "SECTIONS", sections)
    warned: list[str] = []
    found = write_report(copied, registry, say=warned.append).read_text(encoding="utf-8")
    assert len(warned) == 1
    assert "'Samples' is left out: RuntimeError: a plugin's fault (test_report.py:" in warned[0]
    assert left_out(found) == {"samples": "Left out. RuntimeError: a plugin's fault"}


def test_the_command_writes_where_it_is_told(view: View, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(making, "SECTIONS", making.SECTIONS[-2:])
    assert main(["report", str(view.path), "--to", str(tmp_path / "a.html")]) == 0
    assert f"report: {tmp_path / 'a.html'}" in capsys.readouterr().out
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    assert main(["report", str(tmp_path)]) == 2
    assert "not a run" in capsys.readouterr().err


# How large it is.


def test_a_page_of_many_large_pictures_stays_within_its_bound() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = Pictures()
    noise = torch.randint(0, 255, (20, 256, 256, 3), generator=generator, dtype=torch.uint8)
    places = [pictures.add(image, f"noise {number}") for number, image in enumerate(noise)]
    text = "".join(places) + "x" * 1000
    assert len(pictures.fill(text, 200_000)) <= 200_000
    assert pictures.fill(text, 200_000).count('width="224"') == 20
    assert len(pictures.fill(text, 10**9)) > 500_000


# In a browser.


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def opened(chromium: Browser, page: str, view: View) -> Page:
    return chromium.open(view.path / REPORT)


@needs_chromium
def test_nothing_is_asked_of_anyone_and_the_console_is_quiet(opened: Page, view: View) -> None:
    assert [url for url in opened.requests if not url.startswith("data:")] == [(view.path / REPORT).resolve().as_uri()]
    assert opened.problems == []


@needs_chromium
def test_every_picture_is_loaded_and_says_what_it_shows(opened: Page) -> None:
    pictures = opened.evaluate("[...document.images].map(i => [i.complete, i.naturalWidth, i.alt, i.width])")
    assert len(pictures) > 150
    assert all(loaded and natural > 0 and alt and width > 0 for loaded, natural, alt, width in pictures)
    plots = opened.evaluate("[...document.querySelectorAll('svg.plot')].map(s => s.getAttribute('aria-label'))")
    assert len(plots) > 8
    assert all(plots)
    ids = opened.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(set(ids)) == len(ids)


@needs_chromium
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_page_never_scrolls_sideways(opened: Page, width: int) -> None:
    opened.width(width)
    opened.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert opened.evaluate("document.documentElement.scrollWidth") <= width


@needs_chromium
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_is_legible(opened: Page, theme: str) -> None:
    opened.theme(theme)
    opened.width(390)
    found = opened.evaluate(CONTRAST)
    assert len(found) > 300
    assert [text for contrast, text, *_ in found if contrast < 4.5] == []
    assert [text for *_, text, size in found if size < 10] == []
    paper = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(252, 252, 250)") == (theme == "light")


@needs_chromium
def test_headings_follow_one_another_and_landmarks_are_there(opened: Page) -> None:
    levels = opened.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= before + 1 for before, later in itertools.pairwise(levels))
    for name in ("header", "nav", "main", "footer"):
        assert opened.evaluate(f"document.querySelectorAll('body > {name}').length") == 1
    assert opened.evaluate("[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.hash))")
