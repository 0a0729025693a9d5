"""The whole contract for authors of plugins: kinds of component, their configs, and the values they exchange."""

import pluggy

from gaekit.api import weights
from gaekit.api.assets import Asset, Download, HubFile, LocalFile
from gaekit.api.component import API_VERSION, Component, ComponentConfig, Slot, require
from gaekit.api.dataset import Dataset, ImageSource
from gaekit.api.decode import decode_image
from gaekit.api.kinds import (
    KINDS,
    Aligner,
    Decoder,
    Denoiser,
    Encoder,
    ModuleComponent,
    NoiseSampler,
    Perceptual,
    Quantity,
    Regularizer,
    Sampler,
    Teacher,
    TimeSampler,
)
from gaekit.api.metric import Metric
from gaekit.api.tracking import TrackedStage, Tracker
from gaekit.api.walk import files_below, list_folder
from gaekit.errors import ArtifactError, BadImage, DataAbsent, DataError, GaekitError, MachineFailed
from gaekit.inside import open_regular
from gaekit.intervals import Interval
from gaekit.values import Draws, Encoded, GeneratorDraws, Latent, Loss, Losses, Prediction, to_pixels
from gaekit.waiting import progress

hookimpl = pluggy.HookimplMarker("gaekit")
"""Marks a plugin's `gaekit_components`."""

__all__ = [
    "API_VERSION",
    "KINDS",
    "Aligner",
    "ArtifactError",
    "Asset",
    "BadImage",
    "Component",
    "ComponentConfig",
    "DataAbsent",
    "DataError",
    "Dataset",
    "Decoder",
    "Denoiser",
    "Download",
    "Draws",
    "Encoded",
    "Encoder",
    "GaekitError",
    "GeneratorDraws",
    "HubFile",
    "ImageSource",
    "Interval",
    "Latent",
    "LocalFile",
    "Loss",
    "Losses",
    "MachineFailed",
    "Metric",
    "ModuleComponent",
    "NoiseSampler",
    "Perceptual",
    "Prediction",
    "Quantity",
    "Regularizer",
    "Sampler",
    "Slot",
    "Teacher",
    "TimeSampler",
    "TrackedStage",
    "Tracker",
    "decode_image",
    "files_below",
    "hookimpl",
    "list_folder",
    "open_regular",
    "progress",
    "require",
    "to_pixels",
    "weights",
]
