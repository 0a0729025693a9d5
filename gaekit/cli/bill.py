"""`gaekit bill`: what a run took."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gaekit.runs.bill import Bill, StageBill
    from gaekit.runs.until import Reached

HEAD = ("stage", "attempts", "device-hours", "lost", "FLOP", "of the rate", "images/s", "energy", "money")


def bill(
    run: Annotated[Path, typer.Argument(help="A run's folder, such as runs/quickstart.")],
    price: Annotated[
        str | None, typer.Option(metavar="2.5/h", help="What one device costs an hour, with a currency or without.")
    ] = None,
    until: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC=VALUE", help="What it cost until a curve first reached a value. Repeatable."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure this machine's CPU for half a second, for the share of its rate.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a run took by stage, failed attempts included.

    Device-hours, FLOP, share of the devices' rates, images a second, energy, money at a price; and what it cost until a
    curve first reached a value.
    """
    from gaekit.cli.output import print_json, say
    from gaekit.pipeline.view import View
    from gaekit.runs.bill import Price
    from gaekit.runs.bill import bill as bill_of
    from gaekit.runs.until import until as reach

    view, paid = View(run), Price.parse(price) if price else None
    made = bill_of(view, price=paid)
    if measure and (threads := _threads(made)) is not None:
        from gaekit.runs.cpu_rate import measure_cpu

        made = bill_of(view, price=paid, cpu=measure_cpu(threads))
    is_higher = _directions() if until else None
    reached = [reach(view, made, asked, is_higher) for asked in until or ()] if is_higher else []
    if as_json:
        print_json(made.to_json() | ({"until": [found.to_json() for found in reached]} if reached else {}))
        return
    _print_bill(made)
    for found in reached:
        say(f"\n{_sentence(found, made)}")


def _directions() -> Callable[[str], bool]:
    """Whether more of a number is better, by its name: what the installed metrics say of their own."""
    from gaekit.api import Metric
    from gaekit.plugins import load_plugins

    metrics = [cls for cls in load_plugins().classes["metric"].values() if issubclass(cls, Metric)]
    starts = tuple(start for metric in metrics for start in metric.higher)
    return lambda name: name.rpartition("/")[2].startswith(starts)


def _threads(bill: Bill) -> int | None:
    """With how many threads the run's last attempt on a CPU computed."""
    found = [attempt.threads for stage in bill.stages for attempt in stage.attempts if not attempt.cuda]
    return found[-1] if found else None


def _print_bill(bill: Bill) -> None:
    from gaekit.cli.output import print_table, say

    rows = [_row(stage, bill) for stage in bill.stages]
    total = (
        "sum", str(sum(len(s.attempts) for s in bill.stages)), _hours(bill.device_seconds),
        _hours(sum(s.lost_seconds for s in bill.stages)), _flop(bill.flop), _percent(bill.share), "",
        _energy(bill.joules), _money(bill.money, bill),
    )  # fmt: skip
    shown = [n for n, _ in enumerate(HEAD) if n < 6 or n == 6 or any(row[n] not in ("", "?") for row in [*rows, total])]
    print_table([HEAD[n] for n in shown], [[row[n] for n in shown] for row in [*rows, total]])
    for note in bill.notes:
        say(note)


def _row(stage: StageBill, bill: Bill) -> tuple[str, ...]:
    if not stage.known:
        return (stage.stage, "-", "?", "?", "?", "?", "?", "?", "?")
    rate = stage.images_per_second
    return (
        stage.stage, _attempts(stage), _hours(stage.device_seconds), _hours(stage.lost_seconds), _flop(stage.flop),
        _percent(stage.share), _rate(rate) if rate else "-", _energy(stage.joules),
        _money(bill.price.of(stage.device_seconds) if bill.price else None, bill),
    )  # fmt: skip


def _attempts(stage: StageBill) -> str:
    """`3 (1 killed, 1 failed)`."""
    ends = [attempt.outcome for attempt in stage.attempts]
    odd = [f"{ends.count(end)} {end}" for end in ("killed", "stopped", "failed", "running") if end in ends]
    return f"{len(ends)} ({', '.join(odd)})" if odd else str(len(ends))


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.4g}" if seconds else "0"


def _flop(flop: int | None) -> str:
    """In the unit that fits: 1.23 PFLOP."""
    from gaekit.store.files import human_flop

    return "?" if flop is None else human_flop(flop)


def _rate(images: float) -> str:
    return f"{images:,.0f}" if images >= 100 else f"{images:.3g}"


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{share:.1%}"


def _energy(joules: float | None) -> str:
    return "?" if joules is None else f"{joules / 3.6e6:.3g} kWh"


def _money(amount: float | None, bill: Bill) -> str:
    if amount is None or bill.price is None:
        return ""
    figure = f"{amount:.2f}" if amount >= 0.1 or not amount else f"{amount:.2g}"
    return f"{figure} {bill.price.currency}".strip()


def _sentence(found: Reached, bill: Bill) -> str:
    """When it was reached, in epochs and device-hours, or that it was not."""
    sign, most = (">=", "highest") if found.higher else ("<=", "lowest")
    if found.step is None:
        return (
            f"{found.metric} {sign} {found.target:g} was never reached in {found.stage}; "
            f"the {most} is {found.best:.4g}, at step {found.best_step}"
        )
    epochs = "?" if found.epochs is None else f"{found.epochs:.4g}"
    hours = found.device_hours
    paid = "" if bill.price is None or hours is None else f", {_money(bill.price.of(hours * 3600), bill)}"
    own = "of unknown device-hours" if hours is None else f"{hours:.4g} device-hours{paid}"
    return (
        f"{found.metric} {sign} {found.target:g} was first reached at step {found.step} of {found.stage} "
        f"({found.value:.4g}): {epochs} epochs, {own} of this training, {found.device_hours_before:.4g} of the stages "
        "before it"
    )
