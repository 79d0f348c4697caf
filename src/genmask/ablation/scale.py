"""The numbers of an ablation: what every run has in common, so that rows differ in one thing alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from genmask.ablation.rows import Row
from genmask.timesteps import PowerLaw
from genmask.training.loop import LoopConfig
from genmask.training.masks import MaskConfig, TransformerShape

TINY_SHAPE = TransformerShape(num_layers=6, num_attention_heads=4, attention_head_dim=48, ffn_dim=768)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Size and length of every run."""

    model: str = "tiny"
    """The model whose VAE and VLM are used, frozen; its transformer is not."""
    size: int = 64
    """Sides of the drawn scenes, in pixels."""
    shape: TransformerShape = TINY_SHAPE
    """Of the transformers, which start from nothing."""
    steps: int = 1000
    segmentation_batch: int = 16
    """Masks of a step."""
    generation_batch: int = 16
    """Pictures of a step; the paper's 1 : 1."""
    sentences: int = 16_000
    """Different ones with their masks, at most; a run that is longer sees them again, in another order."""
    pictures: int = 8_000
    """The same of captioned pictures."""
    learning_rate: float = 2e-3
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

    def loop(self) -> LoopConfig:
        """How long and how fast."""
        return LoopConfig(
            steps=self.steps,
            learning_rate=self.learning_rate,
            final_learning_rate=self.final_learning_rate,
            warmup_steps=min(self.warmup_steps, self.steps // 2),
            optimizer=self.optimizer,
            ema_decay=self.ema_decay,
            mixed_precision=self.mixed_precision,
            num_workers=0,
            checkpoint_every=self.checkpoint_every,
            evaluate_every=0,
        )

    def settings(self, row: Row) -> dict[str, Any]:
        """All that a row's result depends on, the seed excepted; ready for JSON."""
        numbers = asdict(self)
        del numbers["checkpoint_every"]  # a resumed run equals an uninterrupted one
        return {**numbers, "row": row.definition()}


SCALES = {"tiny": Scale()}
"""By name."""
