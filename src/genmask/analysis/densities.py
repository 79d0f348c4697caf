"""The two densities of the noise level in numbers: Figure 5."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genmask.timesteps import LogitNormal, PowerLaw, TimestepDensity

BIN = 0.01
SAMPLES = 100_000
DENSITIES: dict[str, TimestepDensity] = {
    "logit-normal": LogitNormal(),
    "power law, a = 0.05": PowerLaw(0.05),
    "power law, a = 0.07": PowerLaw(0.07),
    "power law, a = 0.1": PowerLaw(0.1),
    "power law, a = 0.5": PowerLaw(0.5),
}
"""Of image generation; and of segmentation: the paper's Fig. 5 fits a = 0.07, its Table 3 compares the others."""


@dataclass(frozen=True, kw_only=True)
class Density:
    """A density in bins of `BIN`, from t = 0 to 1."""

    probability: tuple[float, ...]
    """Of each bin."""
    drawn: tuple[float, ...]
    """Share of `SAMPLES` drawn noise levels in it."""
    peak: float
    """The largest probability of a bin."""
    below_085: float
    """P(t < 0.85)."""


def tabulate_densities(seed: int) -> dict[str, Density]:
    """By the name in `DENSITIES`; the seed is that of the drawn levels."""
    bins = round(1 / BIN)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    found = {}
    for name, density in DENSITIES.items():
        probability = density.cdf(edges).diff()
        t = density.sample(SAMPLES, torch.Generator().manual_seed(seed))
        drawn = torch.histc(t, bins=bins, min=0, max=1) / SAMPLES
        found[name] = Density(
            probability=tuple(probability.tolist()),
            drawn=tuple(drawn.tolist()),
            peak=float(probability.max()),
            below_085=float(density.cdf(0.85)),
        )
    return found
