"""Commands that look and change nothing: check, plugins, components, schema."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaekit.cli.options import JsonOption, RecipeArgument, SetOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gaekit.errors import Problem
    from gaekit.plugins import Plugin, Registry
    from gaekit.recipe.load import CheckedRecipe
    from gaekit.recipe.schema import Recipe


def check(recipe: RecipeArgument, changes: SetOption = None, as_json: JsonOption = False) -> None:
    """Say whether a recipe is right, or all that is wrong with it."""
    from gaekit.cli.output import print_json, print_warnings, say
    from gaekit.errors import RecipeError

    try:
        checked = _checked(recipe, changes or [])
    except RecipeError as error:
        if not as_json:
            raise
        print_json(_check_as_data(recipe, error.source, problems=error.problems))
        raise typer.Exit(error.exit_code) from error
    if as_json:
        told = _check_as_data(recipe, checked.source, warnings=checked.warnings)
        print_json({**told, "summary": summary(checked.recipe)})
        return
    print_warnings(checked.source, checked.warnings)
    say(f"ok: {checked.source}: {summary(checked.recipe)}")


def _checked(recipe: str, changes: list[str]) -> CheckedRecipe:
    """The recipe, its networks built without memory. Raises RecipeError."""
    from gaekit.plugins import load_plugins
    from gaekit.recipe.load import check_recipe
    from gaekit.sizing.build import build_problems

    registry = load_plugins()
    checked = check_recipe(recipe, registry, overrides=changes)
    checked.refuse(build_problems(checked.recipe, registry))
    return checked


def _check_as_data(
    recipe: str, source: str, *, problems: Sequence[Problem] = (), warnings: Sequence[Problem] = ()
) -> dict[str, Any]:
    shown = {
        name: [{"line": p.line, "origin": p.origin, "key": p.dotted, "text": p.text} for p in found]
        for name, found in (("problems", problems), ("warnings", warnings))
    }
    return {"recipe": recipe, "file": source, "ok": not problems, **shown, "summary": None}


def summary(recipe: Recipe) -> str:
    """One line: sizes, and what each stage is made of."""
    from gaekit.recipe.schema import Autoencoder, Diffusion, From

    image = recipe.image
    parts = [f"'{recipe.name}', {image.size} px to latents of {recipe.latent_dim} x {image.grid} x {image.grid}"]
    if isinstance(recipe.autoencoder, Autoencoder):
        section = recipe.autoencoder
        teacher = f" aligned with {recipe.teacher.use}" if recipe.teacher and recipe.aligner.use != "none" else ""
        parts.append(f"autoencoder {section.encoder.use}/{section.decoder.use}, {_steps(section)}{teacher}")
    if isinstance(recipe.diffusion, Diffusion):
        parts.append(f"denoiser {recipe.diffusion.denoiser.use}, {_steps(recipe.diffusion)}")
    if recipe.sample:
        parts.append(f"{recipe.sample.count} samples by {recipe.sample.sampler.use}")
    if recipe.evaluate:
        parts.append(f"metrics {', '.join(m.use for m in recipe.evaluate.metrics)}")
    for stage in ("semantic", "autoencoder", "latents", "diffusion"):
        if isinstance(getattr(recipe, stage), From):
            parts.append(f"{stage} from {getattr(recipe, stage).path}")
    return "; ".join(parts)


def _steps(section: Any) -> str:
    return f"{section.train.steps} steps of {section.train.batch}"


def plugins(as_json: JsonOption = False) -> None:
    """List the plugins, and what is wrong with those that are broken.

    Also what each provides, and the names that several provide.
    """
    from gaekit.cli.output import print_json, print_table, say
    from gaekit.plugins import load_plugins

    registry = load_plugins()
    found = registry.plugins
    if as_json:
        print_json([_plugin_as_data(plugin) for plugin in found])
        return
    rows = [(p.name, p.distribution, p.version, str(p.api or "?"), f"{p.seconds:.2f} s", _status(p)) for p in found]
    print_table(("plugin", "distribution", "version", "API", "loaded in", "status"), rows)
    say("")
    print_table(("plugin", "components"), [(p.name, ", ".join(p.components) or "-") for p in found])
    for plugin in found:
        if plugin.error:
            say(f"\n{plugin}, from {plugin.module}, is broken: {plugin.error}")
    for kind, name in registry.clashes:
        say(f"\nclash: {registry.clash(kind, name)}; until then nothing can use it")


def _status(plugin: Plugin) -> str:
    return "broken" if plugin.error else "clash" if plugin.clashes else "ok"


def _plugin_as_data(plugin: Plugin) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "module": plugin.module,
        "api": plugin.api,
        "status": _status(plugin),
        "error": plugin.error,
        "clashes": plugin.clashes,
        "components": plugin.components,
        "seconds": round(plugin.seconds, 4),
    }


def components(
    kind: Annotated[str | None, typer.Argument(help="Only this kind: denoiser, metric, ...")] = None,
    name: Annotated[str | None, typer.Argument(help="Only this one, with its settings.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List what a recipe can use, or the settings of one component."""
    from gaekit.cli.output import print_json, print_table
    from gaekit.plugins import load_plugins
    from gaekit.plugins import summary as one_line

    registry = load_plugins()
    if kind is not None:
        _known("kind of component", kind, registry.classes)
    if kind is not None and name is not None:
        _print_component(registry, kind, name, as_json)
        return
    chosen = registry.classes if kind is None else {kind: registry.classes[kind]}
    rows = [(k, n, one_line(cls)) for k, classes in chosen.items() for n, cls in sorted(classes.items())]
    if as_json:
        said = {(k, n): registry.classes[k][n].attribution for k, n, _ in rows}
        print_json(
            [
                {"kind": k, "use": n, "summary": s, "plugin": registry.origin[k, n].name, "attribution": said[k, n]}
                for k, n, s in rows
            ]
        )
    else:
        print_table(("kind", "use", ""), rows)
        _print_attributions(registry, [(k, n) for k, n, _ in rows])


def _print_attributions(registry: Registry, names: Sequence[tuple[str, str]]) -> None:
    """Whom to name for what components bring, below a table of them."""
    from gaekit.cli.output import say

    said = [(k, n, text) for k, n in names if (text := registry.classes[k][n].attribution) is not None]
    for number, (kind, name, text) in enumerate(said):
        say(f"{'' if number else chr(10)}{kind} '{name}': {text}")


def _known(what: str, word: str, known: Any, notes: str = "") -> None:
    from gaekit.errors import GaekitError
    from gaekit.recipe.suggest import did_you_mean, near

    if word not in known:
        raise GaekitError(
            f"there is no {what} '{word}'{did_you_mean(near(word, known))}; known: {', '.join(sorted(known))}{notes}"
        )


def _print_component(registry: Registry, kind: str, name: str, as_json: bool) -> None:
    from dataclasses import asdict
    from inspect import cleandoc

    from gaekit.cli.describe import settings
    from gaekit.cli.output import print_json, print_table, say
    from gaekit.errors import PluginError

    if clash := registry.clash(kind, name):
        raise PluginError(clash)
    _known(kind, name, registry.classes[kind], registry.notes)
    cls, plugin = registry.classes[kind][name], registry.origin[kind, name]
    about = cleandoc(cls.__doc__ or "")
    if as_json:
        found = [asdict(setting) for setting in settings(cls.Config)]
        told = {"about": about, "attribution": cls.attribution, "settings": found}
        print_json({"kind": kind, "use": name, "plugin": plugin.name, **told})
        return
    say(f"{kind} '{name}', of plugin {plugin}\n\n{about}\n")
    if cls.attribution is not None:
        say(f"{cls.attribution}\n")
    rows = [(s.key, s.type, s.default, s.about) for s in settings(cls.Config)]
    if rows:
        print_table(("setting", "type", "default", ""), rows)
    else:
        say(f"No settings: {{use: {name}}}")


def schema(
    out: Annotated[Path | None, typer.Option(help="Write it to this file instead.")] = None,
) -> None:
    """Print the JSON Schema of recipes, for editors. It knows the installed components."""
    import json

    from gaekit.cli.output import say
    from gaekit.plugins import load_plugins
    from gaekit.recipe.jsonschema import json_schema

    text = json.dumps(json_schema(load_plugins()), indent=2) + "\n"
    if out is None:
        print(text, end="")
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
        say(f"wrote {out}")
