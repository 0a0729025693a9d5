"""What the benchmarks share: timing in pairs (A B A B), so that a machine whose speed drifts does not decide; the
limits of a machine; results as a table and as JSON."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Row:
    """One comparison: median seconds of ours and of what it is held against, and the median of the ratios of pairs
    (ours / other). `other` and `ratio` are None for a number that stands alone."""

    name: str
    seconds: float
    other: float | None = None
    ratio: float | None = None
    note: str = ""


def synchronise(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(action: Callable[[], Any], device: torch.device) -> float:
    """How long an action takes, its work on a GPU included."""
    synchronise(device)
    start = time.perf_counter()
    action()
    synchronise(device)
    return time.perf_counter() - start


def paired(
    name: str, ours: Callable[[], Any], other: Callable[[], Any], device: torch.device, rounds: int, note: str = ""
) -> Row:
    """Time two actions in turn after a round that does not count."""
    ours()
    other()
    pairs = [(seconds(ours, device), seconds(other, device)) for _ in range(rounds)]
    mine, others = zip(*pairs, strict=True)
    ratio = statistics.median(a / b for a, b in pairs)
    return Row(name, statistics.median(mine), statistics.median(others), ratio, note)


def alone(name: str, action: Callable[[], Any], device: torch.device, rounds: int, note: str = "") -> Row:
    """Time one action after a round that does not count."""
    action()
    return Row(name, statistics.median(seconds(action, device) for _ in range(rounds)), note=note)


def limits(device: torch.device) -> list[Row]:
    """What the machine can do: a matrix product, and a copy in its memory."""
    side = 8192 if device.type == "cuda" else 1024
    kinds = [torch.float32, torch.bfloat16] if device.type == "cuda" else [torch.float32]
    rows = []
    for kind in kinds:
        one, two = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
        row = alone(f"product of {side} x {side}, {kind}", lambda one=one, two=two: one @ two, device, 9)  # type: ignore[misc]
        rows.append(Row(row.name, row.seconds, note=f"{2 * side**3 / row.seconds / 1e12:.3g} TFLOP/s"))
    big = torch.empty((1 << 30 if device.type == "cuda" else 1 << 28) // 4, device=device)
    row = alone("copy", big.clone, device, 9)
    return [*rows, Row("copy", row.seconds, note=f"{2 * big.nbytes / row.seconds / 1e9:.3g} GB/s")]


def machine(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def arguments(text: str | None) -> argparse.Namespace:
    """--device, --rounds, --json: those of every benchmark."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the results there")
    return parser.parse_args()


def report(title: str, rows: Iterable[Row], device: torch.device, path: Path | None) -> None:
    """Print each row as it comes; write the same as JSON, with machine, versions and date, to `path`."""
    print(f"{title}: {machine(device)}, torch {torch.__version__}", flush=True)
    found: dict[str, Any] = {
        "benchmark": title, "machine": machine(device), "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(), "rows": [],
    }  # fmt: skip
    for row in rows:
        other = "" if row.other is None else f"{row.other * 1e3:12.3f} ms   ratio {row.ratio:6.3f}"
        print(f"  {row.name:<58} {row.seconds * 1e3:12.3f} ms  {other}  {row.note}".rstrip(), flush=True)
        found["rows"].append(asdict(row))
        if path is not None:
            path.write_text(json.dumps(found, indent=2) + "\n")
