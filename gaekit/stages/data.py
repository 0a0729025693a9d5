"""The data set of a run: built and listed once, and shared by its stages and its processes."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from functools import cached_property

from gaekit.api import Dataset
from gaekit.data.images import Images
from gaekit.data.some import SomeImages
from gaekit.parallel import World
from gaekit.plugins import Registry, build
from gaekit.recipe.schema import Recipe
from gaekit.store.files import sha256_json


@dataclass
class Data:
    """The data set that a recipe names, and its splits at the recipe's size; with `few`, so many images of each."""

    recipe: Recipe
    registry: Registry
    few: int | None = None

    @cached_property
    def dataset(self) -> Dataset:
        """The data set; it reads nothing before it is asked for something."""
        return build(Dataset, self.recipe.dataset, self.registry)

    @cached_property
    def digest(self) -> str:
        """What stands for the content of the data set in fingerprints. Raises DataAbsent."""
        digest = self.dataset.digest()
        return digest if self.few is None else sha256_json({"of": digest, "images of a split": self.few})

    def images(self, split: str, *, pinned: bool = False) -> Images:
        """One split, cropped to the recipe's size; decoded images stay in memory up to runtime.cache_gb. `pinned`: its
        batches are for a GPU."""
        source = self.dataset.train() if split == "train" else self.dataset.validation()
        return Images(
            source if self.few is None or len(source) <= self.few else SomeImages(source, self.few),
            self.recipe.image.size,
            cache_bytes=int(self.recipe.runtime.cache_gb * 1e9),
            on_bad_image=self.dataset.on_bad_image,
            workers=self.recipe.runtime.workers,
            pinned=pinned,
            promise=self.registry.image_promise(self.recipe.dataset.use, len(self.dataset.classes)),
        )

    def share(self, world: World) -> None:
        """Have every rank hold what rank 0 has found of the data set, in place of finding it again: a scan of a shared
        disk by each of many processes takes minutes. Where a data set cannot be sent, each rank lists it itself."""
        if world.size == 1:
            return
        sent = world.broadcast(_packed(self) if world.is_rank0 else None)
        if sent is not None and not world.is_rank0:
            self.__dict__.update(pickle.loads(sent))


def _packed(data: Data) -> bytes | None:
    """What `data` has found; None where it cannot be sent to another process."""
    found = {name: data.__dict__[name] for name in ("dataset", "digest") if name in data.__dict__}
    try:
        return pickle.dumps(found)
    except (pickle.PicklingError, AttributeError, TypeError):  # pickle's three ways of saying no
        return None
