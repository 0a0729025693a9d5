"""What `gaekit plan` prints."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gaekit.errors import DataAbsent, GaekitError
from gaekit.pipeline.describe import cache_bytes, data_facts, network_sizes
from gaekit.pipeline.plan import Plan, make_plan
from gaekit.pipeline.view import STORE
from gaekit.plugins import Registry
from gaekit.recipe.schema import Recipe, Train
from gaekit.store.files import human_size


def show_plan(recipe: Recipe, registry: Registry, out: Path, until: str | None, facts: bool) -> None:
    """Print the plan of a recipe."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    plan = make_plan(recipe, registry, out / STORE, until=until)
    console.print(f"{recipe.name}: {recipe.image.size} px, latents {_latent_shape(recipe)}", markup=False)
    classes = images = None
    try:
        classes, images, held_out = data_facts(recipe, registry)
        console.print(
            f"data: {recipe.dataset.use}, {images} training and {held_out} held-out images, {classes or 'no'} classes"
        )
    except DataAbsent as error:
        console.print(f"data: absent, digest unknown ({error})", markup=False)
    console.print(_stage_table(recipe, plan))
    console.print(_size_table(recipe, registry, classes))
    if images is not None and (size := cache_bytes(recipe, images)):
        console.print(f"latent cache: {human_size(size)}")
    if facts:
        for stage in plan.stages:
            console.print(f"\n{stage.name} {stage.fingerprint}", markup=False)
            console.print(json.dumps(stage.facts, indent=2, ensure_ascii=False), markup=False)


def _latent_shape(recipe: Recipe) -> str:
    return f"{recipe.image.grid} x {recipe.image.grid} x {recipe.latent_dim}"


def _stage_table(recipe: Recipe, plan: Plan) -> Table:
    table = Table("stage", "status", "steps", "batch", "decided by", "where", box=None, header_style="bold")
    for stage in plan.stages:
        train = getattr(getattr(recipe, stage.name), "train", None)
        steps = (str(train.steps), str(train.batch)) if isinstance(train, Train) else ("", "")
        decided = ", ".join([*stage.facts.get("parts", ["its content"]), *stage.facts.get("needs", [])])
        where = f"{STORE}/{stage.name}/{stage.room.path.name}" if stage.room else str(stage.artifact)
        table.add_row(stage.name, stage.status, *steps, decided, where)
    return table


def _size_table(recipe: Recipe, registry: Registry, classes: int | None) -> Table:
    table = Table("network", "parameters", "of them trained", "checkpoint", box=None, header_style="bold")
    try:
        sizes = network_sizes(recipe, registry, classes)
    except GaekitError as error:
        raise GaekitError(f"the networks of this recipe cannot be built: {error}") from error
    for size in sizes:
        table.add_row(size.name, _millions(size.parameters), _millions(size.trained), human_size(size.checkpoint))
    return table


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f}M" if count < 1e8 else f"{count / 1e6:.1f}M"
