"""A linear map from latents to a mask, in place of the VAE's decoder: learnt with the transformer (the third
supervision), or fitted to a finished model by `genmask.analysis.linear_decoder`."""

from __future__ import annotations

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class LinearMaskHead(ModelMixin, ConfigMixin):
    """(B, C, h, w) normalised latents -> (B, 8h, 8w) logits; at inference it replaces the VAE decoder.

    Args:
        latent_channels: C.
        cell: pixels per latent cell, along each side.
        kernel: side, in cells, of the square that the pixels of the cell in its middle are made of; odd. 1, the
            paper's, is that cell alone.
    """

    @register_to_config
    def __init__(self, latent_channels: int = 16, cell: int = 8, kernel: int = 1) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(
                f"Got kernel {kernel} of a mask head, expected an odd number of cells, such as 1 or 3."
            )
        self.linear = nn.Linear(latent_channels * kernel**2, cell**2)

    def forward(self, latents: Tensor) -> Tensor:
        cells = surroundings(latents.to(self.linear.weight.dtype), self.config.kernel)
        logits = self.linear(cells).movedim(-1, 1)  # (B, 64, h, w)
        return F.pixel_shuffle(logits, self.config.cell).squeeze(1)


def surroundings(latents: Tensor, kernel: int) -> Tensor:
    """(B, C, h, w) -> each cell with the cells around it, (B, h, w, C * kernel * kernel); the border is repeated."""
    if kernel == 1:
        return latents.movedim(1, -1)
    reach = kernel // 2
    padded = F.pad(latents, (reach, reach, reach, reach), mode="replicate")
    return (
        padded.unfold(2, kernel, 1).unfold(3, kernel, 1).movedim(1, 3).flatten(3)
    )  # (B, h, w, C, k, k) before
