"""Principal components of the latents of masks, and of pictures beside them: Figure 3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Components:
    """The principal components of latent cells, by falling variance."""

    mask_variance: tuple[float, ...]
    """Share of the variance of masks' cells that each component explains; they sum to 1."""
    picture_variance: tuple[float, ...]
    """The same of pictures' cells, in components of their own."""
    correlation: tuple[float, ...]
    """Pearson's, of each component of masks' cells with the share of the cell that the mask covers; absolute."""
    mean: Tensor
    """(C,) float64, of the masks' cells."""
    first: Tensor
    """(C,) float64 of length 1: the first component, signed so that it grows with the mask."""

    def project(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> the first component of each cell, (B, h, w) float32."""
        return torch.einsum("bchw,c->bhw", latents.double() - self.mean.view(1, -1, 1, 1), self.first).float()


def find_components(
    mask_latents: Sequence[Tensor], masks: Sequence[Tensor], picture_latents: Sequence[Tensor]
) -> Components:
    """From batches of latents (B, C, h, w), and of masks (B, 8h, 8w) bool."""
    cells = _cells(mask_latents)
    cell = masks[0].shape[-1] // mask_latents[0].shape[-1]
    coverage = torch.cat([F.avg_pool2d(mask.double().unsqueeze(1), cell).flatten() for mask in masks])
    mean, variance, axes = _principal(cells)
    scores = (cells - mean) @ axes
    correlation = torch.corrcoef(torch.cat([scores, coverage.unsqueeze(1)], dim=1).T)[-1, :-1]
    return Components(
        mask_variance=tuple(variance.tolist()),
        picture_variance=tuple(_principal(_cells(picture_latents))[1].tolist()),
        correlation=tuple(correlation.abs().tolist()),
        mean=mean,
        first=axes[:, 0] * (-1 if correlation[0] < 0 else 1),
    )


def _cells(latents: Sequence[Tensor]) -> Tensor:
    """Batches (B, C, h, w) -> (cells, C) float64."""
    return torch.cat([z.movedim(1, -1).flatten(0, 2) for z in latents]).double()


def _principal(cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(cells, C) -> mean (C,), shares of the variance (C,), axes (C, C) in columns; by falling variance."""
    mean = cells.mean(dim=0)
    variance, axes = torch.linalg.eigh(torch.cov(cells.T, correction=0))
    return mean, (variance / variance.sum()).flip(0), axes.flip(1)
