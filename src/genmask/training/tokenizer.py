"""A byte-level BPE tokenizer of Qwen2.5's kind, trained on texts of one's own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import chain

from tokenizers import Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import Qwen2Tokenizer

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


TEMPLATE_WORDS = ("system\nYou are a helpful assistant.", "user\n", "assistant\n")
"""What the chat template adds to every prompt: learned first, so that it costs few tokens."""


def train_tokenizer(
    texts: Iterable[str], *, vocab_size: int = 4096, min_frequency: int = 2
) -> Qwen2Tokenizer:
    """Learn a vocabulary.

    Args:
        texts: what the tokenizer will see: prompts, answers, captions. Any other text still round-trips.
        vocab_size: number of tokens at most, the 256 bytes and the special tokens included.
        min_frequency: a pair must occur so often to be merged.

    Returns:
        A tokenizer whose special tokens stand after the learned vocabulary, as Qwen2.5's do. It saves to
        tokenizer.json, and `AutoTokenizer` loads it.

    Raises:
        ValueError: `vocab_size` has no room for the bytes and the special tokens.
    """
    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise ValueError(
            f"Got vocab_size={vocab_size}, expected at least {smallest}: the bytes and special tokens."
        )
    blank = Qwen2Tokenizer().backend_tokenizer  # for its normaliser and splitting rule
    learner = Tokenizer(BPE())
    learner.normalizer = blank.normalizer
    learner.pre_tokenizer = blank.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        min_frequency=min_frequency,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator(chain(TEMPLATE_WORDS * 1000, texts), trainer)
    model = json.loads(learner.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        unk_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL_TOKENS),
    )
