"""Picture + instruction -> the hidden states that condition the transformer.

The condition is the last layer of Qwen2.5-VL, after the final norm, at every token of the prompt. The head is
not run for it: the model's own forward is called (offload hooks live there) with no logits to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, Qwen2_5_VLForConditionalGeneration

from genmask.processor import GenMaskProcessor, Picture, segmentation_prompt
from genmask.prompt_batch import IGNORED, PromptBatch


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What the transformer attends to, padded on the right with zeros."""

    hidden_states: Tensor
    """(B, N, D), in the language model's dtype."""
    attention_mask: Tensor
    """(B, N) bool, True on tokens, False on padding."""

    def __len__(self) -> int:
        return len(self.hidden_states)

    def __getitem__(self, rows: slice | Tensor) -> Condition:
        """Some of the samples; rows is a slice or an index tensor."""
        return Condition(hidden_states=self.hidden_states[rows], attention_mask=self.attention_mask[rows])

    def to(self, *args: Any, **kwargs: Any) -> Condition:
        """Moved or cast as by `Tensor.to`; the mask stays boolean."""
        hidden_states = self.hidden_states.to(*args, **kwargs)
        return Condition(
            hidden_states=hidden_states, attention_mask=self.attention_mask.to(hidden_states.device)
        )

    def expand(self, count: int) -> Condition:
        """One sample as a batch of `count`."""
        return Condition(
            hidden_states=self.hidden_states.expand(count, -1, -1),
            attention_mask=self.attention_mask.expand(count, -1),
        )

    def padded(self, multiple: int) -> Condition:
        """The same, N filled up with padding to a multiple."""
        extra = -self.attention_mask.shape[1] % multiple
        return Condition(
            hidden_states=F.pad(self.hidden_states, (0, 0, 0, extra)),
            attention_mask=F.pad(self.attention_mask, (0, extra)),
        )


def concatenate(conditions: Sequence[Condition]) -> Condition:
    """The samples of all, in order, padded to the longest; at least one condition."""
    longest = max(condition.attention_mask.shape[1] for condition in conditions)
    extra = [longest - condition.attention_mask.shape[1] for condition in conditions]
    return Condition(
        hidden_states=torch.cat(
            [F.pad(c.hidden_states, (0, 0, 0, n)) for c, n in zip(conditions, extra, strict=True)]
        ),
        attention_mask=torch.cat(
            [F.pad(c.attention_mask, (0, n)) for c, n in zip(conditions, extra, strict=True)]
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Description:
    """What the model took an instruction to mean."""

    target: str
    """Words for `segmentation_prompt`: the cleaned answer, or the instruction where that is of no use."""
    answer: str
    """What the model wrote, as it wrote it."""
    is_fallback: bool
    """The answer held no word or came to no end, and `target` is the instruction."""


@dataclass(frozen=True)
class InstructionEncoder:
    """Qwen2.5-VL and its processor as one function from pictures and words to a `Condition`.

    Holds no weights of its own; cheap to make wherever it is needed.
    """

    vlm: Qwen2_5_VLForConditionalGeneration
    processor: GenMaskProcessor
    device: torch.device | None = None
    """Where inputs go; None is the model's device. To be given where hooks move the weights (offload)."""
    differentiable: bool = False
    """Record gradients (training jointly); by default the encoder is frozen."""

    def encode_segmentation(self, images: Sequence[Picture] | Tensor, texts: Sequence[str]) -> Condition:
        """Condition on pairs of picture and target.

        Args:
            images: B PIL images or (H, W, 3) uint8 arrays, of any sizes; or one (B, H, W, 3) uint8 tensor.
            texts: B targets, such as "the red mug".

        Returns:
            A condition of batch size B; no sample depends on the others.

        Raises:
            ValueError: unequal lengths, an empty or an endless text.
        """
        return self.encode(self.processor.prepare([segmentation_prompt(text) for text in texts], images))

    def encode_captions(self, captions: Sequence[str]) -> Condition:
        """Condition on captions alone, for text-to-image; the empty caption is guidance's null condition."""
        return self.encode(self.processor.prepare(captions))

    def encode_prompts(self, image: Picture, texts: Sequence[str], batch_size: int = 16) -> Condition:
        """`encode_segmentation` of many targets in one picture, which is read only once.

        The picture stands before the text and the model is causal: what all prompts begin with has the same
        hidden states in all, and its keys and values serve every further prompt.

        Args:
            image: the picture.
            texts: B targets.
            batch_size: prompts that are read at a time (each holds a copy of the prefix's keys and values).
        """
        pixel_values, grids = self.processor.patches([image])
        batch = self.processor.arrange([segmentation_prompt(text) for text in texts], [grids[0]] * len(texts))
        same = (batch.input_ids == batch.input_ids[:1]).all(dim=0).cumprod(dim=0)
        shared = min(int(same.sum()), batch.input_ids.shape[1] - 1)
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            prefix, cache = self._forward(
                batch.input_ids[:1, :shared],
                batch.position_ids[:, :1, :shared],
                pixel_values,
                grids,
                use_cache=True,
            )
            hidden_states = []
            for start in range(0, len(texts), batch_size):
                rows = slice(start, start + batch_size)
                ids = batch.input_ids[rows, shared:]
                rest, _ = self._forward(
                    ids, batch.position_ids[:, rows, shared:], cache=_repeated(cache, len(ids))
                )
                hidden_states.append(torch.cat([prefix.expand(len(ids), -1, -1), rest], dim=1))
            return _condition(torch.cat(hidden_states), batch)

    def encode(self, batch: PromptBatch) -> Condition:
        """Condition on the prompts of a batch; its answers, which no prompt sees, are left out."""
        return _condition(self.hidden_states(batch), batch)

    def hidden_states(self, batch: PromptBatch) -> Tensor:
        """The last layer at every token, (B, N, D); what stands at padding means nothing."""
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            hidden_states, _ = self._forward(
                batch.input_ids, batch.position_ids, batch.pixel_values, batch.image_grid_thw
            )
        return hidden_states

    def encode_dialogues(self, batch: PromptBatch) -> tuple[Condition, Tensor]:
        """One forward for both trainings: the condition of the prompts, and the loss of their answers.

        Args:
            batch: with labels.

        Returns:
            The condition as `encode` gives it, and the cross-entropy of each answer token (and end of turn) in
            nats, (number of them,) float32, in the batch's order. Its mean is the language-model loss.
        """
        if batch.labels is None:
            raise ValueError("Got a batch without labels, expected one prepared with answers.")
        hidden_states = self.hidden_states(batch)
        targets = batch.labels[:, 1:].to(hidden_states.device)
        answered = targets != IGNORED
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            # The head is wide: it projects the tokens before an answer's, and no others.
            logits = self.vlm.lm_head(hidden_states[:, :-1][answered])
            losses = F.cross_entropy(logits.float(), targets[answered], reduction="none")
        return _condition(hidden_states, batch), losses

    @torch.no_grad()
    def describe(self, image: Picture, instruction: str, max_new_tokens: int = 48) -> Description:
        """Ask the model which part of the picture an instruction means: reasoning segmentation's first stage.

        Args:
            image: the picture.
            instruction: a question or a roundabout description ("what can I drink from?").
            max_new_tokens: longest answer; one that is cut off is a ramble, and not used.

        Returns:
            The answer as a target. Decoding is greedy: the same input gives the same description.
        """
        prompts = [self.processor.describing_prompt(instruction)]
        batch = self.processor.prepare(prompts, [image], answers=[""]).to(self._device)
        assert batch.pixel_values is not None
        # An empty answer without its end of turn: the model goes on from there.
        input_ids = batch.input_ids[:, :-1]
        tokenizer = self.processor.tokenizer
        ends = [tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.eos_token_id]
        output = self.vlm.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            mm_token_type_ids=(input_ids == self.processor.image_token_id).int(),
            pixel_values=batch.pixel_values,
            image_grid_thw=batch.image_grid_thw,
            generation_config=GenerationConfig(
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,
                max_new_tokens=max_new_tokens,
                eos_token_id=ends,
                pad_token_id=tokenizer.pad_token_id,
            ),
        )
        answer = tokenizer.decode(output[0, input_ids.shape[1] :], skip_special_tokens=True)
        has_ended = int(output[0, -1]) in ends
        target = clean_answer(answer) if has_ended else ""
        return Description(target=target or instruction, answer=answer, is_fallback=not target)

    def _forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        *,
        cache: DynamicCache | None = None,
        use_cache: bool = False,
    ) -> tuple[Tensor, DynamicCache | None]:
        """The model's forward without its head: hidden states (B, N, D) after the last norm, and the cache."""
        device = self._device
        output = self.vlm(
            input_ids=input_ids.to(device),
            # Always ours: the model would otherwise count on from the picture it saw last.
            position_ids=position_ids.to(device),
            pixel_values=None if pixel_values is None else pixel_values.to(device),
            image_grid_thw=None if image_grid_thw is None else image_grid_thw.to(device),
            past_key_values=cache,
            use_cache=use_cache or cache is not None,
            output_hidden_states=True,
            logits_to_keep=torch.empty(0, dtype=torch.long, device=device),
            return_dict=True,
        )
        return output.hidden_states[-1], output.past_key_values

    @property
    def _device(self) -> torch.device:
        return self.device or self.vlm.device


def clean_answer(answer: str) -> str:
    """An answer's first line without quotation marks and stops at its ends; empty if it holds no word."""
    lines = [line for line in answer.splitlines() if any(map(str.isalnum, line))]
    return " ".join(lines[0].split()).strip("\"'`*.:;, ") if lines else ""


def _condition(hidden_states: Tensor, batch: PromptBatch) -> Condition:
    mask = batch.prompt_mask.to(hidden_states.device)
    hidden_states = hidden_states[:, : mask.shape[1]].masked_fill(~mask[..., None], 0.0)
    return Condition(hidden_states=hidden_states, attention_mask=mask)


def _repeated(cache: DynamicCache, count: int) -> DynamicCache:
    """The keys and values of one sequence for `count` sequences, without touching the original."""
    repeated = DynamicCache()
    for index, layer in enumerate(cache.layers):
        repeated.update(layer.keys.expand(count, -1, -1, -1), layer.values.expand(count, -1, -1, -1), index)
    return repeated
