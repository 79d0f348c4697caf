"""Whether what is asked for is in the picture at all: a logistic regression on what the transformer has made of it.

A mask of nothing must be empty, but a transformer that wavers draws the likeliest thing. What it has gathered about
picture and sentence knows better; `genmask.analysis.presence` fits this head to a finished model.
"""

from __future__ import annotations

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class PresenceHead(ModelMixin, ConfigMixin):
    """(B, features) -> logits (B,) of the probability that the target is there.

    Args:
        features: of `frame_means`: frames times the transformer's width.
    """

    @register_to_config
    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)

    def forward(self, features: Tensor) -> Tensor:
        # In float32 whatever the rest runs in: large terms of either sign add up to a small sum.
        return F.linear(features.float(), self.linear.weight.float(), self.linear.bias.float()).squeeze(-1)


def frame_means(tokens: Tensor) -> Tensor:
    """(B, F, S, dim), the last block's tokens -> (B, F * dim) float32: their mean over each frame."""
    return tokens.float().mean(dim=2).flatten(1)
