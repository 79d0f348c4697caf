"""The numbers of an ablation: what every run has in common, so that rows differ in one thing alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from genmask.ablation.rows import Row
from genmask.data.composition import PLAIN, Layout
from genmask.data.expressions import Kind
from genmask.timesteps import PowerLaw
from genmask.training.loop import LoopConfig
from genmask.training.mask_config import MaskConfig
from genmask.training.new_transformer import TransformerShape
from genmask.training.pretraining import PretrainingConfig

TINY_SHAPE = TransformerShape(num_layers=6, num_attention_heads=4, attention_head_dim=48, ffn_dim=768)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Size and length of every run."""

    model: str = "tiny"
    """The model whose VAE and VLM are used, frozen; its transformer is not."""
    size: int = 64
    """Sides of the drawn scenes, in pixels."""
    layout: Layout = PLAIN
    """Of the scenes."""
    shares: Mapping[Kind, float] = field(
        default_factory=lambda: {"category": 0.2, "colour": 0.6, "plural": 0.1, "absent": 0.1}
    )
    """Of the kinds of sentence; where a scene offers none of a kind, another stands in."""
    shape: TransformerShape = TINY_SHAPE
    """Of the transformers."""
    pretraining_steps: int = 2000
    """All runs start from one transformer that has learnt for so long to tell what each patch of a picture shows, as
    the paper starts from one that has seen a world of pictures; 0: from nothing, otherwise for every seed."""
    pretraining_batch: int = 48
    steps: int = 1600
    segmentation_batch: int = 24
    """Masks of a step."""
    generation_batch: int = 8
    """Pictures of a step."""
    sentences: int = 16_000
    """Different ones with their masks, at most; a run that is longer sees them again, in another order."""
    pictures: int = 8_000
    """The same of captioned pictures."""
    learning_rate: float = 3e-3
    final_learning_rate: float = 5e-5
    warmup_steps: int = 50
    optimizer: str = "muon"
    ema_decay: float = 0.99
    mixed_precision: str = "bf16"
    checkpoint_every: int = 200
    held_out: int = 1000
    """Sentences that every row is scored on."""

    def __post_init__(self) -> None:
        counts = (self.steps, self.segmentation_batch, self.generation_batch, self.sentences, self.pictures)
        if min(*counts, self.held_out) < 1:
            raise ValueError(
                "Got an ablation of nothing, expected at least one step, mask, picture and held-out sentence."
            )

    @property
    def num_sentences(self) -> int:
        """Those that a run sees."""
        return min(self.sentences, self.steps * self.segmentation_batch)

    @property
    def num_pictures(self) -> int:
        """Those that a run sees."""
        return min(self.pictures, self.steps * self.generation_batch)

    def pretraining(self) -> PretrainingConfig:
        """What all runs start from."""
        return PretrainingConfig(
            shape=self.shape,
            sizes=((self.size, self.size),),
            sources=(("scenes", 1.0),),
            batch_size=self.pretraining_batch,
            block=self.shape.num_layers // 2,
        )

    def config(self, row: Row, seed: int) -> MaskConfig:
        """What a row is trained on, and how: the paper's best choices, but for what the row changes."""
        base = MaskConfig(
            shape=self.shape,
            resolution=self.size,
            sizes=((self.size, self.size),),
            segmentation_sources=(("scenes", 1.0),),
            generation_sources=(("scenes", 1.0),),
            segmentation_batch=self.segmentation_batch,
            generation_batch=self.generation_batch,
            segmentation_density=PowerLaw(0.05),
            condition_dropout=0.0,  # for guidance, which no row uses
            vlm_precision="float32",
            seed=seed,
        )
        return replace(base, **row.changes)

    def loop(self, steps: int | None = None) -> LoopConfig:
        """How long and how fast; `steps` in place of those of a run."""
        steps = self.steps if steps is None else steps
        return LoopConfig(
            steps=steps,
            learning_rate=self.learning_rate,
            final_learning_rate=self.final_learning_rate,
            warmup_steps=min(self.warmup_steps, steps // 2),
            optimizer=self.optimizer,
            ema_decay=self.ema_decay,
            mixed_precision=self.mixed_precision,
            num_workers=0,
            checkpoint_every=self.checkpoint_every,
            evaluate_every=0,
        )

    def numbers(self) -> dict[str, Any]:
        """All that results depend on, but for row and seed; as JSON has it."""
        numbers = asdict(self)
        del numbers["checkpoint_every"]  # a resumed run equals an uninterrupted one
        return json.loads(json.dumps(numbers))

    def settings(self, row: Row) -> dict[str, Any]:
        """All that a row's result depends on, the seed excepted; as JSON has it."""
        return {**self.numbers(), "row": row.definition()}


SCALES = {"tiny": Scale()}
"""By name."""
