"""The trackers of other services, by their real packages, offline. Run them where these are installed:
pip install 'gaekit[wandb,mlflow,trackio]'."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from gaekit.api import ComponentConfig, GaekitError, TrackedStage, Tracker
from gaekit.plugins import Registry, build, load_plugins
from gaekit_trackers.kept import KeptRun, flat, pixels

SERVICES = ("wandb", "mlflow", "trackio")
STAGE = TrackedStage("a_run", "diffusion", {"name": "a_run", "seed": 3, "evaluate": {"metrics": [{"use": "fid"}]}})


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_plugins()


def tracker(registry: Registry, use: str, folder: Path, purge_step: int = 0, **settings: Any) -> Tracker:
    config: ComponentConfig = registry.find("tracker", use).Config(use=use, **settings)
    return build(Tracker, config, registry, folder=folder, purge_step=purge_step, stage=STAGE)


@pytest.mark.parametrize("use", SERVICES)
def test_an_absent_package_is_named_with_its_extra(
    use: str, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, use, None)
    with pytest.raises(GaekitError, match=rf"tracker '{use}' needs .* pip install 'gaekit\[{use}\]'"):
        tracker(registry, use, tmp_path)


def test_a_step_is_given_once_and_the_run_is_remembered(tmp_path: Path) -> None:
    kept = KeptRun(tmp_path / "x")
    assert kept.id is None
    assert kept.next == 0
    kept.call("abc")
    for step in (0, 5):
        kept.gave(step)
    again = KeptRun(tmp_path / "x")
    assert again.id == "abc"
    assert again.next == 6


def test_settings_are_flat_and_pictures_are_bytes() -> None:
    recipe = {"a": {"b": 1, "c": None, "d": [1, 2]}, "metrics": [{"use": "fid"}, {"use": "psnr"}]}
    assert dict(flat(recipe)) == {
        "a.b": 1, "a.c": "none", "a.d": "[1, 2]", "metrics[0].use": "fid", "metrics[1].use": "psnr",
    }  # fmt: skip
    image = pixels(torch.tensor([[[0.0, 0.5]], [[1.0, 2.0]], [[-1.0, 0.25]]]))
    assert image.tolist() == [[[0, 255, 0], [128, 255, 64]]]


PROGRAM = """
import json, sys
from pathlib import Path
import torch
from gaekit.api import TrackedStage, Tracker
from gaekit.plugins import build, load_plugins
from gaekit.testing import check_component

use, folder, purge, first, last = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:6])
settings = {"wandb": {"mode": "offline", "project": "digits", "tags": ("small",)}}.get(use, {"project": "digits"})
stage = TrackedStage("a_run", "diffusion", {"name": "a_run", "seed": 3, "evaluate": {"metrics": [{"use": "fid"}]}})
registry = load_plugins()
config = registry.find("tracker", use).Config(use=use, **settings)
made = build(Tracker, config, registry, folder=folder, purge_step=purge, stage=stage)
for step in range(first, last):
    made.log(step, {"loss/l1": 10.0 + step}, {"samples": torch.rand(3, 8, 8)} if step % 2 else {})
if last == 7:
    made.results({"samples/fid": 2.5}, {"grid": torch.rand(3, 8, 8)})
made.close()
if last == 7:
    check_component(registry.find("tracker", use), registry=registry, **{**settings, "project": "contract"})
"""


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """(an address that stands in for every way out, what was asked for there)."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            asked.append(self.rfile.readline().decode(errors="replace").strip())

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module", params=SERVICES)
def tracked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """(service, folder): killed after step 4, resumed at 2, with results at the end; nobody was asked for anything."""
    use: str = request.param
    if importlib.util.find_spec(use) is None:
        pytest.skip(f"{use} is not installed: pip install 'gaekit[{use}]'")
    root = tmp_path_factory.mktemp(use)
    with listening() as (proxy, asked):
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), proxy)
        kept_out = ("CI", "GITHUB_ACTIONS", "PYTEST_CURRENT_TEST", "MLFLOW_TRACKING_URI", "NO_PROXY", "no_proxy")
        plain = {name: value for name, value in os.environ.items() if name not in kept_out}
        environment = {**plain, **proxies, "HOME": str(root), "TRACKIO_DIR": str(root / "trackio"), "HF_TOKEN": "hf_x"}
        for steps in (("0", "0", "5"), ("2", "2", "7")):
            command = [sys.executable, "-c", PROGRAM, use, str(root / "room" / use), *steps]
            done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
            assert (done.stdout, done.stderr) == ("", "")
    assert asked == []
    assert {path.name for path in root.iterdir()} <= {"room", "trackio", ".cache", ".config", ".local", ".netrc"}
    return use, root


def test_a_resumed_run_is_one_run_with_every_step_once_in_order(tracked: tuple[str, Path]) -> None:
    use, root = tracked
    assert READERS[use](root) == {
        "runs": 1,
        "steps": [(step, 10.0 + step) for step in range(7)],
        "result": 2.5,
        "seed": 3,
        "pictures": 4,  # of steps 1, 3 and 5, and the results'
    }


def log_records(data: bytes) -> Iterator[bytes]:
    """The records of wandb's file, which after seven bytes is LevelDB's log: blocks of 32 KiB, in them fragments with
    a checksum (4), a length (2) and a kind (1: whole, 2 to 4: first, middle and last of a record)."""
    place, record = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def read_wandb(root: Path) -> dict[str, Any]:
    from wandb.proto import wandb_internal_pb2

    found: dict[str, Any] = {"steps": [], "pictures": 0}
    ids = set()
    for file in sorted((root / "room/wandb/wandb").glob("offline-run-*/*.wandb"), key=lambda f: f.stat().st_mtime):
        for data in log_records(file.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.HasField("run"):
                ids.add(record.run.run_id)
                for update in record.run.config.update:
                    if update.key == "seed":
                        found["seed"] = json.loads(update.value_json)
            items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            if "loss/l1" in items:
                found["steps"].append((record.history.step.num, items["loss/l1"]))
            found["pictures"] += sum(value == "image-file" for value in items.values())
            for update in record.summary.update:
                if (update.key or ".".join(update.nested_key)) == "samples/fid":
                    found["result"] = json.loads(update.value_json)
    return {**found, "runs": len(ids)}


def read_mlflow(root: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses what its database layer is about to drop
        return _read_mlflow(root)


def _read_mlflow(root: Path) -> dict[str, Any]:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{root / 'room/mlflow/mlflow.db'}")
    experiment = client.get_experiment_by_name("digits")
    runs = client.search_runs([experiment.experiment_id])
    run = runs[0]
    pictures = {
        re.split(r"[%+]step[%+]|[%+]timestamp", artifact.path)[1]
        for artifact in client.list_artifacts(run.info.run_id, "images")
        if artifact.path.endswith(".png")
    }
    assert run.info.status == "FINISHED"
    return {
        "runs": len(runs),
        "steps": [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss/l1")],
        "result": run.data.metrics["samples/fid"],
        "seed": int(run.data.params["seed"]),
        "pictures": len(pictures),
    }


def read_trackio(root: Path) -> dict[str, Any]:
    program = (
        "import json; from trackio.sqlite_storage import SQLiteStorage as S; runs = S.get_runs('digits'); "
        "print(json.dumps([runs, S.get_logs('digits', runs[0]), S.get_run_config('digits', runs[0])]))"
    )
    environment = {**os.environ, "TRACKIO_DIR": str(root / "trackio"), "HOME": str(root)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    runs, logs, config = json.loads(done.stdout.splitlines()[-1])
    return {
        "runs": len(runs),
        "steps": [(log["step"], log["loss/l1"]) for log in logs if "loss/l1" in log],
        "result": next(log["samples/fid"] for log in logs if "samples/fid" in log),
        "seed": config["seed"],
        "pictures": sum(
            isinstance(value, dict) and "image" in str(value.get("_type")) for log in logs for value in log.values()
        ),
    }


READERS = {"wandb": read_wandb, "mlflow": read_mlflow, "trackio": read_trackio}
