"""`gaekit likelihood`: how likely a run's denoiser finds held-out images."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from gaekit.cli.options import JsonOption


class Split(StrEnum):
    """A part of the data."""

    train = "train"
    validation = "validation"


def likelihood(
    run: Annotated[Path, typer.Argument(help="A finished run's folder, such as runs/quickstart; its data is read.")],
    split: Annotated[Split, typer.Option(help="Which images.")] = Split.validation,
    count: Annotated[int, typer.Option(min=1, help="At most so many images, a random choice.")] = 256,
    probes: Annotated[int, typer.Option(min=1, help="Random vectors that estimate the divergence.")] = 1,
    exact: Annotated[bool, typer.Option("--exact", help="Sum every derivative instead; for small latents.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Of choice and probes; the recipe's by default.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 16,
    tolerance: Annotated[float, typer.Option(min=1e-10, help="rtol and atol of the solver, dopri5.")] = 1e-5,
    as_json: JsonOption = False,
) -> None:
    """Measure how likely a run's denoiser finds held-out images.

    It is the negative log-likelihood of their latents under its probability flow, in nats and bits a dimension.
    """
    from gaekit.cli.output import print_json, say
    from gaekit.flow.likelihood import Solver
    from gaekit.runs.likelihood import measure_likelihood
    from gaekit.runs.opened import open_run

    found = measure_likelihood(
        open_run(run), split=split.value, count=count, probes=None if exact else probes, seed=seed,
        batch=batch, solver=Solver(rtol=tolerance, atol=tolerance),
    )  # fmt: skip
    if as_json:
        print_json(found)
    else:
        say(_in_words(found))


def _in_words(found: dict[str, Any]) -> str:
    solver, error = found["solver"], found["standard_error_nats_per_dim"]
    lines = [
        f"{found['images']} images ({found['split']}): negative log-likelihood of {found['of']}, "
        f"{found['dimensions']} numbers each"
    ]
    for name in ("standardised", "raw"):
        value = found[name]
        lines.append(f"  {name:<13}{value['nats_per_dim']:9.4f} nats/dim {value['bits_per_dim']:9.4f} bits/dim")
    shown = "unknown of one image" if error is None else f"{error:.4f} nats/dim"
    divergence = "exact divergence" if solver["probes"] == "exact" else f"{solver['probes']} probe(s)"
    return "\n".join(
        [
            *lines,
            f"  standard error {shown}; {solver['method']} (rtol {solver['rtol']:g}, atol {solver['atol']:g}), "
            f"{divergence}, {found['evaluations_per_image']:.0f} evaluations an image, seed {found['seed']}",
        ]
    )
