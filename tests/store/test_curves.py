"""curves.jsonl: what is read of it, also while it is written, and what is cut of it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from gaekit.errors import ArtifactError
from gaekit.store.curves import Curves, cut_curves, line_of, read_curves

WHOLE = line_of(10, 1.5, {"loss/l1": 0.5, "weighted/l1": math.inf}) + line_of(20, 3.0, {"loss/l1": 0.25})


def written(path: Path, content: bytes) -> Path:
    (path / "curves.jsonl").write_bytes(content)
    return path / "curves.jsonl"


def test_scalars_and_seconds_are_read_by_step(tmp_path: Path) -> None:
    found = read_curves(written(tmp_path, WHOLE + line_of(20, 3.0, {"probe/loss/ema": 0.7})))
    assert found.scalars["loss/l1"] == [(10, 0.5), (20, 0.25)]
    assert found.seconds == [(10, 1.5), (20, 3.0)]
    assert math.isnan(found.scalars["weighted/l1"][0][1])
    assert found.under("probe/") == {"probe/loss/ema": [(20, 0.7)]}


def test_every_line_is_json_that_any_reader_takes() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    values = {"a": math.nan, "b": -math.inf, "c": 1.0}
    found = json.loads(line_of(1, 0.5, values), parse_constant=refuse)
    assert found == {"step": 1, "seconds": 0.5, "scalars": {"a": None, "b": None, "c": 1.0}}


def test_a_training_that_logged_nothing_has_no_curves(tmp_path: Path) -> None:
    assert read_curves(tmp_path / "curves.jsonl") == Curves()


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_last_line_that_is_being_written_is_not_there_yet(tmp_path: Path, cut: int) -> None:
    assert read_curves(written(tmp_path, WHOLE[:-cut])).seconds == [(10, 1.5)]


@pytest.mark.parametrize("damaged", [b"\x00\x00\n", b"{}\n", b'{"step": "1", "seconds": 1, "scalars": {}}\n', b"[1]\n"])
def test_a_damaged_line_is_named(tmp_path: Path, damaged: bytes) -> None:
    path = written(tmp_path, WHOLE + damaged + WHOLE)
    with pytest.raises(ArtifactError, match=r"curves.jsonl:3: damaged"):
        read_curves(path)


def test_only_what_is_beyond_a_step_is_cut_and_what_a_kill_left_half_written(tmp_path: Path) -> None:
    path = written(tmp_path, WHOLE + line_of(30, 4.0, {"loss/l1": 0.1}) + b'{"step": 40, "sec')
    cut_curves(path, 20, into=tmp_path / "beside.jsonl")
    assert (tmp_path / "beside.jsonl").read_bytes() == WHOLE
    assert read_curves(path, last=20) == read_curves(tmp_path / "beside.jsonl")
    assert read_curves(path).seconds[-1] == (30, 4.0)
    cut_curves(path, 20)
    assert path.read_bytes() == WHOLE
    cut_curves(tmp_path / "absent.jsonl", 20)
    assert not (tmp_path / "absent.jsonl").exists()


def test_reading_takes_neither_torch_nor_plugins() -> None:
    code = "import sys, gaekit.store.curves; print([m for m in ('torch', 'pluggy', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
