"""What samplers and denoisers may use of the process between noise and data: the field that a sampler integrates, the
paths with their alpha and sigma, and DDPM's chain."""

from gaekit.flow.ddpm import Chain, Ddpm, learned_log_variance, step_of
from gaekit.flow.field import Estimate, Field
from gaekit.flow.path import DiffusionForm, Path, shift_time
from gaekit.flow.process import EDGE, Process

__all__ = [
    "EDGE",
    "Chain",
    "Ddpm",
    "DiffusionForm",
    "Estimate",
    "Field",
    "Path",
    "Process",
    "learned_log_variance",
    "shift_time",
    "step_of",
]
