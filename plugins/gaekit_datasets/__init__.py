"""Data sets: scikit-learn's digits, and any folder of images."""

from __future__ import annotations

from gaekit.api import Component, hookimpl
from gaekit_datasets.digits import Digits
from gaekit_datasets.image_folder import ImageFolder


@hookimpl
def gaekit_components() -> list[type[Component]]:
    """The data sets."""
    return [Digits, ImageFolder]
