"""Qwen2.5-VL at any size: a configuration that fits a processor, for a small one trained from scratch."""

from __future__ import annotations

from transformers import Qwen2_5_VLConfig

from genmask.processor import GenMaskProcessor


def small_vlm_config(
    processor: GenMaskProcessor,
    *,
    hidden_size: int = 256,
    num_layers: int = 6,
    num_heads: int = 4,
    intermediate_size: int | None = None,
    vision_hidden_size: int = 192,
    vision_depth: int = 4,
    vision_num_heads: int = 4,
    vision_intermediate_size: int | None = None,
    rope_theta: float = 10_000.0,
    max_position_embeddings: int = 2048,
) -> Qwen2_5_VLConfig:
    """Configuration of a `Qwen2_5_VLForConditionalGeneration` with this processor's vocabulary and patches.

    Embedding and head are tied, and every vision block attends to the whole picture (Qwen's window attention
    pays off at its own picture sizes only). Feed-forward layers default to 8/3 of the width, in multiples of 32.

    Args:
        processor: gives vocabulary, special tokens, patch, merge and temporal patch size.
        hidden_size: width of the language model, and so `text_dim` of the transformer it conditions.
        num_layers: decoder layers.
        num_heads: heads; the head width `hidden_size / num_heads` must be a multiple of 16 (rotary sections).
        intermediate_size: feed-forward width of a decoder layer.
        vision_hidden_size: width of the vision tower; its head width must be a multiple of 4.
        vision_depth: vision blocks.
        vision_num_heads: heads of a vision block.
        vision_intermediate_size: feed-forward width of a vision block.
        rope_theta: rotary base of the language model; Qwen's 1e6 is meant for long contexts.
        max_position_embeddings: longest sequence, in tokens.

    Raises:
        ValueError: a head width that the rotary embedding cannot split.
    """
    head_width, vision_head_width = hidden_size / num_heads, vision_hidden_size / vision_num_heads
    if head_width % 16 or vision_head_width % 4:
        raise ValueError(
            f"Got head widths {head_width:g} (language) and {vision_head_width:g} (vision), expected "
            "multiples of 16 and of 4: choose widths and numbers of heads accordingly."
        )
    tokenizer, images = processor.tokenizer, processor.image_processor
    half = int(head_width) // 2
    token_id = tokenizer.convert_tokens_to_ids
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size or _feed_forward(hidden_size),
            "num_hidden_layers": num_layers,
            "num_attention_heads": num_heads,
            "num_key_value_heads": num_heads,
            "max_position_embeddings": max_position_embeddings,
            # Qwen's shares of time, height and width: 16, 24, 24 of 64.
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": rope_theta,
                "mrope_section": [half // 4, half * 3 // 8, half * 3 // 8],
            },
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": vision_depth,
            "hidden_size": vision_hidden_size,
            "intermediate_size": vision_intermediate_size or _feed_forward(vision_hidden_size),
            "num_heads": vision_num_heads,
            "out_hidden_size": hidden_size,
            "patch_size": images.patch_size,
            "spatial_merge_size": images.merge_size,
            "temporal_patch_size": images.temporal_patch_size,
            "window_size": 8 * images.patch_size * images.merge_size,
            "fullatt_block_indexes": list(range(vision_depth)),
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def _feed_forward(width: int) -> int:
    return -(-width * 8 // 3 // 32) * 32
