"""How far soft masks and confidence can be believed: calibration error, one temperature, correlation and AUROC.

Pure numpy. Pixels are kept as a histogram, so that any number of samples takes the same memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from scipy.stats import rankdata

from genmask.thresholds import FAINT

LOGIT_LIMIT = 8.0
"""Soft values are clipped to where their logits lie within plus and minus this: [0.00034, 0.99966]."""
FINE_BINS = 256
"""Of equal width in logits, which pixels are sorted into; a temperature then moves whole bins."""
RELIABILITY_BINS = 15
"""Of equal width in [0, 1], as in Guo et al., On Calibration of Modern Neural Networks (2017)."""
TEMPERATURE_RANGE = (0.05, 20.0)
"""Where a temperature is sought."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Soft values in bins of [0, 1] against the truth; each array (bins,) float64."""

    share: np.ndarray
    """Of all pixels in this bin; they sum to 1."""
    soft: np.ndarray
    """Mean soft value of the bin's pixels; NaN where there are none."""
    true: np.ndarray
    """Share of these that belong to the mask; NaN where there are none."""

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of `soft` from `true`, weighted by `share`; in [0, 1]."""
        some = self.share > 0
        return float((self.share * np.abs(self.soft - self.true))[some].sum())


class PixelHistogram:
    """Pixels of soft masks and what is true of them. Every sample weighs the same, whatever its size.

    Scores take a `temperature` T > 0: that of the soft values sigmoid(logit(p) / T). They are computed from the
    means of `FINE_BINS` bins in place of the pixels.
    """

    def __init__(self) -> None:
        self._weights = np.zeros((3, FINE_BINS))  # weight, sum of soft values, weight of the mask's pixels

    def add(self, soft: np.ndarray, mask: np.ndarray, ignore: np.ndarray | None = None) -> None:
        """One sample; ignored pixels do not count, nor does a sample in which all are ignored.

        Args:
            soft: (H, W) floats in [0, 1].
            mask: (H, W) bool, the truth.
            ignore: (H, W) bool, where nobody knows.

        Raises:
            ValueError: sizes that differ, or soft values outside [0, 1].
        """
        known = np.ones_like(mask) if ignore is None else ~ignore
        if not soft.shape == mask.shape == known.shape:
            raise ValueError(
                f"Got soft values {soft.shape}, mask {mask.shape}, ignore {known.shape}, expected one size."
            )
        values, truth = soft[known].astype(np.float64), mask[known]
        if not values.size:
            return
        if not (values.min() >= 0 and values.max() <= 1):  # written so that NaN is refused as well
            raise ValueError(f"Got soft values from {values.min()} to {values.max()}, expected [0, 1].")
        places = (_clipped_logit(values) / LOGIT_LIMIT + 1) * (FINE_BINS / 2)
        bins = np.minimum(places.astype(np.int64), FINE_BINS - 1)
        for row, weights in enumerate((None, values, truth)):
            self._weights[row] += np.bincount(bins, weights, FINE_BINS) / values.size

    def reliability(self, temperature: float = 1.0, bins: int = RELIABILITY_BINS) -> Reliability:
        weight, values, true = self._at(temperature)
        rows = np.minimum((values * bins).astype(np.int64), bins - 1)
        total, soft, positive = (
            np.bincount(rows, weights, bins) for weights in (weight, weight * values, true)
        )
        with np.errstate(invalid="ignore"):
            return Reliability(share=total / total.sum(), soft=soft / total, true=positive / total)

    def calibration_error(self, temperature: float = 1.0, bins: int = RELIABILITY_BINS) -> float:
        """See `Reliability.error`."""
        return self.reliability(temperature, bins).error

    def brier(self, temperature: float = 1.0) -> float:
        """Mean squared difference of soft and true values: 0 is perfect, 0.25 a grey of 0.5 everywhere."""
        weight, values, true = self._at(temperature)
        return float((weight * values**2 - 2 * values * true + true).sum() / weight.sum())

    def cross_entropy(self, temperature: float = 1.0) -> float:
        """Of the clipped soft values, in nats per pixel."""
        weight, values, true = self._at(temperature)
        values = np.clip(values, *_CLIP) if temperature == 1 else values
        return float(-(true * np.log(values) + (weight - true) * np.log1p(-values)).sum() / weight.sum())

    def fit_temperature(self) -> float:
        """The one at which the cross-entropy is least, within `TEMPERATURE_RANGE`; above 1: the mask was too sure."""
        found = minimize_scalar(
            lambda log: self.cross_entropy(float(np.exp(log))),
            bounds=np.log(TEMPERATURE_RANGE),
            method="bounded",
        )
        return float(np.exp(found.x))

    def _at(self, temperature: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the bins in use: weight, soft value and weight of the mask's pixels."""
        some = self._weights[0] > 0
        if not some.any():
            raise ValueError(
                "Got no pixel whose truth is known, expected at least one: add() a sample first."
            )
        weight, soft, true = self._weights[:, some]
        return weight, with_temperature(soft / weight, temperature), true


def with_temperature(soft: np.ndarray, temperature: float) -> np.ndarray:
    """Soft values in [0, 1] -> sigmoid(logit(p) / T), of the same dtype; T = 1 leaves them as they are.

    Raises:
        ValueError: T is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"Got temperature {temperature}, expected a number above 0, such as 1.5.")
    if temperature == 1:
        return soft
    return expit(_clipped_logit(soft) / temperature).astype(soft.dtype)


def stability_score(soft: np.ndarray, mask: np.ndarray) -> float:
    """Segment Anything's: the IoU of the masks at logits above 1 and above -1; of an empty mask 1 minus the maximum."""
    if not mask.any():
        return 1 - float(soft.max())
    inner, outer = (np.count_nonzero(soft > level) for level in expit([1.0, -1.0]))
    return inner / outer if outer else 0.0


def expected_area(soft_mask: np.ndarray) -> float:
    """The share of the picture that the target may be expected to fill.

    Args:
        soft_mask: (H, W) in [0, 1], the probability of each pixel.
    """
    return float(soft_mask[soft_mask > FAINT].sum(dtype=np.float64)) / soft_mask.size


def largest_expected_iou(soft: np.ndarray) -> float:
    """The greatest `expected_iou` of all masks that are not empty: those of the k likeliest pixels; in [0, 1]."""
    likeliest = np.sort(soft, axis=None)[::-1].astype(np.float64)
    inside, pixels = np.cumsum(likeliest), np.arange(1, likeliest.size + 1)
    return float((inside / (pixels + inside[-1] - inside)).max())


def pearson(a: np.ndarray, b: np.ndarray) -> float | None:
    """The correlation of two series (n,); None where one does not vary."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """The correlation of their ranks, equal values sharing a rank; None where one does not vary."""
    return pearson(rankdata(a), rankdata(b))


def auroc(scores: np.ndarray, present: np.ndarray) -> float | None:
    """The chance that a present target has a higher score than an absent one, a tie counting half.

    Args:
        scores: (n,) floats.
        present: (n,) bool.

    Returns:
        In [0, 1], 0.5 by chance; None without one of either.
    """
    positive, negative = int(present.sum()), int((~present).sum())
    if not positive or not negative:
        return None
    above = rankdata(scores)[present].sum() - positive * (positive + 1) / 2
    return float(above / (positive * negative))


_CLIP = tuple(expit([-LOGIT_LIMIT, LOGIT_LIMIT]))


def _clipped_logit(values: np.ndarray) -> np.ndarray:
    return logit(np.clip(values.astype(np.float64), *_CLIP))
