"""Kills a recipe's run again and again, each time goes on by the same command, and compares what comes out with a run
that was left alone: every file of every stage, bit for bit.

Each attempt is a process of its own: `gaekit run`, but for shards of one batch (small_shards.py). It is killed by
SIGKILL, as the kernel kills where memory runs out: it alone, not the processes that decode for it. That is when it has
made one thing or more that lasts (a checkpoint, a shard, a chunk of samples) and a random while has passed, or when it
is in the middle of a save. A few attempts are killed while they start, one or two in a row; these are not counted.

Fails on any difference, on an attempt that ends otherwise than killed or done, on a traceback or a damaged checkpoint
in what it says, on work done twice, and on files left over. Usage: kill.py [--kills 100] [--seed 0] [--jobs 2] ...
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from rooms import LASTING, Store, contents, differences, lasting, store_of

PROGRAM = Path(__file__).parent / "small_shards.py"
SETTINGS = (
    "runtime.threads=1", "runtime.save_every=2", "runtime.images_every=20",
    "semantic.train.steps=40", "autoencoder.train.steps=40", "diffusion.train.steps=60",
    "latents.batch=16", "sample.count=400", "sample.batch=10",
)  # fmt: skip
"""What makes every phase of `smoke` long enough to be killed in."""
KILLS_A_RUN = 25
FILES_OF_A_SAVE = 4
STARTS_KILLED = 0.15
"""How many attempts are preceded by one or two that are killed while they start."""
SECONDS_ALLOWED = 1800.0
FAULTS_ALLOWED = 3
LOOK, LOOK_CLOSELY = 0.01, 0.0005
"""Seconds between two looks at the store: for what lasts, and for a save, which takes some milliseconds."""


class Fault(Exception):
    """What must not happen."""


@dataclass(frozen=True)
class Target:
    """A moment to kill at: in a phase, `lasting` things after the attempt began it, and a part of the time between two
    of them later; or in the save that comes next, when `files` of a checkpoint's are there."""

    phase: str
    lasting: int
    later: float
    files: int | None


@dataclass(frozen=True)
class Reference:
    """The run that was left alone: its files, its rooms' names, how many things each phase left, how far apart, and
    how long it took to start."""

    contents: dict[str, str]
    names: dict[str, str]
    count: dict[str, int]
    apart: dict[str, float]
    start: float


@dataclass
class Tally:
    """What came of one sequence of runs, or of all."""

    kills: Counter[str] = field(default_factory=Counter)
    writing: Counter[str] = field(default_factory=Counter)
    at_start: int = 0
    runs: int = 0
    compared: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take in another's."""
        self.kills += other.kills
        self.writing += other.writing
        self.at_start += other.at_start
        self.runs += other.runs
        self.compared += other.compared
        self.faults += other.faults


class Run:
    """One output folder: attempts at the same command until it is done."""

    def __init__(self, folder: Path, recipe: str, settings: tuple[str, ...]):
        self.folder, self.attempts = folder, 0
        self.store = folder / "runs/store"
        chosen = [part for setting in settings for part in ("--set", setting)]
        self.command = [sys.executable, str(PROGRAM), "run", recipe, "--offline", "--name", "killed", *chosen]
        folder.mkdir(parents=True)

    def begin(self) -> subprocess.Popen[bytes]:
        """Start an attempt; what it says goes to a file."""
        self.attempts += 1
        with self._said.open("wb") as said:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            return subprocess.Popen(self.command, cwd=self.folder, stdout=said, stderr=said, env=environment)

    @property
    def _said(self) -> Path:
        return self.folder / f"attempt-{self.attempts:03d}.log"

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill an attempt. What is said afterwards is of processes that lost the one they decoded for."""
        said = self._said.read_text(errors="replace")
        process.kill()
        self._check(process, said, (0, -9))

    def _check(self, process: subprocess.Popen[bytes], said: str, codes: tuple[int, ...]) -> None:
        """Raise Fault unless the attempt ended as it should and complained of nothing."""
        code = process.wait()
        bad = [line for line in said.splitlines() if "Traceback" in line or "damaged" in line]
        if code not in codes or bad:
            raise Fault(f"{self._said}: ended with code {code}\n{self._said.read_text(errors='replace')[-2000:]}")

    def finish(self) -> None:
        """An attempt that nobody kills."""
        self.wait(self.begin())

    def wait(self, process: subprocess.Popen[bytes]) -> None:
        """Let an attempt end."""
        process.wait()
        self._check(process, self._said.read_text(errors="replace"), (0,))

    def begin_and_kill(self, seconds: float) -> None:
        """An attempt that lives so long."""
        process = self.begin()
        time.sleep(seconds)
        self.kill(process)

    def record_is_complete(self) -> bool:
        """Whether run.json says that every stage is done."""
        record = json.loads((self.folder / "runs/killed/run.json").read_text())
        return bool(record["finished"]) and all(s["status"] in ("done", "cached") for s in record["stages"].values())


def until(process: subprocess.Popen[bytes], pause: float = LOOK) -> Iterator[None]:
    """Short pauses, as long as the process lives. Raises Fault, having killed it, where that is too long."""
    end = time.monotonic() + SECONDS_ALLOWED
    while process.poll() is None:
        yield
        time.sleep(pause)
        if time.monotonic() > end:
            process.kill()
            raise Fault(f"an attempt has not ended in {SECONDS_ALLOWED:.0f} s")


def make_reference(run: Run) -> Reference:
    """Run it once, watching when what lasts comes to be."""
    began, process = time.monotonic(), run.begin()
    seen: dict[str, dict[str, float]] = {phase: {} for phase in LASTING}
    for _ in until(process):
        for phase, times in seen.items():
            for path in (path for room in run.store.glob(f"{phase}/*") for path in lasting(room, phase)):
                times.setdefault(path.name, time.monotonic())
    run.wait(process)
    for phase, times in seen.items():
        if len(times) < 8:
            raise SystemExit(f"{phase}: left only {len(times)} things that last, too few to kill between; see SETTINGS")
    apart = {phase: (max(times.values()) - min(times.values())) / len(times) for phase, times in seen.items()}
    count = {phase: len(times) for phase, times in seen.items()}
    first = min(t for times in seen.values() for t in times.values())
    return Reference(contents(run.store), store_of(run.store).names, count, apart, first - began)


def draw_targets(rng: random.Random, kills: int, count: dict[str, int]) -> list[Target]:
    """So many moments in one run, spread over the phases, in their order; every other one is in a save."""
    phases = list(LASTING)
    rng.shuffle(phases)
    share = Counter(phases[i % len(phases)] for i in range(min(kills, KILLS_A_RUN)))
    saving, found = rng.random() < 0.5, []
    for phase in LASTING:
        for _ in range(share[phase]):
            things = rng.randint(1, max(1, count[phase] // (share[phase] + 1)))
            files = rng.randint(0, FILES_OF_A_SAVE) if saving else None
            found.append(Target(phase, things, rng.random(), files))
            saving = not saving
    return found


def kill_at(target: Target, run: Run, store: Store, apart: float) -> bool:
    """Begin an attempt and kill it at the target, or a little later; -> whether it was killed before it was done."""
    phase, process = target.phase, run.begin()
    before, seen = set(store.lasting(phase)), set()
    for _ in until(process):
        seen |= store.lasting(phase).keys() - before
        if len(seen) >= target.lasting or store.done(phase):
            break
    if target.files is None:
        time.sleep(target.later * apart)
    else:
        for _ in until(process, LOOK_CLOSELY):
            if store.saves(phase, target.files) or store.done(phase):
                break
    run.kill(process)
    return process.returncode != 0


@dataclass
class Sequence:
    """Runs one after another, each in a fresh folder, until there were so many kills."""

    number: int
    kills: int
    options: argparse.Namespace
    reference: Reference
    stop: Event

    def __call__(self) -> Tally:
        """All its runs."""
        tally, rng = Tally(), random.Random(f"{self.options.seed} {self.number}")
        folder = self.options.out / f"sequence-{self.number}"
        while tally.kills.total() < self.kills and len(tally.faults) < FAULTS_ALLOWED and not self.stop.is_set():
            tally.runs += 1
            settings = (*SETTINGS, *(("runtime.workers=1",) if (self.number + tally.runs) % 2 else ()))
            run = Run(folder / f"run-{tally.runs:02d}", self.options.recipe, settings)
            faults = len(tally.faults)
            try:
                self._one_run(run, tally, rng)
            except Fault as fault:
                tally.faults.append(str(fault))
            if len(tally.faults) == faults and not self.options.keep:
                shutil.rmtree(run.folder)
        return tally

    def _one_run(self, run: Run, tally: Tally, rng: random.Random) -> None:
        """Kill one run until it is done, and compare it."""
        store = Store(run.store, self.reference.names)
        for target in draw_targets(rng, self.kills - tally.kills.total(), self.reference.count):
            starts = rng.randint(1, 2) if rng.random() < STARTS_KILLED else 0
            seconds = [rng.uniform(0.2, 1.0) * self.reference.start for _ in range(starts)]
            if self.stop.is_set():
                return
            if store.done(target.phase):
                continue  # a kill before came later than it should
            for lived in seconds:
                run.begin_and_kill(lived)
                tally.at_start += 1
            if store.done(target.phase):
                continue
            if not self._one_kill(target, run, store, tally):
                break
        run.finish()
        found = differences(contents(run.store), self.reference.contents)
        tally.compared += 1
        if not run.record_is_complete():
            found.append("run.json does not say that every stage is done")
        tally.faults += [f"{run.folder}: {line}" for line in found]
        self._say(f"run {tally.runs} done, {len(found) or 'no'} differences")

    def _one_kill(self, target: Target, run: Run, store: Store, tally: Tally) -> bool:
        began, before = time.monotonic(), store.progress()
        killed = kill_at(target, run, store, self.reference.apart[target.phase])
        undone = store.undone(before)
        if undone:
            raise Fault(f"{run.folder}: attempt {run.attempts} did work twice: {'; '.join(undone)}")
        if killed:
            phase = store.phase()
            writing = store.writes(phase)
            tally.kills[phase] += 1
            tally.writing[phase] += writing
            place = f"{phase}{', in a save' if writing else ''}"
            self._say(f"kill {tally.kills.total()}: {place}, after {time.monotonic() - began:.1f} s")
        return killed

    def _say(self, text: str) -> None:
        print(f"[{self.number}] {text}", flush=True)


def table(tally: Tally) -> str:
    """Kills by phase, and how many of them left a file half-written."""
    rows = [("phase", "kills", "in a save")]
    rows += [(phase, str(tally.kills[phase]), str(tally.writing[phase])) for phase in (*LASTING, "evaluate")]
    rows += [("all", str(tally.kills.total()), str(tally.writing.total()))]
    lines = [f"{name:<12} {kills:>6} {writing:>10}" for name, kills, writing in rows]
    facts = (
        f"{tally.compared} of {tally.runs} runs completed and compared, {tally.at_start} more kills while starting, "
        f"{len(tally.faults)} faults"
    )
    return "\n".join([*lines, facts, *tally.faults])


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="kills in all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which is killed")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--recipe", default="smoke", help="a recipe with all stages")
    parser.add_argument("--out", type=Path, help="folder to work in, new or empty; a temporary one by default")
    parser.add_argument("--keep", action="store_true", help="keep the runs; those with faults are always kept")
    found = parser.parse_args()
    found.out = Path(tempfile.mkdtemp(prefix="gaekit-faults-")) if found.out is None else found.out.resolve()
    if Path(found.recipe).exists():
        found.recipe = str(Path(found.recipe).resolve())
    return found


def main() -> int:
    """Returns 1 where there was a fault."""
    chosen, began, stop, tally = options(), time.monotonic(), Event(), Tally()
    reference = make_reference(Run(chosen.out / "reference", chosen.recipe, SETTINGS))
    print(f"reference in {time.monotonic() - began:.0f} s, {reference.start:.1f} s of them to the first shard")
    jobs = max(1, min(chosen.jobs, chosen.kills))
    shares = [chosen.kills // jobs + (number < chosen.kills % jobs) for number in range(jobs)]
    sequences = [Sequence(n, kills, chosen, reference, stop) for n, kills in enumerate(shares, 1)]
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(sequence) for sequence in sequences]
        try:
            for future in futures:
                tally.add(future.result())
        finally:
            stop.set()
    print(table(tally))
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    if tally.faults or chosen.keep:
        print(f"the runs are in {chosen.out}")
    else:
        shutil.rmtree(chosen.out)
    return bool(tally.faults)


if __name__ == "__main__":
    sys.exit(main())
