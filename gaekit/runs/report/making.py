"""The page from its sections. What a run lacks is a sentence in the place of its section."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from rich.console import Console

from gaekit import __version__
from gaekit.errors import GaekitError
from gaekit.parallel import is_first_process
from gaekit.pipeline.view import View
from gaekit.plugins import Registry
from gaekit.recipe.schema import Recipe
from gaekit.runs.page import render, require_extra
from gaekit.runs.report.about import about
from gaekit.runs.report.curves import curves
from gaekit.runs.report.latent import latent
from gaekit.runs.report.neighbours import neighbours
from gaekit.runs.report.pictures import Pictures
from gaekit.runs.report.samples import reconstructions, samples
from gaekit.runs.report.settings import settings
from gaekit.runs.report.source import Source
from gaekit.runs.report.tables import again, chain, metrics, stages
from gaekit.store.files import sha256_json, write_text
from gaekit.train.progress import Reporter
from gaekit.waiting import progress

REPORT = "report.html"
REVISION = 1
"""Raised when reports look or measure otherwise: those of before are then made anew."""
HEAD = 4096


@dataclass(frozen=True)
class Section:
    """A part of the page: its anchor, its heading, what makes it."""

    anchor: str
    title: str
    make: Callable[[Source], Markup]


SECTIONS = (
    Section("samples", "Samples", samples),
    Section("reconstructions", "Reconstructions", reconstructions),
    Section("neighbours", "Nearest training images", neighbours),
    Section("numbers", "Numbers", metrics),
    Section("curves", "Curves", curves),
    Section("latent", "The latent space", latent),
    Section("stages", "Stages", stages),
    Section("recipe", "Recipe", settings),
    Section("fingerprints", "Fingerprints", chain),
    Section("again", "Make it again", again),
)


def make_report(view: View, registry: Registry, say: Callable[[str], None] = print) -> str:
    """The page of a run. Of a section that fails by a fault of code, not for what the run lacks, `say` is told.

    Raises ArtifactError where there is no run, GaekitError where the extra `report` is absent.
    """
    require_extra()
    source = Source(view, registry, Reporter(Console(quiet=True)), Pictures())
    _ = source.record
    sections = progress(SECTIONS, "making the report", len(SECTIONS), "sections")
    made = [(section.anchor, section.title, _made(section, source, say)) for section in sections]
    page = render(
        "report.html",
        name=source.settings["name"],
        identity=identity_of(view),
        about=about(source),
        taken=list(source.sentences()),
        attributions=sorted(set(source.record.get("attributions", {}).values())),
        sections=made,
        version=__version__,
        finished=source.record.get("finished"),
    )
    return source.pictures.fill(page)


def _made(section: Section, source: Source, say: Callable[[str], None]) -> Markup:
    try:
        return section.make(source)
    except GaekitError as error:
        reason = str(error)
    except Exception as error:  # a picture of a run is not worth the run
        reason = f"{type(error).__name__}: {error}"
        place = traceback.extract_tb(error.__traceback__)[-1]
        say(f"warning: report: '{section.title}' is left out: {reason} ({Path(place.filename).name}:{place.lineno})")
    return Markup('<p class="absent">Left out. {}</p>').format(reason)


def write_report(view: View, registry: Registry, to: Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Write the page, whole or not at all, into the run's folder or to a file; -> where it is."""
    file = to or view.path / REPORT
    write_text(file, make_report(view, registry, say))
    return file


def identity_of(view: View) -> str:
    """What decides a report's content: the results that it shows, and the code that shows them."""
    entries = view.record["stages"]
    shown = {
        stage: [entry["identity"], entry["status"] in ("done", "cached", "from")] for stage, entry in entries.items()
    }
    said = view.record.get("attributions", {})
    return sha256_json({"revision": REVISION, "version": __version__, "stages": shown, "attributions": said})


def end_with_report(view: View, recipe: Recipe, registry: Registry, reporter: Reporter | None = None) -> None:
    """End a run with its report, if `runtime.report` wants one and that of the same results is not there yet.

    One process makes it. Whatever goes wrong is one line: a report fails no run.
    """
    if not recipe.runtime.report or not is_first_process():
        return
    say = (reporter or Reporter()).say
    try:
        require_extra()
    except GaekitError as error:
        say(f"no report: {error}")
        return
    try:
        if not is_current(view):
            say(f"report: {write_report(view, registry, say=say)}")
    except Exception as error:
        say(f"warning: no report: {str(error) or type(error).__name__}")


def is_current(view: View) -> bool:
    """Whether the report in a run's folder shows its results as they are."""
    file = view.path / REPORT
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return f'content="{identity_of(view)}"'.encode() in opened.read(HEAD)
