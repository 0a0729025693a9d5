"""References that others have published, which recipes call by a name."""

from __future__ import annotations

from pathlib import Path

from gaekit.api.assets import Asset, Download, LocalFile
from gaekit.api.metrics.reference import REFERENCE_HINT, content_sha256
from gaekit.errors import GaekitError

_ROOT = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches"
SIZES = {
    "adm_imagenet64": ("imagenet/64/VIRTUAL_imagenet64_labeled.npz", 64),
    "adm_imagenet128": ("imagenet/128/VIRTUAL_imagenet128_labeled.npz", 128),
    "adm_imagenet256": ("imagenet/256/VIRTUAL_imagenet256_labeled.npz", 256),
    "adm_imagenet512": ("imagenet/512/VIRTUAL_imagenet512.npz", 512),
    "adm_lsun_bedroom256": ("lsun/bedroom/VIRTUAL_lsun_bedroom256.npz", 256),
}
"""name -> (path below the root, side in pixels): statistics of all training images and 10,000 of these, by which ADM's
authors compare (arXiv 2105.05233). They tell no hash: it is recorded when one is first fetched."""
PUBLISHED = {
    name: Download(f"ADM's reference {name}", f"{_ROOT}/{path}", recorded=True) for name, (path, _) in SIZES.items()
}


def reference_asset(reference: str) -> Asset:
    """What the setting `reference` means: a published one by its name, else a file or folder by its path."""
    if reference in PUBLISHED:
        return PUBLISHED[reference]
    return LocalFile("reference of real images", reference, REFERENCE_HINT, folders=True)


def reference_identity(reference: str, owner: str) -> str:
    """What stands for its content in fingerprints. Raises GaekitError for a path where nothing is."""
    if reference in PUBLISHED:
        return PUBLISHED[reference].identity
    return f"sha256:{content_sha256(Path(reference), owner)}"


def reference_path(reference: str, owner: str, image_size: int) -> Path:
    """Where it is, a published one fetched if it may be. Raises GaekitError where that cannot be, or where its images
    are of another size: before it is fetched."""
    if reference not in PUBLISHED:
        return Path(reference)
    if (side := SIZES[reference][1]) != image_size:
        fitting = [name for name, (_, other) in SIZES.items() if other == image_size]
        raise GaekitError(
            f"{owner}: reference {reference} shows images of {side} px, the recipe image.size = {image_size}; "
            + (
                f"of this size there is {' and '.join(fitting)}"
                if fitting
                else "there is no published one of this size"
            )
        )
    return PUBLISHED[reference].fetch(owner)
