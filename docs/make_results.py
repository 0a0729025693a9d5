"""Write docs/results.md: what the sweeps under recipes/claims found.

python docs/make_results.py collect RUNS   take what is finished in a folder of runs into docs/results/*.json
python docs/make_results.py                write docs/results.md and its plots from docs/results/*.json
python docs/make_results.py --check        say whether they are up to date (exit code 1 if not)
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import gaekit
from gaekit.sweeps.student import Mean, mean_of
from gaekit.sweeps.table import in_words

DOCS = Path(__file__).parent
FOLDER, PAGE = "results", "results.md"
DEFINITIONS = DOCS / FOLDER / "claims.yaml"
BASE = DOCS.parent / "recipes" / "claims.yaml"
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"
HEAD = """# What came out: the paper's claims at a size that a laptop repeats

Written by `python docs/make_results.py` from docs/results/*.json. Each claim of the Geometric Autoencoder (arXiv
2603.10365) that can be tried here is a sweep under recipes/claims over recipes/claims.yaml: colour drawings of
{size} px (OpenMoji, CC BY-SA 4.0) in nine classes, networks of the quickstart's size, {autoencoder:,} steps of the
autoencoder and {denoiser:,} of the denoiser, batch {batch}. Nothing here says anything about sizes that were not
run.

How to read it. *PSNR* is of held-out reconstructions. *Probe* is the accuracy of a linear classifier of the
latents. Fréchet distances are between features of a network, averaged over positions: *Lite0* is the one that the
latents are aligned with, *Lite2* was trained apart from it, and judges. *Samples* is the distance of the training
images to {samples:,} unguided samples; it has two parts: what the *decoder loses* (images to their own reconstructions)
and what the *denoiser misses* (reconstructions to samples). They do not add up to it, but tell where it comes from.
Numbers are means over seeds with the 95 % interval of Student's t; each seed trains every network anew.

An ordering *holds* where the interval of the differences between runs of the same seed lies on the claimed side of
zero for every setting named, *does not hold* where one lies on the other side, and *cannot be told* otherwise,
which few seeds alone can cause.
"""


@dataclass(frozen=True)
class Results:
    """What is known of one sweep: by setting and seed, the numbers of its run."""

    sweep: str
    settings: tuple[str, ...]
    runs: dict[tuple[str, int], dict[str, Any]]

    def values(self, setting: str, number: str) -> dict[int, float]:
        """By seed, a number of the finished runs of a setting."""
        return {
            seed: run["numbers"][number]
            for (label, seed), run in sorted(self.runs.items())
            if label == setting and number in run["numbers"]
        }

    def mean(self, setting: str, number: str) -> Mean | None:
        """Its mean over seeds; None where there is none."""
        values = list(self.values(setting, number).values())
        return mean_of(values) if values else None

    def numbers(self, prefix: str) -> list[str]:
        """All numbers whose names begin so, in the order of what follows as numbers."""
        found = {name for run in self.runs.values() for name in run["numbers"] if name.startswith(prefix)}
        return sorted(found, key=lambda name: float(name.removeprefix(prefix)))

    @property
    def tried(self) -> list[str]:
        """The settings of which there is a run."""
        return [setting for setting in self.settings if any(label == setting for label, _ in self.runs)]

    @property
    def hours(self) -> float:
        """Device-hours; what several runs share counts once."""
        rooms = {room: seconds for run in self.runs.values() for room, seconds in run["rooms"].items()}
        return sum(rooms.values()) / 3600


def read(path: Path) -> Results:
    """The results in a file that `collect` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return Results(data["sweep"], tuple(data["settings"]), {(run["setting"], run["seed"]): run for run in data["runs"]})


def file_of(sweep: str, folder: Path) -> Path:
    """Where the results of a sweep lie: claims/aligners -> aligners.json."""
    return folder / f"{Path(sweep).name}.json"


def collect(out: Path, folder: Path, definitions: Mapping[str, Any]) -> Iterator[str]:
    """Take the finished runs of every sweep into its file, beside those that were taken before and that the sweep would
    make still: the recipe, the data, the components' revisions decide. -> what was done, a line a sweep."""
    from gaekit.plugins import load_plugins
    from gaekit.sweeps.definition import read_sweep
    from gaekit.sweeps.members import check_members
    from gaekit.sweeps.there import Planned

    registry = load_plugins()
    for claim in definitions["claims"]:
        sweep = check_members(read_sweep(Path(claim["sweep"]), registry), registry, build=False)
        path = file_of(claim["sweep"], folder)
        kept = read(path).runs if path.exists() else {}
        planned = Planned(sweep, out, registry)
        members = {(m.setting.label, m.recipe.seed): m for m in sweep.members}
        made = {key: planned.plan(member).stages[-1].identity for key, member in members.items()}
        same = {key: run for key, run in kept.items() if made.get(key) == run["made"]}
        found = {
            key: {"setting": key[0], "seed": key[1], "made": made[key], **_of_run(out / member.run)}
            for key, member in members.items()
            if planned.is_finished(member)
        }
        same |= found
        if same or path.exists():
            data = {
                "sweep": claim["sweep"],
                "settings": [setting.label for setting in sweep.definition.settings],
                "runs": [same[key] for key in members if key in same],
            }
            path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        dropped = len(kept.keys() - same.keys())
        gone = f", {dropped} that would be made otherwise now dropped" if dropped else ""
        yield f"{claim['sweep']}: {len(same)} of {len(sweep.members)} runs, {len(found)} found in {out}{gone}"


def _of_run(path: Path) -> dict[str, Any]:
    """What is kept of a run: its numbers, the last value of the denoiser's held-out loss, and what its rooms took."""
    opened = gaekit.open(path)
    losses = opened.stages["diffusion"].curves.scalars.get("probe/loss/ema", [])
    numbers = {name: float(entry["value"]) for name, entry in opened.metrics.items()}
    numbers |= {"diffusion/probe/loss/ema": losses[-1][1]} if losses else {}
    return {
        "torch": opened.record["packages"]["torch"],
        "numbers": {name: float(f"{value:.6g}") for name, value in sorted(numbers.items())},
        "rooms": {room: round(seconds, 1) for room, seconds in _rooms(opened)},
    }


def _rooms(opened: Any) -> Iterator[tuple[str, float]]:
    """(name of a room, device-seconds that it took) of each stage."""
    from gaekit.store.attempts import ATTEMPTS, read_attempts

    for name, stage in opened.stages.items():
        if stage.room is not None:
            attempts = read_attempts(stage.room.path / ATTEMPTS)
            yield f"{name}/{stage.room.path.name}", sum(attempt.device_seconds for attempt in attempts)


def judge(results: Results, ordering: Mapping[str, Any], better: str) -> tuple[str, str]:
    """(verdict, what it rests on) of one ordering."""
    sign = (1 if better == "higher" else -1) * (-1 if ordering.get("worst") else 1)
    told, verdicts = [], []
    for other in ordering["than"]:
        first, second = (results.values(label, ordering["number"]) for label in (ordering["best"], other))
        differences = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
        if not differences:
            told.append(f"{other}: not run")
            verdicts.append(OPEN)
            continue
        mean = mean_of(differences)
        told.append(f"{other}: {_signed(mean)} (n {mean.n})")
        clear = mean.half is not None and abs(mean.value) > mean.half
        verdicts.append(OPEN if not clear else HOLDS if mean.value * sign > 0 else FAILS)
    verdict = FAILS if FAILS in verdicts else HOLDS if set(verdicts) == {HOLDS} else OPEN
    return verdict, "; ".join(told)


def _signed(mean: Mean) -> str:
    text = in_words(mean, mean.n)
    return text if text.startswith("-") else f"+{text}"


def page(folder: Path, definitions: Mapping[str, Any]) -> str:
    """docs/results.md as text, from the files in `folder`."""
    known = _known(folder, definitions)
    parts = [HEAD.format(**_sizes())]
    parts += [_summary(known, definitions)] if known else ["No sweep has been run yet.\n"]
    parts += [_section(claim, results, definitions) for claim, results in known]
    run = {results.sweep for _, results in known}
    missing = [f"`gaekit sweep {claim['sweep']}`" for claim in definitions["claims"] if claim["sweep"] not in run]
    return "\n".join([*parts, *([f"## Not run yet\n\n{', '.join(missing)}.\n"] if missing else [])])


def _known(folder: Path, definitions: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Results]]:
    files = [(claim, file_of(claim["sweep"], folder)) for claim in definitions["claims"]]
    return [(claim, read(path)) for claim, path in files if path.exists()]


def _sizes() -> dict[str, int]:
    """What the page says of the base recipe: image size, lengths of its trainings, samples."""
    recipe = yaml.safe_load(BASE.read_text(encoding="utf-8"))
    autoencoder, denoiser = (recipe[part]["train"] for part in ("autoencoder", "diffusion"))
    return {
        "size": recipe["image"]["size"],
        "autoencoder": autoencoder["steps"],
        "denoiser": denoiser["steps"],
        "batch": denoiser["batch"],
        "samples": recipe["sample"]["count"],
    }


def _by_key(definitions: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    return {number["key"]: number for number in definitions["numbers"]}


def _summary(known: Sequence[tuple[Mapping[str, Any], Results]], definitions: Mapping[str, Any]) -> str:
    numbers = _by_key(definitions)
    lines = ["| claim | ordering | at this size |", "|---|---|---|"]
    for claim, results in known:
        for ordering in claim["orderings"]:
            verdict, _ = judge(results, ordering, numbers[ordering["number"]]["better"])
            lines.append(f"| {claim['title']} | {ordering['says']} | {verdict} |")
    rooms = {room: s for _, results in known for run in results.runs.values() for room, s in run["rooms"].items()}
    hours = sum(rooms.values()) / 3600
    lines += ["", f"Device-hours of all sweeps, a device being a core or two shared with other work: {hours:.1f}.", ""]
    return "\n".join(lines)


def _section(claim: Mapping[str, Any], results: Results, definitions: Mapping[str, Any]) -> str:
    name, numbers = Path(claim["sweep"]).name, _by_key(definitions)
    by = claim.get("by", "from notes on the paper")
    lines = [f"## {claim['title']}", "", f"Expected, {by}: {claim['expected']}", ""]
    for ordering in claim["orderings"]:
        number = numbers[ordering["number"]]
        verdict, told = judge(results, ordering, number["better"])
        lines.append(f"- *{ordering['says']}*: **{verdict}**. {number['name']}, {ordering['best']} minus {told}.")
    lines += ["", *_table(results, definitions), "", f"![{claim['title']}]({FOLDER}/{name}.svg)", ""]
    if "lines" in claim:
        lines += [f"![{claim['title']}: {claim['lines']['y']}]({FOLDER}/{name}-lines.svg)", ""]
    counts = [sum(label == setting for label, _ in results.runs) for setting in results.tried]
    seeds = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(max(counts))
    missing = [setting for setting in results.settings if setting not in results.tried]
    took = f"{len(results.runs)} runs, seeds a setting: {seeds}; {results.hours:.1f} device-hours"
    took += f"; not run yet: {', '.join(missing)}" if missing else ""
    return "\n".join([*lines, f"`gaekit sweep {claim['sweep']}`: {took}.", ""])


def _table(results: Results, definitions: Mapping[str, Any]) -> Iterator[str]:
    numbers = definitions["numbers"]
    head = [f"{n['name']} {'↑' if n['better'] == 'higher' else '↓'}" for n in numbers]
    yield f"| setting | n | {' | '.join(head)} |"
    yield "|---" * (len(numbers) + 2) + "|"
    for setting in results.tried:
        means = [results.mean(setting, n["key"]) for n in numbers]
        n = max((mean.n for mean in means if mean is not None), default=0)
        yield f"| {setting} | {n} | {' | '.join(in_words(mean, n) for mean in means)} |"


def plots(folder: Path, definitions: Mapping[str, Any]) -> dict[str, str]:
    """By file name in `folder`, the plots as SVG."""
    found = {}
    for claim, results in _known(folder, definitions):
        name = Path(claim["sweep"]).name
        found[f"{name}.svg"] = _panels(results, definitions)
        if "lines" in claim:
            found[f"{name}-lines.svg"] = _curves(results, claim["lines"])
    return found


def _panels(results: Results, definitions: Mapping[str, Any]) -> str:
    """A panel a number: a row a setting, its mean and interval, and every seed's value as a small dot."""
    numbers = definitions["numbers"]
    rows, columns = 2, -(-len(numbers) // 2)
    with _drawing(2.3 * columns + 1.2, rows * (0.27 * len(results.tried) + 0.75)) as (canvas, made):
        panels = canvas.subplots(rows, columns, sharey=True).flatten()
        for axes in panels[len(numbers) :]:
            axes.set_visible(False)
        for axes, number in zip(panels, numbers, strict=False):
            for place, setting in enumerate(results.tried):
                _row(axes, place, results.values(setting, number["key"]), results.mean(setting, number["key"]))
            arrow = "→" if number["better"] == "higher" else "←"
            axes.set_title(f"{number['name']}  {arrow} better", fontsize=8)
            axes.set_yticks(range(len(results.tried)), results.tried)
            axes.set_ylim(len(results.tried) - 0.5, -0.5)
            axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        return made()


def _row(axes: Any, place: int, values: Mapping[int, float], mean: Mean | None) -> None:
    axes.plot(list(values.values()), [place] * len(values), "o", color="#8a93a6", markersize=3)
    if mean is not None:
        axes.errorbar([mean.value], [place], xerr=mean.half, fmt="o", color="#1f4e9c", markersize=5, capsize=2.5)


def _curves(results: Results, lines: Mapping[str, str]) -> str:
    """A line a setting: a family of numbers over what their names end with."""
    prefix = lines["prefix"]
    with _drawing(6.4, 3.6) as (canvas, made):
        axes = canvas.subplots()
        for setting in results.tried:
            found = [(name, results.mean(setting, name)) for name in results.numbers(prefix)]
            known = [(float(name.removeprefix(prefix)), mean) for name, mean in found if mean is not None]
            half = [mean.half or 0.0 for _, mean in known]
            y = [mean.value for _, mean in known]
            axes.errorbar([x for x, _ in known], y, yerr=half, marker="o", markersize=3.5, capsize=2, label=setting)
        axes.set(xlabel=lines["x"], ylabel=lines["y"])
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.legend(fontsize=8, frameon=False)
        return made()


@contextmanager
def _drawing(width: float, height: float) -> Iterator[tuple[Any, Callable[[], str]]]:
    """A figure in inches, and what makes SVG text of it: the same text each time."""
    import matplotlib
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": "gaekit", "font.family": "sans-serif", "font.size": 8}
    with matplotlib.rc_context(style):
        canvas = Figure(figsize=(width, height), layout="constrained", facecolor="white")

        def made() -> str:
            text = io.StringIO()
            canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
            return text.getvalue()

        yield canvas, made


def write(docs: Path, definitions: Mapping[str, Any]) -> list[Path]:
    """Write the page and its plots. -> the files."""
    texts = {docs / PAGE: page(docs / FOLDER, definitions)}
    texts |= {docs / FOLDER / name: text for name, text in plots(docs / FOLDER, definitions).items()}
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return list(texts)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("collect").add_argument("runs", type=Path)
    given = parser.parse_args(arguments)
    definitions = yaml.safe_load(DEFINITIONS.read_text(encoding="utf-8"))
    if given.command == "collect":
        print("\n".join(collect(given.runs, DOCS / FOLDER, definitions)))
        return 0
    if given.check:
        current = (DOCS / PAGE).read_text(encoding="utf-8") if (DOCS / PAGE).exists() else ""
        if current != page(DOCS / FOLDER, definitions):
            print(f"{PAGE} is not what docs/results/*.json give: run python docs/make_results.py")
            return 1
        return 0
    print("\n".join(str(path.relative_to(DOCS.parent)) for path in write(DOCS, definitions)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
