"""`gaekit run --nproc N`: start torchrun on this machine, pass signals on, and end with the exit code of the ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import typer

from gaekit.errors import GaekitError
from gaekit.train.signals import WATCHED, handled

EXIT_CODES = "GAEKIT_EXIT_CODES"
"""Names the folder in which each rank leaves the code that it ends with."""
TORCHRUN = """
import sys
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main
try:
    main(sys.argv[1:])
except SignalException:
    sys.exit(1)
except ChildFailedError as failed:
    codes = {rank.exitcode for rank in failed.failures.values()} - {-15}  # whom torchrun itself ended
    if not codes or not codes <= {2, 3, 4, 85, 130}:
        print(failed, file=sys.stderr)
    sys.exit(1)
"""
"""torchrun, without tracebacks of its own where the ranks have said what there is to say."""
LOST_PEER = 4
PEER_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
"""What gloo and NCCL (ncclRemoteError) say where another process has ended."""
SAVING_SECONDS = 600
"""How long torchrun lets ranks save after a signal; torch before it had this setting gives 30."""


def launch(nproc: int, arguments: Sequence[str]) -> int:
    """Run `gaekit ARGUMENTS` in `nproc` processes under torchrun; the exit code is that of the rank that ended first,
    or 4 if one was killed."""
    with tempfile.TemporaryDirectory(prefix="gaekit-") as folder:
        environment = {
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // nproc)),
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SAVING_SECONDS),
            **os.environ,
            EXIT_CODES: folder,
        }
        command = [sys.executable, "-c", TORCHRUN, "--standalone", f"--nproc-per-node={nproc}"]
        # In a session of its own: Ctrl-C must reach the ranks once, through torchrun, not twice.
        torchrun = subprocess.Popen([*command, "-m", "gaekit", *arguments], env=environment, start_new_session=True)
        with _passing_on(torchrun):
            failed = torchrun.wait() != 0
        return _code_of_ranks(Path(folder)) if failed else 0


def relaunch(nproc: int) -> NoReturn:
    """Start this command again in so many processes and end with their code. Raises GaekitError under torchrun."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise GaekitError("--nproc starts torchrun itself; leave it out of a command that torchrun starts")
    raise typer.Exit(launch(nproc, without_nproc(sys.argv[1:])))


def without_nproc(arguments: list[str]) -> list[str]:
    """The arguments without `--nproc N` or `--nproc=N`."""
    kept, skip = [], False
    for argument in arguments:
        if not skip and argument != "--nproc" and not argument.startswith("--nproc="):
            kept.append(argument)
        skip = argument == "--nproc"
    return kept


@contextmanager
def _passing_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    def pass_on(number: int, frame: object) -> None:
        if process.poll() is None:  # torchrun would die of SIGUSR1; to the ranks SIGTERM means the same
            process.send_signal(signal.SIGTERM if number == signal.SIGUSR1 else number)

    try:
        with handled(WATCHED, pass_on):
            yield
    finally:
        if process.poll() is None:
            process.terminate()


def _code_of_ranks(folder: Path) -> int:
    """The code of the rank that failed first by its own doing."""
    ended = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    codes = [int(file.read_text()) for file in ended]
    return next((code for code in codes if code != 0), LOST_PEER)


def leave_code(code: int) -> None:
    """Leave this rank's code for the launcher, if one waits for it."""
    if folder := os.environ.get(EXIT_CODES):
        (Path(folder) / f"rank-{os.environ.get('RANK', '0')}").write_text(str(code))


def communication_failure(error: BaseException) -> tuple[str, bool] | None:
    """(what to say of an error of torch's communication between ranks, whether it only says that another rank has
    gone); None for any other error, and where this process is no rank of a run."""
    if "RANK" not in os.environ or not isinstance(error, RuntimeError):
        return None
    text = str(error)
    lost = any(sign in text for sign in PEER_GONE)
    if not lost and not _of_communication(error):
        return None
    rank = os.environ["RANK"]
    what = "lost another process of this run, whose own message tells why" if lost else "communication failed"
    return f"rank {rank}: {what}: {text}", lost


def _of_communication(error: RuntimeError) -> bool:
    import torch.distributed as dist

    known = getattr(dist, "DistError", ())
    return isinstance(error, known) or any(sign in str(error) for sign in ("NCCL", "gloo", "Socket Timeout"))


def in_process_group() -> bool:
    """Whether this process still belongs to torch's process group."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def end_rank(code: int) -> int:
    """The exit code of this process; one that still belongs to a process group ends here and now, its streams written
    out: to leave the group is a collective call, for which ranks that wait for this one elsewhere would not come."""
    if not in_process_group():
        return code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
