"""Scores of soft masks: at several thresholds, and of how far they can be believed."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from genmask.data.example import Example
from genmask.evaluation.calibration import auroc
from genmask.evaluation.metrics import IoUTotals

THRESHOLDS = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
BINS = 15
"""Equal bins of soft values, for the calibration error."""


class SoftScores:
    """Soft masks and their examples, one after the other; the scores at the end.

    Ignored pixels count nowhere. In the Brier score and the calibration error every sample weighs the same, whatever
    its size.
    """

    def __init__(self) -> None:
        self._totals: dict[float, dict[str, IoUTotals]] = {
            threshold: defaultdict(IoUTotals) for threshold in THRESHOLDS
        }
        self._brier: list[float] = []
        self._bins = np.zeros((3, BINS))  # weight, sum of soft values, sum of true ones
        self._present: list[bool] = []
        self._signals: dict[str, list[float]] = defaultdict(list)

    def add(self, soft: np.ndarray, example: Example) -> None:
        """One sample: `soft` (H, W) float32 in [0, 1] at the size of the example."""
        assert example.mask is not None
        for threshold, by_kind in self._totals.items():
            by_kind[f"{example.source}/{example.kind}"].add(soft > threshold, example.mask, example.ignore)
        known = np.ones_like(example.mask) if example.ignore is None else ~example.ignore
        values, truth = soft[known].astype(np.float64), example.mask[known]
        if values.size:
            self._brier.append(float(np.mean((values - truth) ** 2)))
            bins = np.minimum((values * BINS).astype(np.int64), BINS - 1)
            for row, weights in enumerate((None, values, truth)):
                self._bins[row] += np.bincount(bins, weights, BINS) / values.size
        largest = float(soft.max())
        self._present.append(bool(example.mask.any()))
        self._signals["maximum"].append(largest)
        self._signals["mass"].append(float(soft.mean(dtype=np.float64)))
        # As `Segmentation.confidence`, turned round where nothing is found: low where the answer is surely empty.
        self._signals["confidence"].append(float(soft[soft > 0.5].mean()) if largest > 0.5 else largest)

    def report(self) -> dict[str, Any]:
        """Ready for JSON.

        * "thresholds": at each oIoU, mIoU, "macro" (the mean of oIoU over kinds, absent ones left out), and the shares
          of absent and present targets answered empty; None where there are no such samples.
        * "brier": mean squared difference of soft and true values; 0 is perfect, 0.25 a grey of 0.5 everywhere.
        * "calibration_error": mean distance of soft values from the share of true pixels among those of their bin.
        * "auroc": how well one number tells present targets from absent ones, 1 always, 0.5 by chance.
        """
        weight, soft, true = self._bins
        return {
            "samples": len(self._present),
            "thresholds": {str(threshold): self._at(threshold) for threshold in THRESHOLDS},
            "brier": float(np.mean(self._brier)),
            "calibration_error": float(np.abs(soft - true).sum() / weight.sum()),
            "auroc": {
                name: auroc(np.array(values), np.array(self._present))
                for name, values in self._signals.items()
            },
        }

    def _at(self, threshold: float) -> dict[str, float | None]:
        by_kind = self._totals[threshold]
        totals = IoUTotals()
        for each in by_kind.values():
            totals.merge(each)
        present = np.array(self._present)
        shares: dict[str, float | None] = {"absent_empty": None, "present_empty": None}
        if not present.all():
            shares["absent_empty"] = totals.no_target_accuracy()
        if present.any():
            shares["present_empty"] = 1 - totals.target_accuracy()
        named = [each.overall_iou() for kind, each in by_kind.items() if not kind.endswith("/absent")]
        return {
            "oIoU": totals.overall_iou(),
            "mIoU": totals.mean_iou(),
            "macro": float(np.mean(named)) if named else None,
            **shares,
        }
