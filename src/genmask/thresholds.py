"""From how likely each pixel is to a mask: the threshold that promises the best IoU, and when nothing is there.

A fixed threshold of 0.5 maximises the expected number of right pixels. IoU, which masks are judged by, is another
matter: where the model wavers, the mask that may expect most of it takes in pixels below 0.5.
"""

from __future__ import annotations

from math import ceil

import numpy as np

LEVELS = 1024
"""Thresholds that are tried, evenly spaced in [0, 1); a picture's pixels are counted once, whatever their number."""
FAINT = 0.02
"""Probabilities below are what soft masks of nothing are full of: they do not count as area, nor are they ever mask."""


def mean_confidence(soft_mask: np.ndarray, mask: np.ndarray) -> float:
    """The mean of the soft mask over the mask; of an empty one 1 minus the maximum.

    Args:
        soft_mask: (H, W) in [0, 1].
        mask: (H, W) bool, where it is above the threshold.
    """
    return float(soft_mask[mask].mean(dtype=np.float64)) if mask.any() else 1 - float(soft_mask.max())


def expected_iou(soft_mask: np.ndarray, mask: np.ndarray, faint: float = 0.0) -> float:
    """The IoU of a mask with a target whose pixels are drawn independently: E[intersection] / E[union].

    sum of p over the mask / (pixels of the mask + sum of p beside it); of an empty mask 1 minus the maximum.

    Args:
        soft_mask: (H, W) in [0, 1], the probability p of each pixel.
        mask: (H, W) bool.
        faint: values up to this count as 0; a haze over the whole picture adds up to more than a small thing.
    """
    if not mask.any():
        return 1 - float(soft_mask.max())
    inside = float(soft_mask[mask].sum(dtype=np.float64))
    beside = float(soft_mask[~mask & (soft_mask > faint)].sum(dtype=np.float64))
    return inside / (np.count_nonzero(mask) + beside)


def best_threshold(soft_mask: np.ndarray, presence: float | None = None) -> float:
    """The threshold c for which the mask `soft_mask > c` has the greatest expected IoU with the target.

    See `expected_iou`; the haze counts here as what may be missed, but no threshold lies below `FAINT`.

    Args:
        soft_mask: (H, W) in [0, 1], the probability of each pixel.
        presence: the probability that the target is there; below 0.5 it is taken for absent. None: where no pixel is
            above 0.5. The threshold of an absent one is the greatest probability, above which there is nothing.

    Returns:
        In [0, 1).
    """
    peak = float(soft_mask.max())
    is_absent = peak <= 0.5 if presence is None else presence < 0.5
    if is_absent and peak < 1:
        return peak
    levels = np.minimum((soft_mask * LEVELS).astype(np.int64), LEVELS - 1).ravel()
    area = np.bincount(levels, minlength=LEVELS)[::-1].cumsum()
    inside = np.bincount(levels, weights=soft_mask.ravel(), minlength=LEVELS)[::-1].cumsum()
    # Of the masks that hold the pixels of the 1, 2, ... highest levels; without any pixel the ratio is 0 / 0.
    promised = inside / np.maximum(area + inside[-1] - inside, np.finfo(float).tiny)
    level = LEVELS - 1 - int(promised[: LEVELS - ceil(FAINT * LEVELS)].argmax())
    return float(np.nextafter(np.float32(level / LEVELS), np.float32(0)))
