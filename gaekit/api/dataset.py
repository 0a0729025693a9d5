"""What a data set is: images in two splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, Protocol

from gaekit.api.component import Component

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageSource(Protocol):
    """One split: decoded originals in RGB, before any crop, with their labels.

    It may also have `labels`, all of them in order, known without decoding, and `order(seed, epoch)`: the indices as
    an epoch of training visits them, each once, where visiting them at random is slow. That order must depend on its
    arguments and the data alone, so that any step can be the first.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image, int]:
        """(the image, its label; 0 where there are no classes). Raises BadImage, naming the file."""
        ...

    def key(self, index: int) -> str:
        """What names this image in messages and manifests: its path relative to the root."""
        ...


class Dataset(Component, ABC):
    """Images with or without classes. The core crops, flips and batches.

    `classes` are the class names in label order, () for unconditional. `on_bad_image`: "error" stops at a file that
    cannot be decoded, "skip" goes on without it and counts.
    """

    kind = "dataset"
    classes: tuple[str, ...]
    on_bad_image: Literal["error", "skip"] = "error"

    def __init__(self, config: Any):
        self.config = config

    @abstractmethod
    def train(self) -> ImageSource:
        """The training split. Raises DataAbsent."""

    @abstractmethod
    def validation(self) -> ImageSource:
        """The held-out split."""

    @abstractmethod
    def digest(self) -> str:
        """sha256 over what decides the images: sorted keys, sizes, class map, split. Raises DataAbsent."""
