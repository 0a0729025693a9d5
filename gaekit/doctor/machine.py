"""Checks of the machine: room and rights on disks, locks and renames in the runs folder, shared memory, ports, and two
processes that meet."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from gaekit.doctor.finding import Case, Finding
from gaekit.errors import DataAbsent
from gaekit.pipeline.plan import make_plan
from gaekit.pipeline.view import STORE
from gaekit.recipe.schema import Autoencoder, Recipe
from gaekit.sizing.budget import disk_of_stages
from gaekit.sizing.describe import data_facts, trained_networks
from gaekit.stages import stage_named
from gaekit.stages.data import Data
from gaekit.store.files import free_space, human_size, sync

LEAST_FREE = 10**9
"""Bytes that a folder should have where nothing tells what it needs."""
SHARED_MEMORY = Path("/dev/shm")
AHEAD = 2
"""Batches that each worker process of torch's DataLoader holds ready."""
MASTER_PORT = 29500
"""Where torchrun meets unless told otherwise."""
TIMEOUT = 40.0
HOLDS_LOCK = """
import fcntl, sys
try:
    fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(0)
sys.exit(1)
"""
MEETS = """
import sys, datetime, torch, torch.distributed as dist
patience = datetime.timedelta(seconds=30)
dist.init_process_group("gloo", init_method=sys.argv[1], rank=int(sys.argv[2]), world_size=2, timeout=patience)
total = torch.ones(1)
dist.all_reduce(total)
assert total.item() == 2
dist.destroy_process_group()
"""


def disk(case: Case) -> Iterator[Finding]:
    """Whether each folder that a run writes to can be written, and has the space that the recipe needs."""
    for name, folder in _folders(case).items():
        there = nearest(folder)
        needed = _needed(case) if name == "runs" else LEAST_FREE
        if problem := _unwritable(there):
            fix = f"give yourself the right to write there, or {_elsewhere(name)}"
            yield Finding("disk", f"{name}: {folder} cannot be written: {problem}", fix)
        elif (free := free_space(there)) < needed:
            what = f"{name}: {folder} has {human_size(free)} free of the {human_size(needed)} that "
            what += "this recipe takes (gaekit plan)" if needed != LEAST_FREE else "should be"
            yield Finding("disk", what, f"free some space, or {_elsewhere(name)}")
        else:
            yield Finding("disk", f"{name}: {folder} can be written, {human_size(free)} are free")


def _folders(case: Case) -> dict[str, Path]:
    from huggingface_hub import constants

    return {
        "runs": case.out,
        "torch's weights": Path(torch.hub.get_dir()),
        "the hub's weights": Path(constants.HF_HUB_CACHE),
        "gaekit's cache": Path(os.environ.get("GAEKIT_CACHE") or "~/.cache/gaekit").expanduser(),
        "temporary files": Path(tempfile.gettempdir()),
    }


def _elsewhere(name: str) -> str:
    return {
        "runs": "give --out another folder",
        "torch's weights": "set TORCH_HOME to another folder",
        "the hub's weights": "set HF_HOME to another folder",
        "gaekit's cache": "set GAEKIT_CACHE to another folder",
        "temporary files": "set TMPDIR to another folder",
    }[name]


def nearest(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return there


def _unwritable(folder: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"gaekit")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _needed(case: Case) -> int:
    """Bytes that the recipe's stages still write."""
    if case.recipe is None:
        return LEAST_FREE
    recipe, registry, known = case.recipe, case.registry, True
    data = Data(recipe, registry)
    try:
        classes, images, _ = data_facts(data)
    except DataAbsent:
        known = False
    networks = trained_networks(recipe, registry, classes if known else None)
    plan = make_plan(recipe, registry, case.out / STORE, data=data)
    return sum(part.size or 0 for part in disk_of_stages(recipe, registry, networks, images if known else None, plan))


def runs_folder(case: Case) -> Iterator[Finding]:
    """Whether locks hold, renames replace and data reaches the disk where the runs are: not every network disk can."""
    with tempfile.TemporaryDirectory(prefix=".gaekit-doctor-", dir=nearest(case.out)) as made:
        folder = Path(made)
        faults = [fault for fault in (_fault_of_locks(folder), _fault_of_renames(folder)) if fault]
    for fault in faults:
        yield Finding("runs folder", f"{case.out}: {fault}", _LOCAL)
    if not faults:
        yield Finding("runs folder", f"{case.out}: locks hold, renames replace, data is flushed")


_LOCAL = "give --out a local disk, or have the network disk mounted with locks (NFS: without `nolock`)"


def _fault_of_locks(folder: Path) -> str:
    """Whether a process is kept out by a lock of this one. Two descriptors of one process would not tell on NFS."""
    path = folder / "lock"
    command = [sys.executable, "-I", "-S", "-c", HOLDS_LOCK, str(path)]
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return f"no file locks ({error.strerror})"
        other = subprocess.run(command, stderr=subprocess.DEVNULL, timeout=TIMEOUT, check=False)
    return "" if other.returncode == 0 else "file locks do not keep another process out"


def _fault_of_renames(folder: Path) -> str:
    old, new = folder / "old", folder / "new"
    old.write_text("old")
    new.write_text("new")
    try:
        sync(new)
        os.replace(new, old)
        (folder / "a").mkdir()
        (folder / "a").rename(folder / "b")
        sync(folder)
    except OSError as error:
        return f"no renames or flushes ({error.strerror})"
    return "" if old.read_text() == "new" and not new.exists() else "a rename leaves the old file"


def shared_memory(case: Case) -> Iterator[Finding]:
    """Whether the batches that worker processes hold ready fit into /dev/shm."""
    if case.recipe is None or case.recipe.runtime.workers == 0:
        yield Finding("shared memory", "runs without worker processes need none")
        return
    if not SHARED_MEMORY.is_dir():
        yield Finding("shared memory", f"this system has no {SHARED_MEMORY}")
        return
    workers, needed = case.recipe.runtime.workers, ready_bytes(case.recipe)
    free = shutil.disk_usage(SHARED_MEMORY).free
    what = f"{human_size(free)} free in {SHARED_MEMORY}, {workers} workers hold up to {human_size(needed)} ready"
    fix = "--set runtime.workers=" + str(workers * free // max(1, needed)) + ", or give the container more (--shm-size)"
    yield Finding("shared memory", what, fix if free < needed else "")


def ready_bytes(recipe: Recipe) -> int:
    """Bytes of decoded images that the workers hold ready, over all processes of one machine."""
    decoding = [train.batch for stage, train in recipe.trainings() if stage_named(stage).reads_data]
    batches = decoding if isinstance(recipe.autoencoder, Autoencoder) else []
    return recipe.runtime.workers * AHEAD * max(batches, default=0) * 3 * recipe.image.size**2


def ports(case: Case) -> Iterator[Finding]:
    """Whether processes can listen on this machine, and the port is free at which torchrun meets by default."""
    try:
        free_port()
    except OSError as error:
        fix = "allow processes to listen on 127.0.0.1 (container, firewall); runs of one process work without"
        yield Finding("ports", f"nothing can listen on 127.0.0.1: {error.strerror}", fix)
        return
    port = int(os.environ.get("MASTER_PORT", MASTER_PORT))
    try:
        free_port(port)
    except OSError as error:
        fix = "give torchrun --rdzv-endpoint=HOST:ANOTHER (gaekit run --nproc takes a free one by itself)"
        yield Finding("ports", f"port {port}, where torchrun meets: {error.strerror}", fix)
    else:
        yield Finding("ports", f"processes can listen, port {port} is free")


def free_port(port: int = 0) -> int:
    """A port of 127.0.0.1 at which nobody listens. Raises OSError if it is `port` and taken."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        return int(listener.getsockname()[1])


def processes(case: Case) -> Iterator[Finding]:
    """Whether two processes of this machine meet by gloo and add two numbers."""
    address = f"tcp://127.0.0.1:{free_port()}"
    with tempfile.TemporaryFile("w+") as told:
        command = [sys.executable, "-c", MEETS, address]
        both = [subprocess.Popen([*command, str(rank)], stdout=told, stderr=told) for rank in (0, 1)]
        try:
            met = all(process.wait(TIMEOUT) == 0 for process in both)
        except subprocess.TimeoutExpired:
            met = False
        finally:
            for process in both:
                process.kill()
                process.wait()
        told.seek(0)
        last = (told.read().strip().splitlines() or [f"no answer in {TIMEOUT:.0f} s"])[-1]
    if met:
        yield Finding("processes", "two processes meet by gloo and add up")
        return
    fix = f"see that this machine's name ({socket.gethostname()}) has an address, or set GLOO_SOCKET_IFNAME=lo"
    yield Finding("processes", f"two processes do not meet by gloo: {last}", fix)
