"""The latent cache as a denoiser sees it: the order, the mirrors, the posterior's noise, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gaekit.data.latents import LatentCache
from gaekit.data.latents_check import Damage, mend_cache, verify_cache
from gaekit.data.order import flipped, permutation
from gaekit.errors import ArtifactError
from gaekit.seeds import generator_for
from gaekit.store.files import sha256_file
from gaekit.store.shards import ShardWriter

COUNT, CHANNELS, GRID = 20, 3, 2
MEAN, STD = [1.0, 2.0, 3.0], [2.0, 4.0, 8.0]
FACTS: dict[str, Any] = {
    "latent_dim": CHANNELS, "grid": GRID, "store": "mean", "flip": True, "dtype": "float32", "classes": ["a", "b"],
    "statistics": {"mean": MEAN, "std": STD},
}  # fmt: skip


def tensors(moments: bool = False) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (COUNT, CHANNELS * (2 if moments else 1), GRID, GRID)
    latent = {name: torch.rand(shape, generator=generator) for name in ("latents", "latents_flip")}
    return {**latent, "labels": torch.arange(COUNT) % 2, "index": torch.arange(COUNT)}


def cache(folder: Path, *, moments: bool = False, **facts: Any) -> Path:
    rows = tensors(moments)
    with ShardWriter(folder, 6, COUNT) as writer:
        for span in writer.missing:
            writer.add({name: value[span.start : span.stop] for name, value in rows.items()})
    writer.finish({**FACTS, "store": "moments" if moments else "mean", **facts})
    return folder


def standardised(latent: torch.Tensor) -> torch.Tensor:
    return (latent - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def test_a_step_has_the_order_and_the_mirrors_of_the_seed_wherever_it_starts(tmp_path: Path) -> None:
    found = LatentCache(cache(tmp_path))
    rows = tensors()
    visited = permutation(7, 0, COUNT)
    mirrored = flipped(7, 0, visited)
    assert 0 < mirrored.sum() < COUNT
    wanted = [rows["latents_flip" if m else "latents"][i] for i, m in zip(visited, mirrored, strict=True)]
    for step, batch in zip((1, 2), found.training(7, 5, 1), strict=False):
        assert torch.equal(batch.latent_BDHW, standardised(torch.stack(wanted[5 * step : 5 * step + 5])))
        assert torch.equal(batch.label_B, rows["labels"][visited[5 * step : 5 * step + 5]])


@pytest.mark.parametrize("moments", [False, True])
def test_two_ranks_see_the_rows_of_the_batch_of_one(tmp_path: Path, moments: bool) -> None:
    found = LatentCache(cache(tmp_path, moments=moments))
    streams = [found.training(7, 6, 3), found.training(7, 6, 3, last=3), found.training(7, 6, 3, first=3, last=6)]
    for _ in range(4):
        whole, first, second = (next(stream) for stream in streams)
        assert torch.equal(whole.latent_BDHW, torch.cat([first.latent_BDHW, second.latent_BDHW]))
        assert torch.equal(whole.label_B, torch.cat([first.label_B, second.label_B]))


def test_moments_are_sampled_by_the_noise_of_the_step(tmp_path: Path) -> None:
    found, rows = LatentCache(cache(tmp_path, moments=True)), tensors(moments=True)
    batch = next(found.training(3, COUNT, 2))
    visited = permutation(3, 2, COUNT)
    mirrored = flipped(3, 2, visited)
    pairs = [rows["latents_flip" if m else "latents"][i] for i, m in zip(visited, mirrored, strict=True)]
    mean, std = torch.stack(pairs).chunk(2, dim=1)
    noise = torch.randn(mean.shape, generator=generator_for(3, "posterior", 2))
    assert torch.equal(batch.latent_BDHW, standardised(mean + std * noise))


def test_in_order_gives_the_means_as_they_are(tmp_path: Path) -> None:
    found = LatentCache(cache(tmp_path, moments=True))
    batches = list(found.in_order(7))
    assert [len(batch) for batch in batches] == [7, 7, 6]
    assert torch.equal(torch.cat([b.latent_BDHW for b in batches]), tensors(moments=True)["latents"][:, :CHANNELS])


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"statistics": {"mean": MEAN}}, "the manifest lacks 'std'"),
        ({"statistics": {"mean": MEAN, "std": [1.0, 0.0, 1.0]}}, "not finite or not positive"),
        ({"statistics": {"mean": [1e300, 0.0, 0.0], "std": STD}}, "not finite or not positive"),
        ({"latent_dim": 4}, r"00000.safetensors: latents of shape \(3, 2, 2\), and the manifest says \(4, 2, 2\)"),
        ({"dtype": "bfloat16"}, "latents of type float32, and the manifest says bfloat16"),
        ({"store": "moments"}, r"the manifest says \(6, 2, 2\)"),
        ({"online": True}, "holds statistics alone"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path: Path, facts: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        LatentCache(cache(tmp_path, **facts))


def change(path: Path, **changed: torch.Tensor) -> None:
    """Rewrite a shard whole, its record with it, as a writer that is wrong would have left it."""
    save_file({**load_file(path), **changed}, path)
    manifest = path.parent / "manifest.json"
    facts = json.loads(manifest.read_text())
    facts["shards"][int(path.stem)] |= {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    manifest.write_text(json.dumps(facts))


def flip_a_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "its bytes are not those that were written": flip_a_byte,
    "this shard is cut off": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "this shard is missing": lambda path: path.unlink(),
    "labels 0 to 5, and the manifest knows 2 classes": lambda path: change(path, labels=torch.arange(6)),
    "images out of order": lambda path: change(path, index=torch.tensor([6, 7, 8, 8, 9, 10])),
    "latents of type bfloat16": lambda path: change(path, latents=torch.zeros(6, 3, 2, 2).bfloat16()),
    "holds 5 rows of": lambda path: change(path, **{name: value[:5] for name, value in load_file(path).items()}),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_verify_names_the_damaged_shard_and_mend_removes_it_alone(tmp_path: Path, what: str) -> None:
    folder = cache(tmp_path / "latents")
    assert list(verify_cache(folder)) == []
    assert mend_cache(folder) == []
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    DAMAGE[what](folder / "00001.safetensors")
    found = list(verify_cache(folder))
    assert [damage.file for damage in found] == ["00001.safetensors"]
    assert what in found[0].what
    assert mend_cache(folder) == found
    assert sorted(path.name for path in folder.glob("*.safetensors")) == [
        "00000.safetensors", "00002.safetensors", "00003.safetensors",
    ]  # fmt: skip
    assert ShardWriter(folder, 6, COUNT).missing == [range(6, 12)]
    cache(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


@pytest.mark.parametrize("broken", ["", "{", '{"rows": 20}'])
def test_a_cache_without_a_manifest_that_can_be_read_is_built_again_as_a_whole(tmp_path: Path, broken: str) -> None:
    folder = cache(tmp_path / "latents")
    (folder / "manifest.json").write_text(broken)
    (damage,) = verify_cache(folder)
    assert damage.file == "manifest.json"
    assert damage.what.startswith("damaged (")
    assert mend_cache(folder) == [damage]
    assert len(ShardWriter(folder, 6, COUNT).missing) == 4


def test_bad_statistics_cost_the_manifest_and_no_shard(tmp_path: Path) -> None:
    folder = cache(tmp_path / "latents", statistics={"mean": MEAN, "std": [1.0, -1.0, 1.0]})
    assert [type(d) for d in mend_cache(folder)] == [Damage]
    assert ShardWriter(folder, 6, COUNT).missing == []
    assert not (folder / "manifest.json").exists()


def test_mend_deletes_nothing_beyond_the_cache(tmp_path: Path) -> None:
    """Of a manifest that names a file elsewhere as a shard, the manifest is what is damaged."""
    folder = cache(tmp_path / "deep" / "latents")
    mine, done = tmp_path / "thesis.tex", folder.parent / "DONE"
    mine.write_text("years of work")
    done.write_text("not of a room")
    manifest = folder / "manifest.json"
    for name in ("../../thesis.tex", str(mine)):
        facts = json.loads(manifest.read_text())
        facts["shards"][1]["file"] = name
        manifest.write_text(json.dumps(facts))
        assert [found.file for found in mend_cache(folder)] == ["manifest.json"]
        assert mine.read_text() == "years of work"
        assert done.exists()
        assert {path.name for path in folder.iterdir()} == {f"0000{n}.safetensors" for n in range(4)}
        manifest.write_text(json.dumps(facts))


@pytest.mark.parametrize(
    "statistics", [{"mean": 1.0, "std": 1.0}, {"mean": {}, "std": {}}, {"mean": MEAN, "std": [STD]}]
)
def test_statistics_of_another_shape_are_refused(tmp_path: Path, statistics: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=r"manifest lacks|not finite"):
        LatentCache(cache(tmp_path, statistics=statistics))
