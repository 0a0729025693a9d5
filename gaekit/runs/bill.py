"""What a run took, by stage: every attempt that its rooms know of, the failed ones too. Needs no torch of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gaekit.errors import GaekitError
from gaekit.pipeline.rooms import users_of_rooms
from gaekit.pipeline.view import View
from gaekit.rates import Peak, peak_of
from gaekit.store.attempts import Attempt, read_attempts
from gaekit.store.room import Room

OUTSIDE = "Loading, planning and fetching between the stages, and waiting for other runs, are not in it."


@dataclass(frozen=True)
class Price:
    """What an hour of a device costs; `currency` is empty where none was named."""

    amount: float
    currency: str = ""

    @classmethod
    def parse(cls, text: str) -> Price:
        """From `2.5/h`, `2.5 EUR/h` or `$2.5/h`. Raises GaekitError."""
        found = re.fullmatch(r"\s*([^\d\s.,/-]*)\s*(\d+(?:\.\d+)?)\s*([^\d\s.,/-]*)\s*/\s*h\s*", text)
        if found is None or (found[1] and found[3]):
            raise GaekitError(
                f"--price {text}: give what one device costs an hour, such as 2.5/h, $2.5/h or '2.5 EUR/h'"
            )
        return cls(float(found[2]), found[1] or found[3])

    def of(self, device_seconds: float) -> float:
        """What so many seconds of a device cost."""
        return self.amount * device_seconds / 3600


@dataclass(frozen=True)
class CpuRate:
    """The rate of float32 matrix products of a CPU, measured on this machine with so many threads."""

    device: str
    threads: int
    tflops: float


@dataclass(frozen=True)
class StageBill:
    """What one stage took. `attempts` is empty where nothing is known: `why` says why. `shared_by` are the other runs
    that use its room, of which each is billed the whole. `caches` are rooms beside it that other runs use too: teacher
    features, say, for which whoever made them pays."""

    stage: str
    attempts: tuple[Attempt, ...] = ()
    why: str = ""
    shared_by: tuple[str, ...] = ()
    caches: tuple[str, ...] = ()
    cpu: CpuRate | None = None

    @property
    def known(self) -> bool:
        """Whether what it took was written down."""
        return bool(self.attempts)

    @property
    def device_seconds(self) -> float:
        """Seconds of all devices, of every attempt."""
        return sum(attempt.device_seconds for attempt in self.attempts)

    @property
    def lost_seconds(self) -> float:
        """Those of attempts that did not end well: what they left was gone on with, or lost."""
        return sum(a.device_seconds for a in self.attempts if a.outcome not in ("done", "running"))

    @property
    def flop(self) -> int | None:
        """Of all attempts; None where any is unknown."""
        found = [attempt.flop for attempt in self.attempts]
        return None if not found or None in found else sum(f for f in found if f is not None)

    @property
    def flop_by_network(self) -> dict[str, int]:
        """The same by network."""
        found: dict[str, int] = {}
        for attempt in self.attempts:
            for name, flop in attempt.flop_by_network.items():
                found[name] = found.get(name, 0) + flop
        return found

    @property
    def images(self) -> int:
        """Images that went through its networks."""
        return sum(attempt.images for attempt in self.attempts)

    @property
    def images_per_second(self) -> float | None:
        """Of all devices, by the whole time of the attempts."""
        seconds = sum(attempt.seconds for attempt in self.attempts)
        return self.images / seconds if self.images and seconds else None

    @property
    def joules(self) -> float | None:
        """Of all attempts; None where a device did not tell."""
        found = [attempt.joules for attempt in self.attempts]
        return None if not found or None in found else sum(j for j in found if j is not None)

    @property
    def possible_flop(self) -> float | None:
        """What the devices could have done in the time at their rates; None where one is not known."""
        peaks = [self._peak(attempt) for attempt in self.attempts]
        if not peaks or None in peaks:
            return None
        pairs = zip(self.attempts, peaks, strict=True)
        return sum(a.device_seconds * peak.tflops * 1e12 for a, peak in pairs if peak is not None)

    @property
    def share(self) -> float | None:
        """FLOP by what the devices could have done: the MFU of the whole stage, everything it waited for included."""
        flop, possible = self.flop, self.possible_flop
        return flop / possible if flop is not None and possible else None

    def _peak(self, attempt: Attempt) -> Peak | None:
        if attempt.cuda:
            return peak_of(attempt.device, attempt.precision)
        cpu = self.cpu
        if cpu is None or (cpu.device, cpu.threads) != (attempt.device, attempt.threads):
            return None
        told = f"{cpu.tflops:.3g} TFLOP/s of {cpu.device} with torch's threads at {cpu.threads}"
        return Peak(cpu.tflops, f"{told}, measured just now: less where it has other work")


@dataclass(frozen=True)
class Bill:
    """What a run took. Sums are over the stages of which it is known; `notes` say what is not in them."""

    run: str
    stages: tuple[StageBill, ...]
    price: Price | None = None

    @cached_property
    def device_seconds(self) -> float:
        """Seconds of all devices."""
        return sum(stage.device_seconds for stage in self.stages)

    @cached_property
    def flop(self) -> int | None:
        """Of the stages whose FLOP are known; None where none's are."""
        return _sum_of_known(stage.flop for stage in self.stages)

    @cached_property
    def joules(self) -> float | None:
        """Of the stages whose devices told; None where none did."""
        found = [stage.joules for stage in self.stages if stage.joules is not None]
        return sum(found) if found else None

    @cached_property
    def share(self) -> float | None:
        """FLOP by what the devices could have done, over the stages of which both are known."""
        told = [s for s in self.stages if s.flop is not None and s.possible_flop]
        possible = sum(s.possible_flop or 0 for s in told)
        return sum(s.flop or 0 for s in told) / possible if possible else None

    @cached_property
    def money(self) -> float | None:
        """At the price given."""
        return self.price.of(self.device_seconds) if self.price else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What one must know to read the sums, a sentence each."""
        return tuple(_notes(self))

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "run": self.run,
            "device_hours": self.device_seconds / 3600,
            "flop": self.flop,
            "share_of_rate": self.share,
            "kwh": _kwh(self.joules),
            "money": self.money,
            "currency": self.price.currency if self.price else None,
            "stages": [_stage_as_data(stage, self.price) for stage in self.stages],
            "notes": list(self.notes),
        }


def bill(view: View, *, price: Price | None = None, cpu: CpuRate | None = None) -> Bill:
    """The bill of a run, finished or not; `cpu` is a measured rate for what ran on such a CPU.

    Raises ArtifactError where the run's record, or what its rooms wrote down, cannot be read.
    """
    record = view.record
    users = users_of_rooms(view.path.parent, say=lambda line: None)
    found = (_of_stage(view, stage, entry, users, cpu) for stage, entry in record["stages"].items())
    return Bill(str(record.get("name", view.path.name)), tuple(found), price)


def _of_stage(
    view: View, stage: str, entry: Mapping[str, Any], users: Mapping[str, set[str]], cpu: CpuRate | None
) -> StageBill:
    if entry["status"] == "from":
        return StageBill(stage, why=f"taken from {entry['artifact']}, whose cost is unknown")
    room = Room(view.path / stage, entry["subfolder"])
    attempts = read_attempts(room.attempts)
    if any(attempt.outcome == "running" for attempt in attempts) and _is_free(room):
        attempts = room.ended_attempts()
    length = entry["identity"].partition("@")[2]
    own = tuple(_of_length(attempts, int(length)) if length.isdecimal() else attempts)
    shared = tuple(sorted(users.get(entry["room"] or "", set()) - {view.path.name}))
    caches = tuple(cache for cache in entry.get("caches", ()) if users.get(cache, set()) - {view.path.name})
    why = "" if own else "not begun" if entry["status"] == "pending" else "it was made before costs were written down"
    return StageBill(stage, own, why, shared, caches, cpu)


def _is_free(room: Room) -> bool:
    try:
        return Room(room.path.resolve()).holder() is None
    except (GaekitError, OSError):  # another person's store, perhaps
        return False


def _of_length(attempts: list[Attempt], length: int) -> Iterator[Attempt]:
    """What a training of so many steps took in a room in which others are longer or shorter: its own attempts, those of
    shorter ones that it went on from, and of longer ones what it branched off from."""
    own = [a for a in attempts if a.length == length]
    begun_at = min((a.first_step for a in own if a.apart and a.first_step is not None), default=0)
    for attempt in attempts:
        shorter = (attempt.length or 0) < length and not attempt.apart
        trunk = not attempt.apart and attempt.first_step is not None and attempt.first_step < begun_at
        if attempt.length == length or shorter or trunk:
            yield attempt


def _notes(bill: Bill) -> Iterator[str]:
    for stage in bill.stages:
        if not stage.known:
            yield f"{stage.stage}: {stage.why}; it is not in the sums."
        if stage.shared_by:
            count = len(stage.shared_by)
            others = (
                f"{count} other run{'s' if count > 1 else ''} ({', '.join(stage.shared_by[:5])}{', ...' * (count > 5)})"
            )
            yield f"{stage.stage}: its room is shared with {others}; it is billed whole here."
        for cache in stage.caches:
            yield f"{stage.stage}: reads {cache}, which other runs use too; it is billed to the stage that made it."
        uncounted = {name: why for a in stage.attempts for name, why in a.uncounted.items()}
        for name, why in uncounted.items():
            yield f"{stage.stage}: the FLOP of {name} are not counted ({why})."
        for attempt in stage.attempts:
            if attempt.error:
                yield f"{stage.stage}: the attempt of {attempt.started} failed: {attempt.error}"
        if any(a.outcome == "running" for a in stage.attempts):
            yield f"{stage.stage}: is under way; this is what it has taken so far."
    if any(stage.known and stage.joules is None for stage in bill.stages):
        yield "Energy is unknown where no device tells: NVIDIA's by NVML (package nvidia-ml-py), Linux's CPUs by RAPL."
    sources = sorted({a.joules_of for stage in bill.stages for a in stage.attempts if a.joules_of})
    if sources:
        yield f"Energy by {', '.join(sources)}."
    yield from _notes_on_rates(bill)
    yield OUTSIDE


def _notes_on_rates(bill: Bill) -> Iterator[str]:
    peaks = {peak.of for s in bill.stages for a in s.attempts if (peak := s._peak(a)) is not None}
    for of in sorted(peaks):
        yield f"The share is of {of}."
    unknown = {a.device for s in bill.stages for a in s.attempts if s._peak(a) is None}
    for device in sorted(unknown):
        yield f"The rate of {device} is not known, so no share of it (--measure measures this machine's CPU)."


def _stage_as_data(stage: StageBill, price: Price | None) -> dict[str, Any]:
    return {
        "stage": stage.stage,
        "known": stage.known,
        "why_unknown": stage.why or None,
        "shared_by": list(stage.shared_by),
        "device_hours": stage.device_seconds / 3600 if stage.known else None,
        "lost_device_hours": stage.lost_seconds / 3600 if stage.known else None,
        "flop": stage.flop,
        "flop_by_network": stage.flop_by_network,
        "share_of_rate": stage.share,
        "images": stage.images if stage.known else None,
        "images_per_second": stage.images_per_second,
        "kwh": _kwh(stage.joules),
        "money": price.of(stage.device_seconds) if price and stage.known else None,
        "attempts": [attempt.model_dump(mode="json") | {"steps": attempt.steps} for attempt in stage.attempts],
    }


def _kwh(joules: float | None) -> float | None:
    return None if joules is None else joules / 3.6e6


def _sum_of_known(values: Iterable[int | None]) -> int | None:
    found = [value for value in values if value is not None]
    return sum(found) if found else None
