"""What the frozen VAE and VLM make of a step's samples: all that the transformer is trained on, kept on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from genmask.conditioning import Condition


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """The samples of a pass."""

    x0: Tensor
    """(B, C, h, w) float32, latents of the masks, or of the pictures to be drawn."""
    condition: Condition
    picture: Tensor | None = None
    """(B, C, h, w) float32, latents of the pictures to be segmented."""
    masks: Tensor | None = None
    """(B, H, W) bool; background where unknown."""
    ignore: Tensor | None = None
    """(B, H, W) bool, True where unknown."""

    def to(self, device: torch.device | str) -> Encoding:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: x.to(device) for name, x in values.items() if x is not None})


@dataclass(frozen=True, kw_only=True)
class EncodedStep:
    """A pass for each task."""

    segmentation: Encoding
    generation: Encoding | None

    def to(self, device: torch.device | str) -> EncodedStep:
        generation = None if self.generation is None else self.generation.to(device)
        return replace(self, segmentation=self.segmentation.to(device), generation=generation)


@dataclass(frozen=True)
class EncodedSteps:
    """Steps on disk, by number; each file is whole or absent."""

    folder: Path

    def load(self, step: int) -> EncodedStep | None:
        """None if the step has not been saved."""
        path = self._path(step)
        if not path.exists():
            return None
        tensors = load_file(path)
        segmentation = _unflatten(tensors, "segmentation.")
        assert segmentation is not None
        return EncodedStep(segmentation=segmentation, generation=_unflatten(tensors, "generation."))

    def save(self, step: int, encoded: EncodedStep) -> None:
        tensors = dict(_flatten(encoded.segmentation, "segmentation."))
        if encoded.generation is not None:
            tensors.update(_flatten(encoded.generation, "generation."))
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(step)
        partial = path.with_suffix(".partial")
        save_file(tensors, partial)
        partial.replace(path)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.safetensors"


def _flatten(encoding: Encoding, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for field in fields(encoding):
        value = getattr(encoding, field.name)
        if isinstance(value, Condition):
            yield prefix + "hidden_states", value.hidden_states.contiguous().cpu()
            yield prefix + "attention_mask", value.attention_mask.contiguous().cpu()
        elif value is not None:
            yield prefix + field.name, value.contiguous().cpu()


def _unflatten(tensors: dict[str, Tensor], prefix: str) -> Encoding | None:
    parts = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
    if not parts:
        return None
    condition = Condition(
        hidden_states=parts.pop("hidden_states"), attention_mask=parts.pop("attention_mask")
    )
    return Encoding(condition=condition, **parts)
