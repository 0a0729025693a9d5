"""What a person names by a path or in a few words: images to judge, images to compare with, a component's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaekit.api import ComponentConfig, Dataset, ImageSource
from gaekit.data.given import ArraySource, FolderSource, OneSplit
from gaekit.data.parquet import ParquetSource
from gaekit.errors import DataAbsent, GaekitError, Problem, RecipeError
from gaekit.guard import ImagePromise
from gaekit.pipeline.view import RECORD, View
from gaekit.plugins import Registry, build
from gaekit.recipe.document import read_value
from gaekit.recipe.load import load_component
from gaekit.store.files import sha256_file
from gaekit.store.npz import npz_names

STATISTICS = {"mu", "sigma"}
KINDS = "a folder of images, an .npz or parquet files"


@dataclass(frozen=True)
class ImageSet:
    """Images somebody else made. `classes` are the names of their labels, () where these are numbers alone or absent;
    `digest` stands for their content."""

    kind: str
    name: str
    source: ImageSource
    classes: tuple[str, ...]
    has_labels: bool
    digest: str

    @property
    def facts(self) -> dict[str, Any]:
        """What a protocol says of them."""
        return {"kind": self.kind, "name": self.name, "sha256": self.digest, "n": len(self.source)}

    @property
    def dataset(self) -> Dataset:
        """They as a data set of one split."""
        return OneSplit(self.source, self.classes, self.digest)


@dataclass(frozen=True)
class Given:
    """What is compared with: a data set, or the path of a file that holds statistics, for the metrics that read it."""

    facts: dict[str, Any]
    dataset: Dataset | None
    statistics: Path | None = None
    promise: ImagePromise | None = None


def component_of(kind: str, text: str, registry: Registry, option: str) -> ComponentConfig:
    """The settings of a component as a person writes them: `fid`, or `{use: fid, weights: FILE}`. Raises RecipeError
    and PluginError, naming the option."""
    value, problems = read_value(text)
    source = f"{option} {text}"
    if problems:
        raise RecipeError(source, [Problem(p.path, p.text) for p in problems])
    data = {"use": value} if isinstance(value, str) else value
    if not isinstance(data, Mapping) or not isinstance(data.get("use"), str):
        raise GaekitError(f"{source}: is no {kind}; give its name, or its settings as '{{use: NAME, ...}}'")
    return load_component(kind, data, registry, source=source)


def is_component(text: str) -> bool:
    """Whether a text is the settings of a component rather than a path."""
    return text.lstrip().startswith("{")


def open_images(text: str) -> ImageSet:
    """The images to judge: of a folder, an .npz, parquet files, or the samples of a run. Raises GaekitError for what is
    none of these."""
    path = Path(text).expanduser()
    if (path / RECORD).is_file():
        samples = View(path).artifact("sample")
        return _of_arrays(samples, "samples of a run", f"{path.resolve().name}/{samples.name}")
    if path.is_dir():
        return _of_folder(path)
    if path.suffix == ".npz":
        return _of_arrays(_there(path), "npz", path.name)
    if path.suffix == ".parquet":
        return _of_parquet(path)
    _there(path)
    raise GaekitError(f"{path}: is neither {KINDS}, nor a run")


def open_reference(text: str, registry: Registry) -> Given:
    """What samples are compared with: images as `open_images` takes them, the statistics of an .npz, or a data set
    (`{use: digits}`), of which each metric takes its own split."""
    if is_component(text):
        return _of_dataset(text, registry)
    path = Path(text).expanduser()
    if path.suffix == ".npz" and npz_names(_there(path)) >= STATISTICS:
        images = _of_arrays(path, "npz", path.name) if "arr_0" in npz_names(path) else None
        facts = {"kind": "statistics of an npz", "name": path.name, "sha256": sha256_file(path)}
        return Given(facts, images.dataset if images else None, path)
    if (path / RECORD).is_file():
        raise GaekitError(
            f"--against {path}: is a run, and real images are what samples are compared with; give {KINDS}, or the "
            "data set of its recipe as '{use: NAME, ...}'"
        )
    found = open_images(text)
    return Given(found.facts, found.dataset)


def _of_dataset(text: str, registry: Registry) -> Given:
    config = component_of("dataset", text, registry, "--against")
    dataset = build(Dataset, config, registry)
    facts = {"kind": "data set", "name": config.use, "sha256": dataset.digest()}
    return Given(facts, dataset, promise=registry.image_promise(config.use, len(dataset.classes)))


def _of_folder(path: Path) -> ImageSet:
    source = FolderSource(path)
    return ImageSet("folder", path.resolve().name, source, source.classes, bool(source.classes), source.digest())


def _of_arrays(file: Path, kind: str, name: str) -> ImageSet:
    source = ArraySource(file)
    return ImageSet(kind, name, source, (), source.has_labels, source.digest())


def _of_parquet(path: Path) -> ImageSet:
    source = ParquetSource(_there(path))
    return ImageSet("parquet", path.name, source, source.classes, source.has_labels, source.digest())


def _there(path: Path) -> Path:
    if not path.exists():
        raise DataAbsent(f"{path}: no such file or folder")
    return path
