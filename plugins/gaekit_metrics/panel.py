"""Several distances at once, each in units of what the held-out images have: FDr (arXiv 2604.28190)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, cast

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from gaekit.api import ComponentConfig, GaekitError, Interval, Metric, Slot
from gaekit.api.metrics import FeatureSettings, implementation

COUNT = "#images"
"""Among what is kept of held-out images, how many they were; no number of a metric has such a name."""


class PanelConfig(FeatureSettings):
    """Settings of `panel`."""

    distances: Annotated[tuple[ComponentConfig, ...], Slot("metric")] = Field(
        min_length=1,
        description="metrics of samples that compare with the training images: fid, frechet, kid, cmmd, ...",
    )
    held_out: dict[str, PositiveFloat] = Field(
        default_factory=dict,
        description="the held-out images' own distance by the name of the number, where it is known: {fid: 1.68}; else "
        "that of the validation split is computed",
    )


class Panel(Metric):
    """Mean over several distances of samples, each divided by that of the held-out images: how many times farther from
    the training images samples are than real images that were not trained on.

    At 1 it is as good as real. A ratio makes distances of different features comparable, and their mean is not to be
    had by pleasing one network alone. With six networks it is FDr6 (arXiv 2604.28190, which names them). Each network
    looks at each image once; what the held-out images gave is kept. Raises GaekitError for a metric that is not a
    distance of samples to training images, and where the held-out images' is not above 0.
    """

    name = "panel"
    Config = PanelConfig
    needs = "samples"
    config: PanelConfig

    def __init__(
        self,
        config: PanelConfig,
        *,
        image_size: int,
        classes: tuple[str, ...],
        distances: tuple[Callable[..., Metric], ...],
    ):
        super().__init__(config, image_size=image_size, classes=classes)
        self.members = [make(image_size=image_size, classes=classes) for make in distances]
        for member in self.members:
            self._check(member)
        self.split = "train" if any(member.split for member in self.members) else None
        self._widths: list[int] = []
        self._judges: list[Metric] = []
        self._held_out: dict[str, float] = dict(config.held_out)
        self.held_out = not config.held_out
        self._n_held_out: int | None = None
        self._values: dict[str, float] = {}

    @property
    def fewest(self) -> int:
        """The most that any of its metrics needs."""
        return max(member.fewest for member in self.members)

    def extract(self, image_B3RR: Tensor) -> Tensor:
        """What each metric looks at, one beside the other."""
        return torch.cat([member.extract(image_B3RR).flatten(1) for member in self.members], 1)

    def reference(self, row_BN: Tensor, label_B: Tensor) -> None:
        """Have those that want them take in training images."""
        for member, rows in self._parted(row_BN):
            if member.split is not None:
                member.reference(rows, label_B)

    def reference_state(self) -> dict[str, Tensor] | None:
        """What each took in, where all can tell."""
        states = {n: member.reference_state() for n, member in enumerate(self.members) if member.split is not None}
        if any(state is None for state in states.values()):
            return None
        return {f"{n}.{name}": value for n, state in states.items() for name, value in cast(Any, state).items()}

    def load_reference(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `reference_state`."""
        for number, member in enumerate(self.members):
            if member.split is not None:
                start = f"{number}."
                member.load_reference({k.removeprefix(start): v for k, v in state.items() if k.startswith(start)})

    def reference_held_out(self, row_BN: Tensor, label_B: Tensor) -> None:
        """Have a copy of each metric judge held-out images as if they were samples."""
        self._n_held_out = (self._n_held_out or 0) + len(row_BN)
        if not self._judges:
            self._judges = [_sharing_networks(member) for member in self.members]
            for judge in self._judges:
                judge.ready(row_BN.device)
        for judge, (_, rows) in zip(self._judges, self._parted(row_BN), strict=True):
            judge.update(rows, label_B)

    def held_out_state(self) -> dict[str, Tensor]:
        """The held-out images' own distances, and how many images these were."""
        if not self._held_out:
            self._held_out = self._numbers(self._judges)
            self._judges = []
        state = {name: torch.tensor(value, dtype=torch.float64) for name, value in self._held_out.items()}
        return state if self._n_held_out is None else state | {COUNT: torch.tensor(self._n_held_out)}

    def load_held_out(self, state: Mapping[str, Tensor]) -> None:
        """Take over these distances; their count is unknown where an earlier version kept them."""
        self._held_out = {name: float(value) for name, value in state.items() if name != COUNT}
        self._n_held_out = int(state[COUNT]) if COUNT in state else None

    def ready(self, device: torch.device) -> None:
        """Have each read a reference of its own. Raises GaekitError where the held-out images give nothing to divide
        by."""
        self.held_out_state()
        for name, value in self._held_out.items():
            if not value > 0:
                raise GaekitError(
                    f"metric 'panel': the held-out images' own {name} is {value:g}, not above 0: there is nothing to "
                    "divide by; take more of them, or another metric"
                )
        for member in self.members:
            member.ready(device)

    def update(self, row_BN: Tensor, label_B: Tensor) -> None:
        """Take in generated images."""
        for member, rows in self._parted(row_BN):
            member.update(rows, label_B)

    def compute(self) -> dict[str, float]:
        """{panel: mean of the ratios, panel_<name>: each ratio}. Raises GaekitError as the metrics do, and where
        `held_out` names other numbers than there are."""
        self._values = self._numbers(self.members)
        if self._values.keys() != self._held_out.keys():
            raise GaekitError(
                f"metric 'panel': `held_out` is of {', '.join(sorted(self._held_out)) or 'nothing'}, the numbers are "
                f"{', '.join(sorted(self._values))}; name each, or none"
            )
        ratios = {name: value / self._held_out[name] for name, value in self._values.items()}
        return {self._named(): math.fsum(ratios.values()) / len(ratios)} | {
            self._named(name): ratio for name, ratio in ratios.items()
        }

    def intervals(self) -> dict[str, Interval]:
        """Those of the distances, divided alike. The mean's goes from the mean of the lower ends to that of the upper:
        no dependence between distances of the same samples makes it wider."""
        found = {name: interval for member in self.members for name, interval in member.intervals().items()}
        scaled = {
            name: Interval(i.low / self._held_out[name], i.high / self._held_out[name], i.method)
            for name, i in found.items()
            if name in self._held_out
        }
        named = {self._named(name): interval for name, interval in scaled.items()}
        if scaled.keys() == self._values.keys():
            low, high = (
                math.fsum(ends) / len(scaled) for ends in zip(*((i.low, i.high) for i in scaled.values()), strict=True)
            )
            named[self._named()] = Interval(low, high, "95 % or more, mean of the ends of the distances' intervals")
        return named

    def protocol(self) -> dict[str, Any]:
        """The distances before they are divided, what they are divided by and where that is from, and the protocol of
        each metric."""
        return {
            "implementation": implementation(self),
            "distances": self._values,
            "held_out": self._held_out,
            "held_out_from": "the validation split" if self.held_out else "the recipe",
            "n_held_out": self._n_held_out,
            "members": [member.protocol() for member in self.members],
        }

    def _check(self, member: Metric) -> None:
        use = type(member).name
        if (
            member.needs != "samples"
            or member.reconstructions
            or member.held_out
            or use.startswith(type(member).higher)
        ):
            raise GaekitError(
                f"metric 'panel' takes distances of samples to real images, better the lower; '{use}' is none"
            )
        if member.split == "validation":
            raise GaekitError(
                f"metric 'panel' divides by the held-out images' distance: '{use}' must compare with split: train"
            )

    def _numbers(self, metrics: list[Metric]) -> dict[str, float]:
        found: dict[str, float] = {}
        for metric in metrics:
            for name, value in metric.compute().items():
                if name in found or name.startswith(metric.higher):
                    why = "comes twice; tell them apart by `suffix`" if name in found else "is better the higher"
                    raise GaekitError(f"metric 'panel': the number {name} {why}")
                found[name] = value
        return found

    def _named(self, name: str = "") -> str:
        return "_".join(part for part in (self.name, name, self.config.suffix) if part)

    def _parted(self, row_BN: Tensor) -> Iterator[tuple[Metric, Tensor]]:
        """(metric, what it looks at)."""
        if not self._widths:
            blank = torch.zeros(1, 3, self.image_size, self.image_size, device=row_BN.device)
            self._widths = [member.extract(blank).flatten(1).shape[1] for member in self.members]
        return zip(self.members, torch.split(row_BN, self._widths, 1), strict=True)


def _sharing_networks(member: Metric) -> Metric:
    """A copy of a metric that looks at images by networks of the same weights. What these keep beside them, such as a
    state of torchmetrics, is the copy's own."""
    held = [
        *vars(member).values(),
        *(inner for one in vars(member).values() for inner in getattr(one, "__dict__", {}).values()),
    ]
    networks = [one for one in held if isinstance(one, torch.nn.Module)]
    return copy.deepcopy(member, {id(weight): weight for network in networks for weight in network.parameters()})
