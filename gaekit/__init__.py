"""gaekit: train, sample and evaluate latent diffusion models, starting with the Geometric Autoencoder.

import gaekit

run = gaekit.run("quickstart")              # or gaekit.open("runs/quickstart")
pictures = run.sample(classes=["3", 7], count=16)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaekit.runs.opened import OpenRun

__version__ = "0.1.0"
__all__ = ["OpenRun", "__version__", "open", "run"]


def open(path: str | Path, *, device: str | None = None) -> OpenRun:
    """Open a run's folder, finished or not, to look at it and to use it.

    device: where its networks compute (cpu, cuda, cuda:1) in place of the recipe's `runtime.device`. Raises
    ArtifactError if the folder is no run.
    """
    from gaekit.runs.opened import open_run

    return open_run(path, device=device)


def run(
    recipe: str | Path | Mapping[str, Any],
    *,
    set: Mapping[str, Any] | None = None,
    name: str | None = None,
    out: str | Path = "runs",
    until: str | None = None,
    redo: str | None = None,
    fresh: str | None = None,
    offline: bool = False,
) -> OpenRun:
    """Run a recipe in this process, as `gaekit run` does, and open the run.

    recipe: a file, the name of a shipped recipe, or its data. set: changes to it by their keys,
    {"diffusion.train.steps": 2000}. The other arguments are the options of `gaekit run`. What is done already is
    cached, and what was stopped goes on. Raises RecipeError with all that is wrong with the recipe, and GaekitError and
    its kin for what goes wrong later.
    """
    from gaekit.runs.start import start

    return start(recipe, set or {}, name=name, out=Path(out), until=until, redo=redo, fresh=fresh, offline=offline)


def __getattr__(name: str) -> Any:
    if name == "OpenRun":
        from gaekit.runs.opened import OpenRun

        return OpenRun
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
