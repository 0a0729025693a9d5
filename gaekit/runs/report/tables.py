"""The numbers with their protocols, the stages with their times, and the fingerprints with what they are made of."""

from __future__ import annotations

import json
from typing import Any

from markupsafe import Markup

from gaekit.runs.bill import Bill, StageBill, bill
from gaekit.runs.cpu_rate import measure_cpu
from gaekit.runs.page import Cell, definitions, details, table
from gaekit.runs.report.parts import Text, code, heading, human, joined, lines, note, paragraph, percent
from gaekit.runs.report.source import Absent, Source
from gaekit.store.files import human_duration, human_flop, read_json
from gaekit.store.room import FACTS

LONGEST = 4000
"""Characters of a protocol that are shown: a list of skipped files may be long."""
HANDLED = ("value", "protocol", "interval")


def metrics(source: Source) -> Markup:
    """Every number, its interval, and what one must know to compare it."""
    if not source.metrics:
        raise Absent("Nothing was measured: the recipe has no stage “evaluate”, or it is not finished.")
    rows: list[list[Text | Cell]] = []
    folded: list[Markup] = []
    for name, entry in sorted(source.metrics.items()):
        protocol = entry.get("protocol", {})
        value = Cell(human(entry["value"]), number=True, strong=True)
        interval, count = Cell(interval_text(entry), number=True), Cell(_count(protocol), number=True)
        rows.append([code(name), value, interval, count, Cell(_how(protocol), wide=True)])
        folded.append(joined([heading(code(name)), lines(_shortened(protocol))]))
    shown = table(("number", "value", "interval", "images", "how"), rows, caption="Numbers about this run")
    methods = {
        entry["protocol"]["interval"] for entry in source.metrics.values() if "interval" in entry.get("protocol", {})
    }
    told = [note(f"Interval: {'; '.join(sorted(map(str, methods)))}.")] if methods else []
    return joined([shown, *told, details("The whole protocol of each", joined(folded))])


def interval_text(entry: dict[str, Any]) -> str:
    """[low, high] of a number; a dash where it has none."""
    found = entry.get("interval")
    return "–" if found is None else f"[{human(found[0])}, {human(found[1])}]"


def _count(protocol: dict[str, Any]) -> str:
    count = protocol.get("n", protocol.get("images"))
    return f"{count:,}" if isinstance(count, int) else "–"


def _how(protocol: dict[str, Any]) -> str:
    sampling = protocol.get("sampling")
    what = protocol.get("of") or (f"samples, guidance {sampling['guidance']['scale']:g}" if sampling else "")
    split = f"{protocol['split']} split" if protocol.get("split") else ""
    against = f"with {protocol['n_reference']:,} reference images" if "n_reference" in protocol else ""
    return "; ".join(part for part in (what, split, against, protocol.get("implementation", "")) if part)


def _shortened(value: Any) -> str:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return (
        text if len(text) <= LONGEST else f"{text[:LONGEST]}\n… {len(text) - LONGEST:,} more characters in metrics.json"
    )


def stages(source: Source) -> Markup:
    """What each stage took: time, images, arithmetic, and how much of the machine's rate that is."""
    found = _bill(source)
    rows = [_stage_row(source, stage) for stage in found.stages]
    head = ("stage", "here", "device time", "steps", "images", "images/s", "FLOP", "of the rate")
    record = source.record
    facts = [
        ("Machine", f"{record.get('device')}, {_plural(record.get('processes', 1), 'process', 'processes')}"),
        ("Begun", record.get("started", "–")),
        ("Ended", record.get("finished") or "not finished"),
    ]
    told = Markup("<ul>{}</ul>").format(joined(Markup("<li>{}</li>").format(line) for line in found.notes))
    shown = table(head, rows, caption="Stages of this run: what all attempts at them took")
    return joined([shown, definitions(facts), details("How to read this", told)])


def _bill(source: Source) -> Bill:
    """The run's bill; what ran on a CPU is compared with the rate of this one, where it is the same."""
    found = bill(source.view)
    threads = [a.threads for stage in found.stages for a in stage.attempts if not a.cuda and a.threads]
    return bill(source.view, cpu=measure_cpu(threads[-1])) if threads else found


def _stage_row(source: Source, taken: StageBill) -> list[Text | Cell]:
    entry = source.record["stages"][taken.stage]
    record, batch = entry.get("record") or {}, _batch(source, taken.stage)
    steps, seconds = record.get("steps"), taken.device_seconds or record.get("seconds")
    images = taken.images or (steps * batch if steps and batch else record.get("images", record.get("count")))
    rate = taken.images_per_second or (images / seconds if images and seconds else None)
    numbers = (
        human_duration(seconds) if seconds else "",
        f"{steps:,}" if steps else "",
        f"{images:,}" if images else "",
        f"{rate:,.3g}" if rate else "",
        human_flop(taken.flop) if taken.flop else "",
        percent(taken.share, 1) if taken.share else "",
    )
    return [taken.stage, _status(entry), *(Cell(text or "–", number=True) for text in numbers)]


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _status(entry: dict[str, Any]) -> str:
    words = {"done": "made", "cached": "cached", "from": "from elsewhere"}
    return words.get(entry["status"], str(entry["status"]))


def _batch(source: Source, stage: str) -> int | None:
    section = source.settings.get(stage)
    train = section.get("train") if isinstance(section, dict) else None
    return train.get("batch") if isinstance(train, dict) else None


def chain(source: Source) -> Markup:
    """From the data to the numbers: each stage's fingerprint and those that it hashes."""
    rows: list[list[Text | Cell]] = [["data", code(short(source.record.get("data"))), "–", "–"]]
    for stage, entry in source.record["stages"].items():
        facts = _facts(source, stage, entry)
        needs = facts.get("needs", {})
        made_of = ", ".join(f"{name} {short(identity)}" for name, identity in needs.items())
        parts = ", ".join(_component(name, found) for name, found in facts.get("components", {}).items())
        rows.append(
            [stage, code(short(entry["identity"])), Cell(made_of or "–", wide=True), Cell(parts or "–", wide=True)]
        )
    shown = table(
        ("of", "fingerprint", "with", "components and their revisions"),
        rows,
        caption="Fingerprints, each of which hashes those it is made with",
    )
    full = {
        "data": source.record.get("data"),
        **{stage: entry["identity"] for stage, entry in source.record["stages"].items()},
    }
    told = (
        "A fingerprint hashes the stage’s settings, the revisions of its code and components, weights from outside, "
        "the data, and the fingerprints of what it is made with."
    )
    in_full = lines("\n".join(f"{name:<12} {value}" for name, value in full.items()))
    return joined([note(told), shown, details("In full", in_full)])


def short(identity: Any) -> str:
    """The head of a hash, as rooms are named."""
    return str(identity)[:12] if identity else "unknown"


def _facts(source: Source, stage: str, entry: dict[str, Any]) -> dict[str, Any]:
    file = source.view.path / stage / FACTS
    return dict(read_json(file)) if entry["status"] != "from" and file.is_file() else {}


def _component(name: str, facts: dict[str, Any]) -> str:
    kind, use, *_ = name.split(":")
    return f"{kind} {use} r{facts.get('revision', '?')}"


def again(source: Source) -> Markup:
    """The command that made it, one that makes it from the recipe beside this page, and with what."""
    record = source.record
    words = [str(word) for word in record.get("command", [])]
    command = " ".join(_quoted(word) for word in (["gaekit", *words[1:]] if words[1:2] == ["run"] else words))
    here = f"gaekit run {_quoted(str(source.view.path / 'recipe.yaml'))}"
    versions = {"python": record.get("python", "?"), **record.get("packages", {})}
    return joined([
        paragraph("It was made by"),
        lines(command or "–"),
        paragraph("The resolved recipe lies beside this page; the same data and versions make the same files from it:"),
        lines(here),
        definitions([("Versions", ", ".join(f"{name} {number}" for name, number in versions.items())),
                     ("Plugins", ", ".join(record.get("plugins", [])) or "–")]),
    ])  # fmt: skip


def _quoted(word: str) -> str:
    import shlex

    return shlex.quote(word)
