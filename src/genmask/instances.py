"""The connected parts of a mask: told apart as instances, and freed of specks and holes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels, the last two exclusive, as in PIL."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Instance:
    """One connected part of a mask: pixels that touch at a side or at a corner."""

    size: tuple[int, int]
    """(H, W) of the picture, in pixels."""
    box: Box
    """The smallest box around the part."""
    crop: np.ndarray
    """The part inside of its box, (bottom - top, right - left) bool."""
    confidence: float
    """The mean of the soft mask over the part, in [0, 1]."""

    def __repr__(self) -> str:
        return f"Instance(box={self.box}, area={self.area}, confidence={self.confidence:.3f})"

    @property
    def area(self) -> int:
        """In pixels."""
        return int(np.count_nonzero(self.crop))

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool; made anew at each call, since a noisy mask of a large picture has thousands of parts."""
        mask = np.zeros(self.size, dtype=bool)
        left, top, right, bottom = self.box
        mask[top:bottom, left:right] = self.crop
        return mask


def find_instances(mask: np.ndarray, soft_mask: np.ndarray, min_area: int = 1) -> list[Instance]:
    """The parts of `mask` (H, W) bool with at least `min_area` pixels, largest first; equal ones from the top.

    Raises:
        ValueError: a `min_area` below 1.
    """
    if min_area < 1:
        raise ValueError(f"Got min_area {min_area}, expected at least 1 pixel.")
    numbers, areas = _label_parts(mask)
    boxes = ndimage.find_objects(numbers)
    instances = []
    for number in np.argsort(-areas, kind="stable"):
        if areas[number] < min_area:
            break
        rows, columns = boxes[number]
        crop = numbers[rows, columns] == number + 1
        confidence = float(soft_mask[rows, columns][crop].mean(dtype=np.float64))
        box = (columns.start, rows.start, columns.stop, rows.stop)
        instances.append(Instance(size=mask.shape, box=box, crop=crop, confidence=confidence))
    return instances


def clean(soft_mask: np.ndarray, threshold: float, min_part: float, max_hole: float) -> np.ndarray:
    """A soft mask without specks and holes, (H, W) float32; see `Segmentation.cleaned`."""
    soft_mask = soft_mask.copy()
    mask = soft_mask > threshold
    numbers, areas = _label_parts(mask)
    if len(areas):
        small = areas < min_part * mask.size
        small[areas.argmax()] = False
        specks = np.append(False, small)[numbers]
        soft_mask[specks] = 0
        mask &= ~specks
        # Seen from the mask, whose pixels touch at corners, those of a hole touch at sides alone.
        numbers, count = ndimage.label(~mask)
        closed = np.bincount(numbers.ravel(), minlength=count + 1) <= max_hole * mask.size
        closed[0] = False
        for edge in (numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]):
            closed[edge] = False
        soft_mask[closed[numbers]] = soft_mask[mask].mean(dtype=np.float64)
    return soft_mask


def _label_parts(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) int32, 0 outside and i + 1 on part i; the area of every part in pixels."""
    numbers, _ = ndimage.label(mask, structure=np.ones((3, 3), dtype=bool))
    return numbers, np.bincount(numbers.ravel(), minlength=1)[1:]
