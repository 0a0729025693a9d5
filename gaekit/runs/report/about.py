"""What a run is, in three sentences."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from gaekit.errors import GaekitError
from gaekit.runs.report.parts import human
from gaekit.runs.report.source import FINISHED, Source
from gaekit.runs.report.tables import interval_text
from gaekit.store.files import human_duration

TOLD = 4
"""Numbers that are named."""


def about(source: Source) -> list[str]:
    """What it makes, how it was made, how good it is."""
    return [_what(source), _how(source), _how_good(source)]


def _what(source: Source) -> str:
    recipe, stages = source.settings, source.record["stages"]
    size, dim, grid = source.size, recipe["latent_dim"], source.size // recipe["image"]["stride"]
    pixels = f"images of {size} × {size} pixels"
    latents = f"latents of {dim} channels on a {grid} × {grid} grid"
    decoder = f"an autoencoder{_built(recipe.get('autoencoder'), ('encoder', 'regularizer'))}"
    if stages.get("diffusion", {}).get("status") in FINISHED:
        denoiser = recipe.get("diffusion") or {}
        name = f"a {denoiser['denoiser']['use']} denoiser" if "denoiser" in denoiser else "a denoiser"
        try:
            classes = f" of {len(source.classes):,} classes" if source.classes else ""
        except GaekitError:
            classes = ""
        return f"{recipe['name']} makes {pixels}{classes}: {name} draws {latents}, which {decoder} turns into pixels."
    if stages.get("autoencoder", {}).get("status") in FINISHED:
        return f"{recipe['name']} is {decoder} that turns {pixels} into {latents} and back."
    return f"{recipe['name']} is to make {pixels} from {latents}; it has not got that far."


def _built(section: Any, parts: tuple[str, ...]) -> str:
    names = [
        section[part]["use"] for part in parts if isinstance(section, dict) and isinstance(section.get(part), dict)
    ]
    return f" ({', '.join(names)})" if names else ""


def _how(source: Source) -> str:
    recipe, record = source.settings, source.record
    trained = []
    for stage, entry in record["stages"].items():
        steps, section = (entry.get("record") or {}).get("steps"), recipe.get(stage)
        if steps and isinstance(section, dict) and isinstance(section.get("train"), dict):
            trained.append(f"{stage} {steps:,} steps of {section['train']['batch']:,} images")
    seconds = sum((entry.get("record") or {}).get("seconds") or 0 for entry in record["stages"].values())
    taken = [stage for stage, entry in record["stages"].items() if entry["status"] == "from"]
    by = f"; {', '.join(taken)} {'is' if len(taken) == 1 else 'are'} taken from elsewhere" if taken else ""
    how = f" ({', '.join(trained)})" if trained else ""
    time = f" for {human_duration(seconds)} on {record.get('device', '?')}" if seconds else ""
    ended = f"ended on {_date(record['finished'])}" if record.get("finished") else "has not ended"
    return f"It was trained on the data set {recipe['dataset']['use']}{time}{how}{by}, and {ended}."


def _date(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text):%-d %B %Y}"
    except ValueError:
        return text


def _how_good(source: Source) -> str:
    found = source.metrics
    if not found:
        return "No number about it has been measured."
    heads = ("reconstruction/", "samples/", "latents/")
    order = sorted(
        found, key=lambda name: (next((i for i, h in enumerate(heads) if name.startswith(h)), len(heads)), name)
    )
    kept = [name for name in order if name.startswith(heads[:2])][:TOLD] or order[:TOLD]
    told = ", ".join(f"{_named(name)} {human(found[name]['value'])}{_interval(found[name])}" for name in kept)
    return f"Measured: {told}."


def _named(name: str) -> str:
    """`psnr of reconstructions` for `reconstruction/psnr`."""
    what, _, metric = name.partition("/")
    return f"{metric} of {'reconstructions' if what == 'reconstruction' else what}"


def _interval(entry: dict[str, Any]) -> str:
    return f" {interval_text(entry)}" if "interval" in entry else ""
