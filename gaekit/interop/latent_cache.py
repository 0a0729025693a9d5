"""The latent caches of GAE and LightningDiT: a folder of safetensors files, and gaekit's shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gaekit.data.given import MOST_CLASSES
from gaekit.data.latents import INDEX, LABEL, LATENT, MIRROR, LatentCache
from gaekit.errors import ArtifactError
from gaekit.inside import require_regular
from gaekit.interop.formats import Options
from gaekit.interop.statistics import STATS_FILE, statistics_of, write_statistics
from gaekit.store.files import atomic, sha256_file
from gaekit.store.shard_reader import DTYPES, MANIFEST, ShardReader
from gaekit.store.shards import ShardWriter

ROWS = 1024
"""Rows in memory at once."""
SHARD_BYTES = 256 << 20
LABELS = ("I64", "I32", "I16", "I8", "U8")
"""safetensors' names of the types that a label has."""


class PublishedCache:
    """The published files of one folder, in the order of their names. Raises ArtifactError if one does not fit."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
        if not self.files:
            raise ArtifactError(f"{folder}: no *.safetensors in this folder; a latent cache is a folder of them")
        heads = [_head(file) for file in self.files]
        self.latent_shape, self.has_mirror = heads[0][1:]
        self.rows = [head[0] for head in heads]
        for file, head in zip(self.files, heads, strict=True):
            if head[1:] != heads[0][1:]:
                raise ArtifactError(f"{file}: other latents than those of {self.files[0].name}: {head[1]} for "
                                    f"{heads[0][1]}, {'with' if head[2] else 'without'} mirror images")  # fmt: skip

    @property
    def statistics(self) -> Path | None:
        """The file of statistics in the folder, if there is one."""
        file = self.folder / STATS_FILE
        return file if file.is_file() else None

    def batches(self, span: range) -> Iterator[dict[str, Tensor]]:
        """The rows of a span under gaekit's names, some at a time, with their index."""
        first = 0
        names = (LATENT, MIRROR, LABEL) if self.has_mirror else (LATENT, LABEL)
        for file, count in zip(self.files, self.rows, strict=True):
            here = range(max(span.start - first, 0), min(span.stop - first, count))
            for at in here[::ROWS]:
                with safe_open(file, framework="pt") as opened:
                    rows = {name: opened.get_slice(name)[at : min(here.stop, at + ROWS)] for name in names}
                rows[LABEL] = rows[LABEL].long()
                rows[INDEX] = torch.arange(first + at, first + at + len(rows[LABEL]))
                yield rows
            first += count

    def largest_label(self) -> int:
        """Over all files. Raises ArtifactError for a label below 0, and where there is none."""
        labels = []
        for file in self.files:
            with safe_open(file, framework="pt") as opened:
                labels.append(opened.get_tensor(LABEL))
        if any(bool((label < 0).any()) for label in labels):
            raise ArtifactError(f"{self.folder}: holds labels below 0")
        largest = max((int(label.max()) for label in labels if len(label)), default=None)
        if largest is None:
            raise ArtifactError(f"{self.folder}: its files hold no rows")
        return largest


def _head(file: Path) -> tuple[int, tuple[int, ...], bool]:
    """(rows, the shape of a latent, whether mirror images are there) of a published file."""
    require_regular(file, "latent cache")
    try:
        with safe_open(file, framework="pt") as opened:
            shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
            types = {key: opened.get_slice(key).get_dtype() for key in shapes}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{file}: cannot be read as safetensors ({error}); it is damaged or cut off") from error
    if missing := [key for key in (LATENT, LABEL) if key not in shapes]:
        raise ArtifactError(
            f"{file}: no {', '.join(missing)} in it, but {', '.join(sorted(shapes)[:5])}; "
            f"a file of a latent cache holds {LATENT}, {MIRROR} and {LABEL}"
        )
    shape = shapes[LATENT]
    if (
        len(shape) != 4
        or 0 in shape[1:]
        or shape[2] != shape[3]
        or shapes[LABEL] != shape[:1]
        or shapes.get(MIRROR, shape) != shape
    ):
        raise ArtifactError(f"{file}: shapes that do not go together: {shapes}; {LATENT} and {MIRROR} are (N, D, H, H)")
    if types[LATENT] not in DTYPES:
        raise ArtifactError(f"{file}: latents of type {types[LATENT]}; known: {', '.join(DTYPES)}")
    if types[LABEL] not in LABELS:
        raise ArtifactError(f"{file}: labels of type {types[LABEL]}; known: {', '.join(LABELS)}")
    return shape[0], shape[1:], MIRROR in shapes


def import_cache(folder: Path, out: Path, options: Options, names: Sequence[str] | None) -> dict[str, Any]:
    """Write the published cache in `folder` as gaekit's at `out`, going on after the last whole shard.

    Returns the facts of its manifest. Raises ArtifactError for a folder that is none or lacks statistics.
    """
    if (out / MANIFEST).exists():
        raise ArtifactError(f"{out}: holds a finished cache already; choose another --out, or remove it")
    source = PublishedCache(folder)
    channels, side, _ = source.latent_shape
    statistics = statistics_of(options, channels, found=source.statistics)
    classes = _classes(source.largest_label() + 1, names)
    row = channels * side * side * 4 * (2 if source.has_mirror else 1)
    with ShardWriter(out, max(1, SHARD_BYTES // row), sum(source.rows)) as writer:
        for span in writer.missing:
            for rows in source.batches(span):
                writer.add(rows)
    facts = {
        "format": 1,
        "latent_dim": channels,
        "grid": side,
        "store": "mean",
        "flip": source.has_mirror,
        "classes": classes,
        "normalize": "imported",
        "statistics": {"mean": statistics.mean_D.tolist(), "std": statistics.std_D.tolist()},
        "imported": {"format": "gae-latents", "files": {file.name: sha256_file(file) for file in source.files}},
    }
    writer.finish(facts)
    return facts | {"rows": sum(source.rows)}


def _classes(count: int, names: Sequence[str] | None) -> list[str]:
    if names is None and count > MOST_CLASSES:
        raise ArtifactError(
            f"the cache has labels up to {count - 1}; more than {MOST_CLASSES:,} classes must be named by --classes"
        )
    if names is None:
        return [str(index) for index in range(count)]
    if len(names) < count:
        raise ArtifactError(f"--classes names {len(names)} classes, and the cache has labels up to {count - 1}")
    return list(names)


def export_cache(path: Path, out: Path) -> list[Path]:
    """Write a cache as a folder that GAE and LightningDiT read; returns its files.

    Raises ArtifactError for what that format has no place for: moments, or a cache without mirror images.
    """
    cache = LatentCache(path)
    if cache.stores_moments:
        raise ArtifactError(f"{path}: holds moments of posteriors; the published cache has latents alone")
    if not cache.has_mirror:
        raise ArtifactError(
            f"{path}: holds no mirror images, which the published cache has; build it with `latents: {{flip: true}}`"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArtifactError(f"{out}: exists already and is not an empty folder; choose another --out")
    reader, files = ShardReader(path), []
    shards = zip(*(reader.shards(name) for name in (LATENT, MIRROR, LABEL)), strict=True)
    for number, tensors in enumerate(shards):
        file = out / f"latents_rank00_shard{number:03d}.safetensors"
        with atomic(file) as part:
            save_file(dict(zip((LATENT, MIRROR, LABEL), tensors, strict=True)), part)
        files.append(file)
    write_statistics(out / STATS_FILE, cache.statistics)
    return files
