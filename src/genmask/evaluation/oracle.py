"""The right mask, drawn through the VAE: what no transformer on this VAE can beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from genmask.data.transforms import resize_mask
from genmask.images import processing_size
from genmask.latents import COMPRESSION, mask_to_pixels, pixels_to_soft_mask
from genmask.pipeline import GenMaskPipeline


@torch.no_grad()
def round_trip(pipeline: GenMaskPipeline, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Send masks through the VAE at the size the pipeline works at.

    masks: B of them, (H, W) bool, of one size. Returns soft masks, (B, H, W) float32 in [0, 1].
    """
    height, width = masks[0].shape
    cell = COMPRESSION * pipeline.transformer.config.patch_size[-1]
    size = processing_size(height, width, pipeline.config.resolution**2, cell)
    pixels = mask_to_pixels(torch.from_numpy(np.stack([resize_mask(mask, *size) for mask in masks])))
    codec = pipeline.codec
    soft = pixels_to_soft_mask(codec.decode(codec.encode(pixels.to(pipeline.device)))).float().cpu()
    back = F.interpolate(soft.unsqueeze(1), size=(height, width), mode="bilinear", antialias=True)
    return back.squeeze(1).clamp(0, 1).numpy()
