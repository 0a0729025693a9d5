"""Sharded rows: what goes in comes out, cut files are named, streamed statistics are the two-pass ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gaekit.errors import ArtifactError
from gaekit.store.shards import Moments, ShardReader, ShardWriter


def fill(folder: Path, rows: int, start: int = 0, batch: int = 7) -> ShardWriter:
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(33, 3, 2, 2, generator=generator)
    writer = ShardWriter(folder, rows)
    for first in range(start, 33, batch):
        index = torch.arange(first, min(first + batch, 33))
        writer.add({"latents": data[index].bfloat16(), "labels": index * 2, "index": index})
    return writer


def test_rows_come_back_in_any_order(tmp_path: Path) -> None:
    fill(tmp_path, 10).finish({"note": "x"})
    reader = ShardReader(tmp_path)
    order = torch.randperm(33, generator=torch.Generator().manual_seed(1))
    data = torch.randn(33, 3, 2, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(reader.rows("latents", order), data[order])
    assert torch.equal(reader.rows("labels", order), order * 2)
    assert len(reader) == 33
    assert reader.facts["note"] == "x"
    assert [s["rows"] for s in reader.facts["shards"]] == [10, 10, 10, 3]
    assert reader.verify() == []


def test_a_writer_that_was_killed_goes_on_after_its_last_whole_shard(tmp_path: Path) -> None:
    fill(tmp_path / "whole", 10).finish({})
    killed = ShardWriter(tmp_path / "killed", 10)
    for first in (0, 7, 14):
        index = torch.arange(first, first + 7)
        data = torch.randn(33, 3, 2, 2, generator=torch.Generator().manual_seed(0))
        killed.add({"latents": data[index].bfloat16(), "labels": index * 2, "index": index})
    again = ShardWriter(tmp_path / "killed", 10)
    assert again.next_index == again.written == 20
    fill(tmp_path / "killed", 10, start=again.next_index).finish({})
    names = [f"{i:05d}.safetensors" for i in range(4)]
    assert [(tmp_path / "killed" / n).read_bytes() for n in names] == [
        (tmp_path / "whole" / n).read_bytes() for n in names
    ]


def test_a_cut_shard_a_missing_one_and_a_flipped_byte_are_named(tmp_path: Path) -> None:
    fill(tmp_path, 10).finish({})
    shard = tmp_path / "00001.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert ShardReader(tmp_path).verify() == ["00001.safetensors"]
    shard.write_bytes(whole[:-5])
    with pytest.raises(ArtifactError, match=r"00001.safetensors: this shard is cut off"):
        ShardReader(tmp_path)
    shard.unlink()
    with pytest.raises(ArtifactError, match=r"00001.safetensors: this shard is missing"):
        ShardReader(tmp_path)


def test_an_unfinished_cache_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    with pytest.raises(ArtifactError, match="was not finished"):
        ShardReader(tmp_path)


def test_streamed_moments_are_the_two_pass_ones() -> None:
    data = torch.randn(100, 5, 3, 3, dtype=torch.float64) * 3 + 1000
    moments = Moments(5)
    for first in range(0, 100, 13):
        moments.add(data[first : first + 13])
    torch.testing.assert_close(moments.mean, data.mean((0, 2, 3)), rtol=1e-12, atol=0)
    torch.testing.assert_close(moments.std, data.std((0, 2, 3), unbiased=False), rtol=1e-10, atol=0)
