"""A toy source and a toy run of the transformer, for the tests of training in one process and in many."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from genmask.data.example import Dialogue, Example
from genmask.timesteps import PowerLaw
from genmask.training.cache import EncodingCache
from genmask.training.loop import LoopConfig
from genmask.training.mask_config import MaskConfig
from genmask.training.masks import MaskTask
from genmask.training.new_transformer import TransformerShape, build_transformer
from tests.toy import toy_processor, toy_vae, toy_vlm

SIZES = ((32, 32), (32, 48))
LOOP = LoopConfig(
    steps=5,
    learning_rate=3e-3,
    final_learning_rate=1e-3,
    warmup_steps=2,
    ema_decay=0.9,
    num_workers=0,
    checkpoint_every=2,
    evaluate_every=4,
    log_every=3,
)


class Rectangles:
    """A bright rectangle on a dark ground, to be found by its colour; a function of the index alone."""

    colours = ("red", "green", "blue")

    def __init__(self, with_ignore: bool = True) -> None:
        self.with_ignore = with_ignore

    def segmentation(self, index: int, height: int, width: int) -> Example:
        rng = np.random.default_rng(index)
        image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        top, left = rng.integers(height // 2), rng.integers(width // 2)
        mask = np.zeros((height, width), dtype=bool)
        mask[top : top + 16, left : left + 16] = True
        image[mask, index % 3] = 250
        ignore = np.zeros_like(mask)
        ignore[:10, :20] = self.with_ignore
        text = f"the {self.colours[index % 3]} mug"
        return Example(image=image, text=text, mask=mask, ignore=ignore, source="rectangles", id=str(index))

    def generation(self, index: int, height: int, width: int) -> Example:
        found = self.segmentation(index, height, width)
        return Example(image=found.image, text=f"a {self.colours[index % 3]} mug", task="generation")

    def dialogues(self, index: int) -> list[Dialogue]:
        image = self.segmentation(index, 32, 32).image
        return [Dialogue(image=image, question="Which part?", answer=self.colours[index % 3])]

    def __getitem__(self, index: int) -> Example:
        return self.segmentation(index, 48, 48)


SHAPE = TransformerShape(num_layers=2, num_attention_heads=2, attention_head_dim=12, ffn_dim=48, freq_dim=32)


def mask_task(source: Any = None, cache: EncodingCache | None = None, **config: Any) -> MaskTask:
    source = source or Rectangles()
    shares = (("rectangles", 1.0),)
    toy = MaskConfig(
        shape=SHAPE, resolution=32, sizes=SIZES, segmentation_sources=shares, generation_sources=shares,
        segmentation_batch=4, generation_batch=2, segmentation_density=PowerLaw(0.5), vlm_precision="float32",
    )  # fmt: skip
    toy = replace(toy, **config)
    vlm = toy_vlm()
    return MaskTask(
        toy,
        build_transformer(SHAPE, vlm.config.get_text_config().hidden_size, toy.seed),
        segmentation_sources={"rectangles": source},
        generation_sources={"rectangles": source} if toy.generation_batch else {},
        validation={"held out": [source.segmentation(1000 + i, 32, 32) for i in range(2)]},
        vae=toy_vae(),
        vlm=vlm,
        processor=toy_processor(),
        cache=cache,
        identity="toy",
    )
