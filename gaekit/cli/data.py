"""`gaekit data`: looking at a recipe's images before training on them."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaekit.cli.options import JsonOption, RecipeArgument, SetOption

if TYPE_CHECKING:
    from gaekit.api import Dataset
    from gaekit.data.survey import Survey
    from gaekit.guard import ImagePromise
    from gaekit.recipe.schema import Recipe

CLASSES_SHOWN = 40
UNREADABLE_SHOWN = 1000


class Split(StrEnum):
    """Which images are looked at."""

    train = "train"
    validation = "validation"
    all = "all"


def make_app() -> typer.Typer:
    """The commands under `gaekit data`."""
    app = typer.Typer(help="Look at the images of a recipe.", no_args_is_help=True)
    app.callback()(_data)  # with one command alone, typer would leave its name out
    app.command("check")(check)
    return app


def _data() -> None:
    """The images of a recipe."""


def check(
    recipe: RecipeArgument,
    changes: SetOption = None,
    split: Annotated[Split, typer.Option(help="Look at one split only.")] = Split.all,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode; all cores by default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Decode every image of a recipe's data set; name each that cannot be read, and tell classes and sizes.

    Exit code 0 if all can be read, else 2.
    """
    import os

    from gaekit.api import Dataset
    from gaekit.cli.output import print_json
    from gaekit.errors import DataError
    from gaekit.plugins import build, load_plugins
    from gaekit.recipe import load_recipe

    registry = load_plugins()
    loaded = load_recipe(recipe, registry, overrides=changes or ())
    dataset = build(Dataset, loaded.dataset, registry)
    promise = registry.image_promise(loaded.dataset.use, len(dataset.classes))
    surveys = _surveys(dataset, loaded, split, (os.cpu_count() or 1) if workers is None else workers, promise)
    if as_json:
        print_json(_as_data(loaded, dataset, surveys))
    else:
        _show(loaded, dataset, surveys)
    unreadable = sum(len(survey.unreadable) for survey in surveys.values())
    if unreadable:
        total = sum(survey.total for survey in surveys.values())
        raise DataError(
            f"{unreadable} of {total} images cannot be read; mend or remove them, or say `on_bad_image: skip` in "
            "`dataset` to go on without them"
        )


def _surveys(dataset: Dataset, recipe: Recipe, split: Split, workers: int, promise: ImagePromise) -> dict[str, Survey]:
    from gaekit.data.survey import Survey, looks, note
    from gaekit.train.progress import Reporter

    surveys = {}
    for name in ("train", "validation") if split is Split.all else (split.value,):
        source = dataset.train() if name == "train" else dataset.validation()
        survey = Survey(len(source))
        with Reporter().bar(f"{name} images", len(source)) as bar:
            for look in looks(source, workers, promise):
                note(survey, look, source, recipe.image.size)
                bar.advance()
        surveys[name] = survey
    return surveys


def _show(recipe: Recipe, dataset: Dataset, surveys: dict[str, Survey]) -> None:
    from gaekit.cli.output import print_table, say

    for name, survey in surveys.items():
        readable = sum(survey.labels.values())
        say(f"{name}: {readable} of {survey.total} images can be read")
        if survey.smallest and survey.largest:
            say(f"  smallest {_sized(survey.smallest)}; largest {_sized(survey.largest)}")
            say(f"  {survey.smaller} with a side below image.size = {recipe.image.size}, which will be enlarged")
        for reason in list(survey.unreadable.values())[:UNREADABLE_SHOWN]:
            say(f"  cannot be read: {reason}")
        if len(survey.unreadable) > UNREADABLE_SHOWN:
            say(f"  and {len(survey.unreadable) - UNREADABLE_SHOWN} more; --json names all")
    if dataset.classes:
        say(f"{len(dataset.classes)} classes{_all_or_some(len(dataset.classes))}")
        print_table(("class", *surveys), _class_rows(dataset.classes, surveys))
    else:
        say("no classes")


def _sized(found: tuple[str, int, int]) -> str:
    key, width, height = found
    return f"{width} x {height} ({key})"


def _all_or_some(classes: int) -> str:
    half = CLASSES_SHOWN // 2
    return "" if classes <= CLASSES_SHOWN else f"; the {half} with the fewest images and the {half} with the most:"


def _class_rows(classes: tuple[str, ...], surveys: dict[str, Survey]) -> list[tuple[str, ...]]:
    labels = list(range(len(classes)))
    if len(labels) > CLASSES_SHOWN:
        labels.sort(key=lambda label: sum(survey.labels[label] for survey in surveys.values()))
        labels = labels[: CLASSES_SHOWN // 2] + labels[-(CLASSES_SHOWN // 2) :]
    return [(classes[label], *(str(survey.labels[label]) for survey in surveys.values())) for label in labels]


def _as_data(recipe: Recipe, dataset: Dataset, surveys: dict[str, Survey]) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "image_size": recipe.image.size,
        "classes": list(dataset.classes),
        "splits": {name: _survey_as_data(survey, dataset.classes) for name, survey in surveys.items()},
    }


def _survey_as_data(survey: Survey, classes: tuple[str, ...]) -> dict[str, Any]:
    sizes = {"smallest": survey.smallest, "largest": survey.largest}
    return {
        "images": survey.total,
        "unreadable": survey.unreadable,
        "of_class": {name: survey.labels[label] for label, name in enumerate(classes)},
        "smaller_than_image_size": survey.smaller,
        **{name: found and dict(zip(("key", "width", "height"), found, strict=True)) for name, found in sizes.items()},
    }
