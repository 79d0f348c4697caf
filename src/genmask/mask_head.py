"""The learnable linear map of the third supervision: a latent cell's channels to the logits of its 8x8 pixels."""

from __future__ import annotations

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class LinearMaskHead(ModelMixin, ConfigMixin):
    """(B, C, h, w) normalised latents -> (B, 8h, 8w) logits; at inference it replaces the VAE decoder."""

    @register_to_config
    def __init__(self, latent_channels: int = 16, cell: int = 8) -> None:
        super().__init__()
        self.linear = nn.Linear(latent_channels, cell * cell)

    def forward(self, latents: Tensor) -> Tensor:
        logits = self.linear(latents.to(self.linear.weight.dtype).movedim(1, -1)).movedim(
            -1, 1
        )  # (B, 64, h, w)
        return F.pixel_shuffle(logits, self.config.cell).squeeze(1)
