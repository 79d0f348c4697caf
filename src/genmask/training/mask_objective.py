"""The flow-matching objective of masks and pictures (Eq. 2), and the other supervisions of Table 4."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genmask.objectives import (
    WeightedSum,
    bce_linear_loss,
    bce_pixel_loss,
    interpolate,
    latent_weight,
    mse_loss,
    velocity,
)
from genmask.timesteps import TimestepDensity
from genmask.training.mask_config import MaskConfig
from genmask.training.presence import presence_known, presence_loss
from genmask.training.recognition import recognition_loss
from genmask.training.samples import Encoding

MASK_STREAM, PICTURE_STREAM = 2, 3
"""Of random numbers: a mask and a picture of the same number have noises of their own."""


class MaskObjective:
    """Losses of encoded samples.

    Args:
        config: what is predicted, supervised, and at which noise levels.
        decode: latents -> pixels, not clamped; for BCE through the VAE's decoder.
    """

    def __init__(self, config: MaskConfig, decode: Callable[[Tensor], Tensor]) -> None:
        self.config, self.decode = config, decode

    def segmentation(
        self, network: nn.Module, samples: Encoding, indices: Sequence[int]
    ) -> dict[str, WeightedSum]:
        """Of masks that are the samples number `indices` of the training."""
        assert samples.masks is not None
        assert samples.ignore is not None
        x0 = samples.x0
        eps, t = self.noise(indices, x0, self.config.segmentation_density, MASK_STREAM)
        if not self.config.noise:
            eps = torch.zeros_like(eps)
        x_t = None if self.config.prediction == "mask" else interpolate(x0, eps, t)
        prediction = network(x_t, t, samples.condition, samples.picture if self.config.shortcut else None)
        if self.config.supervision == "mse":
            loss = mse_loss(prediction.output, self._target(x0, eps), latent_weight(samples.ignore))
        elif self.config.supervision == "bce-linear":
            loss = bce_linear_loss(prediction.mask_logits, samples.masks, samples.ignore)
        else:
            loss = bce_pixel_loss(prediction.x0_hat, samples.masks, self.decode, samples.ignore)
        losses = {"segmentation": loss}
        if prediction.concept_logits is not None:
            assert samples.coverage is not None
            assert samples.concepts is not None
            total, weight = recognition_loss(prediction.concept_logits, samples.coverage, samples.concepts)
            losses["recognition"] = WeightedSum(self.config.recognition_weight * total, weight)
        if prediction.presence_logits is not None:
            total, weight = presence_loss(prediction.presence_logits, samples.masks, samples.ignore)
            losses["presence"] = WeightedSum(self.config.presence_weight * total, weight)
        return losses

    def generation(self, network: nn.Module, samples: Encoding, indices: Sequence[int]) -> WeightedSum:
        """Of pictures to be drawn, before they are weighed against the masks."""
        x0 = samples.x0
        eps, t = self.noise(indices, x0, self.config.generation_density, PICTURE_STREAM)
        prediction = network(interpolate(x0, eps, t), t, samples.condition)
        return mse_loss(prediction.output, self._target(x0, eps))

    def segmentation_weights(self, samples: Encoding) -> dict[str, float]:
        """What the losses of masks are divided by, before they are known: `WeightedSum.weight`, summed."""
        assert samples.ignore is not None
        if self.config.supervision == "mse":
            weight = float(latent_weight(samples.ignore).sum()) * samples.x0.shape[1]
        else:
            weight = float((~samples.ignore).sum())
        weights = {"segmentation": weight}
        if samples.coverage is not None:
            weights["recognition"] = float(samples.coverage[..., 0].numel())
        if self.config.presence_weight:
            assert samples.masks is not None
            weights["presence"] = float(presence_known(samples.masks, samples.ignore).sum())
        return weights

    def noise(
        self, indices: Iterable[int], like: Tensor, density: TimestepDensity, stream: int
    ) -> tuple[Tensor, Tensor]:
        """Noise like `like` and its level t (B,), keyed by the sample's number: no batch, process or resume changes
        them.
        """
        noises, levels = [], []
        for index in indices:
            generator = torch.Generator().manual_seed(_key(self.config.seed, index, stream))
            noises.append(torch.randn(like.shape[1:], generator=generator))
            levels.append(density.sample(1, generator))
        return torch.stack(noises).to(like.device), torch.cat(levels).to(like.device)

    def _target(self, x0: Tensor, eps: Tensor) -> Tensor:
        """What the transformer's output is to be."""
        return x0 if self.config.prediction == "x0" else velocity(x0, eps)


def _key(*parts: Any) -> int:
    """A seed of 64 bits for a tuple of numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
