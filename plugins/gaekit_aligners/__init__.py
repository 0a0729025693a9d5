"""gaekit's aligners: what pulls the latent space towards a teacher's features."""

from __future__ import annotations

from gaekit.api import Component, hookimpl
from gaekit_aligners.features import PostAligner, PreAligner
from gaekit_aligners.latent import LatentAligner
from gaekit_aligners.none import NoAligner
from gaekit_aligners.svd import LatentSvdAligner


@hookimpl
def gaekit_components() -> list[type[Component]]:
    """The aligners."""
    return [NoAligner, LatentAligner, LatentSvdAligner, PreAligner, PostAligner]
