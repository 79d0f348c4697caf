"""Teaching a transformer that starts from nothing to see, before it learns to draw masks: pictures, and no sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Qwen2_5_VLForConditionalGeneration

from genmask.conditioning import Condition, InstructionEncoder
from genmask.data.example import Example
from genmask.data.mixture import Interleaving
from genmask.denoiser import GenMaskTransformer
from genmask.latents import COMPRESSION, LatentCodec, images_to_pixels
from genmask.loading import load_model
from genmask.model_folder import load_processor
from genmask.objectives import WeightedSum
from genmask.training.batches import StepBatches
from genmask.training.loop import Evaluation
from genmask.training.new_transformer import TransformerShape, build_transformer
from genmask.training.parallel import Share
from genmask.training.recognition import RecognitionHead, label_patches, recognition_loss
from genmask.training.whole_steps import WholeSteps, as_one, require_one_part


class RecognitionSource(Protocol):
    """A stream of pictures of which it is known what is where."""

    concepts: Sequence[str]
    """Columns of its `Regions.table`."""

    def recognition(self, index: int, height: int, width: int) -> Example:
        """An example with regions; a function of the index alone."""


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """What a transformer learns to recognise, and in how large pictures."""

    shape: TransformerShape
    sizes: tuple[tuple[int, int], ...]
    """(height, width) of the pictures of a step, in turn; sides are multiples of 16."""
    sources: tuple[tuple[str, float], ...]
    """Shares of the pictures by source."""
    batch_size: int = 48
    block: int = 4
    """From whose output it is told what a patch shows."""
    seed: int = 0


class Patches(NamedTuple):
    """A batch of pictures and what each patch of them shows."""

    images: Tensor
    """(B, H, W, 3) uint8."""
    coverage: Tensor
    """(B, S, R), the share of each patch that each region covers."""
    concepts: Tensor
    """(B, R, K) int8, what each region is."""

    def to(self, device: torch.device | str) -> Patches:
        return Patches(*(x.to(device) for x in self))


class PretrainingTask(WholeSteps):
    """One frame at t = 0 and the empty caption: what each patch shows, told halfway through the transformer.

    Args:
        config: what is learnt.
        transformer: what is trained.
        sources: by name, each with a share in the config.
        vae: frozen.
        condition: of the empty caption, one sample.
    """

    names_of_losses = ("recognition",)

    def __init__(
        self,
        config: PretrainingConfig,
        transformer: GenMaskTransformer,
        sources: Mapping[str, RecognitionSource],
        vae: AutoencoderKLWan,
        condition: Condition,
    ) -> None:
        self.config, self.sources, self.transformer = config, sources, transformer
        shares = {name: share for name, share in config.sources if name in sources}
        self._turns = Interleaving(shares, config.seed)
        self.codec = LatentCodec(vae.requires_grad_(False))
        self.condition = condition
        self.head = RecognitionHead.for_sources(transformer, sources)
        self.network = nn.ModuleDict({"transformer": transformer, "recognition": self.head})
        self.frozen = nn.ModuleDict({"vae": vae})
        self._tokens: Tensor | None = None
        transformer.blocks[config.block].register_forward_hook(self._remember)

    def _remember(self, block: nn.Module, inputs: tuple[Any, ...], tokens: Tensor) -> None:
        self._tokens = tokens

    @property
    def samples_per_step(self) -> int:
        return self.config.batch_size

    def batches(self, share: Share) -> Dataset:
        require_one_part(share)
        return StepBatches(self._draw)

    def _draw(self, step: int) -> Patches:
        height, width = self.config.sizes[step % len(self.config.sizes)]
        located = [self._turns.locate(i) for i in Share().samples(step, self.config.batch_size, 0)]
        examples = [self.sources[name].recognition(position, height, width) for name, position in located]
        coverage, concepts = label_patches(
            [e.regions for e in examples],
            [self.head.columns[name] for name, _ in located],
            concepts=self.head.count,
            patch=COMPRESSION * self.transformer.config.patch_size[-1],
        )
        return Patches(torch.from_numpy(np.stack([e.image for e in examples])), coverage, concepts)

    def losses(
        self, network: nn.Module, batch: Patches, step: int, which: str, share: Share, micro: int
    ) -> dict[str, WeightedSum]:
        return {"recognition": as_one(self._loss(batch).mean())}

    def _loss(self, batch: Patches) -> WeightedSum:
        with torch.no_grad():
            latents = self.codec.encode(images_to_pixels(batch.images)).float()
        condition = self.condition.expand(len(latents)).to(latents.device)
        self.transformer(
            hidden_states=latents.unsqueeze(2),
            timestep=torch.zeros(len(latents), 1, device=latents.device),
            encoder_hidden_states=condition.hidden_states,
            encoder_attention_mask=condition.attention_mask,
        )
        assert self._tokens is not None
        return recognition_loss(self.head(self._tokens), batch.coverage, batch.concepts)

    def evaluate(self, share: Share) -> Evaluation:
        """The loss of pictures that no step of training has, in nats per patch."""
        batches = (self._draw(10**6 + n).to(next(self.head.parameters()).device) for n in range(2))
        losses = [float(self._loss(batch).mean()) for batch in batches]
        return Evaluation(scores={"recognition": sum(losses) / len(losses)})

    def save(self, folder: Path) -> None:
        """The transformer alone, in float32: it is to be trained further."""
        self.transformer.save_pretrained(folder)


def build_pretraining_task(
    config: PretrainingConfig, sources: Mapping[str, RecognitionSource], vae: Path, vlm: Path, processor: Path
) -> PretrainingTask:
    """A new transformer, to be taught on the VAE and the VLM in these folders."""
    language = load_model(Qwen2_5_VLForConditionalGeneration, vlm, dtype=torch.float32)
    return PretrainingTask(
        config,
        build_transformer(config.shape, language.config.get_text_config().hidden_size, config.seed),
        sources,
        load_model(AutoencoderKLWan, vae, dtype=torch.float32),
        InstructionEncoder(language, load_processor(processor)).encode_captions([""]),
    )
