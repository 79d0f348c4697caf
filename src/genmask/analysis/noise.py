"""What noise leaves of masks and of pictures: Figures 2 and 4."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genmask.analysis.linear_decoder import least_squares
from genmask.analysis.material import by_shape
from genmask.latents import LatentCodec, images_to_pixels, mask_to_pixels
from genmask.objectives import interpolate
from genmask.sampling import seeded_noise

LEVELS = (*(round(0.05 * i, 2) for i in range(20)), 0.975, 0.99, 1.0)
"""Noise levels t at which everything is measured; 1 is pure noise."""
KERNELS = (1, 3)
"""Of the least-squares maps of Figure 4: a cell alone, and with its neighbours."""
BATCH_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class Survival:
    """Figure 2: x_t of masks and of pictures, decoded as it is, beside the same without noise."""

    t: tuple[float, ...]
    mask_iou: tuple[float, ...]
    """Of the decoded mask above one half with the true one, pixels of all masks together."""
    mask_correlation: tuple[float, ...]
    """Pearson's, of all decoded and true pixels."""
    picture_correlation: tuple[float, ...]
    mask_psnr: tuple[float, ...]
    """In dB, of all pixels together."""
    picture_psnr: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class LinearAccuracy:
    """Figure 4: the share of pixels that a least-squares map of noised latents tells right, fitted at each t."""

    t: tuple[float, ...]
    accuracy: dict[int, tuple[float, ...]]
    """By the map's kernel."""
    iou: dict[int, tuple[float, ...]]
    majority: float
    """Share of the pixels beside the masks: the accuracy of answering nothing."""


@torch.no_grad()
def measure_survival(
    codec: LatentCodec, masks: Sequence[np.ndarray], pictures: Sequence[np.ndarray], seed: int
) -> Survival:
    """Decode x_t = (1 - t) x0 + t eps at all `LEVELS`.

    Args:
        codec: of the VAE.
        masks: each (h, w) bool.
        pictures: each (h, w, 3) uint8.
        seed: of the noise, which is the same at all levels.
    """
    sums = {"mask": np.zeros((len(LEVELS), 8)), "picture": np.zeros((len(LEVELS), 8))}
    for name, arrays in (("mask", masks), ("picture", pictures)):
        for rows in by_shape(arrays, BATCH_SIZE):
            pixels = as_pixels([arrays[row] for row in rows])
            for level, decoded in enumerate(decode_noised(codec, pixels, LEVELS, seed + rows[0])):
                sums[name][level] += _moments(decoded, (pixels + 1) / 2)
    return Survival(
        t=LEVELS,
        mask_iou=tuple(float(row[6] / max(row[7], 1)) for row in sums["mask"]),
        mask_correlation=tuple(map(_correlation, sums["mask"])),
        picture_correlation=tuple(map(_correlation, sums["picture"])),
        mask_psnr=tuple(map(_psnr, sums["mask"])),
        picture_psnr=tuple(map(_psnr, sums["picture"])),
    )


@torch.no_grad()
def measure_linear_accuracy(latents: Sequence[Tensor], masks: Sequence[Tensor], seed: int) -> LinearAccuracy:
    """Fit on every other mask's noised latents, measure on the rest, at all `LEVELS`.

    Args:
        latents: batches, each (B, C, h, w), of true masks.
        masks: of each batch, (B, 8h, 8w) bool.
        seed: of the noise.

    Raises:
        ValueError: no batch of two.
    """
    noises = [seeded_noise(seed + i, z.shape[1:], len(z)) for i, z in enumerate(latents)]
    fitted, rest = [mask[::2] for mask in masks], [mask[1::2] for mask in masks]
    truth = torch.cat([mask.flatten() for mask in rest])
    if not truth.numel():
        raise ValueError(
            "Got no two masks of one size, expected one to fit on and one to measure on: give more."
        )
    accuracy: dict[int, list[float]] = {kernel: [] for kernel in KERNELS}
    iou: dict[int, list[float]] = {kernel: [] for kernel in KERNELS}
    for t in LEVELS:
        noised = [interpolate(z, eps, torch.tensor(t)) for z, eps in zip(latents, noises, strict=True)]
        for kernel in KERNELS:
            head = least_squares([x_t[::2] for x_t in noised], fitted, kernel=kernel)
            answer = torch.cat([(head(x_t[1::2]) > 0).flatten() for x_t in noised])
            accuracy[kernel].append(float((answer == truth).double().mean()))
            union = int((answer | truth).sum())
            iou[kernel].append(int((answer & truth).sum()) / union if union else 1.0)
    return LinearAccuracy(
        t=LEVELS,
        accuracy={kernel: tuple(values) for kernel, values in accuracy.items()},
        iou={kernel: tuple(values) for kernel, values in iou.items()},
        majority=float((~truth).double().mean()),
    )


def as_pixels(arrays: Sequence[np.ndarray]) -> Tensor:
    """Masks (h, w) bool or pictures (h, w, 3) uint8, all of one size -> (B, 3, h, w) in [-1, 1]."""
    stacked = torch.from_numpy(np.stack(arrays))
    return mask_to_pixels(stacked) if stacked.dtype == torch.bool else images_to_pixels(stacked)


@torch.no_grad()
def decode_noised(codec: LatentCodec, pixels: Tensor, levels: Sequence[float], seed: int) -> Iterator[Tensor]:
    """Pixels (B, 3, h, w) in [-1, 1] -> at each level t the decoded x_t, like pixels but in [0, 1], on the CPU."""
    x0 = codec.encode(pixels.to(codec.vae.device))
    eps = seeded_noise(seed, x0.shape[1:], len(x0)).to(x0.device)
    for t in levels:
        yield ((codec.decode(interpolate(x0, eps, torch.tensor(t, device=x0.device))) + 1) / 2).cpu()


def _moments(decoded: Tensor, true: Tensor) -> np.ndarray:
    """Count, sums, sums of squares and of products of all values; pixels above one half in both, and in either."""
    x, y = decoded.double(), true.double()
    grey, is_mask = x.mean(dim=1) > 0.5, y.mean(dim=1) > 0.5
    sums = [float(each.sum()) for each in (x, y, x * x, y * y, x * y)]
    return np.array([x.numel(), *sums, int((grey & is_mask).sum()), int((grey | is_mask).sum())])


def _correlation(moments: np.ndarray) -> float:
    n, x, y, xx, yy, xy, *_ = moments
    spread = (xx - x * x / n) * (yy - y * y / n)
    return float((xy - x * y / n) / np.sqrt(spread)) if spread > 0 else 0.0


def _psnr(moments: np.ndarray) -> float:
    n, _, _, xx, yy, xy, *_ = moments
    return float(-10 * np.log10(max((xx + yy - 2 * xy) / n, 1e-10)))
