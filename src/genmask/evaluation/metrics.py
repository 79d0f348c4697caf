"""Scores of referring segmentation, from exact pixel counts."""

from __future__ import annotations

import math

import numpy as np
import torch

Mask = np.ndarray | torch.Tensor


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
        self._intersection: list[int] = []
        self._prediction: list[int] = []
        self._target: list[int] = []

    def add(self, prediction: Mask, target: Mask, ignore: Mask | None = None) -> None:
        """Count one sample.

        Args:
            prediction: (H, W) bool.
            target: (H, W) bool; all False where what was asked for is absent.
            ignore: (H, W) bool: pixels left out of both.

        Raises:
            ValueError: a mask is not (H, W) bool, or the sizes differ. The sample is not counted then.
        """
        predicted, wanted = _plane(prediction, "prediction"), _plane(target, "target")
        ignored = _plane(ignore, "ignore") if ignore is not None else np.zeros_like(wanted)
        if not predicted.shape == wanted.shape == ignored.shape:
            raise ValueError(
                f"Got prediction {predicted.shape}, target {wanted.shape}, ignore {ignored.shape}, "
                "expected one size: resize the prediction to the target."
            )
        predicted, wanted = predicted & ~ignored, wanted & ~ignored
        self._intersection.append(int(np.count_nonzero(predicted & wanted)))
        self._prediction.append(int(np.count_nonzero(predicted)))
        self._target.append(int(np.count_nonzero(wanted)))

    def merge(self, other: IoUTotals) -> IoUTotals:
        """Append the samples of `other`, in their order; returns self."""
        self._intersection += other._intersection
        self._prediction += other._prediction
        self._target += other._target
        return self

    @property
    def num_samples(self) -> int:
        return len(self._intersection)

    @property
    def intersection(self) -> np.ndarray:
        """(num_samples,) int64: I of each sample, in pixels."""
        return np.array(self._intersection, dtype=np.int64)

    @property
    def union(self) -> np.ndarray:
        """(num_samples,) int64: U of each sample, in pixels."""
        areas = np.array(self._prediction, dtype=np.int64) + np.array(self._target, dtype=np.int64)
        return areas - self.intersection

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
        answers = [p == 0 for p, t in zip(self._prediction, self._target, strict=True) if t == 0]
        return sum(answers) / self._some(len(answers), "sample with an empty target")

    def target_accuracy(self) -> float:
        """gRefCOCO's T-acc: of the samples with a target, the share answered with a mask, right or wrong."""
        answers = [p > 0 for p, t in zip(self._prediction, self._target, strict=True) if t > 0]
        return sum(answers) / self._some(len(answers), "sample with a target")

    @staticmethod
    def _some(count: int, what: str) -> int:
        if count == 0:
            raise ValueError(f"Got no {what}, expected at least one: add() it first.")
        return count


def _plane(mask: Mask, name: str) -> np.ndarray:
    plane = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if plane.ndim != 2 or plane.dtype != np.bool_:
        raise ValueError(f"Got {name} {plane.shape} {plane.dtype}, expected (H, W) bool: threshold it first.")
    return plane
