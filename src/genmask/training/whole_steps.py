"""What tasks have in common that are small enough for one process and one micro-batch: a step is one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from genmask.objectives import WeightedSum
from genmask.training.parallel import Share


class WholeSteps:
    """A `TrainingTask` whose losses are means over the whole step."""

    passes = ("step",)
    names_of_losses: ClassVar[tuple[str, ...]]

    def prepare(self, batches: Sequence[Any]) -> Sequence[Any]:
        return batches

    def weights(self, batch: Any) -> dict[str, float]:
        return dict.fromkeys(self.names_of_losses, 1.0)

    def names(self, batch: Any, which: str) -> list[str]:
        return ["the whole step"]

    def flop(self, batch: Any) -> float:
        return 0.0


def as_one(mean: Tensor) -> WeightedSum:
    """A mean over the step, as if the step were one sample."""
    return WeightedSum(mean.unsqueeze(0), torch.ones_like(mean).unsqueeze(0))


def require_one_part(share: Share) -> None:
    """Raise ValueError if a step is to be shared out."""
    if share.parts > 1:
        raise ValueError(
            f"Got {share.world_size} processes and {share.accumulation} micro-batches, expected one of each for this "
            "small part: start it without a launcher, with accumulation 1."
        )
