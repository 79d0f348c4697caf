"""Pictures and words -> what Qwen2.5-VL takes: chat template, token ids, rotary positions, patches."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, ProcessorMixin, Qwen2VLImageProcessorPil

from genmask.prompt_batch import IGNORED, PromptBatch, padded, rope_positions

IMAGE_TOKEN = "<|image_pad|>"
MAX_TEXT_TOKENS = 1024
"""Longest text of a prompt or an answer, in tokens; the picture and the template are not counted."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2.5-VL's format. Used where a folder brings no template of its own."""

DESCRIBE_PROMPT = (
    'Which part of the image does this mean: "{instruction}"? Answer with a short description of it.'
)
"""What a model that was not trained for reasoning segmentation is asked first."""

Picture = Image.Image | np.ndarray | Tensor
"""A PIL image, or (H, W, 3) uint8."""


def segmentation_prompt(target: str) -> str:
    """The instruction for a target: "a red mug." -> "Please segment the red mug in the image.".

    White space is collapsed; a leading article and a closing full stop, which the sentence brings itself, are
    dropped.

    Raises:
        ValueError: nothing is left of the target.
    """
    words = " ".join(target.split()).rstrip(". ")
    words = re.sub(r"^(the|an?) (?=\S)", "", words, flags=re.IGNORECASE)
    if not words:
        raise ValueError(
            f"Got the text {target!r}, expected words that name what to segment, such as 'the red mug'."
        )
    return f"Please segment the {words} in the image."


class GenMaskProcessor(ProcessorMixin):
    """Qwen2.5-VL's picture processor, tokenizer and chat template, without the video part (needs torchvision).

    `from_pretrained` reads both what `save_pretrained` writes and a published Qwen2.5-VL folder. As a
    `ProcessorMixin` it can be called like transformers' own; `prepare` is the direct way to a batch.

    Args:
        image_processor: resizes and normalises pictures.
        tokenizer: with Qwen2.5's special tokens.
        chat_template: None takes the tokenizer's, else `CHAT_TEMPLATE`.
        describe_prompt: how this model is asked what an "{instruction}" means; saved with it.
        vlm_max_pixels: larger pictures are scaled down to at most so many for the VLM, whatever the VAE sees; None
            scales none. Saved with it.

    Raises:
        ValueError: a chat template or prompt without a place for what goes into it; less than a token's pixels.
    """

    return_mm_token_type_ids = True

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessorPil,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        describe_prompt: str = DESCRIBE_PROMPT,
        vlm_max_pixels: int | None = None,
    ) -> None:
        if "{instruction}" not in describe_prompt:
            raise ValueError(
                f"Got describe_prompt {describe_prompt!r}, expected one that holds {{instruction}}."
            )
        token = (image_processor.patch_size * image_processor.merge_size) ** 2
        if vlm_max_pixels is not None and vlm_max_pixels < token:
            raise ValueError(
                f"Got vlm_max_pixels {vlm_max_pixels}, expected at least those of one token, {token}."
            )
        super().__init__(
            image_processor,
            tokenizer,
            chat_template=chat_template or tokenizer.chat_template or CHAT_TEMPLATE,
        )
        self.describe_prompt = describe_prompt
        self.vlm_max_pixels = vlm_max_pixels
        self.image_token = IMAGE_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self._frames = {with_image: self._frame(with_image) for with_image in (False, True)}

    @classmethod
    def _get_arguments_from_pretrained(
        cls, folder: Any, processor_dict: dict | None = None, **kwargs: Any
    ) -> list:
        # Not the automatic class: it takes the torchvision processor where that is installed, and other pixels.
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(folder, **kwargs)
        return [image_processor, AutoTokenizer.from_pretrained(folder, **kwargs)]

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs: Any) -> str:
        """One placeholder per token that the picture becomes."""
        rows, columns = self._merged(image_inputs["image_grid_thw"][image_idx])
        return self.image_token * (rows * columns)

    def describing_prompt(self, instruction: str) -> str:
        """The question what an instruction means in a picture: reasoning segmentation's first stage."""
        return self.describe_prompt.replace("{instruction}", " ".join(instruction.split()))

    def prepare(
        self,
        prompts: Sequence[str],
        images: Sequence[Picture | None] | Tensor | None = None,
        answers: Sequence[str | None] | None = None,
    ) -> PromptBatch:
        """Turn prompts into a batch.

        Args:
            prompts: what the user says after the picture ("Please segment the mug in the image."), B of them.
            images: one per prompt, None for a prompt without; or all at once, (B, H, W, 3) uint8.
            answers: one per prompt, None for a prompt without. They follow it as the assistant's turn.

        Returns:
            The batch, on the CPU.

        Raises:
            ValueError: unequal lengths, or a text of more than `MAX_TEXT_TOKENS` tokens.
        """
        pictures = [None] * len(prompts) if images is None else list(images)
        present = [picture for picture in pictures if picture is not None]
        if not present:
            return self.arrange(prompts, [None] * len(pictures), answers)
        pixel_values, grids = self.patches(present)
        remaining = iter(grids)
        owned = [None if picture is None else next(remaining) for picture in pictures]
        return replace(self.arrange(prompts, owned, answers), pixel_values=pixel_values, image_grid_thw=grids)

    def arrange(
        self,
        prompts: Sequence[str],
        grids: Sequence[Tensor | None] | None = None,
        answers: Sequence[str | None] | None = None,
    ) -> PromptBatch:
        """`prepare` for pictures whose patches are made elsewhere: `grids` holds their `image_grid_thw`."""
        count = len(prompts)
        grids = [None] * count if grids is None else grids
        replies = [None] * count if answers is None else answers
        if not 0 < count == len(grids) == len(replies):
            raise ValueError(
                f"Got {count} prompts, {len(grids)} images and {len(replies)} answers, expected equally many, "
                "and at least one."
            )
        rows, labels, lengths, layouts = [], [], [], []
        spoken = self._tokenize([reply or "" for reply in replies])
        for text, grid, reply, answer in zip(self._tokenize(prompts), grids, replies, spoken, strict=True):
            frame = self._frames[grid is not None]
            merged = None if grid is None else self._merged(grid)
            placeholders = [] if merged is None else [self.image_token_id] * (merged[0] * merged[1])
            row = [*frame.before_image, *placeholders, *frame.before_text, *text, *frame.after_text]
            lengths.append(len(row))
            said = []
            if reply is not None:
                row += frame.before_answer
                said = [*answer, *frame.after_answer]
            rows.append(row + said)
            labels.append([IGNORED] * len(row) + said)
            layouts.append((len(frame.before_image), merged))

        input_ids = padded(rows, self.tokenizer.pad_token_id)
        positions = {layout: rope_positions(input_ids.shape[1], *layout) for layout in set(layouts)}
        return PromptBatch(
            input_ids=input_ids,
            position_ids=torch.stack([positions[layout] for layout in layouts], dim=1),
            prompt_lengths=torch.tensor(lengths),
            labels=None if answers is None else padded(labels, IGNORED),
        )

    def patches(self, images: Sequence[Picture] | Tensor) -> tuple[Tensor, Tensor]:
        """Resize to multiples of a token's side where needed, normalise, cut into patches in model order.

        The picture is never scaled to Qwen's own pixel limits: the model sees what the VAE sees, or that at
        `vlm_max_pixels`.

        Args:
            images: at least one. Quickest are pictures of one size that needs no change.

        Returns:
            `pixel_values` and `image_grid_thw` as in `PromptBatch`.

        Raises:
            ValueError: an array that is not (H, W, 3) uint8.
        """
        processor = self.image_processor
        cell = processor.patch_size * processor.merge_size
        arrays = [_to_array(image) for image in images]
        sizes = {array.shape[:2] for array in arrays}
        most = self.vlm_max_pixels or 2**62
        height, width = arrays[0].shape[:2]
        if len(sizes) == 1 and height % cell == width % cell == 0 and height * width <= most:
            return self._patches_of_equal_sizes(torch.from_numpy(np.stack(arrays)))
        limits = {"shortest_edge": cell**2, "longest_edge": most}
        inputs = processor(arrays, size=limits, input_data_format="channels_last", return_tensors="pt")
        return inputs["pixel_values"], inputs["image_grid_thw"]

    def _patches_of_equal_sizes(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the picture processor does when nothing is resized, for a whole batch at once."""
        processor = self.image_processor
        patch, merge, time = processor.patch_size, processor.merge_size, processor.temporal_patch_size
        count, height, width, channels = images.shape
        rows, columns = height // patch, width // patch
        mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
        pixels = images * (processor.rescale_factor / std) - mean / std
        pixels = pixels.view(count, rows // merge, merge, patch, columns // merge, merge, patch, channels)
        pixels = pixels.permute(0, 1, 4, 2, 5, 7, 3, 6).unsqueeze(6)
        # A still picture fills all frames of a patch.
        pixels = pixels.expand(-1, -1, -1, -1, -1, -1, time, -1, -1)
        grids = torch.tensor([[1, rows, columns]]).repeat(count, 1)
        return pixels.reshape(count * rows * columns, channels * time * patch * patch), grids

    def _merged(self, grid: Tensor) -> tuple[int, int]:
        """Rows and columns of tokens of a picture, from its (time, rows, columns) of patches."""
        merge = self.image_processor.merge_size
        return int(grid[1]) // merge, int(grid[2]) // merge

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of what people write: no text can spell a special token, and so break out of its turn."""
        texts = [text.strip() for text in texts]
        tokens = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        for text, ids in zip(texts, tokens, strict=True):
            if len(ids) > MAX_TEXT_TOKENS:
                raise ValueError(
                    f"Got a text of {len(ids)} tokens ({text[:40]!r}...), expected at most {MAX_TEXT_TOKENS}: "
                    "shorten it."
                )
        return tokens

    def _frame(self, with_image: bool) -> _Frame:
        """Render the chat template once, with a mark for the text: what surrounds it never changes."""
        mark = "\N{OBJECT REPLACEMENT CHARACTER}"
        picture = [{"type": "image"}] if with_image else []
        user = {"role": "user", "content": [*picture, {"type": "text", "text": mark}]}
        prompt = self.apply_chat_template([user], tokenize=False)
        dialogue = self.apply_chat_template([user, {"role": "assistant", "content": mark}], tokenize=False)
        before, *after = prompt.split(mark)
        pieces = dialogue.split(mark)
        before_image, image, before_text = before.partition(IMAGE_TOKEN)
        if (
            len(after) != 1
            or len(pieces) != 3
            or not dialogue.startswith(prompt)
            or bool(image) != with_image
        ):
            raise ValueError(
                f"Got a chat template that renders a turn as {dialogue!r}, expected the picture "
                f"({IMAGE_TOKEN}), the text and the answer once each, in this order, as Qwen2.5-VL's template does."
            )

        def ids(piece: str) -> list[int]:
            return self.tokenizer(piece, add_special_tokens=False)["input_ids"]

        return _Frame(
            before_image=ids(before_image),
            before_text=ids(before_text),
            after_text=ids(after[0]),
            before_answer=ids(pieces[1].removeprefix(after[0])),
            after_answer=ids(pieces[2])[:1],  # the end of turn; what follows it is never generated
        )


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """The constant tokens of a dialogue of one turn."""

    before_image: list[int]
    before_text: list[int]
    after_text: list[int]
    before_answer: list[int]
    after_answer: list[int]


def _to_array(image: Picture) -> np.ndarray:
    array = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"Got a picture {array.shape} {array.dtype}, expected (H, W, 3) uint8, RGB.")
    return array
