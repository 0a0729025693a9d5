"""What every noising process shares: x_t = alpha_t * data + sigma_t * noise, and what follows from it alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, get_args

from torch import Tensor

from gaekit.errors import GaekitError

Quantity = Literal["velocity", "noise", "score", "data"]
QUANTITIES = frozenset(get_args(Quantity))

EDGE = 1e-3
"""How far from an end of [0, 1] a process stays where a quantity has no value at that end (SiT, arXiv 2401.08740)."""


def expand(t: Tensor, x: Tensor) -> Tensor:
    """Times of shape () or (B,) shaped to multiply x of shape (B, ...)."""
    return t if t.ndim == 0 else t.reshape(-1, *[1] * (x.ndim - 1))


class Process(ABC):
    """A noising process, t = 0 noise, t = 1 data. Times are tensors that broadcast against x (see `expand`).

    `starts_empty`: x_0 is noise alone, so that nothing at t = 0 says what the data is. `offers` names what
    samplers may need of it: the quantities that it converts between, and "steps" if it knows integer steps.
    """

    name: ClassVar[str]
    starts_empty: ClassVar[bool] = True
    offers: ClassVar[frozenset[str]] = frozenset({"noise", "score", "data"})

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """The share of data in x_t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """The share of noise in x_t."""

    def interpolate(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha_t * data + sigma_t * noise, for t of shape () or (B,)."""
        t = expand(t, data)
        return self.alpha(t) * data + self.sigma(t) * noise

    def convert(self, value: Tensor, x: Tensor, t: Tensor, given: str, wanted: str) -> Tensor:
        """`value`, a prediction of the quantity `given` at (x, t), as the quantity `wanted`.

        Infinite where the conversion has no value: the score at sigma = 0, data from noise at alpha = 0.
        Raises GaekitError for a quantity that this process does not offer.
        """
        known = self.offers & QUANTITIES
        for quantity in (given, wanted):
            if quantity not in known:
                raise GaekitError(
                    f"process '{self.name}' has no {quantity}; it offers {', '.join(sorted(known))}: "
                    f"choose another sampler, path or denoiser"
                )
        if given == wanted:
            return value
        t = expand(t, x)
        data, noise = self._ends(value, x, t, given)
        return self._quantity(data, noise, t, wanted)

    def _ends(self, value: Tensor, x: Tensor, t: Tensor, given: str) -> tuple[Tensor, Tensor]:
        """The (data, noise) that a prediction stands for: the two unknowns of x_t, solved for."""
        if given == "data":
            return value, (x - self.alpha(t) * value) / self.sigma(t)
        noise = -self.sigma(t) * value if given == "score" else value
        return (x - self.sigma(t) * noise) / self.alpha(t), noise

    def _quantity(self, data: Tensor, noise: Tensor, t: Tensor, wanted: str) -> Tensor:
        if wanted == "score":  # of the Gaussian that x_t is around alpha_t * data: -noise / sigma
            return -noise / self.sigma(t)
        return data if wanted == "data" else noise

    def bounds(self, given: str) -> tuple[float, float]:
        """The closed interval of t in [0, 1] on which a prediction of `given` determines the rest of x's motion."""
        start = EDGE if given in ("noise", "score") and self.starts_empty else 0.0
        return start, 1.0 - EDGE if given == "data" else 1.0
