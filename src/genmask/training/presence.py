"""Telling whether the target is there at all, trained beside the masks: what an empty mask can say only weakly."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from genmask.objectives import WeightedSum


def presence_loss(logits: Tensor, masks: Tensor, ignore: Tensor) -> WeightedSum:
    """Binary cross-entropy of the target's being there.

    Args:
        logits: (B,), of a presence head.
        masks, ignore: (B, H, W) bool, the target and where no label is known.
    """
    error = F.binary_cross_entropy_with_logits(logits, masks.flatten(1).any(dim=1).float(), reduction="none")
    known = presence_known(masks, ignore)
    return WeightedSum(known * error, known)


def presence_known(masks: Tensor, ignore: Tensor) -> Tensor:
    """(B,) float32, 0 where the target, which is nowhere seen, may be where no label is known."""
    return (masks.flatten(1).any(dim=1) | ~ignore.flatten(1).any(dim=1)).float()
