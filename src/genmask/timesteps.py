"""Densities that noise levels are drawn from; t in [0, 1], t = 1 is pure noise.

Image generation draws t from `LogitNormal` (Eq. 4-5), segmentation from `PowerLaw` (Eq. 6-7). Each density offers
`pdf`, `cdf` and `quantile` on tensors (or floats) in [0, 1], and `sample`, which is the quantile of uniform noise.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class TimestepDensity(ABC):
    """A probability density over noise levels t in [0, 1]."""

    @abstractmethod
    def pdf(self, t: Tensor | float) -> Tensor: ...

    @abstractmethod
    def cdf(self, t: Tensor | float) -> Tensor: ...

    @abstractmethod
    def quantile(self, u: Tensor | float) -> Tensor:
        """The inverse of `cdf`."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """(n,) float32 noise levels. Drawn on the CPU, so that a seed means the same numbers on every device."""
        u = torch.rand(n, generator=generator, dtype=torch.float64)
        return self.quantile(u).float()


def _unit(values: Tensor | float) -> Tensor:
    """As float64, refused outside [0, 1]."""
    values = torch.as_tensor(values, dtype=torch.float64)
    if values.numel() and not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError(
            f"Got noise levels or probabilities in [{values.min():g}, {values.max():g}], expected values in [0, 1]."
        )
    return values


@dataclass(frozen=True)
class LogitNormal(TimestepDensity):
    """t = sigmoid(z), z ~ N(mean, std): Eq. 4-5, as in Stable Diffusion 3; its resolution shift s is `mean = ln s`."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise ValueError(f"Got std={self.std}, expected a positive standard deviation of the logit.")

    def pdf(self, t: Tensor | float) -> Tensor:
        t = _unit(t)
        normal = torch.exp(-0.5 * ((torch.logit(t) - self.mean) / self.std) ** 2) / (
            self.std * math.sqrt(2 * math.pi)
        )
        return torch.where((t > 0) & (t < 1), normal / (t * (1 - t)), 0.0)

    def cdf(self, t: Tensor | float) -> Tensor:
        return torch.special.ndtr((torch.logit(_unit(t)) - self.mean) / self.std)

    def quantile(self, u: Tensor | float) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(_unit(u)))


@dataclass(frozen=True)
class PowerLaw(TimestepDensity):
    """t = u ** a, u ~ U(0, 1): Eq. 6-7. The smaller `a`, the more mass near t = 1; `a = 0` is t = 1 always."""

    a: float = 0.05

    def __post_init__(self) -> None:
        if self.a < 0:
            raise ValueError(f"Got a={self.a}, expected a >= 0 (0 is t = 1 always, 1 is uniform).")

    def pdf(self, t: Tensor | float) -> Tensor:
        t = _unit(t)
        if self.a == 0:  # all mass in one point
            return torch.where(t == 1, math.inf, 0.0).to(t.dtype)
        return t ** (1 / self.a - 1) / self.a

    def cdf(self, t: Tensor | float) -> Tensor:
        t = _unit(t)
        return (t == 1).to(t.dtype) if self.a == 0 else t ** (1 / self.a)

    def quantile(self, u: Tensor | float) -> Tensor:
        return _unit(u) ** self.a


@dataclass(frozen=True)
class RationalShift(TimestepDensity):
    """t = u / (u + a (1 - u)): the shift of Stable Diffusion 3 with s = 1 / a, the other reading of Eq. 6-7."""

    a: float = 0.05

    def __post_init__(self) -> None:
        if self.a <= 0:
            raise ValueError(
                f"Got a={self.a}, expected a > 0 (1 is uniform, smaller puts more mass near t = 1)."
            )

    def pdf(self, t: Tensor | float) -> Tensor:
        return self.a / (1 - _unit(t) * (1 - self.a)) ** 2

    def cdf(self, t: Tensor | float) -> Tensor:
        t = _unit(t)
        return self.a * t / (1 - t * (1 - self.a))

    def quantile(self, u: Tensor | float) -> Tensor:
        u = _unit(u)
        return u / (u + self.a * (1 - u))
