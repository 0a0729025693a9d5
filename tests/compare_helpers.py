"""Runs as `gaekit run` leaves them, by their files alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gaekit.store.attempts import Attempt
from gaekit.store.npz import NpzWriter

IMAGES = 60
PSNR = "reconstruction/psnr"


def entry(value: float, interval: tuple[float, float] | None = None, **protocol: Any) -> dict[str, Any]:
    known = {"implementation": "gaekit 1", "n": IMAGES, "dataset": "d" * 64} | protocol
    if interval is None:
        return {"value": value, "protocol": known}
    return {"value": value, "interval": list(interval), "protocol": known | {"interval": "95 %, somehow"}}


def make_run(
    out: Path, name: str, metrics: Mapping[str, Any], *, per_image: np.ndarray | None = None, lr: float = 1e-3,
    seed: int = 0, room: str = "", workers: int = 0, samples: bool = True, steps: int = 40,
    **more: Any,
) -> Path:  # fmt: skip
    """The files of a run of one training, as `gaekit run` leaves them."""
    run, store = out / name, out / "store" / "diffusion" / (room or name)
    run.mkdir(parents=True)
    store.mkdir(parents=True, exist_ok=True)
    record = {"name": name, "finished": "2026-01-01T00:00:00+00:00", "processes": 1, "packages": {}, "stages": {
        "diffusion": {"status": "done", "identity": "f" * 64, "artifact": f"../store/diffusion/{store.name}/d",
                      "room": f"store/diffusion/{store.name}", "subfolder": "",
                      "record": {"steps": steps, "seconds": 5.0}},
    }}  # fmt: skip
    (run / "run.json").write_text(json.dumps(record))
    recipe = {"recipe": 1, "name": name, "seed": seed, "diffusion": {"train": {"lr": lr, "steps": 40}, **more},
              "evaluate": {"metrics": [{"use": "psnr"}]}, "runtime": {"workers": workers}}  # fmt: skip
    (run / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "diffusion").symlink_to(f"../store/diffusion/{store.name}")
    lines = [{"step": s, "seconds": s / 8, "scalars": {"loss/velocity": 1 / s + lr}} for s in range(10, 50, 10)]
    (store / "curves.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if name == "second":
        attempt = Attempt(started="2026-01-01T00:00:00+00:00", seconds=9.0, outcome="done", device="cpu", cuda=False,
                          processes=2, threads=1, precision="float32")  # fmt: skip
        (store / "attempts.jsonl").write_text(attempt.model_dump_json() + "\n")
    if per_image is not None:
        np.savez(run / "per_image.npz", **{PSNR: per_image})
    if samples:
        pixels = np.random.default_rng(seed).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
        with NpzWriter(run / "samples.npz") as npz:
            npz.add("arr_0", pixels.dtype, pixels.shape, [pixels])
            npz.add("arr_1", np.dtype(np.int64), (12,), [np.arange(12) % 3])
    return run
