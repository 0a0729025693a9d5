"""Data sets: scikit-learn's digits, OpenMoji's drawings, any folder of images, tar shards, and what the package
`datasets` reads."""

from __future__ import annotations

from gaekit.api import Component, hookimpl
from gaekit_datasets.digits import Digits
from gaekit_datasets.huggingface import HuggingFace
from gaekit_datasets.image_folder import ImageFolder
from gaekit_datasets.openmoji import OpenMoji
from gaekit_datasets.webdataset import WebDataset


@hookimpl
def gaekit_components() -> list[type[Component]]:
    """The data sets."""
    return [Digits, ImageFolder, WebDataset, HuggingFace, OpenMoji]
