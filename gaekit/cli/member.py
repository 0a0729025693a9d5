"""One run of a sweep, in a process of its own: `python -m gaekit.cli.member FOLDER PIPE run RECIPE ...`.

It holds the run's claim in FOLDER, so that what a killed sweep leaves behind is known to run, and ends, saved, when the
other end of PIPE closes: its sweep has ended then, however it did.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaekit.sweeps.folder import Claim


def main(arguments: Sequence[str]) -> int:
    """Make a run, unless another process does. -> its exit code, or CLAIMED."""
    from gaekit.store.room import Room, RoomInUse
    from gaekit.sweeps.folder import Claim
    from gaekit.sweeps.process import CLAIMED

    folder, pipe, *command = arguments
    _end_with(int(pipe))
    claim = Claim(Room(Path(folder)))
    try:
        with claim.room.lock():
            return _held(claim, command)
    except RoomInUse:
        return CLAIMED


def _held(claim: Claim, command: Sequence[str]) -> int:
    from gaekit import cli

    sys.argv = ["gaekit", *command]  # what the run's record says made it
    print(f"$ {shlex.join(sys.argv)}", file=sys.stderr, flush=True)
    code = 1
    try:
        code = cli.main(command)
    finally:
        now = datetime.now(UTC).isoformat()
        claim.end({"code": code, "ended": now, "by": f"process {os.getpid()} on {socket.gethostname()}"})
    return code


def _end_with(pipe: int) -> None:
    """Ask this process to stop, as a scheduler would, once nobody holds the other end of the pipe."""

    def watch() -> None:
        while os.read(pipe, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="sweep", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
