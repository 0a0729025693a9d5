"""An arena as a page: what the tokenizers rebuild, their numbers with intervals, quality over size, curves, facts."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from gaekit import __version__
from gaekit.cards.arena import JUDGED, Arena, value_text
from gaekit.cards.card import Card
from gaekit.cards.making import Made
from gaekit.cards.text import caption_of
from gaekit.runs.compare.numbers import Row
from gaekit.runs.page import (
    Cell,
    Interval,
    Point,
    Series,
    breakable,
    curves_svg,
    details,
    gallery,
    image_tag,
    intervals_svg,
    render,
    require_extra,
    scatter_svg,
    table,
)

AT = re.compile(r"^(?P<curve>.+)@(?P<x>\d{1,15}(?:\.\d{1,20})?(?:e[+-]?\d{1,2})?)$")
"""Numbers that are the points of a curve: `latents/noise_curve_psnr@0.5`."""
SHOWN_WIDTH = 96


def make_page(arena: Arena, made: Sequence[Made] = ()) -> str:
    """One HTML file; with the pictures where the cards were just `made`. Raises GaekitError where the extra `report` is
    absent."""
    require_extra()
    sections = [
        ("rebuilt", "What is rebuilt", _pictures(arena, made)),
        ("numbers", "Numbers", _numbers(arena)),
        ("size", "Quality over size", _over_size(arena)),
        ("curves", "Curves", _curves(arena)),
        ("table", "All of it", _table(arena)),
    ]
    return render(
        "arena.html",
        title=" and ".join(arena.names) if len(arena.names) < 3 else f"{len(arena.names)} tokenizers",
        runs=list(zip(arena.letters, arena.names, (_about(card) for card in arena.cards), strict=True)),
        caption=caption_of(arena, "bold"),
        sections=[section for section in sections if section[2]],
        version=__version__,
    )  # fmt: skip


def _about(card: Card) -> str:
    latent = " x ".join(map(str, card.tokenizer["latent"]))
    return f"{card.tokenizer['kind']}, latent {latent}, weights {str(card.tokenizer['sha256'])[:12]}"


def _pictures(arena: Arena, made: Sequence[Made]) -> Markup:
    """The first images, and below them what each tokenizer makes of them."""
    if not made:
        return Markup()
    rows = [("", "originals", made[0].originals)]
    rows += [
        (letter, name, one.reconstructions) for letter, name, one in zip(arena.letters, arena.names, made, strict=True)
    ]
    told = "Some of the images that are judged, and what each tokenizer makes of them, from the latent's mean."
    strips = Markup().join(
        Markup('<div class="beside"><span>{}</span>{}</div>').format(
            letter or "\u00a0",
            gallery(
                [
                    image_tag(image.numpy(), f"{name}, image {place}", width=SHOWN_WIDTH)
                    for place, image in enumerate(row, 1)
                ],
                columns=len(row),
            ),
        )
        for letter, name, row in rows
    )
    return Markup('<p class="note">{}</p><div class="strips">{}</div>').format(told, strips)


def _numbers(arena: Arena) -> Markup:
    rows = [row for row in arena.rows if row.name.startswith(JUDGED)]
    if not rows:
        return Markup()
    told = (
        "95 % intervals are about other images of the same making. A difference from the first is told where it is "
        "more than chance, image by image where both judged the same ones."
    )
    plots = Markup().join(_plot(arena, row) for row in rows)
    return Markup('<p class="note">{}</p><div class="plots">{}</div>').format(told, plots)


def _plot(arena: Arena, row: Row) -> Markup:
    shown = [
        Interval(letter, number.value, low, high, group=letter, text=value_text(number))
        for letter, number in zip(arena.letters, row.numbers, strict=True)
        if number is not None
        for low, high in (number.interval or (None, None),)
    ]
    better = "more" if arena.is_higher_better(row.name) else "less"
    caption = Markup("<br>").join([f"{better} is better", *_differences(arena, row)])
    return intervals_svg(shown, title=row.name, caption=caption, keys=False)


def _differences(arena: Arena, row: Row) -> Iterator[str]:
    """What differs from the first card's number by more than chance."""
    for letter, change in zip(arena.letters[1:], row.changes, strict=True):
        if change.verdict in ("higher", "lower") and change.interval is not None:
            low, high = change.interval
            yield f"{letter} is {change.verdict} than {arena.letters[0]}: {_change(low)} to {_change(high)}"
        elif change.verdict == "no difference shown":
            yield f"{letter}: no difference from {arena.letters[0]} shown"


def _change(value: float) -> str:
    return f"{value:+,.0f}" if abs(value) >= 1000 else f"{value:+.3g}"


def _over_size(arena: Arena) -> Markup:
    """Each number of reconstructions over how many values a latent has for each value of an image."""
    shares = [math.prod(card.tokenizer["latent"]) / (3 * card.tokenizer["image_size"] ** 2) for card in arena.cards]
    if len(set(shares)) < 2:
        return Markup()
    plots = [
        scatter_svg(
            [
                Point(letter, share, number.value, y_interval=number.interval, group=letter)
                for letter, share, number in zip(arena.letters, shares, row.numbers, strict=True)
                if number is not None
            ],
            title=row.name, x_label="latent values for each image value", y_label="",
        )
        for row in arena.rows
        if row.name.startswith(JUDGED[0]) and sum(number is not None for number in row.numbers) > 1
    ]  # fmt: skip
    return Markup('<div class="plots">{}</div>').format(Markup().join(plots)) if plots else Markup()


def _curves(arena: Arena) -> Markup:
    """Numbers that are points of curves, those of all cards in one plot."""
    points: dict[str, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in arena.rows:
        if (found := AT.match(row.name)) is None:
            continue
        for place, number in enumerate(row.numbers):
            if number is not None:
                points[found["curve"]][place].append((float(found["x"]), number.value))
    plots = []
    for name, of_cards in points.items():
        series = [
            Series(arena.letters[place], [x for x, _ in sorted(own)], [y for _, y in sorted(own)], colour=place)
            for place, own in of_cards.items()
        ]
        plots.append(curves_svg(series, title=name, x_label="sigma" if "noise" in name else ""))
    return Markup('<div class="plots">{}</div>').format(Markup().join(plots)) if plots else Markup()


def _table(arena: Arena) -> Markup:
    rows: list[list[Markup | Cell | str]] = []
    for row in arena.rows:
        best = arena.best(row)
        cells = [Cell(value_text(n), number=True, strong=place in best) for place, n in enumerate(row.numbers)]
        rows.append([breakable(row.name), *cells])
    rows += [[fact.name, *(Cell(text, number=True) for text in fact.texts)] for fact in arena.facts]
    caption = "Every number, ± half of its 95 % interval, and what the tokenizers are"
    whole = table(("", *map(breakable, arena.names)), rows, caption=caption)
    notes = Markup().join(Markup('<p class="note">{}</p>').format(note) for note in arena.notes())
    return whole + notes + details("How each number was made", _protocols(arena))


def _protocols(arena: Arena) -> Markup:
    """The protocol of every number of the first card that has it."""
    rows: list[list[Markup | Cell]] = []
    for row in arena.rows:
        number = next(number for number in row.numbers if number is not None)
        told = ", ".join(
            f"{key}: {value}" for key, value in number.protocol.items() if not isinstance(value, dict | list)
        )
        rows.append([breakable(row.name), Cell(told, wide=True)])
    return table(("number", "protocol"), rows, caption="Protocols")
