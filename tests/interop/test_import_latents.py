"""The published latent caches: read into shards, a denoiser's batches the same, and written back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from import_helpers import registry, save
from safetensors.torch import load_file, save_file

from gaekit.data.latents import LatentCache
from gaekit.errors import ArtifactError
from gaekit.interop import latent_cache
from gaekit.interop.exporting import export_artifact
from gaekit.interop.formats import Options
from gaekit.interop.importing import Imported, import_file
from gaekit.store.shard_reader import ShardReader
from gaekit.store.shards import ShardWriter

ROWS = (5, 3, 4)


def published(folder: Path, *, stats: bool = True, **changes: Any) -> Path:
    """A cache as the published code leaves it: three files of different lengths, labels 0 to 11."""
    folder.mkdir()
    generator, first = torch.Generator().manual_seed(0), 0
    for number, count in enumerate(ROWS):
        rows = {name: torch.randn(count, 6, 4, 4, generator=generator) for name in ("latents", "latents_flip")}
        rows["labels"] = torch.arange(first, first + count)
        save_file({**rows, **changes}, folder / f"latents_rank{number:02d}_shard000.safetensors")
        first += count
    if stats:
        save(
            folder / "latents_stats.pt",
            {"mean": torch.arange(6.0).view(1, 6, 1, 1), "std": torch.full((1, 6, 1, 1), 2.0)},
        )
    return folder


def take(source: Path, out: Path, **options: Any) -> Imported:
    return import_file("gae-latents", source, out, Options(**options), registry())


def joined(folder: Path) -> dict[str, torch.Tensor]:
    parts = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def test_a_cache_is_what_was_published(tmp_path: Path) -> None:
    source = published(tmp_path / "published")
    imported = take(source, tmp_path / "taken")
    assert imported.lines == ["12 latents 6 x 4 x 4, with mirror images, 12 classes"]
    cache, theirs = LatentCache(imported.artifact), joined(source)
    everything = ShardReader(imported.artifact)
    indices = torch.arange(12)
    for name in ("latents", "latents_flip", "labels"):
        assert torch.equal(everything.rows(name, indices), theirs[name])
    assert torch.equal(everything.rows("index", indices), indices)
    assert (cache.latent_dim, cache.grid, cache.has_mirror, cache.stores_moments) == (6, 4, True, False)
    assert cache.classes == tuple(str(index) for index in range(12))
    batch = next(cache.training(seed=0, batch=12, start=0))
    expected = (theirs["latents"] - torch.arange(6.0)[:, None, None]) / 2
    mirrored = (theirs["latents_flip"] - torch.arange(6.0)[:, None, None]) / 2
    for latent, label in zip(batch.latent_BDHW, batch.label_B, strict=True):
        assert torch.equal(latent, expected[label]) or torch.equal(latent, mirrored[label])


def test_it_is_read_a_piece_at_a_time_and_goes_on_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = published(tmp_path / "published")
    monkeypatch.setattr(latent_cache, "ROWS", 2)
    monkeypatch.setattr(latent_cache, "SHARD_BYTES", 4 * 6 * 16 * 4 * 2)  # four rows a shard
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path / "taken" / "latents", 4, 12) as writer:
        for span in writer.missing[:2]:
            for rows in latent_cache.PublishedCache(source).batches(span):
                writer.add(rows)
        raise KeyboardInterrupt  # two shards of four rows are written, the last is not
    kept = (tmp_path / "taken" / "latents" / "00000.safetensors").stat().st_mtime_ns
    imported = take(source, tmp_path / "taken")
    assert (imported.artifact / "00000.safetensors").stat().st_mtime_ns == kept
    reader = ShardReader(imported.artifact)
    assert torch.equal(reader.rows("latents", torch.arange(12)), joined(source)["latents"])
    with pytest.raises(ArtifactError, match="holds a finished cache already"):
        take(source, tmp_path / "taken")


def test_it_is_written_back_as_it_was(tmp_path: Path) -> None:
    source = published(tmp_path / "published")
    take(source, tmp_path / "taken")
    export_artifact("gae-latents", tmp_path / "taken", tmp_path / "back", registry())
    ours, theirs = joined(tmp_path / "back"), joined(source)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    stats = [torch.load(folder / "latents_stats.pt", weights_only=True) for folder in (source, tmp_path / "back")]
    assert all(torch.equal(stats[0][name], stats[1][name]) for name in ("mean", "std"))
    with pytest.raises(ArtifactError, match="is not an empty folder"):
        export_artifact("gae-latents", tmp_path / "taken", tmp_path / "back", registry())


def test_a_cache_of_ours_comes_back_from_the_published_files(tmp_path: Path) -> None:
    """Two spans of images, one of them skipped, in bf16."""
    rows = {name: torch.randn(9, 6, 4, 4).bfloat16() for name in ("latents", "latents_flip")}
    kept = torch.tensor([0, 1, 2, 4, 5, 6, 7, 8])
    with ShardWriter(tmp_path / "ours" / "latents", 5, 9) as writer:
        for index in (kept[:4], kept[4:]):
            writer.add({name: value[index] for name, value in rows.items()} | {"labels": index % 3, "index": index})
    statistics = {"mean": [0.5] * 6, "std": [2.0] * 6}
    facts = {"latent_dim": 6, "grid": 4, "store": "mean", "flip": True, "classes": ["a", "b", "c"]}
    writer.finish({**facts, "statistics": statistics})
    export_artifact("gae-latents", tmp_path / "ours", tmp_path / "published", registry())
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    back = take(tmp_path / "published", tmp_path / "back", classes=tmp_path / "names.txt")
    ours, theirs = LatentCache(tmp_path / "ours" / "latents"), LatentCache(back.artifact)
    assert theirs.classes == ours.classes
    for one, other, _ in zip(ours.training(0, 8, 0), theirs.training(0, 8, 0), range(3), strict=False):
        assert torch.equal(one.latent_BDHW, other.latent_BDHW)
        assert torch.equal(one.label_B, other.label_B)


def test_a_cache_without_mirror_images_stays_without(tmp_path: Path) -> None:
    source = tmp_path / "published"
    source.mkdir()
    save_file({"latents": torch.randn(3, 2, 2, 2), "labels": torch.tensor([0, 2, 1])}, source / "a.safetensors")
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\n")
    imported = take(source, tmp_path / "taken", scale=0.5, classes=tmp_path / "names.txt")
    cache = LatentCache(imported.artifact)
    assert not cache.has_mirror
    assert cache.classes == ("cat", "dog", "owl")
    assert cache.statistics.std_D.tolist() == [2.0, 2.0]
    with pytest.raises(ArtifactError, match="holds no mirror images"):
        export_artifact("gae-latents", tmp_path / "taken", tmp_path / "back", registry())


def test_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no \*\.safetensors in this folder"):
        take(tmp_path, tmp_path / "taken")
    with pytest.raises(ArtifactError, match="nothing says how the latents are standardised"):
        take(published(tmp_path / "a", stats=False), tmp_path / "taken")
    with pytest.raises(ArtifactError, match=r"shapes that do not go together"):
        take(published(tmp_path / "b", latents_flip=torch.zeros(1, 6, 4, 4)), tmp_path / "taken")
    with pytest.raises(ArtifactError, match="--classes names 2 classes, and the cache has labels up to 11"):
        (tmp_path / "names.txt").write_text("a\nb\n")
        take(published(tmp_path / "c"), tmp_path / "taken", classes=tmp_path / "names.txt")
    save_file({"images": torch.zeros(2)}, tmp_path / "c" / "zz.safetensors")
    with pytest.raises(ArtifactError, match=r"zz\.safetensors: no latents, labels in it, but images"):
        take(tmp_path / "c", tmp_path / "taken")


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([0] * 4 + [10**10], "the cache has labels up to 10000000000; more than 100,000 classes must be named"),
        ([0.5] * 5, "labels of type F32; known: I64"),
        ([0] * 4 + [-1], "holds labels below 0"),
        ([], "its files hold no rows"),
    ],
)
def test_labels_that_are_none_are_refused_before_anything_is_written(
    tmp_path: Path, labels: list[Any], told: str
) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    tensors = {"latents": torch.zeros(len(labels), 6, 4, 4), "labels": torch.tensor(labels)}
    save_file(tensors if labels else {**tensors, "labels": torch.zeros(0, dtype=torch.int64)}, folder / "a.safetensors")
    with pytest.raises(ArtifactError, match=told):
        take(folder, tmp_path / "taken", scale=1.0)
    assert not (tmp_path / "taken").exists()


def test_a_pipe_among_the_files_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(published(tmp_path / "published") / "zz.safetensors")
    with pytest.raises(ArtifactError, match=r"zz\.safetensors' is a pipe, socket or device"):
        take(tmp_path / "published", tmp_path / "taken")
