"""`gaekit latents`: whether a latent cache is still what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gaekit.cli.options import JsonOption

PATH = Annotated[Path, typer.Argument(help="A run, or the folder of a cache (with manifest.json).")]


def make_app() -> typer.Typer:
    """The commands under `gaekit latents`."""
    app = typer.Typer(help="Verify or mend the latents that a denoiser trains on.", no_args_is_help=True)
    app.command("verify")(verify)
    app.command("mend")(mend)
    return app


def verify(path: PATH, as_json: JsonOption = False) -> None:
    """Read every shard of a cache and compare it with the manifest; name each that is damaged and exit 2."""
    from dataclasses import asdict

    from gaekit.cli.output import print_json, say
    from gaekit.data.latents_check import verify_cache
    from gaekit.store.shard_reader import read_manifest

    folder = _folder(path)
    damage = list(verify_cache(folder))
    if as_json:
        print_json({"folder": str(folder), "damaged": [asdict(found) for found in damage]})
    for found in () if as_json else damage:
        say(f"damaged: {folder / found.file}: {found.what}")
    if damage:
        say(f"to mend: gaekit latents mend {path}; then the run or import that made it, again", stderr=True)
        raise typer.Exit(2)
    if not as_json:
        facts = read_manifest(folder)
        say(f"intact: {folder}, {facts['rows']} images in {sum(bool(s['rows']) for s in facts['shards'])} shards")


def mend(path: PATH) -> None:
    """Remove the damaged shards of a cache, so that the next run writes these, and only these, again."""
    from gaekit.cli.output import say
    from gaekit.data.latents_check import mend_cache

    folder = _folder(path)
    damage = mend_cache(folder)
    for found in damage:
        say(f"removed: {folder / found.file}: {found.what}")
    if damage:
        say("the run or import that made this cache, started again, writes what is missing")
    else:
        say(f"intact: {folder}; nothing was removed")


def _folder(path: Path) -> Path:
    from gaekit.stages.latents import STAGE
    from gaekit.store.artifact import resolve

    found = resolve(path, STAGE.name, STAGE.artifact).resolve()
    return found if found.is_dir() else found.parent
