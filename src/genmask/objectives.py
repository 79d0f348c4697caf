"""Flow matching and the three supervisions of Table 4, in the paper's letters; pure functions.

    x0   target latents                         (B, C, h, w)
    eps  noise ~ N(0, I), like x0
    t    noise level in [0, 1], 1 pure noise    (B,)
    v    velocity, what the network predicts    (B, C, h, w), unless it predicts x0_hat itself

Every loss comes back as the weighted sums and the sums of the weights of its samples: the mean is taken once, over all
processes and micro-batches of a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PIXEL_LOGIT_SCALE = 5.0
"""Logit = 5 * grey in [-1, 1]: without a scale the pixel loss cannot fall below 0.31."""


class WeightedSum(NamedTuple):
    """A loss as `total.sum() / weight.sum()`, with both by sample."""

    total: Tensor
    """(B,)"""
    weight: Tensor
    """(B,)"""

    def mean(self) -> Tensor:
        return self.total.sum() / self.weight.sum().clamp_min(1e-8)


def interpolate(x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Eq. 1: x_t = (1 - t) x0 + t eps."""
    t = t.view(-1, *[1] * (x0.ndim - 1))
    return (1 - t) * x0 + t * eps


def velocity(x0: Tensor, eps: Tensor) -> Tensor:
    """v = d x_t / dt = eps - x0."""
    return eps - x0


def predict_x0(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """x0_hat = x_t - t v; at t = 1 this is Eq. 8, x0_hat = eps - v."""
    return x_t - t.view(-1, *[1] * (x_t.ndim - 1)) * v


def latent_weight(ignore: Tensor, cell: int = 8) -> Tensor:
    """(B, H, W) bool, True where no label is known -> (B, 1, H/cell, W/cell): 0 for a cell that touches one."""
    return 1 - F.max_pool2d(ignore.float().unsqueeze(1), cell)


def mse_loss(v_hat: Tensor, v: Tensor, weight: Tensor | None = None) -> WeightedSum:
    """Eq. 2, the paper's best supervision. `weight` broadcasts to (B, 1, h, w)."""
    return _weighted((v_hat.float() - v).square(), weight)


def bce_pixel_loss(
    x0_hat: Tensor, mask: Tensor, decode: Callable[[Tensor], Tensor], ignore: Tensor | None = None
) -> WeightedSum:
    """Binary cross-entropy on the picture that `decode` (the frozen VAE, without its clamp) makes of x0_hat.

    mask, ignore: (B, H, W) bool; decode: (B, C, h, w) -> (B, 3, H, W).
    """
    grey = decode(x0_hat).float().mean(dim=1)
    return _cross_entropy(PIXEL_LOGIT_SCALE * grey, mask, ignore)


def bce_linear_loss(logits: Tensor, mask: Tensor, ignore: Tensor | None = None) -> WeightedSum:
    """Binary cross-entropy of the logits (B, H, W) that a learnable linear map makes of x0_hat; no VAE decoder."""
    return _cross_entropy(logits, mask, ignore)


def _cross_entropy(logits: Tensor, mask: Tensor, ignore: Tensor | None) -> WeightedSum:
    error = F.binary_cross_entropy_with_logits(logits.float(), mask.float(), reduction="none")
    return _weighted(error, None if ignore is None else (~ignore).float())


def _weighted(error: Tensor, weight: Tensor | None) -> WeightedSum:
    weight = torch.ones_like(error) if weight is None else weight.expand_as(error)
    return WeightedSum((weight * error).flatten(1).sum(dim=1), weight.flatten(1).sum(dim=1))
