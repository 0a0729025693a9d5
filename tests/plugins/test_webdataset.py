"""Tar shards against the webdataset package, which writes and reads them; fetched shards against a server; orders."""

from __future__ import annotations

import gc
import io
import itertools
import multiprocessing
import os
import shutil
import tarfile
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import digit, pixels, png, write_shards
from PIL import Image

from gaekit.api import BadImage, DataAbsent, DataError, download
from gaekit_datasets import tar_index
from gaekit_datasets.huggingface import HuggingFace
from gaekit_datasets.shards import expand, fetched, shards_of
from gaekit_datasets.webdataset import WebDataset
from gaekit_datasets.windowed import windowed_order


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, and no waiting."""
    monkeypatch.setenv("GAEKIT_CACHE", str(tmp_path / "kept"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0))
    return tmp_path / "kept"


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """120 digits in shards of 30."""
    return write_shards(tmp_path_factory.mktemp("digits"), 120, 30)


def shards(pattern: Any, **settings: Any) -> WebDataset:
    return WebDataset(WebDataset.Config(use="webdataset", shards=pattern, **{"validation": 0.25} | settings))


def everything(dataset: WebDataset) -> dict[str, tuple[Image.Image, int]]:
    return {split.key(i): split[i] for split in (dataset.train(), dataset.validation()) for i in range(len(split))}


def pack(path: Path, members: dict[str, bytes]) -> str:
    """A tar file of these members, by the standard library."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def sample(index: int, label: str) -> dict[str, bytes]:
    return {f"{index:04d}.png": png(index), f"{index:04d}.cls": label.encode()}


class TestReading:
    def test_images_and_labels_are_those_that_the_webdataset_package_reads(self, digits: str) -> None:
        import webdataset

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # their reader leaves files to the garbage collector
            reader = webdataset.WebDataset(digits, shardshuffle=False).decode("pil").to_tuple("__key__", "png", "cls")
            theirs = list(reader)
            del reader
            gc.collect()
        ours = everything(shards(digits))
        assert len(ours) == 120
        for number, (key, image, label) in enumerate(theirs):
            mine, my_label = ours[f"{number // 30:03d}.tar/{key}"]
            assert my_label == label == digit(number)
            assert pixels(mine) == pixels(image)

    def test_every_split_knows_its_labels_without_decoding(self, digits: str) -> None:
        dataset = shards(digits)
        for split in (dataset.train(), dataset.validation()):
            assert split.labels.tolist() == [split[i][1] for i in range(len(split))]
        assert dataset.classes == tuple("0123456789")
        assert 12 <= len(dataset.validation()) <= 50

    @pytest.mark.parametrize(("label", "classes"), [("json:digit", "0"), ("json:name", "n0"), ("cls", "0")])
    def test_labels_may_be_numbers_or_names_in_json(self, digits: str, label: str, classes: str) -> None:
        dataset = shards(digits, label=label)
        assert dataset.classes[0] == classes
        assert all(image[1] == digit(int(key[-4:])) for key, image in everything(dataset).items())

    def test_without_labels_there_are_no_classes(self, digits: str) -> None:
        dataset = shards(digits, label="none")
        assert dataset.classes == ()
        assert {label for _, label in everything(dataset).values()} == {0}

    def test_class_names_come_from_a_list_or_a_file(self, digits: str, tmp_path: Path) -> None:
        names = tuple(f"class {i}" for i in range(10))
        (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
        (tmp_path / "names.json").write_text(str(list(names)).replace("'", '"'))
        for given in (names, str(tmp_path / "names.txt"), str(tmp_path / "names.json")):
            assert shards(digits, classes=given).classes == names
        reversed_names = tuple(f"n{i}" for i in reversed(range(10)))
        named = everything(shards(digits, classes=reversed_names, label="json:name"))
        assert all(image[1] == 9 - digit(int(key[-4:])) for key, image in named.items())
        with pytest.raises(DataError, match="label '3' is none of the 3 classes: 0, 1, 2"):
            _ = shards(digits, classes=("a", "b", "c")).classes
        with pytest.raises(DataError, match="'a' is named twice"):
            _ = shards(digits, classes=("a", "a")).classes
        with pytest.raises(DataAbsent, match=r"nowhere\.txt does not exist"):
            _ = shards(digits, classes=str(tmp_path / "nowhere.txt")).classes

    def test_numbers_with_gaps_become_labels_without(self, tmp_path: Path) -> None:
        pattern = pack(tmp_path / "a.tar", {k: v for i in range(30) for k, v in sample(i, str(10 ** (i % 3))).items()})
        dataset = shards(pattern)
        assert dataset.classes == ("1", "10", "100")
        assert all(image[1] == int(key[-4:]) % 3 for key, image in everything(dataset).items())

    def test_shards_for_validation_keep_the_labels_of_training(self, digits: str, tmp_path: Path) -> None:
        held = pack(tmp_path / "000.tar", {**sample(7, "7"), **sample(3, "3")})
        dataset = shards(digits, validation=held)
        assert len(dataset.train()) == 120
        assert dataset.validation().labels.tolist() == [7, 3]
        assert dataset.validation().key(0) == "validation/000.tar/0007"
        with pytest.raises(DataError, match="validation: label '11' is none of the 10 classes"):
            shards(digits, validation=pack(tmp_path / "x.tar", sample(1, "11"))).train()
        with pytest.raises(DataError, match=r"001\.tar is also among the shards to train on"):
            shards(digits, validation=digits.replace("{000..003}", "001")).train()

    def test_images_of_other_kinds_long_names_and_folders_inside_are_read(self, tmp_path: Path) -> None:
        stream = io.BytesIO()
        Image.open(io.BytesIO(png(5))).save(stream, "WEBP", lossless=True)
        deep = "folder.with.dots/" + "long" * 60
        members = {
            "._x.png": b"mac",
            "__index__": b"",
            "a.seg.png": b"mask",
            "a.WEBP": stream.getvalue(),
            "a.cls": b"1",
        }
        members |= {
            f"{deep}.jpg.txt": b"text",
            f"{deep}.png": png(6),
            f"{deep}.cls": b" 0\n",
            "b.png": png(7),
            "b.cls": b"1",
        }
        dataset = shards(pack(tmp_path / "a.tar", members), validation=pack(tmp_path / "b.tar", sample(1, "1")))
        train = dataset.train()
        assert [train.key(i) for i in range(3)] == ["a.tar/a", f"a.tar/{deep}", "a.tar/b"]
        assert [pixels(train[i][0]) for i in range(3)] == [pixels(Image.open(io.BytesIO(png(i)))) for i in (5, 6, 7)]

    def test_a_damaged_image_is_named_by_shard_and_key(self, tmp_path: Path) -> None:
        held = pack(tmp_path / "b.tar", sample(1, "1"))
        train = shards(pack(tmp_path / "a.tar", {"x.png": b"hello", "x.cls": b"1"}), validation=held).train()
        with pytest.raises(BadImage, match=r"a\.tar: x: not an image of a known kind: it begins with the text 'hello'"):
            train[0]


def _claiming(kind: bytes, size: int, name: str = "x") -> tarfile.TarInfo:
    """A member's head, of which nothing follows."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member


def _add(tar: tarfile.TarFile, members: dict[str, bytes]) -> None:
    for name, data in members.items():
        tar.addfile(_claiming(tarfile.REGTYPE, len(data), name), io.BytesIO(data))


class TestDamage:
    @pytest.mark.parametrize("keep", [100, 511, 5000, -1024 * 10, -200])
    def test_a_shard_cut_off_is_named(self, digits: str, tmp_path: Path, keep: int) -> None:
        whole = Path(digits.replace("{000..003}", "000")).read_bytes()
        end = whole.rstrip(b"\0")
        path = tmp_path / "cut.tar"
        path.write_bytes(whole[:keep] if keep > 0 else end[:keep])
        with pytest.raises(DataError, match=r"cut\.tar is cut off or damaged"):
            shards(str(path)).train()

    def test_a_shard_cut_between_members_or_damaged_in_the_middle_is_named(self, digits: str, tmp_path: Path) -> None:
        whole = bytearray(Path(digits.replace("{000..003}", "000")).read_bytes())
        with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
            place = tar.getmembers()[40].offset
        (tmp_path / "cut.tar").write_bytes(whole[:place])
        whole[place : place + 100] = b"\xff" * 100
        (tmp_path / "bad.tar").write_bytes(whole)
        for name in ("cut", "bad"):
            with pytest.raises(DataError, match=rf"{name}\.tar is cut off or damaged at byte {place}"):
                shards(str(tmp_path / f"{name}.tar")).train()

    @pytest.mark.parametrize(
        ("members", "settings", "message"),
        [
            ({"a.txt": b"x"}, {}, r"sample 'a' has no image \(jpg, jpeg, png, webp\); it has: txt"),
            ({"a.png": b"x"}, {}, r"sample 'a' has no label \(cls\); it has: png"),
            ({"a.png": b"x", "a.json": b"{}"}, {"label": "json:y"}, r"sample 'a': no json:y in b'\{\}': KeyError"),
            ({"a.png": b"x", "a.json": b"{"}, {"label": "json:y"}, r"sample 'a': no json:y in b'\{': JSONDecodeError"),
            ({"a.png": b"x", "a.json": b'{"y": [1]}'}, {"label": "json:y"}, r"sample 'a': json:y is \[1\]; a label"),
            ({"a.png": b"x", "a.cls": b""}, {}, r"sample 'a': cls is ''; a label is a number"),
            ({"a.png": b"x", "a.PNG": b"x"}, {}, r"sample 'a' has two members '\.png'"),
            ({**sample(0, "0"), "./0000.png": b"", "x/b": b""}, {}, r"sample './0000' has no label \(cls\)"),
        ],
    )  # fmt: skip
    def test_a_sample_that_lacks_something_is_named(
        self, tmp_path: Path, members: dict[str, bytes], settings: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(DataError, match=r"shard .*odd\.tar: " + message):
            shards(pack(tmp_path / "odd.tar", members), **settings).train()

    @pytest.mark.parametrize(
        ("write", "told"),
        [
            (lambda tar: tar.addfile(_claiming(tarfile.XHDTYPE, 10**13)), "a record of 10000000000000 bytes where"),
            (lambda tar: tar.addfile(_claiming(tarfile.GNUTYPE_LONGNAME, 10**10)), "a record of 10000000000 bytes"),
            (lambda tar: [tar.addfile(_claiming(tarfile.XHDTYPE, 0)) for _ in range(2_000)], "cut off or damaged"),
            (lambda tar: _add(tar, {"a.png": b"", "a.json": b"[" * 200_000}), r"no json:y in b'\[\[.*RecursionError"),
            (lambda tar: _add(tar, {"a.png": b"", "a.json": bytes((16 << 20) + 1)}), "has 16777217 bytes, too many"),
        ],
    )  # fmt: skip
    def test_what_a_member_claims_is_not_believed(
        self, tmp_path: Path, write: Callable[[tarfile.TarFile], None], told: str
    ) -> None:
        with tarfile.open(tmp_path / "bomb.tar", "w", format=tarfile.GNU_FORMAT) as tar:
            write(tar)
        tracemalloc.start()
        try:
            with pytest.raises(DataError, match=rf"bomb\.tar.*{told}"):
                shards(str(tmp_path / "bomb.tar"), label="json:y").train()
            assert tracemalloc.get_traced_memory()[1] < 40e6
        finally:
            tracemalloc.stop()

    def test_an_image_larger_than_any_is_named(self, tmp_path: Path) -> None:
        with (tmp_path / "sparse.tar").open("wb") as file:
            file.write(_claiming(tarfile.REGTYPE, 1 << 40, "a.png").tobuf(tarfile.GNU_FORMAT))
            file.truncate(512 + (1 << 40) + 1024)
        with pytest.raises(DataError, match=r"sample 'a': its image has 1099511627776 bytes, too many for one"):
            shards(str(tmp_path / "sparse.tar"), label="none").train()

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.tar")
        with pytest.raises(DataError, match=r"pipe\.tar' is a pipe, socket or device; expected a regular file"):
            shards(str(tmp_path / "*.tar"), label="none").train()

    def test_two_samples_of_one_key_are_refused(self, tmp_path: Path) -> None:
        members = {"a.png": b"", "a.cls": b"0", "b.png": b"", "b.cls": b"0"}
        path = pack(tmp_path / "twice.tar", members)
        with tarfile.open(path, "a") as tar:
            for name in ("a.png", "a.cls"):
                tar.addfile(tarfile.TarInfo(name))
        with pytest.raises(DataError, match=r"twice\.tar: 2 samples are called 'a'"):
            shards(path, label="none").train()

    def test_what_is_no_tar_or_compressed_or_absent_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "text.tar").write_text("hello" * 300)
        (tmp_path / "empty.tar").touch()
        for name in ("text", "empty"):
            with pytest.raises(DataError, match=rf"{name}\.tar is cut off or damaged, or no tar file"):
                shards(str(tmp_path / f"{name}.tar")).train()
        with tarfile.open(tmp_path / "packed.tar", "w:gz"):
            pass
        with pytest.raises(DataError, match=r"packed\.tar is compressed"):
            shards(str(tmp_path / "packed.tar")).train()
        dataset = shards(str(tmp_path / "{000..003}.tar"))
        for ask in (dataset.train, dataset.validation, dataset.digest, lambda: dataset.classes):
            with pytest.raises(DataAbsent, match=r"shards: .*000\.tar does not exist"):
                ask()

    def test_a_shard_that_shrinks_or_goes_while_training_is_named(self, digits: str, tmp_path: Path) -> None:
        path = Path(shutil.copy(digits.replace("{000..003}", "000"), tmp_path / "a.tar"))
        train = shards(str(path)).train()
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(DataError, match=r"a\.tar is shorter than when it was indexed"):
            train[len(train) - 1]
        path.unlink()
        with pytest.raises(DataAbsent, match=r"a\.tar is gone"):
            train[0]


class TestIndex:
    def test_shards_are_read_once_and_again_only_where_they_changed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[str] = []
        original = tar_index.read_tar
        monkeypatch.setattr(tar_index, "read_tar", lambda path, *rest: read.append(path.name) or original(path, *rest))
        pattern = write_shards(tmp_path / "data", 60, 20)
        time.sleep(0.05)
        digest = shards(pattern).digest()
        assert sorted(read) == ["000.tar", "001.tar", "002.tar"]
        read.clear()
        assert shards(pattern).digest() == digest
        assert shards(pattern, validation=0.3).digest() != digest
        assert read == []
        os.utime(tmp_path / "data" / "001.tar", ns=(10**18 + 2, 10**18 + 2))
        assert shards(pattern).digest() == digest
        assert read == ["001.tar"]

    def test_the_digest_knows_contents_labels_keys_and_order_and_not_the_place(self, tmp_path: Path) -> None:
        pattern = write_shards(tmp_path / "data", 60, 20)
        digest = shards(pattern).digest()
        shutil.copytree(tmp_path / "data", tmp_path / "moved")
        assert shards(pattern.replace("data", "moved")).digest() == digest
        assert shards(Path(tmp_path / "data").as_uri() + "/{000..002}.tar").digest() == digest
        assert shards(str(tmp_path / "data" / "*.tar")).digest() == digest
        seen = {digest, shards(pattern, label="none").digest(), shards(pattern, window=None).digest()}
        seen |= {shards(pattern.replace("000..002", "002..000")).digest(), shards(pattern, background="black").digest()}
        for change in ({"0000.png": png(1)}, {"0000.cls": b"9"}, {"0000x.png": png(0)}):
            members = {**sample(0, "0"), **sample(1, "1"), **sample(2, "0"), **sample(3, "1")}
            if "0000x.png" in change:
                del members["0000.png"]
                members = {"0000x.cls": members.pop("0000.cls"), **members}
            path = pack(tmp_path / "small.tar", {**change, **members} | change)
            seen.add(shards(path, validation=pattern, classes=tuple("0123456789")).digest())
        assert len(seen) == 8


class TestPatterns:
    @pytest.mark.parametrize(
        "pattern", ["a.tar", "x-{000..012}.tar", "{8..11}", "{08..11}", "{a,b}-{0..1}.tar", "{3..1}{,x}", "{a,b,}"]
    )
    def test_braces_are_expanded_as_the_braceexpand_package_does(self, pattern: str) -> None:
        from braceexpand import braceexpand

        assert expand(pattern) == list(braceexpand(pattern))

    @pytest.mark.parametrize("pattern", ["{a", "{a,{b,c}}", "{a}", "{1..x}"])
    def test_other_braces_are_refused(self, pattern: str) -> None:
        with pytest.raises(DataError, match="braces hold a range"):
            expand(pattern)

    def test_names_are_relative_to_what_holds_all_shards(self) -> None:
        def names(*places: str) -> list[str]:
            return [shard.name for shard in shards_of(places, "shards")]

        assert names("http://x/a/0.tar") == ["0.tar"]
        assert names("http://x/a/{0,1}.tar", "http://x/ab/0.tar") == ["a/0.tar", "a/1.tar", "ab/0.tar"]
        with pytest.raises(DataError, match=r"shard http://x/0\.tar is named twice"):
            names("http://x/{0..2}.tar", "http://x/0.tar")
        with pytest.raises(DataError, match=r"s3://x/0\.tar: give a path, or a URL of http, https or file"):
            names("s3://x/0.tar")


class Server(ThreadingHTTPServer):
    """Serves a folder; notes what is asked for, and cuts the first answers to some short."""

    def __init__(self, folder: Path):
        self.asked: list[str] = []
        self.cut: dict[str, int] = {}
        super().__init__(("127.0.0.1", 0), lambda *a: Handler(*a, directory=str(folder)))  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.server.asked.append(name)
        if self.server.cut.get(name, 0) > 0:
            self.server.cut[name] -= 1
            data = (Path(self.directory) / name).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:700])
            self.close_connection = True
            return
        super().do_GET()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(digits: str) -> Iterator[Server]:
    with Server(Path(digits).parent) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class TestRemote:
    def test_shards_are_fetched_once_and_equal_local_ones(self, server: Server, digits: str, kept: Path) -> None:
        pattern = f"{server.url}/{{000..003}}.tar"
        dataset = shards(pattern)
        assert dataset.digest() == shards(digits).digest()
        local = everything(shards(digits))
        assert all(pixels(image) == pixels(local[key][0]) for key, (image, _) in everything(dataset).items())
        assert sorted(server.asked) == [f"00{i}.tar" for i in range(4)]
        everything(shards(pattern))
        assert len(server.asked) == 4
        (gone,) = kept.glob("shards/*-002.tar")
        gone.unlink()
        assert shards(pattern).digest() == dataset.digest()
        assert len(server.asked) == 4  # the index is enough until an image is wanted
        assert len(everything(shards(pattern))) == 120
        assert server.asked[4:] == ["002.tar"]

    def test_a_shard_that_changed_at_its_url_is_named(self, tmp_path: Path, kept: Path) -> None:
        write_shards(tmp_path / "data", 40, 40)
        url = (tmp_path / "data" / "000.tar").as_uri()
        shards(url).train()
        next(kept.glob("shards/*.tar")).unlink()
        write_shards(tmp_path / "data", 30, 30)
        with pytest.raises(DataError, match=r"000\.tar changed since it was indexed .*have \d+ bytes, and has \d+"):
            shards(url).train()[0]

    def test_a_shard_that_comes_cut_off_is_fetched_again_and_named_in_the_end(self, server: Server) -> None:
        server.cut = {"000.tar": 2}
        assert len(everything(shards(f"{server.url}/000.tar"))) == 30
        server.cut = {"001.tar": 99}
        with pytest.raises(DataAbsent, match=r"/001\.tar cannot be fetched: .*ended after 700 of \d+ bytes"):
            shards(f"{server.url}/001.tar").train()
        assert server.asked == ["000.tar"] * 3 + ["001.tar"] * 3

    def test_what_is_not_there_or_does_not_answer_is_absent(self, server: Server, tmp_path: Path) -> None:
        with pytest.raises(DataAbsent, match=r"/none\.tar cannot be fetched: .*404"):
            shards(f"{server.url}/none.tar").train()
        assert server.asked == ["none.tar"]
        with pytest.raises(DataAbsent, match=r"http://127\.0\.0\.1:9/x\.tar cannot be fetched: .*refused"):
            shards("http://127.0.0.1:9/x.tar").train()
        with pytest.raises(DataAbsent, match=r"no\.tar cannot be fetched: .*No such file"):
            shards((tmp_path / "no.tar").as_uri()).train()

    def test_one_process_fetches_while_others_wait(self, server: Server, kept: Path) -> None:
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=fetched, args=(f"{server.url}/000.tar",)) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(30)
        assert [process.exitcode for process in processes] == [0] * 4
        assert server.asked == ["000.tar"]
        assert sorted(path.suffix for path in (kept / "shards").iterdir()) == [".tar"]

    def test_a_cache_that_cannot_be_written_is_named(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("GAEKIT_CACHE", str(tmp_path / "file"))
        with pytest.raises(DataError, match=r"000\.tar cannot be fetched: .* cannot be written .*set GAEKIT_CACHE"):
            shards(f"{server.url}/000.tar").train()


def test_every_setting_stands_in_the_document_with_its_default() -> None:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    for component in (WebDataset, HuggingFace):
        part = text[text.index(f"## `{component.name}`") :].split("\n## ")[0]
        rows = {line.split("|")[1].strip(" `"): line for line in part.splitlines() if line.startswith("| `")}
        assert set(rows) == set(component.Config.model_fields) - {"use"}
        for name, row in rows.items():
            field = component.Config.model_fields[name]
            default = "required" if field.is_required() else field.default
            shown = ", ".join(default) if isinstance(default, tuple) else str(default)
            assert row.split("|")[2].strip() == shown.replace("None", "null")


class TestOrder:
    @pytest.mark.parametrize("sizes", [[1], [7, 0, 3, 12], [100] * 20])
    def test_an_epoch_visits_each_item_once_in_an_order_of_its_own(self, sizes: list[int]) -> None:
        orders = [windowed_order(sizes, seed, epoch, 30).tolist() for seed in (0, 1) for epoch in (0, 1)]
        assert all(sorted(order) == list(range(sum(sizes))) for order in orders)
        assert orders[0] == windowed_order(sizes, 0, 0, 30).tolist()
        if len(sizes) > 1:
            assert len({tuple(order) for order in orders}) == 4

    def test_few_shards_are_in_use_at_a_time(self) -> None:
        order = windowed_order([100] * 50, 3, 0, 200)
        used = [len(set((order[i : i + 100] // 100).tolist())) for i in range(0, 5000, 100)]
        assert max(used) <= 5  # a stretch of 100 reaches over 100 + 200 places: four shards and a border
        assert min(used[1:-1]) >= 2
        everywhere = windowed_order([100] * 50, 3, 0, 10**6)
        assert len(set((everywhere[:100] // 100).tolist())) > 30

    def test_each_item_is_moved_by_less_than_the_window(self) -> None:
        sizes = [40] * 30
        shuffled = np.argsort(windowed_order(sizes, 5, 2, 50), kind="stable")
        plain = np.argsort(windowed_order(sizes, 5, 2, 1), kind="stable")
        assert 20 < np.abs(shuffled - plain).max() < 50

    def test_training_uses_it_and_any_step_can_be_the_first(self, digits: str) -> None:
        from gaekit.data.images import Images

        dataset = shards(digits, window=20)
        train = dataset.train()
        assert train.order is not None
        expected = train.order(7, 0).tolist()
        images = Images(train, 8)
        got = [batch.index_B.tolist() for batch in itertools.islice(images.training(7, 9, flip=False), 8)]
        assert list(itertools.chain(*got)) == expected[:72]
        assert shards(digits, window=None).train().order is None
