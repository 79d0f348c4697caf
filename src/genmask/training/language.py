"""Training a small Qwen2.5-VL: from scratch on answers about pictures, then a copy of it on descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

from genmask.conditioning import InstructionEncoder
from genmask.data.example import Dialogue
from genmask.objectives import WeightedSum
from genmask.processor import GenMaskProcessor
from genmask.prompt_batch import PromptBatch
from genmask.training.batches import StepBatches
from genmask.training.loop import Evaluation
from genmask.training.parallel import Share
from genmask.training.small_vlm import small_vlm_config
from genmask.training.tokenizer import train_tokenizer
from genmask.training.whole_steps import WholeSteps, as_one, require_one_part


class DialogueSource(Protocol):
    """Anything that can be asked about its `index`-th picture."""

    def dialogues(self, index: int) -> list[Dialogue]: ...


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """A small Qwen2.5-VL and what it is trained on."""

    hidden_size: int = 256
    """Width of the language model: the transformer's `text_dim`."""
    num_layers: int = 4
    num_heads: int = 4
    intermediate_size: int = 512
    vision_hidden_size: int = 128
    vision_depth: int = 3
    vision_num_heads: int = 4
    vision_intermediate_size: int = 256
    patch_size: int = 8
    """Pixels; two by two patches make a token."""
    vocab_size: int = 1536
    tokenizer_samples: int = 6000
    """Pictures whose dialogues the vocabulary is learned from."""
    batch_size: int = 32
    """Pictures per step."""
    recall_weight: float = 0.5
    """Weight of the loss that makes the last layer remember which word it stands on."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class DescriberConfig:
    """What a finished vision-language model is fine-tuned on, to say plainly what an instruction means."""

    batch_size: int = 12
    """Pictures per step; each brings its questions, two to five of them."""
    seed: int = 0


def build_processor(config: LanguageConfig, sources: Sequence[DialogueSource]) -> GenMaskProcessor:
    """A vocabulary learned from the sources' dialogues."""
    texts = (
        text
        for index in range(config.tokenizer_samples)
        for dialogue in sources[index % len(sources)].dialogues(index)
        for text in (dialogue.question, dialogue.answer)
    )
    tokenizer = train_tokenizer(texts, vocab_size=config.vocab_size)
    pictures = Qwen2VLImageProcessorPil(patch_size=config.patch_size, merge_size=2, temporal_patch_size=2)
    # The dialogues hold indirect instructions as people say them, and so the model is asked.
    return GenMaskProcessor(pictures, tokenizer, describe_prompt="{instruction}")


def build_vlm(config: LanguageConfig, processor: GenMaskProcessor) -> Qwen2_5_VLForConditionalGeneration:
    """Seeded random weights."""
    torch.manual_seed(config.seed)
    return Qwen2_5_VLForConditionalGeneration(
        small_vlm_config(
            processor,
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            intermediate_size=config.intermediate_size,
            vision_hidden_size=config.vision_hidden_size,
            vision_depth=config.vision_depth,
            vision_num_heads=config.vision_num_heads,
            vision_intermediate_size=config.vision_intermediate_size,
        )
    )


class LanguageTask(WholeSteps):
    """Cross-entropy of the answers to questions, caption requests, boxes and indirect instructions.

    And of every prompt's own words, read off the last layer by a linear map that is thrown away: what comes next is
    all that a language model is otherwise asked for there, and a small one forgets the word itself, which the
    transformer needs (`benchmarks/condition_probe.py` shows it).
    """

    names_of_losses = ("language", "recall")

    def __init__(
        self,
        config: LanguageConfig,
        sources: Sequence[DialogueSource],
        validation: dict[str, Sequence[Dialogue]],
        processor: GenMaskProcessor,
    ) -> None:
        self.config = config
        self.sources = sources
        self.processor = processor
        self.validation = {name: prepare_dialogues(processor, held) for name, held in validation.items()}
        self.vlm = build_vlm(config, processor)
        self.recall = nn.Linear(config.hidden_size, len(processor.tokenizer))
        self.network = nn.ModuleDict({"vlm": self.vlm, "recall": self.recall})
        self.frozen = nn.ModuleDict()
        self.encoder = InstructionEncoder(self.vlm, processor, differentiable=True)

    @property
    def samples_per_step(self) -> int:
        return self.config.batch_size

    def batches(self, share: Share) -> Dataset:
        require_one_part(share)
        return StepBatches(self._dialogues)

    def _dialogues(self, step: int) -> PromptBatch:
        size, count = self.config.batch_size, len(self.sources)
        indices = range(step * size, (step + 1) * size)
        return prepare_dialogues(
            self.processor,
            [draw_dialogue(self.sources[i % count], i // count, self.config.seed) for i in indices],
        )

    def losses(
        self, network: nn.Module, batch: PromptBatch, step: int, which: str, share: Share, micro: int
    ) -> dict[str, WeightedSum]:
        answers, words = self._errors(batch)
        return {
            "language": as_one(answers.mean()),
            "recall": as_one(self.config.recall_weight * words.mean()),
        }

    def _errors(self, batch: PromptBatch) -> tuple[Tensor, Tensor]:
        """Cross-entropy, in nats, of every token of the answers, and of every word of the prompts."""
        condition, answers = self.encoder.encode_dialogues(batch)
        ids = batch.input_ids[:, : condition.attention_mask.shape[1]].to(condition.attention_mask.device)
        is_word = condition.attention_mask & (ids != self.processor.image_token_id)
        logits = self.recall(condition.hidden_states[is_word])
        return answers, F.cross_entropy(logits.float(), ids[is_word], reduction="none")

    def evaluate(self, share: Share) -> Evaluation:
        """Loss of held-out answers, nats per token, and the share of tokens given more than half of the probability;
        and that share of the prompts' own words.
        """
        scores = {}
        for name, batch in self.validation.items():
            answers, words = self._errors(batch)
            scores[f"{name}_loss"] = float(answers.mean())
            scores[f"{name}_accuracy"] = float((answers < np.log(2)).float().mean())
            scores[f"{name}_recall"] = float((words < np.log(2)).float().mean())
        return Evaluation(scores=scores)

    def save(self, folder: Path) -> None:
        """bfloat16 safetensors in the transformers layout, and the processor beside them."""
        self.vlm.to(torch.bfloat16).save_pretrained(folder)
        self.processor.save_pretrained(folder)


class DescriberTask(WholeSteps):
    """Cross-entropy of the descriptions, in the prompt in which `InstructionEncoder.describe` asks for them."""

    names_of_losses = ("language",)

    def __init__(
        self,
        config: DescriberConfig,
        sources: Sequence[DialogueSource],
        validation: dict[str, Sequence[Dialogue]],
        vlm: Qwen2_5_VLForConditionalGeneration,
        processor: GenMaskProcessor,
    ) -> None:
        self.config = config
        self.sources = sources
        self.validation = validation
        self.processor = processor
        self.network = vlm.requires_grad_(True).train()
        self.frozen = nn.ModuleDict()
        self.encoder = InstructionEncoder(vlm, processor, differentiable=True)

    @property
    def samples_per_step(self) -> int:
        return self.config.batch_size

    def batches(self, share: Share) -> Dataset:
        require_one_part(share)
        return StepBatches(self._questions)

    def _questions(self, step: int) -> PromptBatch:
        size, count = self.config.batch_size, len(self.sources)
        indices = range(step * size, (step + 1) * size)
        return self._prepare([d for i in indices for d in self.sources[i % count].dialogues(i // count)])

    def _prepare(self, dialogues: Sequence[Dialogue]) -> PromptBatch:
        asked = [replace(d, question=self.processor.describing_prompt(d.question)) for d in dialogues]
        return prepare_dialogues(self.processor, asked)

    def losses(
        self, network: nn.Module, batch: PromptBatch, step: int, which: str, share: Share, micro: int
    ) -> dict[str, WeightedSum]:
        return {"language": as_one(self.encoder.encode_dialogues(batch)[1].mean())}

    def evaluate(self, share: Share) -> Evaluation:
        """Loss of held-out descriptions, nats per token; and the share of those it writes that are exactly right."""
        scores = {}
        for name, held in self.validation.items():
            _, errors = self.encoder.encode_dialogues(self._prepare(held))
            written = [self.encoder.describe(d.image, d.question) for d in held if d.image is not None]
            right = [
                found.target == d.answer and not found.is_fallback
                for found, d in zip(written, held, strict=True)
            ]
            scores[f"{name}_loss"] = float(errors.mean())
            scores[f"{name}_exact"] = float(np.mean(right))
        return Evaluation(scores=scores)

    def save(self, folder: Path) -> None:
        """As `LanguageTask` does: the folder is a pipeline's `describer`, with its processor beside the weights."""
        self.network.to(torch.bfloat16).save_pretrained(folder)
        self.processor.save_pretrained(folder)


def draw_dialogue(source: DialogueSource, index: int, seed: int) -> Dialogue:
    """One of the dialogues on a picture; groundings and indirect instructions, the last two, more often."""
    found = source.dialogues(index)
    weights = np.linspace(1.0, 2.0, len(found))
    rng = np.random.default_rng((seed, index))
    return found[rng.choice(len(found), p=weights / weights.sum())]


def prepare_dialogues(processor: GenMaskProcessor, dialogues: Sequence[Dialogue]) -> PromptBatch:
    return processor.prepare(
        [dialogue.question for dialogue in dialogues],
        [dialogue.image for dialogue in dialogues],
        [dialogue.answer for dialogue in dialogues],
    )
