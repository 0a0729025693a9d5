"""A small run with metrics of every sort, by as many processes as torchrun starts: `evaluate_program.py OUT [UNTIL]`.

Each rank leaves in OUT/seen-<rank> how many images its networks looked at.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from rich.console import Console
from stages.test_evaluate import LOOKED_AT, PARTS, recipe, registry_of_test

from gaekit.pipeline.run import run_recipe
from gaekit.recipe import load_recipe_data
from gaekit.train.progress import Reporter


def main(out: Path, until: str | None = None) -> None:
    registry = registry_of_test()
    wanted = recipe(None)
    others = [{"use": "psnr"}, {"use": "class_accuracy", "limit": 500}, {"use": "linear_probe", "limit": 200}]
    coarse = {"teacher": {"use": "coarse"}, "grid": 2}
    others += [
        {"use": "memorisation", "features": "mean", "training_limit": 400, **coarse},
        {"use": "cmmd", "features": "mean", "reference_limit": 400, **coarse},
        {"use": "panel", "distances": [{"use": "frechet", **coarse}]},
    ]
    ifid = {"use": "ifid", "limit": 300, "neighbours": 3, **coarse}
    curve = {"use": "noise_curve", "sigmas": [0, 0.5], **coarse}
    wanted["evaluate"]["metrics"] += [*others, PARTS, curve, ifid, {"use": "spectrum"}]
    reporter = Reporter(Console(quiet=True))
    run_recipe(load_recipe_data(wanted, registry), registry, out=out, until=until, reporter=reporter)
    (out / f"seen-{os.environ.get('RANK', '0')}").write_text(str(sum(LOOKED_AT)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
