"""Stands for a run of a sweep: `member_program.py FOLDER PIPE run RECIPE ... --name NAME`. What it does is in the file
`does` of its folder: "ok" makes its result; "bad" fails; "wait" saves and ends when it is asked to."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType


def saved(number: int, frame: FrameType | None) -> None:
    print("stopped and saved", flush=True)
    sys.exit(85)


signal.signal(signal.SIGTERM, saved)
folder = Path(sys.argv[1])
does = (folder / "does").read_text() if (folder / "does").exists() else "ok"
with (folder / "lock").open("a") as lock:  # as a room's; gaekit's own takes longer to import than all of this
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(75)
    (folder / "begun").write_text(str(os.getpid()))
    print("[1/1] diffusion: running", flush=True)
    if does == "wait":
        time.sleep(60)
    if does == "bad":
        print("error: too hot\n  in this room", flush=True)
        sys.exit(3)
    if does == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    (folder / "made").write_text("")
