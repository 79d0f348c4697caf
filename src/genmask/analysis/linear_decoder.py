"""Fits the linear map from latents to masks by least squares, in closed form: a decoder without the VAE.

Fitted on latents of true masks, it reads what the VAE wrote. Fitted on a model's own one-step predictions, it is the
regression E[mask | prediction]: where the model wavers the soft mask is grey, as it should be, and a lower threshold
finds more; the VAE's decoder draws black or white there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from genmask.mask_head import LinearMaskHead, surroundings

RIDGE = 1e-6
"""Share of the features' variance that is added to it: too little to move the map, enough where features are alike."""
LARGEST_SCALE = 30.0
"""Of the logits, where a perfect map would have them grow without end."""


def fit_linear_head(
    latents: Sequence[Tensor],
    masks: Sequence[Tensor],
    *,
    kernel: int = 1,
    weights: Sequence[Tensor] | None = None,
) -> LinearMaskHead:
    """The linear map that comes nearest to +1 on the mask and -1 beside it, its output scaled to logits.

    The scale is the one number by which the cross-entropy of the sigmoid with the masks is least.

    Args:
        latents: batches, each (B, C, h, w), normalised; sizes may differ from batch to batch.
        masks: of each batch, (B, 8h, 8w) bool.
        kernel: side of the square of cells that a cell's pixels are made of; see `LinearMaskHead`.
        weights: of each batch, (B, 1, h, w): how much each cell counts; None is 1 throughout.

    Returns:
        A head in float32 on the CPU, in evaluation mode.

    Raises:
        ValueError: no batch, lists of unequal lengths, masks that do not fit the latents, or no cell that counts.
    """
    weights = _weights(latents, weights)
    head = least_squares(latents, masks, kernel=kernel, weights=weights)
    scale = _fit_scale(head, latents, masks, weights)
    with torch.no_grad():
        head.linear.weight.mul_(scale)
        head.linear.bias.mul_(scale)
    return head


@torch.no_grad()
def least_squares(
    latents: Sequence[Tensor],
    masks: Sequence[Tensor],
    *,
    kernel: int = 1,
    weights: Sequence[Tensor] | None = None,
) -> LinearMaskHead:
    """`fit_linear_head` without the scale: its output lies about between -1 and +1, and its sign is the mask.

    Solves the normal equations, summed up in float64.
    """
    weights = _weights(latents, weights)
    if not latents or not len(latents) == len(masks) == len(weights):
        raise ValueError(
            f"Got {len(latents)} batches of latents, {len(masks)} of masks and {len(weights)} of weights, expected "
            "equally many, at least one."
        )
    channels, cell = latents[0].shape[1], masks[0].shape[-1] // latents[0].shape[-1]
    features, pixels = channels * kernel**2, cell**2
    total = torch.zeros((), dtype=torch.float64)
    sum_x, sum_y = (torch.zeros(size, dtype=torch.float64) for size in (features, pixels))
    sum_xx, sum_xy = (torch.zeros(features, size, dtype=torch.float64) for size in (features, pixels))
    for z, mask, weight in zip(latents, masks, weights, strict=True):
        if mask.shape != (len(z), cell * z.shape[2], cell * z.shape[3]):
            raise ValueError(
                f"Got masks {tuple(mask.shape)} for latents {tuple(z.shape)}, expected {cell} pixels for each cell."
            )
        w = weight.double().reshape(-1, 1)
        x, y = surroundings(z.double(), kernel).flatten(0, 2), _targets(mask, cell)
        total += w.sum()
        sum_x += (w * x).sum(dim=0)
        sum_y += (w * y).sum(dim=0)
        sum_xx += x.T @ (w * x)
        sum_xy += x.T @ (w * y)
    if total == 0:
        raise ValueError("Got weights of 0 throughout, expected some cell that counts: fit on other samples.")
    mean_x, mean_y = sum_x / total, sum_y / total
    covariance = sum_xx / total - mean_x.outer(mean_x)
    ridge = RIDGE * covariance.diagonal().mean() + torch.finfo(torch.float64).tiny
    solution = torch.linalg.solve(
        covariance + ridge * torch.eye(features, dtype=torch.float64),
        sum_xy / total - mean_x.outer(mean_y),
    )

    head = LinearMaskHead(channels, cell, kernel).eval()
    head.linear.weight.copy_(solution.T)
    head.linear.bias.copy_(mean_y - mean_x @ solution)
    return head


def _weights(latents: Sequence[Tensor], weights: Sequence[Tensor] | None) -> Sequence[Tensor]:
    return [torch.ones_like(z[:, :1]) for z in latents] if weights is None else weights


def _targets(mask: Tensor, cell: int) -> Tensor:
    """(B, H, W) bool -> +1 and -1, the pixels of each cell in a row: (B * h * w, cell * cell) float64."""
    signs = mask.unsqueeze(1).double() * 2 - 1
    return F.pixel_unshuffle(signs, cell).movedim(1, -1).flatten(0, 2)


@torch.no_grad()
def _fit_scale(
    head: LinearMaskHead, latents: Sequence[Tensor], masks: Sequence[Tensor], weights: Sequence[Tensor]
) -> float:
    """The factor of the head's output at which its cross-entropy with the masks is least."""
    rows = []
    for z, mask, weight in zip(latents, masks, weights, strict=True):
        margins = torch.where(mask, 1, -1) * head(z)
        rows.append((margins, F.interpolate(weight, scale_factor=head.config.cell)[:, 0]))

    def cross_entropy(scale: float) -> float:
        return sum(float((F.softplus(-scale * margins) * weight).sum()) for margins, weight in rows)

    return float(minimize_scalar(cross_entropy, bounds=(0, LARGEST_SCALE), method="bounded").x)
