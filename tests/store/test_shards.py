"""Sharded rows: what goes in comes out, by any number of ranks; cut files are named; streamed statistics are the
two-pass ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from gaekit.errors import ArtifactError, MachineFailed
from gaekit.parallel import World
from gaekit.store import shard_reader, shards
from gaekit.store.moments import Moments
from gaekit.store.shard_reader import ShardReader, read_manifest
from gaekit.store.shards import ShardWriter, reopen

DATA = torch.randn(33, 3, 2, 2, generator=torch.Generator().manual_seed(0)).bfloat16()


def write(
    folder: Path, world: World | None = None, batch: int = 7, skip: Sequence[int] = (), spans: int | None = None
) -> ShardWriter:
    """What a rank does for 33 rows in shards of 10, up to a number of spans."""
    with ShardWriter(folder, 10, 33, world) as writer:
        for span in writer.missing[:spans]:
            for first in range(span.start, span.stop, batch):
                index = torch.tensor([i for i in range(first, min(first + batch, span.stop)) if i not in skip])
                if len(index):
                    writer.add({"latents": DATA[index], "labels": index * 2, "index": index})
        if spans is not None:
            writer._todo.clear()  # as if it were killed
    return writer


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_rows_come_back_in_any_order(tmp_path: Path) -> None:
    write(tmp_path).finish({"note": "x"})
    reader = ShardReader(tmp_path)
    order = torch.randperm(33, generator=torch.Generator().manual_seed(1))
    for indices in (order, torch.arange(33), order[:1], torch.tensor([3, 4, 5, 5, 4, 9, 10, 11])):
        assert torch.equal(reader.rows("latents", indices), DATA[indices])
        assert torch.equal(reader.rows("labels", indices), indices * 2)
    assert torch.equal(torch.cat(list(reader.shards("latents"))), DATA)
    assert len(reader) == 33
    assert reader.facts["note"] == "x"
    assert [s["rows"] for s in reader.facts["shards"]] == [10, 10, 10, 3]


def test_one_rank_two_and_three_write_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "1", skip=(3, 17)).finish({})
    for size in (2, 3):
        folder = tmp_path / str(size)
        writers = [write(folder, World(rank, size), skip=(3, 17)) for rank in reversed(range(size))]
        writers[-1].finish({})
        assert content(folder) == content(tmp_path / "1")


def test_a_shard_spans_indices_whatever_is_skipped(tmp_path: Path) -> None:
    write(tmp_path, skip=(0, 1, *range(10, 20))).finish({})
    reader = ShardReader(tmp_path)
    assert [s["rows"] for s in reader.facts["shards"]] == [8, 0, 10, 3]
    assert [s["file"] for s in reader.facts["shards"]] == [
        "00000.safetensors", None, "00002.safetensors", "00003.safetensors",
    ]  # fmt: skip
    kept = [*range(2, 10), *range(20, 33)]
    assert torch.equal(reader.rows("index", torch.arange(21)), torch.tensor(kept))
    assert torch.equal(reader.rows("latents", torch.arange(21)), DATA[kept])


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_writer_that_was_killed_goes_on_with_the_shards_that_are_missing(tmp_path: Path, ranks: int) -> None:
    write(tmp_path / "whole").finish({})
    killed = tmp_path / "killed"
    write(killed, World(1, 2), spans=1)  # shard 1 alone
    write(killed, World(0, 2), spans=2)  # shards 0 and 2
    (killed / "00002.safetensors").write_bytes(b"cut")
    (killed / ".00003.safetensors.1.part").write_bytes(b"left over")
    times = {name: (killed / name).stat().st_mtime_ns for name in ("00000.safetensors", "00001.safetensors")}
    assert [span.start for span in ShardWriter(killed, 10, 33).missing] == [20, 30]
    writers = [write(killed, World(rank, ranks)) for rank in range(ranks)]
    writers[0].finish({})
    assert content(killed) == content(tmp_path / "whole")
    assert {name: (killed / name).stat().st_mtime_ns for name in times} == times


def test_a_finished_folder_is_reopened_without_its_damaged_shards(tmp_path: Path) -> None:
    write(tmp_path / "whole").finish({})
    write(tmp_path / "damaged").finish({})
    (tmp_path / "damaged" / "00001.safetensors").write_bytes(b"?")
    reopen(tmp_path / "damaged", {"00001.safetensors"})
    assert not (tmp_path / "damaged" / "manifest.json").exists()
    assert ShardWriter(tmp_path / "damaged", 10, 33).missing == [range(10, 20)]
    write(tmp_path / "damaged").finish({})
    assert content(tmp_path / "damaged") == content(tmp_path / "whole")


def test_a_thread_writes_while_rows_are_made_and_one_at_most_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on, at_work, save = threading.Event(), [], shards._save

    def waiting(*arguments: object) -> None:
        at_work.append(threading.current_thread().name)
        assert may_go_on.wait(10)
        save(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(shards, "_save", waiting)
    with ShardWriter(tmp_path, 10, 33) as writer:
        for span in writer.missing:
            index = torch.arange(span.start, span.stop)
            if span.start == 10:
                assert not (tmp_path / "00000.json").exists()  # rows of the next shard are taken meanwhile
                may_go_on.set()
            writer.add({"latents": DATA[index], "index": index})
    assert len(at_work) == 4
    assert set(at_work) == {"shards_0"}


def test_an_error_of_the_thread_reaches_the_writer_and_a_full_disk_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(shards, "save_file", full)
    with pytest.raises(MachineFailed, match=r"the disk is full: 4 more shards need about 1\.6 kB, and .* are free"):
        write(tmp_path)
    assert not list(tmp_path.glob("*.json"))


def test_a_cut_shard_a_missing_one_and_a_flipped_byte_are_named(tmp_path: Path) -> None:
    write(tmp_path).finish({})
    shard = tmp_path / "00001.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    shard.write_bytes(whole[:-5])
    with pytest.raises(ArtifactError, match=rf"00001.safetensors: this shard is cut off.*latents mend {tmp_path}`"):
        ShardReader(tmp_path)
    shard.write_bytes(whole[:5])
    with pytest.raises(ArtifactError, match=r"00001.safetensors: this shard is cut off"):
        ShardReader(tmp_path)
    shard.unlink()
    with pytest.raises(ArtifactError, match=r"00001.safetensors: this shard is missing"):
        ShardReader(tmp_path)


def test_a_shard_that_is_cut_while_it_is_read_is_named(tmp_path: Path) -> None:
    write(tmp_path).finish({})
    reader = ShardReader(tmp_path)
    (tmp_path / "00003.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"00003.safetensors: ends early"):
        reader.rows("latents", torch.tensor([0, 31]))


def test_a_manifest_of_other_rows_and_one_that_is_no_manifest_are_refused(tmp_path: Path) -> None:
    write(tmp_path).finish({})
    manifest = tmp_path / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"rows": 33', '"rows": 34'))
    with pytest.raises(ArtifactError, match=r"manifest.json says 34 rows, its shards hold 33"):
        ShardReader(tmp_path)
    manifest.write_text(text.replace('"rows": 3,', '"rows": 4,'))
    with pytest.raises(ArtifactError, match=r"00003.safetensors: holds 3 rows of .*, its manifest says 4"):
        ShardReader(tmp_path)
    for broken in (text[: len(text) // 2], "[]", "{}"):
        manifest.write_text(broken)
        with pytest.raises(ArtifactError, match=r"manifest.json: damaged"):
            ShardReader(tmp_path)


def test_an_unfinished_cache_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ArtifactError, match="was not finished"):
        ShardReader(tmp_path)


def test_more_shards_than_may_be_open_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_reader, "OPEN_FILES", 2)
    write(tmp_path).finish({})
    reader = ShardReader(tmp_path)
    order = torch.randperm(33, generator=torch.Generator().manual_seed(2))
    assert torch.equal(reader.rows("latents", order), DATA[order])
    assert reader._open.cache_info().currsize == 2


READ_ALL = """
import sys, torch
from pathlib import Path
from gaekit.store.shard_reader import ShardReader
for count in (256, 1024):  # one process, whose libraries weigh the same both times
    reader = ShardReader(Path(sys.argv[1]) / str(count))
    order = torch.randperm(count)
    for first in range(0, count, 16):
        assert float(reader.rows("latents", order[first : first + 16]).sum()) == 16 * 65536
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells its peak memory on Linux alone")
def test_memory_does_not_grow_with_the_cache(tmp_path: Path) -> None:
    for count in (256, 1024):  # 64 MiB, 256 MiB
        with ShardWriter(tmp_path / str(count), 128, count) as writer:
            for span in writer.missing:
                index = torch.arange(span.start, span.stop)
                writer.add({"latents": torch.ones(len(index), 65536), "index": index})
        writer.finish({})
    command = [sys.executable, "-c", READ_ALL, str(tmp_path)]
    small, large = map(int, subprocess.run(command, check=True, capture_output=True, timeout=120).stdout.split())
    assert (large - small) / 1024 < 16, "MiB, where the cache grew by 192"


def test_streamed_moments_are_the_two_pass_ones() -> None:
    data = torch.randn(100, 5, 3, 3, dtype=torch.float64) * 3 + 1000
    moments, parts = Moments(5), [Moments(5) for _ in range(3)]
    for number, first in enumerate(range(0, 100, 13)):
        moments.add(data[first : first + 13])
        parts[number % 2].add(data[first : first + 13])  # the third stays empty
    merged = Moments(5)
    for part in parts:
        merged.merge(part)
    for found in (moments, merged):
        torch.testing.assert_close(found.mean, data.mean((0, 2, 3)), rtol=1e-12, atol=0)
        torch.testing.assert_close(found.std, data.std((0, 2, 3), unbiased=False), rtol=1e-10, atol=0)


OTHER_NAMES = ("../../outside.safetensors", "00001.safetensors/../../outside", "manifest.json", "00002.safetensors", 5)


@pytest.mark.parametrize("name", [*OTHER_NAMES, None, "absolute"])
def test_a_manifest_names_no_other_file_than_the_one_that_its_shard_can_have(tmp_path: Path, name: object) -> None:
    folder = tmp_path / "store" / "cache"
    write(folder).finish({})
    outside = tmp_path / "outside.safetensors"
    outside.write_text("somebody's")
    facts = json.loads((folder / "manifest.json").read_text())
    facts["shards"][1]["file"] = str(outside) if name == "absolute" else name
    (folder / "manifest.json").write_text(json.dumps(facts))
    for use in (read_manifest, ShardReader, lambda path: reopen(path, {str(name)}), lambda path: write(path, spans=0)):
        with pytest.raises(ArtifactError, match=r"manifest.json: damaged \(the file of shard 1 is .*00001"):
            use(folder)
    assert outside.read_text() == "somebody's"


@pytest.mark.parametrize("changed", [
    {"rows": "many"}, {"rows": -1}, {"rows": True}, {"rows": 1.5}, {"shards": "many"}, {"shards": {}}, {"shards": [3]},
    {"shards": [{"rows": "many", "file": "00000.safetensors"}]}, {"rows": None}, {"shards": [{"rows": 10**400}]},
])  # fmt: skip
def test_numbers_of_a_manifest_that_are_none_are_refused(tmp_path: Path, changed: dict[str, object]) -> None:
    write(tmp_path).finish({})
    facts = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(facts | changed))
    with pytest.raises(ArtifactError, match=r"manifest.json: damaged \("):
        ShardReader(tmp_path)


def test_a_manifest_that_no_parser_can_take_is_refused(tmp_path: Path) -> None:
    for text in ("[" * 100_000, '{"rows": ' + "9" * 5000 + "}", "\0", "{"):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ArtifactError, match=r"manifest.json: damaged .* read as JSON"):
            read_manifest(tmp_path)
    (tmp_path / "manifest.json").unlink()
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(ArtifactError, match="pipe"):
        read_manifest(tmp_path)


HEADS = {
    "an unknown type": lambda entry: entry | {"dtype": "X9"}, "no offsets": lambda entry: {"dtype": "F32"},
    "negative offsets": lambda entry: entry | {"data_offsets": [-8, entry["data_offsets"][1]]},
    "a giant shape": lambda entry: entry | {"shape": [10, 10**12, 2, 2]},
    "a scalar": lambda entry: entry | {"shape": []},
    "text": lambda entry: "text",
}  # fmt: skip


@pytest.mark.parametrize("what", HEADS)
def test_a_shard_whose_head_cannot_be_true_is_damaged(tmp_path: Path, what: str) -> None:
    write(tmp_path).finish({})
    shard = tmp_path / "00001.safetensors"
    whole = shard.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    head = json.loads(whole[8 : 8 + length])
    head["latents"] = HEADS[what](head["latents"])
    text = json.dumps(head).encode()
    shard.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
    with pytest.raises(ArtifactError, match=r"00001.safetensors: this shard is cut off"):
        ShardReader(tmp_path)


def test_a_pipe_in_place_of_a_shard_is_not_waited_on(tmp_path: Path) -> None:
    write(tmp_path).finish({})
    (tmp_path / "00001.safetensors").unlink()
    os.mkfifo(tmp_path / "00001.safetensors")
    with pytest.raises(ArtifactError, match=r"00001.safetensors: this shard is not a regular file"):
        ShardReader(tmp_path)
