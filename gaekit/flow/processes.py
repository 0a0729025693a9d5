"""Every noising process by the name that recipes and artifacts give it."""

from __future__ import annotations

from gaekit.flow.ddpm import Betas, Ddpm
from gaekit.flow.path import get_path
from gaekit.flow.process import Process


def get_process(name: str, betas: Betas = "linear") -> Process:
    """linear, gvp or vp (`path.get_path`), or `ddpm` with its betas. Raises GaekitError for another name."""
    return Ddpm(betas) if name == Ddpm.name else get_path(name)
