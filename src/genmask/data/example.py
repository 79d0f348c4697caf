"""What every data source yields, with the units and order of every field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from genmask.data.regions import Regions

Task = Literal["segmentation", "generation"]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One training or evaluation sample: a picture, a sentence and, for segmentation, the mask it asks for."""

    image: np.ndarray
    """(H, W, 3) uint8, RGB."""
    text: str
    """Segmentation: the referring expression alone ("the red mug"). Generation: the caption."""
    mask: np.ndarray | None = None
    """(H, W) bool, True on the target; all False where the target is absent; None for generation."""
    ignore: np.ndarray | None = None
    """(H, W) bool, True where no label is known: such pixels count neither in the loss nor in a score."""
    regions: Regions | None = None
    """What is where in the whole picture, for sources that know and are asked."""
    task: Task = "segmentation"
    source: str = ""
    """Name of the data set ("scenes", "photos/animals")."""
    id: str = ""
    """Stable and unique within the source; keys per-sample records and merges."""
    kind: str = ""
    """Kind of expression ("category", "colour", "size", "position", "relation", "plural", "absent") or class name."""

    def __post_init__(self) -> None:
        height_width = self.image.shape[:2]
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(f"Got an image {self.image.shape} {self.image.dtype}, expected (H, W, 3) uint8.")
        if (self.mask is None) != (self.task == "generation"):
            raise ValueError(
                f"Got task {self.task!r} with mask {self.mask is not None}: only segmentation has a mask."
            )
        for name, plane in (("mask", self.mask), ("ignore", self.ignore)):
            if plane is not None and (plane.shape != height_width or plane.dtype != np.bool_):
                raise ValueError(
                    f"Got {name} {plane.shape} {plane.dtype} for an image {self.image.shape}, "
                    f"expected bool {height_width}."
                )


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """One question and answer about a picture: what the instruction encoder's language model is trained on."""

    image: np.ndarray | None
    """(H, W, 3) uint8, RGB; None for text alone."""
    question: str
    answer: str
