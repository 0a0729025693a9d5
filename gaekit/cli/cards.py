"""`gaekit report-card` and `gaekit arena`: tokenizers before any denoiser is trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaekit.cli.evaluate import METRIC_HELP
from gaekit.cli.options import DEVICE, JsonOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gaekit.cards import Arena
    from gaekit.cards.making import Made

HTML = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page.")]


def report_card(
    tokenizers: Annotated[
        list[str],
        typer.Argument(help="Runs, artifacts, or FORMAT:FILE of what `gaekit import` reads; NAME= before it names it."),
    ],
    data: Annotated[str, typer.Option(help="A folder of images, or a data set: '{use: NAME, ...}'.")],
    metric: Annotated[list[str] | None, typer.Option("--metric", "-m", help=METRIC_HELP)] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Judge all images, not the held-out alone: where no tokenizer knows them.")
    ] = False,
    size: Annotated[
        int | None, typer.Option(min=1, metavar="R", help="Side of the images for a FORMAT:FILE of any size.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at once; changes no number.")] = 32,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write each card there: NAME.json.")] = None,
    html: HTML = None,
    device: DEVICE = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode images.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Measure tokenizers on your images, before any denoiser.

    How near reconstructions come, what the latents are like and what they tell of classes, speed, memory, size and
    licence. Each card is JSON; `gaekit arena` sets cards beside each other.
    """
    from gaekit.cards import Arena, Wanted, make_cards
    from gaekit.cards.files import CardFolder
    from gaekit.cli.output import say
    from gaekit.plugins import load_plugins
    from gaekit.runs.page import require_extra

    wanted = Wanted(tokenizers, data, metric or (), size, everything, batch, device, workers)
    if html is not None:
        require_extra()  # before anything is measured that no page could show
    folder = None if out is None else CardFolder(out)
    made: list[Made] = []
    for one in make_cards(wanted, load_plugins()):
        made.append(one)
        if folder is not None:
            say(f"written: {folder.write(one.card)}", stderr=True)
    arena = Arena([one.card for one in made])
    _write_page(html, arena, made)
    _show(arena, as_json=as_json, markdown=False)


def arena(
    cards: Annotated[list[Path], typer.Argument(help="Cards, as `gaekit report-card --out DIR` writes them.")],
    html: HTML = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Set report cards of the same images beside each other."""
    from gaekit.cards import Arena, read_card

    found = Arena([read_card(file) for file in cards])
    _write_page(html, found)
    _show(found, as_json=as_json, markdown=markdown)


def _write_page(file: Path | None, arena: Arena, made: Sequence[Made] = ()) -> None:
    if file is None:
        return
    from gaekit.cards.page import make_page
    from gaekit.cli.output import say
    from gaekit.store.files import write_text

    write_text(file, make_page(arena, made))
    say(f"page: {file}", stderr=True)


def _show(arena: Arena, *, as_json: bool, markdown: bool) -> None:
    from gaekit.cards.text import caption_of, head_of, markdown_of, table_of
    from gaekit.cli.output import print_json, print_table, say

    if as_json:
        print_json([card.to_json() for card in arena.cards])
    elif markdown:
        print(markdown_of(arena))
    else:
        print_table(head_of(arena), table_of(arena))
        say(caption_of(arena))
        for note in arena.notes():
            say(note, stderr=True)
