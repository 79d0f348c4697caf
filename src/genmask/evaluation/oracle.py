"""The right mask, drawn through the VAE: what no transformer on this VAE can beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from genmask.data.transforms import resize_mask
from genmask.images import processing_size
from genmask.latents import mask_to_pixels, pixels_to_soft_mask, resize_soft_masks
from genmask.pipeline import GenMaskPipeline


@torch.no_grad()
def round_trip(pipeline: GenMaskPipeline, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Send masks through the VAE at the size the pipeline works at.

    masks: B of them, (H, W) bool, of one size. Returns soft masks, (B, H, W) float32 in [0, 1].
    """
    height, width = masks[0].shape
    size = processing_size(height, width, pipeline.config.resolution**2, pipeline.cell)
    pixels = mask_to_pixels(torch.from_numpy(np.stack([resize_mask(mask, *size) for mask in masks])))
    codec = pipeline.codec
    soft = pixels_to_soft_mask(codec.decode(codec.encode(pixels.to(pipeline.device)))).float().cpu()
    return resize_soft_masks(soft, height, width).numpy()
