"""Scores of referring segmentation, from exact pixel counts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

Mask = np.ndarray | torch.Tensor

RESAMPLES_AT_ONCE = 50
"""Bootstrap resamples that are held in memory together, 8 bytes for each and each sample."""


class Counts(NamedTuple):
    """Pixels of one sample."""

    intersection: int
    """In prediction and target."""
    prediction: int
    target: int


class Interval(NamedTuple):
    """Bounds of a confidence interval."""

    low: float
    high: float


def count_pixels(prediction: Mask, target: Mask, ignore: Mask | None = None) -> Counts:
    """Count one sample.

    Args:
        prediction: (H, W) bool.
        target: (H, W) bool; all False where what was asked for is absent.
        ignore: (H, W) bool: pixels left out of both.

    Raises:
        ValueError: a mask is not (H, W) bool, or the sizes differ.
    """
    predicted, wanted = _plane(prediction, "prediction"), _plane(target, "target")
    ignored = _plane(ignore, "ignore") if ignore is not None else np.zeros_like(wanted)
    if not predicted.shape == wanted.shape == ignored.shape:
        raise ValueError(
            f"Got prediction {predicted.shape}, target {wanted.shape}, ignore {ignored.shape}, "
            "expected one size: resize the prediction to the target."
        )
    predicted, wanted = predicted & ~ignored, wanted & ~ignored
    return Counts(
        intersection=int(np.count_nonzero(predicted & wanted)),
        prediction=int(np.count_nonzero(predicted)),
        target=int(np.count_nonzero(wanted)),
    )


class IoUTotals:
    """Pixel counts of every sample, in the order added, and the scores that follow from them.

    With I = |prediction and target| and U = |prediction or target| of a sample, foreground only:

    * `mean_iou`: the mean of I / U over the samples; the field's mIoU, which LISA and ReasonSeg call gIoU.
    * `overall_iou`: sum of I / sum of U; the field's oIoU, which LISA and ReasonSeg call cIoU.
    * `precision_at(x)`: the share of samples with I / U >= x; the field's Pr@X.

    **The empty rule**: where prediction and target are both empty, I / U is 0 / 0 and counts as `empty`.
    The answer is right, so the default is 1, as in LISA and gRefCOCO; LAVT counts it 0. Where only one of
    the two is empty, the formula gives 0.

    Counts are integers and the mean is a correctly rounded sum, so no score depends on the order of the
    samples, or on how they were shared out before `merge`. Every score lies in [0, 1], and raises ValueError
    where it would be the mean of nothing.
    """

    def __init__(self) -> None:
        self._counts: list[Counts] = []

    def add(self, prediction: Mask, target: Mask, ignore: Mask | None = None) -> None:
        """Count one sample, as `count_pixels` does; if it raises, the sample is not counted."""
        self._counts.append(count_pixels(prediction, target, ignore))

    def add_counts(self, counts: Counts) -> None:
        """A sample that was counted elsewhere."""
        self._counts.append(counts)

    def merge(self, other: IoUTotals) -> IoUTotals:
        """Append the samples of `other`, in their order; returns self."""
        self._counts += other._counts
        return self

    @property
    def num_samples(self) -> int:
        return len(self._counts)

    @property
    def intersection(self) -> np.ndarray:
        """(num_samples,) int64: I of each sample, in pixels."""
        return np.array([c.intersection for c in self._counts], dtype=np.int64)

    @property
    def union(self) -> np.ndarray:
        """(num_samples,) int64: U of each sample, in pixels."""
        return np.array([c.prediction + c.target - c.intersection for c in self._counts], dtype=np.int64)

    def ious(self, empty: float = 1.0) -> list[float]:
        """I / U of each sample, in order; `empty` where U = 0."""
        pairs = zip(self.intersection.tolist(), self.union.tolist(), strict=True)
        return [i / u if u else empty for i, u in pairs]

    def mean_iou(self, empty: float = 1.0) -> float:
        return math.fsum(self.ious(empty)) / self._some(self.num_samples, "sample")

    def overall_iou(self, empty: float = 1.0) -> float:
        self._some(self.num_samples, "sample")
        union = int(self.union.sum())
        return int(self.intersection.sum()) / union if union else empty

    def precision_at(self, x: float, empty: float = 1.0) -> float:
        return sum(iou >= x for iou in self.ious(empty)) / self._some(self.num_samples, "sample")

    def no_target_accuracy(self) -> float:
        """gRefCOCO's N-acc: of the samples with an empty target, the share answered with an empty mask."""
        answers = [c.prediction == 0 for c in self._counts if c.target == 0]
        return sum(answers) / self._some(len(answers), "sample with an empty target")

    def target_accuracy(self) -> float:
        """gRefCOCO's T-acc: of the samples with a target, the share answered with a mask, right or wrong."""
        answers = [c.prediction > 0 for c in self._counts if c.target > 0]
        return sum(answers) / self._some(len(answers), "sample with a target")

    def empty_answers(self) -> int:
        """Samples whose prediction is empty."""
        return sum(c.prediction == 0 for c in self._counts)

    def mean_iou_interval(
        self, confidence: float = 0.95, *, resamples: int = 1000, seed: int = 0, empty: float = 1.0
    ) -> Interval:
        """Bootstrap percentile interval of `mean_iou`: over samples drawn with replacement, as many as there are."""
        ious = np.array(self.ious(empty))
        drawn = [weights @ ious / len(ious) for weights in self._resamples(resamples, seed)]
        return _percentiles(np.concatenate(drawn), confidence)

    def overall_iou_interval(
        self, confidence: float = 0.95, *, resamples: int = 1000, seed: int = 0, empty: float = 1.0
    ) -> Interval:
        """The same of `overall_iou`."""
        drawn = []
        for weights in self._resamples(resamples, seed):
            intersection, union = weights @ self.intersection, weights @ self.union
            drawn.append(np.where(union > 0, intersection / np.maximum(union, 1), empty))
        return _percentiles(np.concatenate(drawn), confidence)

    def _resamples(self, count: int, seed: int) -> Iterator[np.ndarray]:
        """How often each sample is drawn, (some of the resamples, num_samples) int64, until there were `count`."""
        samples = self._some(self.num_samples, "sample")
        rng = np.random.default_rng(seed)
        for start in range(0, count, RESAMPLES_AT_ONCE):
            yield rng.multinomial(
                samples, np.full(samples, 1 / samples), size=min(RESAMPLES_AT_ONCE, count - start)
            )

    @staticmethod
    def _some(count: int, what: str) -> int:
        if count == 0:
            raise ValueError(f"Got no {what}, expected at least one: add() it first.")
        return count


def _percentiles(values: np.ndarray, confidence: float) -> Interval:
    if not 0 < confidence < 1:
        raise ValueError(f"Got confidence {confidence}, expected one between 0 and 1, such as 0.95.")
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def _plane(mask: Mask, name: str) -> np.ndarray:
    plane = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if plane.ndim != 2 or plane.dtype != np.bool_:
        raise ValueError(f"Got {name} {plane.shape} {plane.dtype}, expected (H, W) bool: threshold it first.")
    return plane
