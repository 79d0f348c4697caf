"""Resize, crop, flip and colours: image, mask and ignored pixels together, and the sentence where need be.

Each is a pure function from `Example` to `Example`; the random ones draw from the generator they are given.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from genmask.data.example import Example
from genmask.images import processing_size


def resize(example: Example, height: int, width: int) -> Example:
    """Another size: image by Lanczos, mask by coverage over one half, ignored where any pixel of it was."""
    if example.image.shape[:2] == (height, width):
        return example
    image = Image.fromarray(example.image).resize((width, height), Image.Resampling.LANCZOS)
    return replace(
        example,
        image=np.asarray(image),
        mask=None if example.mask is None else resize_mask(example.mask, height, width),
        ignore=None if example.ignore is None else _any_in_cell(example.ignore, height, width),
        regions=None if example.regions is None else example.regions.resize(height, width),
    )


def resize_to_area(example: Example, area: int, multiple: int = 16) -> Example:
    """The example at the processing size of its image (see `images.processing_size`)."""
    height, width = example.image.shape[:2]
    return resize(example, *processing_size(height, width, area, multiple))


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) bool to (height, width) bool: antialiased bilinear, then over one half."""
    # In 8 bits, a few times faster than in float; 254 has a half.
    coverage = Image.fromarray(mask.view(np.uint8) * np.uint8(254))
    return np.asarray(coverage.resize((width, height), Image.Resampling.BILINEAR)) > 127


def crop(example: Example, top: int, left: int, height: int, width: int) -> Example:
    """The window of `height` x `width` pixels whose corner is (top, left); it must lie inside the image."""
    rows, columns = example.image.shape[:2]
    if min(top, left) < 0 or min(height, width) < 1 or top + height > rows or left + width > columns:
        raise ValueError(
            f"Got a window of {height} x {width} at ({top}, {left}), expected it in {rows} x {columns}."
        )
    window = (slice(top, top + height), slice(left, left + width))
    return replace(
        example,
        image=example.image[window],
        mask=None if example.mask is None else example.mask[window],
        ignore=None if example.ignore is None else example.ignore[window],
        regions=None if example.regions is None else example.regions.crop(window),
    )


def random_resized_crop(
    example: Example,
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    scale: tuple[float, float] = (0.5, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    min_visible: float = 0.5,
    attempts: int = 10,
) -> Example:
    """A random window of the image, resized to (height, width).

    Meant for sentences that name a class: a crop can make "the star on the left" untrue.

    Args:
        scale: range of the window's share of the image's area.
        aspect: range of its width over height, relative to the image's own.
        min_visible: smallest share of the target that stays in the window; if no window in `attempts` draws
            has it, the whole image is resized.
    """
    rows, columns = example.image.shape[:2]
    target = 0 if example.mask is None else int(example.mask.sum())
    for _ in range(attempts):
        stretch = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        share = rng.uniform(*scale)
        window_height = round(rows * math.sqrt(share / stretch))
        window_width = round(columns * math.sqrt(share * stretch))
        if not (0 < window_height <= rows and 0 < window_width <= columns):
            continue
        top, left = int(rng.integers(rows - window_height + 1)), int(rng.integers(columns - window_width + 1))
        window = crop(example, top, left, window_height, window_width)
        if window.mask is None or int(window.mask.sum()) >= min_visible * target:
            return resize(window, height, width)
    return resize(example, height, width)


def horizontal_flip(example: Example) -> Example:
    """Mirror image of the example, with left and right swapped in its sentence."""
    return replace(
        example,
        image=np.ascontiguousarray(example.image[:, ::-1]),
        mask=None if example.mask is None else np.ascontiguousarray(example.mask[:, ::-1]),
        ignore=None if example.ignore is None else np.ascontiguousarray(example.ignore[:, ::-1]),
        regions=None if example.regions is None else example.regions.horizontal_flip(),
        text=swap_left_right(example.text),
    )


def random_horizontal_flip(example: Example, rng: np.random.Generator, probability: float = 0.5) -> Example:
    """`horizontal_flip` with the given probability."""
    return horizontal_flip(example) if rng.random() < probability else example


def swap_left_right(text: str) -> str:
    """Left becomes right and right left, as whole words and in "leftmost", "left-hand", "leftward".

    Keeps case; its own inverse. It does not know other meanings ("right behind", "food left on the plate").
    """
    return _LEFT_OR_RIGHT.sub(lambda match: _swapped(match[1]) + (match[2] or ""), text)


def color_jitter(
    example: Example,
    rng: np.random.Generator,
    *,
    brightness: float = 0.2,
    contrast: float = 0.2,
    saturation: float = 0.2,
) -> Example:
    """Brightness, contrast and saturation, each times a random factor in [1 - x, 1 + x].

    The hue stays: a sentence may name a colour.
    """
    factors = [1 + rng.uniform(-strength, strength) for strength in (brightness, contrast, saturation)]
    pixels = example.image.astype(np.float32) * factors[0]
    middle = pixels.mean()
    pixels = (pixels - middle) * factors[1] + middle
    grey = pixels @ LUMA
    pixels = (pixels - grey[..., None]) * factors[2] + grey[..., None]
    return replace(example, image=np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


@dataclass(frozen=True, kw_only=True)
class AspectBuckets:
    """Sizes of about the same area, one of which suits any picture, so that a batch can hold one size.

    `sizes` are (height, width), sides multiples of `multiple`, from tall to wide, each with its transpose,
    up to a ratio of `max_aspect`.
    """

    area: int
    multiple: int = 16
    max_aspect: float = 4.0
    sizes: tuple[tuple[int, int], ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.multiple < 1 or self.area < self.multiple**2 or self.max_aspect < 1:
            raise ValueError(
                f"Got area {self.area}, multiple {self.multiple}, max_aspect {self.max_aspect}; expected the "
                "area at least the multiple squared, multiple and max_aspect at least 1."
            )
        square = max(1, round(math.sqrt(self.area) / self.multiple)) * self.multiple
        shorts = range(self.multiple, square + 1, self.multiple)
        tall = {(max(short, self._long(short)), short) for short in shorts}
        within = {size for size in tall if size[0] <= self.max_aspect * size[1]} or {(square, square)}
        both = within | {(width, height) for height, width in within}
        object.__setattr__(self, "sizes", tuple(sorted(both, key=lambda size: (size[1] / size[0], size))))

    def assign(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) of the bucket whose ratio of sides is nearest to that of a picture."""
        return min(self.sizes, key=lambda size: abs(math.log(size[1] / size[0]) - math.log(width / height)))

    def _long(self, short: int) -> int:
        return round(self.area / short / self.multiple) * self.multiple


LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Rec. 601 weights of red, green and blue."""
_LEFT_OR_RIGHT = re.compile(r"\b(left|right)(most|wards?|hand)?\b", re.IGNORECASE)


def _swapped(word: str) -> str:
    other = "right" if word.lower() == "left" else "left"
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other


def _any_in_cell(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) bool to (height, width) bool: whether any pixel that a new pixel touches is set."""
    for new in (height, width):
        old = len(plane)
        starts, stops = np.arange(new) * old // new, -(-np.arange(1, new + 1) * old // new)
        touched = plane[starts]
        for offset in range(1, int((stops - starts).max())):
            touched |= plane[np.minimum(starts + offset, stops - 1)]
        plane = np.ascontiguousarray(touched.T)
    return plane
