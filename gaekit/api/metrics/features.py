"""Metrics on a network's features: one pass over the images for any number of scores, each of which collects what it
wants of them in bounded memory."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from pydantic import Field, StringConstraints
from torch import Tensor

from gaekit.api.assets import Asset
from gaekit.api.component import ComponentConfig
from gaekit.api.metric import Metric
from gaekit.api.metrics.moments import GroupedMoments, Moments
from gaekit.api.metrics.published import reference_asset, reference_identity, reference_path
from gaekit.api.metrics.reference import Reference, open_reference
from gaekit.api.metrics.rows import implementation, to_uint8
from gaekit.errors import GaekitError
from gaekit.intervals import Interval


class FeatureSettings(ComponentConfig):
    """What every metric on features can be told."""

    suffix: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]*$")] = Field(
        default="", description="added to the names of the numbers, to tell two references apart: val makes fid_val"
    )


class ReferenceSettings(ComponentConfig):
    """What the metrics that compare with real images can be told."""

    reference: str | None = Field(
        default=None,
        description="an .npz of ADM (mu and sigma, or images arr_0), the name of a published one (adm_imagenet256), or "
        "a folder of images; null is the data set",
    )
    split: Literal["train", "validation"] = Field(
        default="train", description="of the data set: the real images to compare with, where there is no `reference`"
    )


@dataclass(frozen=True)
class Features:
    """What a network says of B images: pooled features (B, F), logits (B, K) where it is a classifier, and spatial
    features (B, S) where it is asked for them; else (B, 0)."""

    feature_BF: Tensor
    logit_BK: Tensor
    spatial_BS: Tensor

    def __len__(self) -> int:
        return len(self.feature_BF)

    def joined(self) -> Tensor:
        """All in one tensor (B, F + S + K)."""
        return torch.cat([self.feature_BF, self.spatial_BS, self.logit_BK], 1)

    @classmethod
    def parted(cls, joined: Tensor, width: int, spatial: int) -> Features:
        """Inverse of `joined` for F = width and S = spatial."""
        return cls(joined[:, :width], joined[:, width + spatial :], joined[:, width : width + spatial])

    def rows(self, places: Sequence[int]) -> Features:
        """Those of some of the images."""
        index = torch.as_tensor(places, dtype=torch.int64, device=self.feature_BF.device)
        return Features(self.feature_BF[index], self.logit_BK[index], self.spatial_BS[index])


class Extractor(Protocol):
    """A network as the scores see it: `width` is F, `spatial` S, 0 where it gives no spatial features."""

    width: int
    spatial: int

    def __call__(self, pixel_B3RR: Tensor) -> Features:
        """uint8 images of any size -> their features, on the images' device."""
        ...

    def protocol(self) -> dict[str, Any]:
        """The network, its weights and their hash."""
        ...


class Collector(ABC):
    """Takes in one side's features for one score. One that can be kept for other runs tells its state."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All that it took in, as tensors by name."""

    @abstractmethod
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` told; nothing is added hereafter."""

    @abstractmethod
    def choose(self, count: int) -> Sequence[int]:
        """Which of the next `count` images it wants; called once for every batch, before `add`."""

    @abstractmethod
    def add(self, features: Features) -> None:
        """The features of those that it chose."""


class Scoring(ABC):
    """One score: what it collects of the real, the generated and the held-out images, and what it makes of that."""

    real: Collector | None = None
    held_out: Collector | None = None
    fake: Collector
    fewest: int = 1
    """Of how many images, on either side, its numbers are worth telling."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The numbers, by name. Raises GaekitError for too few images."""

    def intervals(self) -> dict[str, Interval]:
        """The 95 % interval of each number that has one, as of `Metric.intervals`; called after `compute`."""
        return {}

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """What one must know of this score beyond network, reference and counts."""


class FeatureMoments(Moments, Collector):
    """Mean and covariance of all images' features, streamed; of the spatial ones where it says so."""

    def __init__(self, width: int, *, spatial: bool = False):
        super().__init__(width)
        self.spatial = spatial

    def choose(self, count: int) -> range:
        """All of the next `count` images."""
        return range(count)

    def add(self, features: Features | Tensor) -> None:
        """Take in a batch."""
        if isinstance(features, Features):
            features = features.spatial_BS if self.spatial else features.feature_BF
        super().add(features)


class GroupedFeatureMoments(GroupedMoments, FeatureMoments):
    """The same of images that are judged, and without each group of them, for an interval."""


class Subset(Collector):
    """At most `limit` rows of a stream, each as likely as any other, by a seed: a cut at the first ones would take the
    first classes of an ordered data set. Which rows it keeps depends on their number alone, not on how batches are cut.
    """

    def __init__(self, limit: int, seed: int):
        self.limit, self.device = limit, torch.device("cpu")
        self._random = np.random.RandomState(seed)
        self._kept: list[tuple[float, int]] = []  # a heap of (-priority, slot): the first to leave is on top
        self._rows: dict[int, Tensor] = {}
        self._slots: list[int] = []

    def __len__(self) -> int:
        return len(self._kept)

    def choose(self, count: int) -> Sequence[int]:
        """Which of the next `count` rows to keep; `add` them before the next call."""
        slot_of: dict[int, int] = {}  # slot -> the last row that takes it
        for place, priority in enumerate(self._random.random_sample(count)):
            if len(self._kept) < self.limit:
                slot = len(self._kept)
                heapq.heappush(self._kept, (-priority, slot))
            elif -priority > self._kept[0][0]:
                slot = heapq.heapreplace(self._kept, (-priority, self._kept[0][1]))[1]
            else:
                continue
            slot_of[slot] = place
        self._slots = list(slot_of)
        return list(slot_of.values())

    def add(self, features: Features) -> None:
        """The features of the rows chosen."""
        self.device = features.feature_BF.device
        for slot, feature in zip(self._slots, features.feature_BF.cpu(), strict=True):
            self._rows[slot] = feature.clone()  # a view would keep its whole batch

    def state(self) -> dict[str, Tensor]:
        """The rows kept, in the order of their slots."""
        return {"rows": self.rows()} if self._rows else {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`."""
        rows = state.get("rows", torch.empty(0, 0))
        self._rows = dict(enumerate(rows))
        self._kept = [(0.0, slot) for slot in self._rows]

    def rows(self) -> Tensor:
        """The rows kept, (N, F)."""
        return torch.stack([self._rows[slot] for slot in sorted(self._rows)])


class FeatureMetric(Metric):
    """Base of the metrics on a network's features: one pass over the images for any number of scores, which a subclass
    names by `scorings`; its constructor hands over the network.

    Its settings are `FeatureSettings`, with `ReferenceSettings` where it compares with real images; what its `external`
    and `assets` tell is the reference's, to which a subclass adds the network's. Images go through uint8. A `reference`
    that is absent, of no known kind, or of another size or dimension is refused when the metric is built, with a
    GaekitError.
    """

    needs: ClassVar[Literal["pairs", "samples"]] = "samples"
    config: Any

    def __init__(self, config: Any, *, image_size: int, classes: tuple[str, ...], extractor: Extractor):
        super().__init__(config, image_size=image_size, classes=classes)
        self.file = self._open_reference(config, image_size)
        self.extractor = extractor
        self._n_real = self._n_fake = 0
        self._scorings = self.scorings()
        self._real = [scoring.real for scoring in self._scorings if scoring.real is not None]
        self._held_out = [scoring.held_out for scoring in self._scorings if scoring.held_out is not None]
        self._fake = [scoring.fake for scoring in self._scorings]
        self.held_out = bool(self._held_out)
        of_data = self._real and self.file is None and self.needs == "samples"
        self.split = getattr(config, "split", "train") if of_data else None
        self._unread = self.file is not None and bool(self._real)
        if self._unread and self.file is not None and not self.file.has_images:
            raise self.file.error("holds statistics alone", "these scores need images, as arr_0 or a folder")

    @abstractmethod
    def scorings(self) -> list[Scoring]:
        """The scores, new. `self.file` and `self.extractor` are there."""

    @property
    def owner(self) -> str:
        """How errors name it."""
        return f"metric '{self.name}'"

    @property
    def fewest(self) -> int:
        """The most that any of its scores needs."""
        return max(scoring.fewest for scoring in self._scorings)

    @classmethod
    def external(cls, config: Any) -> str | None:
        """Identity of the reference where there is one. Raises GaekitError where it is a path, and absent."""
        if (path := getattr(config, "reference", None)) is None:
            return None
        return f"reference {reference_identity(path, f'metric {cls.name!r}')}"

    @classmethod
    def assets(cls, config: Any) -> tuple[Asset, ...]:
        """The reference where there is one."""
        reference = getattr(config, "reference", None)
        return () if reference is None else (reference_asset(reference),)

    def extract(self, image_B3RR: Tensor) -> Tensor:
        """Images in [-1, 1], through uint8 -> the network's features (B, F + S + K). Raises GaekitError where they are
        not finite."""
        joined = self.extractor(to_uint8(image_B3RR, self)).joined()
        if not torch.isfinite(joined).all():
            raise GaekitError(f"{self.owner}: the network gave features that are not finite; check its weights")
        return joined

    def reference(self, feature_BF: Tensor, label_B: Tensor) -> None:
        """Take in features of real images of `split`."""
        if self.split is None:
            raise TypeError(f"{self.owner} takes no reference from the data set")
        self._take_real(feature_BF)

    def reference_state(self) -> dict[str, Tensor]:
        """What each score collected of the real images."""
        return {"n": torch.tensor(self._n_real)} | _states(self._real)

    def load_reference(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `reference_state` told."""
        self._n_real = int(state["n"])
        _load(self._real, state)

    def reference_held_out(self, feature_BF: Tensor, label_B: Tensor) -> None:
        """Take in features of held-out images."""
        self._take(feature_BF, self._held_out)

    def held_out_state(self) -> dict[str, Tensor]:
        """What each score collected of the held-out images."""
        return _states(self._held_out)

    def load_held_out(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `held_out_state` told."""
        _load(self._held_out, state)

    def ready(self, device: torch.device) -> None:
        """Read the images of a reference that is a file or folder; the network runs on `device`."""
        if self._unread and self.file is not None:
            for pixel_B3RR in self.file.pixels():
                self._take_real(self.extract(pixel_B3RR.to(device) / 127.5 - 1))
            self._unread = False

    def update(self, feature_BF: Tensor, label_B: Tensor) -> None:
        """Take in features of generated images."""
        if self._unread:
            raise TypeError(f"{self.owner}: `ready` comes before `update`; its reference is not read yet")
        self._take_fake(feature_BF)

    def compute(self) -> dict[str, float]:
        """{score: value}, names with `suffix`. Raises GaekitError for too few images."""
        return {self._named(name): v for scoring in self._scorings for name, v in scoring.compute().items()}

    def intervals(self) -> dict[str, Interval]:
        """Those of the scores, by the same names."""
        return {self._named(name): v for scoring in self._scorings for name, v in scoring.intervals().items()}

    def protocol(self) -> dict[str, Any]:
        """The network and its weights' hash, the reference and its hash, counts, and what each score adds."""
        found = {
            "implementation": implementation(self),
            "extractor": self.extractor.protocol(),
            "pixels": "uint8, floor(127.5 x + 128)",
            "reference": self._reference_facts(),
            "n": self._n_fake,
        }
        for scoring in self._scorings:
            found |= scoring.protocol()
        return found

    def _named(self, name: str) -> str:
        return f"{name}_{self.config.suffix}" if self.config.suffix else name

    def _open_reference(self, config: Any, image_size: int) -> Reference | None:
        path = getattr(config, "reference", None)
        if path is None:
            return None
        return open_reference(reference_path(path, self.owner, image_size), self.owner, image_size)

    def _reference_facts(self) -> dict[str, Any] | None:
        if self.file is not None:
            n = self._n_real if self._real else None
            return {"kind": self.file.kind, "file": self.file.path.name, "sha256": self.file.sha256, "n": n}
        return {"kind": "dataset", "split": self.split, "n": self._n_real} if self._real else None

    def _take_real(self, feature_BF: Tensor) -> None:
        self._take(feature_BF, self._real)
        self._n_real += len(feature_BF)

    def _take_fake(self, feature_BF: Tensor) -> None:
        self._take(feature_BF, self._fake)
        self._n_fake += len(feature_BF)

    def _take(self, feature_BF: Tensor, collectors: Iterable[Collector]) -> None:
        """Hand each score the rows that it wants."""
        features = Features.parted(feature_BF, self.extractor.width, self.extractor.spatial)
        for collector in collectors:
            rows = collector.choose(len(features))
            collector.add(features if isinstance(rows, range) else features.rows(rows))


def _states(collectors: Sequence[Collector]) -> dict[str, Tensor]:
    """What each took in, by its number and name."""
    return {f"{n}.{name}": value for n, one in enumerate(collectors) for name, value in one.state().items()}


def _load(collectors: Sequence[Collector], state: Mapping[str, Tensor]) -> None:
    """Inverse of `_states`."""
    for number, collector in enumerate(collectors):
        start = f"{number}."
        collector.load({name.removeprefix(start): v for name, v in state.items() if name.startswith(start)})
