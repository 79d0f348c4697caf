"""A second look at small things: where to look again, and how the second answer joins the first.

The network works on a fixed number of pixels, whatever the picture has, so a small thing gets few latent cells. The
first mask says where it is; a crop of the source picture around it, processed at the same size, shows its outline in
more cells. Which thing is meant stays the first answer's to say: cut off from the rest of the picture, "the left one"
may be another, so a second answer that is not about the same pixels is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genmask.instances import Box

MIN_MAGNIFICATION = 4 / 3
"""A crop that shows things less enlarged shows hardly anything new."""
MAX_MAGNIFICATION = 8
"""What is found of a smaller thing is a few pixels at the network's size, and seldom its whole."""
FEATHER = 1 / 16
"""Width of the border in which the second answer fades in, as a share of the crop's side."""


@dataclass(frozen=True, kw_only=True)
class Zoom:
    """How `GenMaskPipeline.segment` looks again. The best values belong to a model: `benchmarks/zoom.py` measures them.

    Raises:
        ValueError: a negative padding, an agreement outside [0, 1].
    """

    padding: float = 1.0
    """Between what was found and the crop's sides, in units of the longer side of its box; with 1 the crop is at
    least three times as long. The thing should be about as large in the crop as things are in the training pictures."""
    agreement: float = 0.5
    """The IoU with the first mask from which on the second counts, in [0, 1]; 0 is always."""

    def __post_init__(self) -> None:
        if not 0 <= self.padding < float("inf"):
            raise ValueError(f"Got padding {self.padding}, expected at least 0, such as 1.")
        if not 0 <= self.agreement <= 1:
            raise ValueError(f"Got agreement {self.agreement}, expected an IoU in [0, 1].")

    def crop_box(self, found: Box | None, width: int, height: int) -> Box | None:
        """Where to look again.

        Args:
            found: the box of the first mask, None where that is empty.
            width, height: of the picture, in pixels.

        Returns:
            A box around `found` inside the picture, in the picture's aspect (up to whole pixels), so that it is
            processed at the picture's size; None where nothing was found, or the crop would be nearly the picture.
        """
        if found is None:
            return None
        left, top, right, bottom = found
        margin = 2 * self.padding * max(right - left, bottom - top)
        share = max((right - left + margin) / width, (bottom - top + margin) / height, 1 / MAX_MAGNIFICATION)
        if share * MIN_MAGNIFICATION > 1:
            return None
        crop_left, crop_right = _span(left, right, share, width)
        crop_top, crop_bottom = _span(top, bottom, share, height)
        return crop_left, crop_top, crop_right, crop_bottom

    def agrees(self, first: np.ndarray, box: Box, second: np.ndarray) -> bool:
        """Whether the second mask is about the same pixels as the first.

        Args:
            first: (H, W) bool, of the picture.
            box: the crop's, of h x w pixels.
            second: (h, w) bool, of the crop.
        """
        left, top, right, bottom = box
        place = first[top:bottom, left:right]
        union = int(np.count_nonzero(place | second))
        return int(np.count_nonzero(place & second)) >= self.agreement * max(1, union)


def blend(first: np.ndarray, box: Box, second: np.ndarray) -> np.ndarray:
    """Put the soft mask of a crop in its place.

    Args:
        first: (H, W) float32 in [0, 1], of the picture.
        box: the crop's, of h x w pixels.
        second: (h, w) float32 in [0, 1], of the crop.

    Returns:
        (H, W) float32 in [0, 1]. Outside the crop the first answer stands. The second fades in along those sides of
        the crop that are not the picture's, and is all that counts further in.
    """
    left, top, right, bottom = box
    weight = _fade(top, bottom, len(first))[:, None] * _fade(left, right, first.shape[1])
    blended = first.copy()
    blended[top:bottom, left:right] = (1 - weight) * first[top:bottom, left:right] + weight * second
    return blended.clip(0, 1)


def _span(start: int, stop: int, share: float, length: int) -> tuple[int, int]:
    """An interval of about `share * length` pixels around [start, stop), moved so as to lie in [0, length)."""
    size = min(length, max(stop - start, round(share * length)))
    first = min(max(0, (start + stop - size) // 2), length - size)
    return first, first + size


def _fade(start: int, stop: int, length: int) -> np.ndarray:
    """Weights (stop - start,) float32 in (0, 1], rising from those ends of a span that are not of [0, length)."""
    size = stop - start
    steps = np.arange(1, size + 1, dtype=np.float32) / (1 + round(FEATHER * size))
    weights = np.ones(size, dtype=np.float32)
    if start > 0:
        weights = np.minimum(weights, steps)
    if stop < length:
        weights = np.minimum(weights, steps[::-1])
    return weights
