"""Training the transformer on masks and pictures under one flow-matching objective (Eq. 2).

VAE and instruction encoder are frozen, as in the paper. What they make of a step's samples is half of the work of a
small model's step, and can be kept on disk to be trained on several times.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Qwen2_5_VLForConditionalGeneration

from genmask.conditioning import Condition, InstructionEncoder
from genmask.data.example import Example
from genmask.data.mixture import Interleaving
from genmask.denoiser import GenMaskBlock, GenMaskTransformer
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
from genmask.processor import GenMaskProcessor, segmentation_prompt
from genmask.prompt_batch import PromptBatch
from genmask.timesteps import LogitNormal, PowerLaw, TimestepDensity
from genmask.training.batches import StepBatches
from genmask.training.encodings import EncodedStep, EncodedSteps, Encoding

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
    sizes: tuple[tuple[int, int], ...] = ((128, 128),)
    """(height, width) of the pictures of a step, in turn; sides are multiples of 16."""
    source_weights: tuple[tuple[str, float], ...] = (("scenes", 0.6), ("photographs", 0.4))
    """Shares of the samples; a source that is not given leaves its share to the others."""
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
    epoch_steps: int = 0
    """Steps after which the samples come again, with other noise; 0 for samples without end. They are encoded once and
    kept on disk."""
    compile: bool = False
    """Compile the transformer's blocks: a minute or two at the start, a quarter off each step."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.supervision not in SUPERVISIONS:
            raise ValueError(
                f"Got supervision {self.supervision!r}, expected one of {', '.join(SUPERVISIONS)}."
            )


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Equal-sized pictures with their prompts, on the CPU."""

    images: Tensor
    """(B, H, W, 3) uint8."""
    prompts: PromptBatch
    masks: Tensor | None = None
    """(B, H, W) bool; background where unknown."""
    ignore: Tensor | None = None
    """(B, H, W) bool, True where unknown."""

    def to(self, device: torch.device | str) -> Samples:
        """Pictures and masks on a device; prompts are needed on the CPU."""
        return replace(
            self,
            images=self.images.to(device),
            masks=None if self.masks is None else self.masks.to(device),
            ignore=None if self.ignore is None else self.ignore.to(device),
        )


@dataclass(frozen=True, kw_only=True)
class Step:
    """The batch of a step: a pass for each task."""

    segmentation: Samples
    generation: Samples | None

    def to(self, device: torch.device | str) -> Step:
        generation = None if self.generation is None else self.generation.to(device)
        return replace(self, segmentation=self.segmentation.to(device), generation=generation)


def build_transformer(config: MaskConfig, text_dim: int) -> GenMaskTransformer:
    """Seeded random weights; gates and output start at zero (AdaLN-zero, as DiT), cross-attention at full size."""
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
        # The text must enter at the size of everything else: cross-attention has no norm on its values, and a
        # signal that starts small is learned late or never.
        nn.init.xavier_uniform_(transformer.condition_embedder.text_embedder.linear_2.weight, gain=2.0)
        nn.init.zeros_(transformer.condition_embedder.time_proj.weight)
        nn.init.zeros_(transformer.proj_out.weight)
        for block in transformer.blocks:
            assert isinstance(block, GenMaskBlock)
            nn.init.zeros_(block.scale_shift_table)
    return transformer


class MaskTask:
    """Segmentation and generation, one pass each per step.

    Args:
        config: the transformer and what it is trained on.
        sources: by name, each with a share in `config.source_weights`.
        validation: held-out samples by name.
        vae, vlm, processor: frozen.
        kept: where the encodings of samples that come again are kept; needed if `config.epoch_steps` is not 0.
    """

    def __init__(
        self,
        config: MaskConfig,
        sources: dict[str, ExampleSource],
        validation: dict[str, Sequence[Example]],
        vae: AutoencoderKLWan,
        vlm: Qwen2_5_VLForConditionalGeneration,
        processor: GenMaskProcessor,
        kept: EncodedSteps | None = None,
    ) -> None:
        self.config = config
        self.sources = sources
        if unknown := sources.keys() - dict(config.source_weights).keys():
            raise ValueError(f"Got source {min(unknown)!r} without a share in source_weights: give it one.")
        if bool(config.epoch_steps) != (kept is not None):
            raise ValueError(
                f"Got epoch_steps={config.epoch_steps} and {'no' if kept is None else 'a'} folder for encodings: "
                "they belong together."
            )
        weights = {name: weight for name, weight in config.source_weights if name in sources}
        self.interleaving = Interleaving(weights, config.seed)
        self.validation = validation
        self.vae = vae.requires_grad_(False)
        self.vlm = vlm.requires_grad_(False)
        self.processor = processor
        self.kept = kept
        self.codec = LatentCodec(vae)
        self.encoder = InstructionEncoder(vlm, processor)
        self.transformer = build_transformer(config, vlm.config.get_text_config().hidden_size)
        self.mask_head = LinearMaskHead(vae.config.z_dim) if config.supervision == "bce-linear" else None
        self.modules = nn.ModuleDict({"transformer": self.transformer})
        self.frozen = nn.ModuleDict({"vae": vae, "vlm": vlm})
        if self.mask_head is not None:
            self.modules["mask_head"] = self.mask_head
        if config.compile:
            self.transformer.compile_repeated_blocks(dynamic=True)

    def batches(self) -> Dataset:
        return StepBatches(self._batch)

    def _batch(self, step: int) -> Step | EncodedStep:
        drawn_at = self._drawn_at(step)
        encoded = None if self.kept is None else self.kept.load(drawn_at)
        return encoded or self._draw(drawn_at)

    def _drawn_at(self, step: int) -> int:
        """The step that first had the samples of this one: an earlier one, or itself."""
        return step % self.config.epoch_steps if self.config.epoch_steps else step

    def _draw(self, step: int) -> Step:
        height, width = self.config.sizes[step % len(self.config.sizes)]
        return Step(
            segmentation=self._segmentation(step, height, width),
            generation=self._generation(step, height, width) if self.config.generation_batch else None,
        )

    def _located(self, indices: Iterable[int]) -> list[tuple[ExampleSource, int]]:
        """Of each sample, by its global index, the source and the index in the source."""
        located = (self.interleaving.locate(index) for index in indices)
        return [(self.sources[name], position) for name, position in located]

    def _segmentation(self, step: int, height: int, width: int) -> Samples:
        located = self._located(_indices(step, self.config.segmentation_batch))
        examples = [source.segmentation(position, height, width) for source, position in located]
        images = torch.from_numpy(np.stack([example.image for example in examples]))
        nothing = np.zeros((height, width), dtype=bool)
        ignore = np.stack([nothing if e.ignore is None else e.ignore for e in examples])
        masks = np.stack([e.mask for e in examples if e.mask is not None]) & ~ignore
        return Samples(
            images=images,
            prompts=self.processor.prepare([segmentation_prompt(e.text) for e in examples], images),
            masks=torch.from_numpy(masks),
            ignore=torch.from_numpy(ignore),
        )

    def _generation(self, step: int, height: int, width: int) -> Samples:
        indices = _indices(step, self.config.generation_batch)
        examples = [source.generation(index, height, width) for source, index in self._located(indices)]
        dropped = [np.random.default_rng((self.config.seed, i, 1)).random() for i in indices]
        captions = [
            "" if draw < self.config.condition_dropout else e.text
            for draw, e in zip(dropped, examples, strict=True)
        ]
        return Samples(
            images=torch.from_numpy(np.stack([example.image for example in examples])),
            prompts=self.processor.prepare(captions),
        )

    def losses(self, batch: Step | EncodedStep, step: int) -> dict[str, WeightedSum]:
        encoded = batch if isinstance(batch, EncodedStep) else self._encode(batch, step)
        losses = {"segmentation": self._segmentation_loss(encoded.segmentation, step)}
        if encoded.generation is not None:
            total, weight = self._generation_loss(encoded.generation, step)
            # A sample counts alike in both tasks; a small share of pictures would drown the masks otherwise.
            share = self.config.generation_batch / self.config.segmentation_batch
            losses["generation"] = WeightedSum(share * total, weight)
        return losses

    @torch.no_grad()
    def _encode(self, batch: Step, step: int) -> EncodedStep:
        """The frozen half of a step, kept for when its samples come again."""
        segmentation, generation = batch.segmentation, batch.generation
        masks = segmentation.masks
        assert masks is not None
        pixels = [_to_pixels(segmentation.images), mask_to_pixels(masks)]
        if generation is not None:
            pixels.append(_to_pixels(generation.images))
        with torch.autocast(masks.device.type, enabled=False):
            latents = self.codec.encode(torch.cat(pixels)).split([len(part) for part in pixels])
        encoded = EncodedStep(
            segmentation=Encoding(
                picture=latents[0],
                x0=latents[1],
                condition=self._condition(segmentation.prompts),
                masks=masks,
                ignore=segmentation.ignore,
            ),
            generation=None
            if generation is None
            else Encoding(x0=latents[2], condition=self._condition(generation.prompts)),
        )
        if self.kept is not None:
            self.kept.save(self._drawn_at(step), encoded)
        return encoded

    def _condition(self, prompts: PromptBatch) -> Condition:
        """In the precision that the transformer takes it in."""
        condition = self.encoder.encode(prompts)
        device = condition.hidden_states.device.type
        return (
            condition.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else condition
        )

    def _segmentation_loss(self, samples: Encoding, step: int) -> WeightedSum:
        assert samples.picture is not None
        assert samples.masks is not None
        assert samples.ignore is not None
        x0 = samples.x0
        eps, t = self._noise(_indices(step, len(x0)), x0, self.config.segmentation_density, stream=2)
        x_t = interpolate(x0, eps, t)
        frames = torch.stack([samples.picture, x_t], dim=2)
        times = torch.stack([torch.zeros_like(t), t], dim=1)
        v_hat = self._velocity(frames, times, samples.condition)[:, :, 1]
        if self.config.supervision == "mse":
            return mse_loss(v_hat, velocity(x0, eps), latent_weight(samples.ignore))
        x0_hat = predict_x0(x_t, v_hat.float(), t)
        if self.mask_head is not None:
            return bce_linear_loss(x0_hat, samples.masks, self.mask_head, samples.ignore)
        return bce_pixel_loss(x0_hat, samples.masks, partial(self.codec.decode, clamp=False), samples.ignore)

    def _generation_loss(self, samples: Encoding, step: int) -> WeightedSum:
        x0 = samples.x0
        eps, t = self._noise(_indices(step, len(x0)), x0, self.config.generation_density, stream=3)
        frames = interpolate(x0, eps, t).unsqueeze(2)
        v_hat = self._velocity(frames, t.unsqueeze(1), samples.condition).squeeze(2)
        return mse_loss(v_hat, velocity(x0, eps))

    def _velocity(self, frames: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """frames (B, C, F, h, w) at noise levels t (B, F) in [0, 1]."""
        return self.modules["transformer"](
            hidden_states=frames,
            timestep=1000 * t,
            encoder_hidden_states=condition.hidden_states,
            encoder_attention_mask=condition.attention_mask,
        ).sample

    def _noise(
        self, indices: Iterable[int], like: Tensor, density: TimestepDensity, stream: int
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
            with torch.compiler.set_stance("force_eager"):
                answers = pipeline.segment(
                    [e.image for e in examples], [e.text for e in examples], batch_size=32
                )
            assert isinstance(answers, list)
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


def _indices(step: int, size: int) -> range:
    """Global indices of the samples of a step: they key whatever is random."""
    return range(step * size, (step + 1) * size)


def _to_pixels(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return images.movedim(-1, 1) / 127.5 - 1


def _key(*parts: Any) -> int:
    """A seed of 64 bits for a tuple of numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
