"""Real pictures in each layout that a data set reads: scikit-learn's digits as files, as tar shards, as parquet."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


@cache
def _digits() -> Any:
    return load_digits()


def png(index: int) -> bytes:
    """Digit number `index` as a PNG."""
    stream = io.BytesIO()
    Image.fromarray((_digits().images[index] * 15).astype(np.uint8)).convert("RGB").save(stream, "PNG")
    return stream.getvalue()


def digit(index: int) -> int:
    """What digit number `index` is."""
    return int(_digits().target[index])


def pixels(image: Image.Image) -> list[Any]:
    """The pixels of an image, to compare."""
    return np.asarray(image).tolist()


def write_folder(root: Path, count: int) -> Path:
    """Digits as files in a folder a class."""
    for index in range(count):
        path = root / str(digit(index)) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(index))
    return root


def write_shards(root: Path, count: int, per_shard: int) -> str:
    """Digits as shards that the webdataset package writes; their pattern."""
    import webdataset

    root.mkdir(parents=True, exist_ok=True)
    shards = -(-count // per_shard)
    for shard in range(shards):
        with webdataset.TarWriter(str(root / f"{shard:03d}.tar")) as writer:
            for index in range(shard * per_shard, min(count, (shard + 1) * per_shard)):
                facts = json.dumps({"digit": digit(index), "name": f"n{digit(index)}"})
                writer.write(
                    {"__key__": f"{index:04d}", "png": png(index), "cls": digit(index), "json": facts.encode()}
                )
    return str(root / f"{{000..{shards - 1:03d}}}.tar")


def write_parquet(root: Path, count: int, *, names: bool = True) -> Path:
    """Digits as a folder of two parquet files that the datasets package writes, `train` and `test`."""
    import datasets

    label = datasets.ClassLabel(names=[f"n{label}" for label in range(10)]) if names else datasets.Value("int64")
    features = datasets.Features({"image": datasets.Image(), "label": label, "text": datasets.Value("string")})
    (root / "data").mkdir(parents=True, exist_ok=True)
    for split, start in (("train", 0), ("test", 1000)):
        rows = range(start, start + count)
        cells = {
            "image": [{"bytes": png(row), "path": None} for row in rows],
            "label": [digit(row) for row in rows],
            "text": [f"n{digit(row)}" for row in rows],
        }
        table = datasets.Dataset.from_dict(cells, features=features)
        table.to_parquet(str(root / "data" / f"{split}-00000-of-00001.parquet"))
    return root
