"""Judging settings of sampling: images of a seed by a run's denoiser, and the numbers that metrics give of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gaekit.api import ComponentConfig, Metric
from gaekit.errors import GaekitError
from gaekit.pipeline.view import STORE
from gaekit.recipe.document import read_value
from gaekit.recipe.load import load_component
from gaekit.recipe.schema import Sample
from gaekit.runs.opened import OpenRun
from gaekit.runs.sampling import asked_section, generator_of
from gaekit.runs.tune.space import Choice
from gaekit.runs.tune.study import Goal
from gaekit.stages.evaluation import Evaluation
from gaekit.stages.generate import labels_for
from gaekit.stages.judging import Judged, Numbers, is_higher_better, judge_samples, judges_of, results
from gaekit.stages.references import Reconstructor, with_references
from gaekit.store.room import Room

SAMPLES = "samples"
BATCH = 64
"""Images of which metrics look at once, where the recipe has no section `evaluate`."""


@dataclass(frozen=True)
class Wanted:
    """A number that is asked for: its name, and its metric where this is not one of the recipe's. Without a name, the
    metric's only number is meant."""

    text: str
    name: str | None
    config: ComponentConfig | None = None

    @property
    def label(self) -> str:
        """What the number is called in results."""
        return self.name or (self.text if self.config is None else self.config.use)


@dataclass(frozen=True)
class Outcome:
    """What settings gave: of each number asked for its entry {"value", "interval", "protocol"}, by its label, the
    evaluations of a network that an image took, and the seconds that all took."""

    entries: dict[str, dict[str, Any]]
    images: int
    evaluations_per_image: float
    seconds: float

    @property
    def values(self) -> list[float]:
        """The numbers, in the order in which they were asked for."""
        return [float(entry["value"]) for entry in self.entries.values()]

    @property
    def cost(self) -> dict[str, Any]:
        """What it took, as JSON values."""
        return {
            "images": self.images,
            "evaluations_per_image": self.evaluations_per_image,
            "seconds": round(self.seconds, 3),
        }


class RunEvaluation(Evaluation):
    """An opened run, for metrics of its data; what they keep of the real images lies in the store beside the run."""

    def __init__(self, run: OpenRun):
        self.run, self.registry, self.machine, self.data = run, run.registry, run.machine, run.data
        self.store = run.path.resolve().parent / STORE

    @property
    def image_size(self) -> int:
        """The recipe's."""
        return self.run.recipe.image.size

    def use_cache(self, room: Room) -> None:
        """Nothing needs to know: what a later `gaekit store gc` removes is made again."""


def read_wanted(run: OpenRun, text: str) -> Wanted:
    """A number as it is asked for: a name, `{use: METRIC, ...}`, or `NAME={use: METRIC, ...}` where the metric gives
    several. Raises RecipeError for a metric's settings that are wrong, GaekitError for what is no metric of samples."""
    name, equals, yaml = text.partition("=")
    if text.lstrip().startswith("{"):
        name, yaml = "", text
    elif not equals:
        return Wanted(text, text)
    value, problems = read_value(yaml)
    if problems or not isinstance(value, dict) or "use" not in value:
        raise GaekitError(f"metric '{text}': write a number's name, or a metric as in a recipe: {{use: frechet, ...}}")
    config = load_component("metric", value, run.registry, source=f"metric {text}")
    if not _is_of_samples(run, config):
        raise GaekitError(f"metric '{config.use}' is not one of samples, which are what the guidance changes")
    return Wanted(text, name.strip() or None, config)


def _is_of_samples(run: OpenRun, config: ComponentConfig) -> bool:
    found = run.registry.find("metric", config.use)
    return issubclass(found, Metric) and found.needs == "samples"


class Judge:
    """Judges settings of a run's sampling by the numbers that are asked for. What the metrics take in of the real
    images they take in once. Raises GaekitError for a number that no metric gives, or that its metric cannot give of
    this data."""

    def __init__(self, run: OpenRun, wanted: Sequence[Wanted]):
        self.run, self.wanted, self.evaluation = run, tuple(wanted), RunEvaluation(run)
        _refuse_unknown(run, wanted)
        own = _candidates(run, [one.name for one in wanted if one.config is None and one.name])
        given = {one.config.model_dump_json(): one.config for one in wanted if one.config is not None}
        self.configs: list[ComponentConfig] = [
            *own,
            *given.values(),
        ]  # one that gives both numbers looks at images once
        self._judged = judges_of(self.evaluation, self.configs, SAMPLES)
        if len(self._judged.metrics) < len(self.configs):
            left = ", ".join(c.use for c in self.configs if c not in self._judged.configs.values())
            raise GaekitError(f"{run.path}: metric {left}: needs data with classes, which this run's has not")
        self._own = len(own)
        self._is_ready = False

    def goals(self, labels: Sequence[str]) -> list[Goal]:
        """Whether less or more of each number is better."""
        return ["higher" if is_higher_better(self._judged, f"{SAMPLES}/{name}") else "lower" for name in labels]

    def __call__(self, choice: Choice, seed: int, images: int, *, intervals: bool = False) -> Outcome:
        """Sample so many images by these settings and this seed, and judge them."""
        began = time.monotonic()
        section = asked_section(
            self.run,
            guidance=choice.scale,
            interval=(choice.start, choice.end),
            shift=choice.shift,
        )
        self._make_ready()
        judged = self._judged.copies()
        generator = generator_of(self.run, section, seed)
        judge_samples(self.evaluation, judged, self._images(generator, section, seed, images))
        entries = self._entries(judged, intervals)
        seconds = time.monotonic() - began
        return Outcome(entries, images, generator.evaluations / (-(-images // section.batch) * section.batch), seconds)

    def _make_ready(self) -> None:
        if self._is_ready:
            return
        evaluate = self.run.recipe.evaluate
        batch = evaluate.batch if evaluate is not None else BATCH
        with_references(
            self.evaluation, self._judged, batch, Reconstructor(self.evaluation, self.run.view.artifact("autoencoder"))
        )
        self._judged.ready(self.evaluation.device)
        self._is_ready = True

    def _images(self, generator: Any, section: Sample, seed: int, images: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(uint8 images, labels) of a chunk at a time."""
        labels = labels_for(images, len(self.run.classes), section.labels, seed)
        with self.run.reporter.bar("samples", images) as bar:
            for first in range(0, images, section.batch):
                pixels = generator.chunk(first, labels)
                yield pixels, torch.tensor(labels[first : first + section.batch])
                bar.advance(len(pixels))

    def _entries(self, judged: Judged, intervals: bool) -> dict[str, dict[str, Any]]:
        numbers: dict[tuple[int, ...], Numbers] = {}
        found: dict[str, dict[str, Any]] = {}
        for one in self.wanted:
            places = self._places(one)
            if places not in numbers:
                numbers[places] = self._numbers(judged.only(places), intervals)
            known = numbers[places]
            name = one.name or (next(iter(known)) if len(known) == 1 else "")
            if name not in known:
                raise GaekitError(f"metric '{one.text}': gives {', '.join(known)}; name one of them{_how(one)}")
            found[one.label] = known[name]
        return found

    def _places(self, wanted: Wanted) -> tuple[int, ...]:
        """Those of the metrics that may give a number."""
        if wanted.config is None:
            return tuple(range(self._own))
        return (self.configs.index(wanted.config, self._own),)

    def _numbers(self, judged: Judged, intervals: bool) -> Numbers:
        numbers = results(self.evaluation, SAMPLES, judged, {"dataset": self.run.data.digest}, intervals=intervals)
        return {name.partition("/")[2]: entry for name, entry in numbers.items()}


def _how(wanted: Wanted) -> str:
    return "" if wanted.config is None else f": NAME={wanted.text.partition('=')[2] or wanted.text}"


def _refuse_unknown(run: OpenRun, wanted: Sequence[Wanted]) -> None:
    """Where the run has been evaluated, its numbers are known before an image is made."""
    known = [name.partition("/")[2] for name in run.metrics if name.startswith(f"{SAMPLES}/")]
    for one in wanted:
        if one.config is None and known and one.name not in known:
            raise GaekitError(
                f"{run.path}: metric '{one.name}': no number of its samples; there are {', '.join(known)}. Any other "
                "metric of samples is given as in a recipe: --metric '{use: frechet, teacher: {use: ...}}'"
            )


def _candidates(run: OpenRun, names: Sequence[str]) -> list[ComponentConfig]:
    """The recipe's metrics of samples that may give these numbers: they are named after their metric, as a rule; else
    all of them."""
    if not names:
        return []
    evaluate = run.recipe.evaluate
    found = [config for config in (evaluate.metrics if evaluate is not None else ()) if _is_of_samples(run, config)]
    if not found:
        raise GaekitError(
            f"{run.path}: its recipe evaluates nothing about samples; give a metric as in a recipe: "
            "--metric '{use: frechet, teacher: {use: ...}}'"
        )
    likely = [config for config in found if any(name.startswith(config.use) for name in names)]
    is_known = all("#" not in name and any(name.startswith(c.use) for c in likely) for name in names)
    return likely if is_known else found
