"""The recipes and sweeps that come with gaekit, and finding one by name or path."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from gaekit.errors import GaekitError
from gaekit.recipe.suggest import did_you_mean, near

SUFFIXES = (".yaml", ".yml")
SWEEP = ".sweep"
"""Before the suffix of a shipped sweep's file: claims/aligners.sweep.yaml."""


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe, or a sweep, that comes with gaekit and the first line of its head comment."""

    name: str
    path: Path
    summary: str


def list_recipes() -> list[ShippedRecipe]:
    """All shipped recipes, by name."""
    return [ShippedRecipe(name, path, _first_comment(path)) for name, path in _shipped().items()]


def list_sweeps() -> list[ShippedRecipe]:
    """All shipped sweeps, by name."""
    return [ShippedRecipe(name, path, _first_comment(path)) for name, path in _shipped(sweeps=True).items()]


def find_sweep(source: Path | str) -> Path:
    """The file of a sweep: `source` is a path, or the bare name of a shipped sweep.

    Raises GaekitError where there is neither, with what is near.
    """
    text, shipped = str(source), _shipped(sweeps=True)
    if text in shipped:
        return shipped[text]
    if text in _shipped():
        raise GaekitError(f"'{text}' is a recipe, not a sweep; `gaekit run {text} --sweep seed=0,1` makes one of it")
    if not Path(source).is_file():
        raise GaekitError(f"there is no sweep {text}{did_you_mean(near(text, shipped))}; name its YAML file, or give "
                          f"`gaekit run RECIPE --sweep key=1,2`; shipped: {', '.join(shipped) or 'none'}")  # fmt: skip
    return Path(source)


def find_recipe(source: Path | str) -> Path:
    """The file of a recipe: `source` is a path, or the bare name of a shipped recipe.

    Raises GaekitError where there is neither, with what is near.
    """
    text, path, shipped = str(source), Path(source), _shipped()
    if text in shipped:
        return shipped[text]
    if path.is_file():
        return path
    if text in _shipped(sweeps=True):
        raise GaekitError(f"'{text}' is a sweep, not a recipe; `gaekit sweep {text}` runs it")
    if path.suffix not in SUFFIXES and len(path.parts) == 1:
        known = ", ".join(shipped) or "none"
        raise GaekitError(f"no shipped recipe is called '{text}'{did_you_mean(near(text, shipped))}; shipped: {known}; "
                          f"your own recipe is named by its path: {text}.yaml")  # fmt: skip
    if path.is_dir():
        raise GaekitError(f"{text} is a folder; name the recipe's YAML file")
    beside = [str(p) for p in sorted(path.parent.glob("*")) if p.suffix in SUFFIXES] if path.parent.is_dir() else []
    raise GaekitError(f"there is no recipe {text}{did_you_mean(near(text, beside))}; "
                      f"shipped recipes go by their bare name: {', '.join(shipped) or 'none'}")  # fmt: skip


def copy_recipe(name: str, destination: Path | None = None, *, force: bool = False) -> Path:
    """Copy a shipped recipe or sweep to a file or into a folder (default: here). What a sweep is of goes by its name,
    from any folder. Raises GaekitError rather than overwrite."""
    shipped = _shipped() | _shipped(sweeps=True)
    if name not in shipped:
        raise GaekitError(f"no shipped recipe or sweep is called '{name}'{did_you_mean(near(name, shipped))}; "
                          f"shipped: {', '.join(shipped) or 'none'}")  # fmt: skip
    target = destination or Path()
    if target.is_dir():
        target = target / shipped[name].name
    if target.exists() and not force:
        raise GaekitError(f"{target} exists; name another file, or overwrite it with --force")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(shipped[name], target)
    return target


def _shipped(*, sweeps: bool = False) -> dict[str, Path]:
    root = Path(str(files("gaekit.recipes")))
    found = {p.relative_to(root).with_suffix("").as_posix(): p for p in sorted(root.rglob("*.yaml"))}
    return {name.removesuffix(SWEEP): path for name, path in found.items() if name.endswith(SWEEP) == sweeps}


def _first_comment(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.strip("# ") for line in lines if line.startswith("#") and line.strip("# ")), "")
