"""A run of a sweep as a process of its own: started, listened to, asked to stop."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gaekit.sweeps.folder import Claim
from gaekit.sweeps.members import Member

CLAIMED = 75
"""The exit code of a process whose run another process holds."""
COLUMNS = "250"
"""Of a log, so that no line of it is broken in two."""
_TOLD = re.compile(r"\[\d+/\d+\] \S+: (?:running|resuming|waiting|begins)|  [\w ]+ \d+/\d+  |  \S+: .*starts at")
"""Lines of a run that its sweep tells too: stages that begin or wait, and how far they are."""


@dataclass(frozen=True)
class Starter:
    """Starts runs. `command` is the program that `gaekit.cli.member` is, `options` what every run gets beside its own
    arguments, `slots` how many run at a time, each of `processes` processes."""

    command: Sequence[str]
    options: Sequence[str] = ()
    slots: int = 1
    processes: int = 1
    gpus: Sequence[str] = ()

    def start(self, member: Member, claim: Claim, slot: int) -> RunningMember:
        """Start a run in a session of its own, so that Ctrl-C reaches it through the sweep alone."""
        claim.room.path.mkdir(parents=True, exist_ok=True)
        reader, writer = os.pipe()
        with claim.log.open("ab") as log:
            position = log.tell()
            process = subprocess.Popen(
                [*self.command, str(claim.room.path), str(reader), *member.command, *self.options],
                env={**os.environ, **self.environment(slot)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(reader,), start_new_session=True,
            )  # fmt: skip
        os.close(reader)
        return RunningMember(member, claim, slot, process, writer, Tail(claim.log, position))

    def environment(self, slot: int) -> dict[str, str]:
        """What a run of this slot is told by its environment: its GPUs, where there are several, in turn; its share of
        the CPU's threads; the width of its log."""
        told = {"COLUMNS": COLUMNS}
        if self.slots > 1 and self.gpus:
            first = slot * self.processes
            own = [self.gpus[(first + place) % len(self.gpus)] for place in range(self.processes)]
            told["CUDA_VISIBLE_DEVICES"] = ",".join(dict.fromkeys(own))
        if self.slots > 1 and "OMP_NUM_THREADS" not in os.environ:
            told["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // (self.slots * self.processes)))
        return told


@dataclass
class RunningMember:
    """A run that is being made by a child of this process."""

    member: Member
    claim: Claim
    slot: int
    process: subprocess.Popen[bytes]
    writer: int
    tail: Tail
    began: float = field(default_factory=time.monotonic)

    def code(self) -> int | None:
        """Its exit code, negative for the signal that killed it; None while it runs."""
        code = self.process.poll()
        if code is not None and self.writer >= 0:
            os.close(self.writer)
            self.writer = -1
        return code

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.began

    def ask(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to save and end, by SIGTERM; SIGINT after that ends it at once."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def end(self, patience: float) -> None:
        """Have it end, within so many seconds if it saves by then."""
        self.ask()
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.code()

    def told(self) -> Iterator[str]:
        """Lines of its log that are new and say where it is."""
        return (line.strip() for line in self.tail.lines() if _TOLD.match(line))


@dataclass
class Tail:
    """What a file has got from a position on."""

    path: Path
    start: int
    _read: int = field(default=-1)
    _rest: bytes = b""

    def lines(self) -> list[str]:
        """Whole lines that are new since the last call."""
        position = self.start if self._read < 0 else self._read
        with self.path.open("rb") as file:
            file.seek(position)
            found = file.read()
        self._read = position + len(found)
        *whole, self._rest = (self._rest + found).split(b"\n")
        return [line.decode("utf-8", errors="replace") for line in whole]

    def reason(self) -> str:
        """Why the run failed, by what it told last: its error, else its last line."""
        text = self.path.read_bytes()[self.start :].decode("utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or ["it said nothing"])[-1].removeprefix("error: ")


def code_in_words(code: int) -> str:
    """An exit code for people."""
    return f"exit {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def visible_gpus(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (named := environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        return tuple(word for word in named.split(",") if word)
    import torch

    return tuple(str(index) for index in range(torch.cuda.device_count()))


MEMBER = (sys.executable, "-m", "gaekit.cli.member")
"""The program of `gaekit.cli.member`."""
