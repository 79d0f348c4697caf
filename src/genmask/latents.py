"""Pixels <-> normalised Wan-VAE latents, and masks <-> black-and-white pictures.

One picture is one frame. The VAE's causal 3-D convolutions then see only zeros in the past, so the last temporal tap
alone acts, `time_conv` is skipped and attention stays within the frame: the network folds into a 2-D one. The fold here
is a *view* of the VAE's own parameters (`weight[:, :, -1]`), a third of the arithmetic and no second module.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanCausalConv3d,
    WanMidBlock,
    WanResample,
    WanResidualBlock,
    WanRMS_norm,
)
from torch import Tensor, nn

COMPRESSION = 8
"""Pixels per latent cell, along each side."""


def images_to_pixels(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return images.movedim(-1, 1) / 127.5 - 1


def mask_to_pixels(mask: Tensor) -> Tensor:
    """Mask in {0, 1} (or soft, in [0, 1]), (..., H, W) -> black-and-white RGB, (..., 3, H, W) in [-1, 1]."""
    return (mask.to(torch.float32) * 2 - 1).unsqueeze(-3).expand(*mask.shape[:-2], 3, *mask.shape[-2:])


def pixels_to_soft_mask(pixels: Tensor) -> Tensor:
    """RGB, (..., 3, H, W) in [-1, 1] -> the mean over RGB as a soft mask, (..., H, W) in [0, 1]."""
    return ((pixels.float().mean(dim=-3) + 1) / 2).clamp(0, 1)


def resize_soft_masks(soft_masks: Tensor, height: int, width: int) -> Tensor:
    """(B, h, w) in [0, 1] -> (B, height, width), bilinear; antialiased where that is smaller."""
    resized = F.interpolate(soft_masks.unsqueeze(1), size=(height, width), mode="bilinear", antialias=True)
    return resized.squeeze(1).clamp(0, 1)


class LatentCodec:
    """A frozen Wan-2.1 VAE on single pictures, its latents normalised per channel by the VAE's mean and deviation.

    Encoding computes in float32 whatever the VAE's dtype (in bfloat16 it shifts results measurably); decoding computes
    in `decode_dtype`, by default the VAE's own.
    """

    def __init__(self, vae: AutoencoderKLWan, decode_dtype: torch.dtype | None = None) -> None:
        if vae.config.is_residual or vae.config.patch_size is not None:
            raise ValueError(
                "Got a VAE of the Wan-2.2 layout (is_residual or patch_size is set), expected a Wan-2.1 "
                "AutoencoderKLWan."
            )
        self.vae = vae
        self.decode_dtype = decode_dtype

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> the mode of the posterior, (B, 16, H/8, W/8) float32, normalised."""
        mean, _ = self.encode_moments(pixels)
        return self.normalise(mean)

    def decode(self, latents: Tensor, clamp: bool = True) -> Tensor:
        """(B, 16, h, w) normalised -> pixels (B, 3, 8h, 8w) float32, in [-1, 1] unless `clamp` is off.

        Train through the decoder with `clamp=False`: where the clamp acts the gradient is zero.
        """
        pixels = self.decode_raw(self.denormalise(latents))
        return pixels.clamp(-1, 1) if clamp else pixels

    def normalise(self, z: Tensor) -> Tensor:
        mean, std = self._statistics(z)
        return (z - mean) / std

    def denormalise(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics(latents)
        return latents * std + mean

    def _statistics(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (
            torch.tensor(values, device=z.device, dtype=torch.float32).view(1, -1, 1, 1)
            for values in (self.vae.config.latents_mean, self.vae.config.latents_std)
        )
        return mean, std

    def encode_moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [-1, 1] -> mean and log-variance of the posterior, each (B, 16, H/8, W/8), unnormalised."""
        height, width = pixels.shape[-2:]
        if pixels.ndim != 4 or height % COMPRESSION or width % COMPRESSION:
            raise ValueError(
                f"Got pixels {tuple(pixels.shape)}, expected (B, 3, H, W) with sides a multiple of {COMPRESSION}."
            )
        encoder = self.vae.encoder
        x = pixels.to(torch.float32, memory_format=torch.channels_last)
        x = self._conv(encoder.conv_in, x)
        x = self._sequence(encoder.down_blocks, x)
        x = self._mid_block(encoder.mid_block, x)
        x = self._conv(encoder.conv_out, F.silu(self._norm(encoder.norm_out, x)))
        mean, log_variance = self._conv(self.vae.quant_conv, x).float().chunk(2, dim=1)
        return mean, log_variance

    def decode_raw(self, z: Tensor) -> Tensor:
        """(B, 16, h, w) unnormalised latents -> (B, 3, 8h, 8w) float32, not clamped."""
        decoder = self.vae.decoder
        dtype = self.decode_dtype or self.vae.dtype
        x = self._conv(self.vae.post_quant_conv, z.to(dtype, memory_format=torch.channels_last))
        x = self._conv(decoder.conv_in, x)
        x = self._mid_block(decoder.mid_block, x)
        for block in decoder.up_blocks:
            x = self._sequence(block.resnets, x)
            x = self._sequence(block.upsamplers or (), x)
        x = self._conv(decoder.conv_out, F.silu(self._norm(decoder.norm_out, x)))
        return x.float()

    # The 2-D reading of each 3-D layer; x is (B, C, H, W), channels last.

    def _sequence(self, layers: nn.ModuleList | tuple, x: Tensor) -> Tensor:
        for layer in layers:
            if isinstance(layer, WanResidualBlock):
                x = self._residual_block(layer, x)
            elif isinstance(layer, WanResample):
                x = self._resample(layer, x)
            else:
                assert isinstance(layer, WanAttentionBlock), type(layer)
                x = self._attention(layer, x)
        return x

    def _mid_block(self, block: WanMidBlock, x: Tensor) -> Tensor:
        x = self._residual_block(block.resnets[0], x)
        for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
            x = self._residual_block(resnet, self._attention(attention, x))
        return x

    def _residual_block(self, block: WanResidualBlock, x: Tensor) -> Tensor:
        shortcut = x if isinstance(block.conv_shortcut, nn.Identity) else self._conv(block.conv_shortcut, x)
        x = self._conv(block.conv1, F.silu(self._norm(block.norm1, x)))
        x = self._conv(block.conv2, F.silu(self._norm(block.norm2, x)))
        return x + shortcut

    def _resample(self, block: WanResample, x: Tensor) -> Tensor:
        if block.mode.startswith("upsample"):
            return self._conv(block.resample[1], F.interpolate(x, scale_factor=2.0, mode="nearest-exact"))
        return self._conv(block.resample[1], F.pad(x, (0, 1, 0, 1)))

    def _attention(self, block: WanAttentionBlock, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self._conv(block.to_qkv, self._norm(block.norm, x))
        q, k, v = (
            qkv.flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, dim=-1)
        )  # (B, 1, H * W, C), a single head
        out = (
            F.scaled_dot_product_attention(q, k, v)
            .squeeze(1)
            .transpose(1, 2)
            .reshape(batch, channels, height, width)
        )
        return x + self._conv(block.proj, out.contiguous(memory_format=torch.channels_last))

    def _norm(self, norm: WanRMS_norm, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32).clamp_min(1e-12)
        gain = norm.gamma.float().view(1, -1, 1, 1) * norm.scale
        return (x * (gain / length)).to(x.dtype)

    def _conv(self, conv: nn.Conv2d | WanCausalConv3d, x: Tensor) -> Tensor:
        padding, stride = conv.padding, conv.stride
        if isinstance(conv, WanCausalConv3d):
            padding, stride = (conv._padding[2], conv._padding[0]), stride[1:]
        # The last temporal tap, contiguous (twice as fast). Made anew on every call: a kept copy would go stale unseen
        # when somebody writes to `parameter.data`, as moving averages do.
        tap = conv.weight[:, :, -1] if conv.weight.ndim == 5 else conv.weight
        tap = tap.to(x.dtype).contiguous(memory_format=torch.channels_last)
        bias = None if conv.bias is None else conv.bias.to(x.dtype)
        return F.conv2d(x, tap, bias, stride, padding)
