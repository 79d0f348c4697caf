"""Training the transformer on masks and pictures under one flow-matching objective (Eq. 2).

The VAE is frozen. The instruction encoder is frozen too, as in the paper, or goes on learning with the transformer: one
forward then gives both the condition and, on the answers that follow the prompts, its own language-model loss (no
prompt sees its answer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Qwen2_5_VLForConditionalGeneration

from genmask.conditioning import Condition, InstructionEncoder
from genmask.data.dialogues import box_words
from genmask.data.example import Example
from genmask.denoiser import GenMaskTransformer
from genmask.evaluation.metrics import IoUTotals
from genmask.latents import LatentCodec, mask_to_pixels
from genmask.mask_head import LinearMaskHead
from genmask.objectives import (
    WeightedSum,
    bce_linear_loss,
    bce_pixel_loss,
    interpolate,
    latent_weight,
    mse_loss,
    predict_x0,
    velocity,
)
from genmask.pipeline import GenMaskPipeline
from genmask.processor import GenMaskProcessor, PromptBatch, segmentation_prompt
from genmask.timesteps import LogitNormal, PowerLaw, TimestepDensity
from genmask.training.batches import StepBatches

SUPERVISIONS = ("mse", "bce-pixels", "bce-linear")


class ExampleSource(Protocol):
    """A stream of samples of any size, resized or drawn to (height, width); a function of the index alone."""

    def segmentation(self, index: int, height: int, width: int) -> Example: ...

    def generation(self, index: int, height: int, width: int) -> Example: ...


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """A transformer and what it is trained on."""

    num_layers: int = 8
    num_attention_heads: int = 4
    attention_head_dim: int = 64
    ffn_dim: int = 768
    freq_dim: int = 256
    resolution: int = 128
    """Pictures have about this side, squared, in pixels."""
    sizes: tuple[tuple[int, int], ...] = ((128, 128), (112, 144), (128, 128), (144, 112), (112, 144), (160, 96))
    """(height, width) of the pictures of a step, in turn."""
    segmentation_batch: int = 32
    """Masks per step, shared out among the sources."""
    generation_batch: int = 12
    """Pictures per step to be drawn from their captions; 0 for no generation data (Table 5)."""
    segmentation_density: TimestepDensity = field(default_factory=PowerLaw)
    generation_density: TimestepDensity = field(default_factory=LogitNormal)
    supervision: str = "mse"
    """"mse", "bce-pixels" or "bce-linear" (Table 4)."""
    condition_dropout: float = 0.1
    """Share of captions left empty, for guidance."""
    train_vlm: bool = False
    """Let the instruction encoder go on learning; the paper freezes it."""
    language_weight: float = 0.1
    """Weight of its language-model loss then."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.supervision not in SUPERVISIONS:
            raise ValueError(f"Got supervision {self.supervision!r}, expected one of {', '.join(SUPERVISIONS)}.")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Equal-sized pictures with their prompts, on the CPU."""

    images: Tensor
    """(B, H, W, 3) uint8."""
    prompts: PromptBatch
    indices: list[int]
    """Global sample indices: they key the noise."""
    masks: Tensor | None = None
    """(B, H, W) bool."""
    ignore: Tensor | None = None
    """(B, H, W) bool."""


def build_transformer(config: MaskConfig, text_dim: int) -> GenMaskTransformer:
    """Seeded random weights; every block starts as the identity and the output as zero (AdaLN-zero, as DiT)."""
    torch.manual_seed(config.seed)
    transformer = GenMaskTransformer(
        num_attention_heads=config.num_attention_heads,
        attention_head_dim=config.attention_head_dim,
        text_dim=text_dim,
        freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.num_layers,
        cross_attn_norm=True,
    )
    with torch.no_grad():
        for module in transformer.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.zeros_(transformer.condition_embedder.time_proj.weight)
        nn.init.zeros_(transformer.proj_out.weight)
        for block in transformer.blocks:
            block.scale_shift_table.zero_()
            nn.init.zeros_(block.attn2.to_out[0].weight)
    return transformer


class MaskTask:
    """Segmentation and generation, one pass each per step."""

    def __init__(
        self,
        config: MaskConfig,
        sources: dict[str, ExampleSource],
        validation: dict[str, Sequence[Example]],
        vae: AutoencoderKLWan,
        vlm: Qwen2_5_VLForConditionalGeneration,
        processor: GenMaskProcessor,
    ) -> None:
        self.config = config
        self.sources = list(sources.values())
        self.validation = validation
        self.vae = vae.requires_grad_(False)
        self.vlm = vlm.requires_grad_(config.train_vlm)
        self.processor = processor
        self.codec = LatentCodec(vae)
        self.encoder = InstructionEncoder(vlm, processor, differentiable=config.train_vlm)
        self.transformer = build_transformer(config, vlm.config.get_text_config().hidden_size)
        self.mask_head = LinearMaskHead(vae.config.z_dim) if config.supervision == "bce-linear" else None
        self.modules = nn.ModuleDict({"transformer": self.transformer})
        if config.train_vlm:
            self.modules["vlm"] = vlm
        if self.mask_head is not None:
            self.modules["mask_head"] = self.mask_head

    def batches(self) -> Dataset:
        return StepBatches(self._samples)

    def _samples(self, step: int) -> tuple[Samples, Samples | None]:
        height, width = self.config.sizes[step % len(self.config.sizes)]
        masks = self._segmentation(step, height, width)
        return masks, self._generation(step, height, width) if self.config.generation_batch else None

    def _segmentation(self, step: int, height: int, width: int) -> Samples:
        size, count = self.config.segmentation_batch, len(self.sources)
        indices = list(range(step * size, (step + 1) * size))
        examples = [self.sources[i % count].segmentation(i // count, height, width) for i in indices]
        masks = np.stack([example.mask for example in examples if example.mask is not None])
        images = torch.from_numpy(np.stack([example.image for example in examples]))
        ignore = [np.zeros_like(masks[0]) if e.ignore is None else e.ignore for e in examples]
        answers = [box_words(mask) for mask in masks] if self.config.train_vlm else None
        return Samples(
            images=images,
            prompts=self.processor.prepare([segmentation_prompt(e.text) for e in examples], images, answers),
            indices=indices,
            masks=torch.from_numpy(masks),
            ignore=torch.from_numpy(np.stack(ignore)),
        )

    def _generation(self, step: int, height: int, width: int) -> Samples:
        size, count = self.config.generation_batch, len(self.sources)
        indices = list(range(step * size, (step + 1) * size))
        examples = [self.sources[i % count].generation(i // count, height, width) for i in indices]
        dropped = [np.random.default_rng((self.config.seed, i, 1)).random() for i in indices]
        captions = [
            "" if draw < self.config.condition_dropout else e.text for draw, e in zip(dropped, examples, strict=True)
        ]
        return Samples(
            images=torch.from_numpy(np.stack([example.image for example in examples])),
            prompts=self.processor.prepare(captions),
            indices=indices,
        )

    def losses(self, batch: tuple[Samples, Samples | None], step: int) -> dict[str, WeightedSum]:
        segmentation, generation = batch
        losses = self._segmentation_losses(segmentation)
        if generation is not None:
            losses["generation"] = self._generation_loss(generation)
        return losses

    def _segmentation_losses(self, samples: Samples) -> dict[str, WeightedSum]:
        assert samples.masks is not None
        assert samples.ignore is not None
        losses = {}
        if self.config.train_vlm:
            condition, tokens = self.encoder.encode_dialogues(samples.prompts)
            losses["language"] = WeightedSum(self.config.language_weight * tokens.sum(), torch.tensor(len(tokens)))
        else:
            condition = self.encoder.encode(samples.prompts)
        ignore = samples.ignore
        masks = samples.masks & ~ignore  # painted background where unknown
        picture = self._encode(samples.images)
        with torch.no_grad(), torch.autocast(picture.device.type, enabled=False):
            x0 = self.codec.encode(mask_to_pixels(masks))
        eps, t = self._noise(samples.indices, x0, self.config.segmentation_density, stream=2)
        x_t = interpolate(x0, eps, t)
        v_hat = self._velocity(
            torch.stack([picture, x_t], dim=2), torch.stack([torch.zeros_like(t), t], dim=1), condition
        )[:, :, 1]
        if self.config.supervision == "mse":
            losses["segmentation"] = mse_loss(v_hat, velocity(x0, eps), latent_weight(ignore))
        else:
            x0_hat = predict_x0(x_t, v_hat.float(), t)
            if self.mask_head is not None:
                losses["segmentation"] = bce_linear_loss(x0_hat, masks, self.mask_head, ignore)
            else:
                decode = lambda latents: self.codec.decode(latents, clamp=False)  # noqa: E731
                losses["segmentation"] = bce_pixel_loss(x0_hat, masks, decode, ignore)
        return losses

    def _generation_loss(self, samples: Samples) -> WeightedSum:
        condition = self.encoder.encode(samples.prompts)
        x0 = self._encode(samples.images)
        eps, t = self._noise(samples.indices, x0, self.config.generation_density, stream=3)
        v_hat = self._velocity(interpolate(x0, eps, t).unsqueeze(2), t.unsqueeze(1), condition).squeeze(2)
        return mse_loss(v_hat, velocity(x0, eps))

    def _velocity(self, frames: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """frames (B, C, F, h, w) at noise levels t (B, F) in [0, 1]."""
        return self.modules["transformer"](
            hidden_states=frames,
            timestep=1000 * t,
            encoder_hidden_states=condition.hidden_states,
            encoder_attention_mask=condition.attention_mask,
        ).sample

    @torch.no_grad()
    def _encode(self, images: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 -> latents (B, 16, H/8, W/8), in float32 whatever the training runs in."""
        with torch.autocast(images.device.type, enabled=False):
            return self.codec.encode(images.movedim(-1, 1) / 127.5 - 1)

    def _noise(
        self, indices: list[int], like: Tensor, density: TimestepDensity, stream: int
    ) -> tuple[Tensor, Tensor]:
        """Noise like `like` and its level t (B,), keyed by the sample's index: no batch or resume changes them."""
        noises, levels = [], []
        for index in indices:
            generator = torch.Generator().manual_seed(_key(self.config.seed, index, stream))
            noises.append(torch.randn(like.shape[1:], generator=generator))
            levels.append(density.sample(1, generator))
        return torch.stack(noises).to(like.device), torch.cat(levels).to(like.device)

    def pipeline(self) -> GenMaskPipeline:
        """The modules as they stand, ready to use."""
        return GenMaskPipeline(
            transformer=self.transformer,
            vae=self.vae,
            vlm=self.vlm,
            processor=self.processor,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            mask_head=self.mask_head,
            resolution=self.config.resolution,
        )

    def evaluate(self) -> dict[str, float]:
        """One-step segmentation of held-out samples: overall and mean IoU, and the share of empty answers."""
        scores = {}
        pipeline = self.pipeline()
        for name, examples in self.validation.items():
            answers = pipeline.segment([e.image for e in examples], [e.text for e in examples], batch_size=32)
            named, empty = IoUTotals(), {True: [0, 0], False: [0, 0]}
            for example, answer in zip(examples, answers, strict=True):
                assert example.mask is not None
                present = bool(example.mask.any())
                empty[present][0] += answer.is_empty
                empty[present][1] += 1
                if present:
                    named.add(answer.mask, example.mask, example.ignore)
            scores[f"{name}_oiou"] = named.overall_iou()
            scores[f"{name}_miou"] = named.mean_iou()
            for present, (count, total) in empty.items():
                scores[f"{name}_{'present' if present else 'absent'}_empty"] = count / max(1, total)
        return scores

    def save(self, folder: Path) -> None:
        """A pipeline folder in bfloat16, the parts that must stay float32 excepted."""
        pipeline = self.pipeline()
        for module in (self.transformer, self.vlm, self.vae, self.mask_head):
            if module is not None:
                module.to(torch.bfloat16)
        pipeline.save_pretrained(folder)


def _key(*parts: Any) -> int:
    """A seed of 64 bits for a tuple of numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
