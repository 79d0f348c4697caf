"""The samples of a pass: as they are drawn, and as the transformer takes them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from genmask.conditioning import Condition
from genmask.prompt_batch import PromptBatch


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Equal-sized pictures with their prompts, on the CPU."""

    ids: tuple[str, ...]
    """Source and id of each sample."""
    images: Tensor
    """(B, H, W, 3) uint8."""
    prompts: PromptBatch
    masks: Tensor | None = None
    """(B, H, W) bool; background where unknown. None for pictures that are to be drawn."""
    ignore: Tensor | None = None
    """(B, H, W) bool, True where unknown."""
    coverage: Tensor | None = None
    """(B, S, R) float32: share of each of the S patches that each of R regions of the picture covers."""
    concepts: Tensor | None = None
    """(B, R, K) int8, what each region is (see `data.regions`)."""

    def to(self, device: torch.device | str) -> Samples:
        """The prompts stay: they are needed on the CPU."""
        return _moved(self, device, leave=("prompts",))


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """What the frozen VAE and VLM make of samples: all that the transformer is trained on."""

    ids: tuple[str, ...]
    """Source and id of each sample."""
    x0: Tensor
    """(B, C, h, w) float32, latents of the masks, or of the pictures to be drawn."""
    condition: Condition
    picture: Tensor | None = None
    """(B, C, h, w) float32, latents of the pictures to be segmented."""
    masks: Tensor | None = None
    """(B, H, W) bool; background where unknown."""
    ignore: Tensor | None = None
    """(B, H, W) bool, True where unknown."""
    coverage: Tensor | None = None
    """(B, S, R) float32: share of each of the S patches that each of R regions of the picture covers."""
    concepts: Tensor | None = None
    """(B, R, K) int8, what each region is (see `data.regions`)."""

    def to(self, device: torch.device | str) -> Encoding:
        return _moved(self, device)


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """A process's part of a step, or of a micro-batch of it: a pass for each task."""

    segmentation: Samples | Encoding
    generation: Samples | Encoding | None

    def to(self, device: torch.device | str) -> MicroBatch:
        generation = None if self.generation is None else self.generation.to(device)
        return replace(self, segmentation=self.segmentation.to(device), generation=generation)


_Batch = TypeVar("_Batch", Samples, Encoding)


def _moved(batch: _Batch, device: torch.device | str, leave: tuple[str, ...] = ()) -> _Batch:
    values = {field.name: getattr(batch, field.name) for field in fields(batch) if field.name not in leave}
    moved: dict[str, Any] = {
        name: x.to(device) for name, x in values.items() if isinstance(x, Tensor | Condition)
    }
    return replace(batch, **moved)
