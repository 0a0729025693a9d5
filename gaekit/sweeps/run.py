"""Running a sweep: every run that is not finished and that no other process makes, some at a time.

Several of these may work on one sweep, on several machines of one disk: a run that another one makes is left to it, and
looked at again when nothing else is left. What one of them kills or loses, the next takes up.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from gaekit.errors import GaekitError, Interrupted, Preempted
from gaekit.store.files import human_duration
from gaekit.store.room import Room
from gaekit.sweeps.folder import SweepFolder
from gaekit.sweeps.labels import counted
from gaekit.sweeps.members import Member
from gaekit.sweeps.process import CLAIMED, RunningMember, Starter, Tail, code_in_words
from gaekit.sweeps.there import Planned
from gaekit.train.progress import Bar, Reporter
from gaekit.train.signals import StopRequest, stop_request

LOOK_SECONDS = 0.3
SECONDS_BETWEEN_LOOKS_AT_OTHERS = 2.0
SECONDS_TO_SAVE = 30.0
"""How long runs may save after an error in the sweep itself."""
Where = Literal["free", "elsewhere", "finished", "failed"]


@dataclass(frozen=True)
class Failure:
    """A run that failed: with which exit code, why, and where it tells more."""

    member: Member
    code: int
    reason: str
    log: str

    def __str__(self) -> str:
        return f"{self.member.label}: failed ({code_in_words(self.code)}): {self.reason}; log: {self.log}"


class MembersFailed(GaekitError):
    """Some runs of a sweep failed; the others are finished. The exit code is theirs, where they agree, else 3."""

    def __init__(self, failures: list[Failure], runs: int):
        codes = {failure.code if failure.code > 0 else 4 for failure in failures}
        self.exit_code = codes.pop() if len(codes) == 1 else 3
        self.failures = failures
        lines = [f"{len(failures)} of {runs} runs failed; the same command tries them again:", *map(str, failures)]
        super().__init__("\n  ".join(lines))


@dataclass
class SweepRunner:
    """Makes the runs of a sweep. `failures` are those of this process and of others since it began."""

    planned: Planned
    folder: SweepFolder
    starter: Starter
    reporter: Reporter
    failures: list[Failure] = field(default_factory=list)
    _running: list[RunningMember] = field(default_factory=list)
    _before: dict[str, Any] = field(default_factory=dict)
    _looked: float = 0.0
    _waiting: str = ""
    _done: int = 0

    def run(self) -> None:
        """Make all runs. Raises MembersFailed at the end, and Interrupted or Preempted after a signal, once those that
        were being made have saved."""
        members = list(self.planned.sweep.members)
        self._before = {member.label: self.folder.claim(member.label).outcome for member in members}
        pending = [member for member in members if not self.planned.is_finished(member)]
        self._done = len(members) - len(pending)
        if self._done:
            self.reporter.say(f"{self._done} of {len(members)} runs are finished already")
        with self.reporter.bar("runs", len(members), self._done, "runs") as bar, stop_request() as stop:
            try:
                self._make(pending, bar, stop)
            finally:
                for running in self._running:
                    running.end(SECONDS_TO_SAVE)
        if self.failures:
            raise MembersFailed(self.failures, len(members))

    def _make(self, pending: list[Member], bar: Bar, stop: StopRequest) -> None:
        while pending or self._running:
            for ended in [running for running in self._running if running.code() is not None]:
                self._running.remove(ended)
                self._take(ended, pending, bar)
            for running in self._running:
                self._tell(running)
            if stop:
                self._stop(stop)
            self._fill(pending, bar)
            if pending or self._running:
                time.sleep(LOOK_SECONDS)

    def _take(self, ended: RunningMember, pending: list[Member], bar: Bar) -> None:
        """Note how a child of this process ended."""
        self._tell(ended)
        member, code = ended.member, ended.code() or 0
        if code == CLAIMED:
            pending.append(member)
            return
        if code == 0 and self.planned.missing(member) is None:
            self._count(f"{self._place(member)}: finished in {human_duration(ended.seconds)}", bar)
            return
        reason = ended.tail.reason() if code else "it ended without having made all of its stages"
        self._fail(Failure(member, code, reason, str(ended.claim.log)), bar)

    def _fill(self, pending: list[Member], bar: Bar) -> None:
        """Start runs in the free slots; look now and then at those that others make."""
        free = [slot for slot in range(self.starter.slots) if slot not in {r.slot for r in self._running}]
        while free and (member := self._next(pending, bar)) is not None:
            pending.remove(member)
            claim = self.folder.claim(member.label)
            self.reporter.say(f"{self._place(member)}: started; log: {claim.log}")
            self._running.append(self.starter.start(member, claim, free.pop(0)))

    def _next(self, pending: list[Member], bar: Bar) -> Member | None:
        """A run that nobody makes; rather one whose next stage nobody makes either, since another would wait. Those
        that have been finished or have failed elsewhere are taken from `pending`."""
        waits, others = None, []
        if not pending or (self._looked and time.monotonic() - self._looked < SECONDS_BETWEEN_LOOKS_AT_OTHERS):
            return None
        beginning = {self._next_room(running.member) for running in self._running}
        for member in list(pending):
            where = self._where(member)
            if where == "free":
                room = self._next_room(member)
                if room is None or (room not in beginning and room.holder() is None):
                    return member
                waits = waits or member
            elif where == "elsewhere":
                others.append(member)
            else:
                pending.remove(member)
                self._elsewhere(member, where, bar)
        if waits is None:
            self._looked = time.monotonic()
            self._tell_waiting(others)
        return waits

    def _where(self, member: Member) -> Where:
        claim = self.folder.claim(member.label)
        if claim.room.holder() is not None:
            return "elsewhere"
        if self.planned.is_finished(member):
            return "finished"
        outcome = claim.outcome
        is_new = outcome is not None and outcome != self._before[member.label]
        return "failed" if is_new and outcome and outcome["code"] not in (0, 85, 130) else "free"

    def _next_room(self, member: Member) -> Room | None:
        """The room that the run has to make next."""
        stage = self.planned.missing(member)
        return None if stage is None else stage.room

    def _elsewhere(self, member: Member, where: Where, bar: Bar) -> None:
        """Note how a run ended that another process has made."""
        claim = self.folder.claim(member.label)
        if where == "finished":
            self._count(f"{self._place(member)}: finished by another process", bar)
            return
        outcome = claim.outcome or {}
        self._fail(Failure(member, outcome.get("code", 1), Tail(claim.log, 0).reason(), str(claim.log)), bar)

    def _fail(self, failure: Failure, bar: Bar) -> None:
        self.failures.append(failure)
        self._count(f"{self._place(failure.member)}: {str(failure).partition(': ')[2]}", bar)

    def _count(self, text: str, bar: Bar) -> None:
        self._done += 1
        self.reporter.say(text)
        bar.advance()

    def _place(self, member: Member) -> str:
        members = self.planned.sweep.members
        return f"[{members.index(member) + 1}/{len(members)}] {member.label}"

    def _tell(self, running: RunningMember) -> None:
        for line in running.told():
            self.reporter.say(f"  {running.member.label}: {line}")

    def _tell_waiting(self, others: list[Member]) -> None:
        """A line where nothing is left but what other processes make; again when that changes."""
        if not others or self._running:
            return
        labels = ", ".join(member.label for member in others)
        if labels != self._waiting:
            self._waiting = labels
            holder = self.folder.claim(others[0].label).room.holder() or "another process"
            self.reporter.say(
                f"waiting for {counted(len(others), 'run')} that other processes make: {labels} ({holder}); Ctrl-C "
                "ends this, nothing is lost"
            )

    def _stop(self, stop: StopRequest) -> NoReturn:
        """Have all runs save and end, then end."""
        interrupted = stop.signal == signal.SIGINT
        again = "; Ctrl-C again ends them at once" if interrupted else ""
        if self._running:
            self.reporter.say(f"stopping: {counted(len(self._running), 'run')} to save and end{again}")
        for running in self._running:
            running.ask()
        try:
            while any(running.code() is None for running in self._running):
                time.sleep(LOOK_SECONDS)
        except KeyboardInterrupt:
            for running in self._running:
                running.ask(signal.SIGINT)
        error = Interrupted if interrupted else Preempted
        finished = f"{self._done - len(self.failures)} of {len(self.planned.sweep.members)} runs are finished"
        raise error(f"{self.planned.sweep.name}: stopped; {finished}, the same command goes on")
