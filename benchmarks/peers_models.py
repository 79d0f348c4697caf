"""The models that benchmarks/peers.py compares: public classes of transformers, with random weights at published sizes.

Speed does not depend on weights, so nothing is downloaded, and the masks mean nothing. A tokenizer is the one part that
would have to be: random ids stand for the sentence, one for each of its words (the vocabularies hold all words of drawn
scenes) and those that begin and end it, so that the networks see as many tokens as they would.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    Sam3Config,
    Sam3Model,
    SamConfig,
    SamImageProcessorPil,
    SamModel,
    ViTImageProcessorPil,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from genmask.pipeline import GenMaskPipeline


class Peer(ABC):
    """A model that answers a picture and a sentence with a mask.

    Args:
        name: as printed.
        sides: of the squares, in pixels, to which it resizes a picture; the last is that of the mask.
        networks: all that an answer needs.
    """

    def __init__(self, name: str, sides: Sequence[int], networks: Sequence[nn.Module]) -> None:
        self.name, self.sides, self.networks = name, tuple(sides), tuple(networks)
        self.parameters = sum(p.numel() for network in networks for p in network.parameters())
        self.weight_bytes = sum(p.nbytes for network in networks for p in network.parameters())

    @abstractmethod
    def __call__(self, image: np.ndarray, text: str) -> np.ndarray:
        """Picture (H, W, 3) uint8, RGB -> mask (H, W) bool; resizing there and back is part of the answer."""


class GenMask(Peer):
    """Ours; `num_inference_steps` above 1 is what an ordinary diffusion model takes."""

    def __init__(self, name: str, pipeline: GenMaskPipeline, num_inference_steps: int = 1) -> None:
        super().__init__(
            name, [pipeline.config.resolution], [pipeline.transformer, pipeline.vae, pipeline.vlm]
        )
        self.pipeline, self.num_inference_steps = pipeline, num_inference_steps

    def __call__(self, image: np.ndarray, text: str) -> np.ndarray:
        result: Any = self.pipeline.segment(image, text, num_inference_steps=self.num_inference_steps)
        mask: np.ndarray = result.mask
        return mask

    def in_steps(self, count: int) -> GenMask:
        """The same networks, in so many steps."""
        return GenMask(f"{self.name}, {count} steps", self.pipeline, count)

    def at(self, resolution: int) -> GenMask:
        """The same networks, on pictures of another size, in pixels."""
        shortcut = self.pipeline.config.shortcut
        pipeline = GenMaskPipeline(**self.pipeline.components, resolution=resolution, shortcut=shortcut)
        return GenMask(self.name, pipeline, self.num_inference_steps)


class ClipSeg(Peer):
    """CIDAS/clipseg-rd64-refined: CLIP ViT-B/16 and a small decoder."""

    def __init__(self, device: torch.device, dtype: torch.dtype, *, toy: bool = False) -> None:
        side = 64 if toy else 352
        config = CLIPSegConfig(
            vision_config={"patch_size": 16, **(_TOY | {"image_size": side} if toy else {})},
            text_config=_TOY if toy else {},
            use_complex_transposed_convolution=True,
            **({"extract_layers": [0, 1], "reduce_dim": 16} if toy else {}),
        )
        self.model = _random(CLIPSegForImageSegmentation, config, device, dtype)
        self.processor = ViTImageProcessorPil(
            size={"height": side, "width": side},
            image_mean=IMAGENET_DEFAULT_MEAN,
            image_std=IMAGENET_DEFAULT_STD,
        )
        super().__init__("CLIPSeg", [side], [self.model])

    def __call__(self, image: np.ndarray, text: str) -> np.ndarray:
        pixels = self.processor(image, return_tensors="pt").pixel_values
        ids = _clip_ids(text)
        output = self.model(
            input_ids=ids.to(self.model.device),
            pixel_values=pixels.to(self.model.device, self.model.dtype),
        )
        return _to_mask(output.logits, image)


class Sam3(Peer):
    """facebook/sam3 with a text prompt; the answer is its map of all that is meant, "semantic_seg".

    That spares it the choice among 200 instances, a small part of its work, which depends on the weights.
    """

    TEXT_TOKENS = 32  # what its processor pads a sentence to

    def __init__(self, device: torch.device, dtype: torch.dtype, *, toy: bool = False) -> None:
        config = Sam3Config(**(_toy_sam3() if toy else {}))
        side = config.image_size
        self.model = _random(Sam3Model, config, device, dtype)
        # Its own processor needs torchvision; this one does the same.
        self.processor = ViTImageProcessorPil(size={"height": side, "width": side})
        super().__init__("SAM 3", [side], [self.model])

    def __call__(self, image: np.ndarray, text: str) -> np.ndarray:
        pixels = self.processor(image, return_tensors="pt").pixel_values
        ids = _clip_ids(text)[:, : self.TEXT_TOKENS]
        padding = (0, self.TEXT_TOKENS - ids.shape[1])
        output = self.model(
            pixel_values=pixels.to(self.model.device, self.model.dtype),
            input_ids=F.pad(ids, padding, value=_CLIP_END).to(self.model.device),
            attention_mask=F.pad(torch.ones_like(ids), padding).to(self.model.device),
        )
        return _to_mask(output.semantic_seg, image)


class LisaShaped(Peer):
    """As LISA-7B answers: LLaVA writes a sentence, token by token, and one of its hidden states prompts SAM ViT-H."""

    PROMPT_TOKENS = 60
    """Of the conversation around the words asked for."""
    ANSWER_TOKENS = 10
    """"Sure, it is [SEG].", as the Llama tokenizer splits it, and the end."""

    def __init__(self, device: torch.device, dtype: torch.dtype, *, toy: bool = False) -> None:
        eyes = {
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
            "image_size": 224, "patch_size": 14,
        }  # fmt: skip
        side = 64 if toy else 1024
        vision = {
            "hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16,
            "global_attn_indexes": [7, 15, 23, 31], "image_size": side,
        }  # fmt: skip
        language = {"vocab_size": 32064}
        if toy:
            eyes |= _TOY | {"image_size": 56}
            vision |= _TOY | {"global_attn_indexes": [1]}
            language |= _TOY
        self.image_tokens = (eyes["image_size"] // eyes["patch_size"]) ** 2
        self.llava = _random(
            LlavaForConditionalGeneration,
            LlavaConfig(
                vision_config={"model_type": "clip_vision_model", **eyes},
                text_config={"model_type": "llama", **language},
                image_seq_length=self.image_tokens,
            ),
            device,
            dtype,
        )
        self.sam = _random(
            SamModel,
            SamConfig(vision_config=vision, prompt_encoder_config={"image_size": side}),
            device,
            dtype,
        )
        width = self.llava.config.text_config.hidden_size
        self.to_prompt = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 256))
        self.to_prompt.to(device, dtype)
        square = {"height": eyes["image_size"], "width": eyes["image_size"]}
        self.llava_processor = CLIPImageProcessorPil(
            size={"shortest_edge": eyes["image_size"]}, crop_size=square
        )
        self.sam_processor = SamImageProcessorPil(
            size={"longest_edge": side}, pad_size={"height": side, "width": side}
        )
        super().__init__("LISA-shaped", [eyes["image_size"], side], [self.llava, self.sam, self.to_prompt])

    def __call__(self, image: np.ndarray, text: str) -> np.ndarray:
        device, dtype = self.llava.device, self.llava.dtype
        picture = self.llava_processor(image, return_tensors="pt").pixel_values.to(device, dtype)
        words = torch.randint(3, 32000, (1, self.PROMPT_TOKENS + len(text.split())))
        pictured = torch.full((1, self.image_tokens), self.llava.config.image_token_index)
        ids = torch.cat([pictured, words], dim=1).to(device)
        answer = self.llava.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=picture,
            do_sample=False,
            min_new_tokens=self.ANSWER_TOKENS,
            max_new_tokens=self.ANSWER_TOKENS,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )
        prompt = self.to_prompt(answer.hidden_states[-1][-1])[:, None]  # (1, 1, 1, 256)

        prepared = self.sam_processor(image, return_tensors="pt")
        _, no_mask = self.sam.prompt_encoder(None, None, None, None)
        logits, _ = self.sam.mask_decoder(
            image_embeddings=self.sam.get_image_embeddings(prepared.pixel_values.to(device, dtype)),
            image_positional_embeddings=self.sam.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=prompt,
            dense_prompt_embeddings=no_mask,
            multimask_output=False,
        )
        (mask,) = self.sam_processor.post_process_masks(
            [logits[0].float()], prepared.original_sizes, prepared.reshaped_input_sizes
        )
        found: np.ndarray = mask[0, 0].cpu().numpy()
        return found


_CLIP_BEGIN, _CLIP_END = 49406, 49407  # in CLIP's vocabulary
_TOY: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip


def _toy_sam3() -> dict[str, Any]:
    part = {"hidden_size": 32, "intermediate_size": 64, "num_layers": 1, "num_attention_heads": 2}
    backbone = _TOY | {
        "model_type": "sam3_vit_model", "image_size": 112, "pretrain_image_size": 56, "window_size": 4,
        "global_attn_indexes": [1],
    }  # fmt: skip
    sizes = [[32, 32], [16, 16], [8, 8]]
    return {
        "vision_config": {
            "backbone_config": backbone, "fpn_hidden_size": 32, "backbone_feature_sizes": sizes,
        },
        "text_config": _TOY | {"model_type": "clip_text_model", "max_position_embeddings": 32},
        "geometry_encoder_config": part,
        "detr_encoder_config": part,
        "detr_decoder_config": part,
        "mask_decoder_config": {"hidden_size": 32, "num_attention_heads": 2},
    }  # fmt: skip


def _random(
    of: type[PreTrainedModel], config: PreTrainedConfig, device: torch.device, dtype: torch.dtype
) -> Any:
    """Made where it runs and in its precision: there is no room for 7 billion parameters in float32 first."""
    with device:
        return of._from_config(config, dtype=dtype).eval()


def _clip_ids(text: str) -> Tensor:
    words = torch.randint(1000, 40000, (len(text.split()),)).tolist()
    return torch.tensor([[_CLIP_BEGIN, *words, _CLIP_END]])


def _to_mask(logits: Tensor, image: np.ndarray) -> np.ndarray:
    """(..., h, w) of one mask -> (H, W) bool, at the size of the picture (H, W, 3)."""
    logits = logits.float().reshape(1, 1, *logits.shape[-2:])
    mask: np.ndarray = (F.interpolate(logits, image.shape[:2], mode="bilinear")[0, 0] > 0).cpu().numpy()
    return mask
