"""Training a small Wan VAE, or its decoder alone: pictures and black-and-white masks, through its 2-D view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from torch import Tensor, nn
from torch.utils.data import Dataset

from genmask.data.example import Example
from genmask.data.transforms import resize
from genmask.evaluation.metrics import IoUTotals
from genmask.latents import COMPRESSION, LatentCodec, mask_to_pixels, pixels_to_soft_mask
from genmask.objectives import WeightedSum
from genmask.training.batches import StepBatches
from genmask.training.loop import Evaluation
from genmask.training.parallel import Share
from genmask.training.whole_steps import WholeSteps, as_one, require_one_part

STATISTICS_BATCHES = 64
"""Training batches that the mean and deviation of the latents are taken from."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """A small Wan-2.1 VAE and what it is trained on."""

    base_dim: int = 16
    """Channels at full resolution."""
    num_res_blocks: int = 1
    crop: int = 64
    """Side of the square training crops, pixels: a multiple of 8."""
    batch_size: int = 32
    """Crops per step; half are pictures, half masks."""
    kl_weight: float = 3e-4
    """Weight of the mean divergence per latent element, nats: it decides how much noise the decoder learns to bear."""
    decoder_only: bool = False
    """Train the decoder of a finished VAE further; its latents, and all that was trained on them, stay as they are."""
    colour_weight: float = 0.0
    """Weight of the error in the mean colours of pictures: without it textures outweigh the colour of things."""
    seed: int = 0


def build_autoencoder(config: AutoencoderConfig) -> AutoencoderKLWan:
    """Seeded random weights; zeros in the temporal taps that one frame never reaches."""
    torch.manual_seed(config.seed)
    vae = AutoencoderKLWan(base_dim=config.base_dim, num_res_blocks=config.num_res_blocks)
    with torch.no_grad():
        for name, module in vae.named_modules():
            if isinstance(module, WanCausalConv3d):
                dead = module.weight if name.endswith("time_conv") else module.weight[:, :, :-1]
                dead.zero_()
    return vae


class AutoencoderTask(WholeSteps):
    """L1 reconstruction of pictures and masks, and a weak KL term.

    Args:
        config: what is trained, and how.
        sources: of pictures with masks, by any index from 0 on.
        validation: held-out ones by name.
        vae: to go on from; None for a new one.
    """

    names_of_losses = ("pictures", "masks", "colours", "kl")

    def __init__(
        self,
        config: AutoencoderConfig,
        sources: Sequence[Any],
        validation: dict[str, Sequence[Example]],
        vae: AutoencoderKLWan | None = None,
    ) -> None:
        self.config = config
        self.sources = sources
        self.validation = validation
        self.vae = build_autoencoder(config) if vae is None else vae.requires_grad_(True)
        if config.decoder_only:
            for part in (self.vae.encoder, self.vae.quant_conv):
                part.requires_grad_(False)
        self.codec = LatentCodec(self.vae)
        self.network = self.vae
        self.frozen = nn.ModuleDict()

    @property
    def samples_per_step(self) -> int:
        return self.config.batch_size

    def batches(self, share: Share) -> Dataset:
        require_one_part(share)
        return StepBatches(self._crops)

    def _crops(self, step: int) -> Tensor:
        """(B, 3, crop, crop) float32 in [-1, 1]: pictures, then the masks of the same places."""
        half = self.config.batch_size // 2
        pictures, masks = [], []
        for index in range(step * half, (step + 1) * half):
            rng = np.random.default_rng((self.config.seed, index))
            source = self.sources[index % len(self.sources)]
            example = source[index // len(self.sources)]
            example = resize(example, *(max(side, self.config.crop) for side in example.image.shape[:2]))
            assert example.mask is not None
            window = _window(example, self.config.crop, rng)
            pictures.append(torch.from_numpy(example.image[window].copy()).movedim(-1, 0) / 127.5 - 1)
            masks.append(mask_to_pixels(torch.from_numpy(example.mask[window].copy())))
        return torch.stack(pictures + masks)

    def losses(
        self, network: nn.Module, batch: Tensor, step: int, which: str, share: Share, micro: int
    ) -> dict[str, WeightedSum]:
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        mean, log_variance = self.codec.encode_moments(batch)
        log_variance = log_variance.clamp(-20, 10)
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        pixels = self.codec.decode_raw(mean + noise * (0.5 * log_variance).exp())
        error = (pixels - batch).abs()
        half = len(batch) // 2
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        colours = _colour_error(pixels[:half], batch[:half])
        return {
            "pictures": as_one(error[:half].mean()),
            "masks": as_one(error[half:].mean()),
            "colours": as_one(self.config.colour_weight * colours),
            "kl": as_one(self.config.kl_weight * divergence.mean()),
        }

    def evaluate(self, share: Share) -> Evaluation:
        """The gate: overall IoU of mask -> latents -> mask, per source; and the mean absolute errors of pictures and of
        their colours.
        """
        scores = {}
        for name, examples in self.validation.items():
            totals, errors, colours = IoUTotals(), [], []
            for example in examples:
                assert example.mask is not None
                height, width = (side // 8 * 8 for side in example.image.shape[:2])
                mask = torch.from_numpy(example.mask[:height, :width].copy())
                image = torch.from_numpy(example.image[:height, :width].copy()).movedim(-1, 0) / 127.5 - 1
                pixels = torch.stack([mask_to_pixels(mask), image])
                decoded = self.codec.decode(self.codec.encode(pixels.to(self.vae.device))).cpu()
                totals.add((pixels_to_soft_mask(decoded[0]) > 0.5).numpy(), mask.numpy())
                errors.append(float((decoded[1] - image).abs().mean()))
                colours.append(float(_colour_error(decoded[1:], image[None])))
            scores[f"{name}_mask_oiou"] = totals.overall_iou()
            scores[f"{name}_mask_miou"] = totals.mean_iou()
            scores[f"{name}_picture_l1"] = sum(errors) / len(errors)
            scores[f"{name}_colour_l1"] = sum(colours) / len(colours)
        return Evaluation(scores=scores)

    def save(self, folder: Path) -> None:
        """bfloat16 safetensors in the diffusers layout, with the latent statistics of pictures and masks; those of a
        decoder's encoder stay as they are.
        """
        # Rounded first: the statistics are those of the weights that are stored.
        self.vae.to(torch.bfloat16).to(torch.float32)
        if not self.config.decoder_only:
            with torch.no_grad():
                batches = (self._crops(step).to(self.vae.device) for step in range(STATISTICS_BATCHES))
                latents = torch.cat([self.codec.encode_moments(batch)[0] for batch in batches])
            mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
            self.vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
        self.vae.to(torch.bfloat16).save_pretrained(folder)


def _colour_error(pixels: Tensor, truth: Tensor) -> Tensor:
    """The mean absolute difference of the mean colours of squares of 8 x 8 pixels, those of a latent cell."""
    return F.avg_pool2d((pixels - truth).float(), COMPRESSION).abs().mean()


def _window(example: Example, crop: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """A random square inside the picture; every other time one that contains a pixel of the mask."""
    height, width = example.image.shape[:2]
    centre = (rng.integers(height), rng.integers(width))
    if rng.random() < 0.5 and example.mask is not None and example.mask.any():
        rows, columns = np.nonzero(example.mask)
        chosen = rng.integers(len(rows))
        centre = (rows[chosen], columns[chosen])
    top = int(np.clip(centre[0] - rng.integers(crop), 0, max(0, height - crop)))
    left = int(np.clip(centre[1] - rng.integers(crop), 0, max(0, width - crop)))
    return slice(top, top + crop), slice(left, left + crop)
