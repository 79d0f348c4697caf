"""Data sources as streams of equal-sized training samples: drawn scenes, and photographs with augmentation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from genmask.data.example import Dialogue, Example
from genmask.data.photograph_index import Photograph
from genmask.data.photographs import Photographs
from genmask.data.scenes import Scenes
from genmask.data.transforms import color_jitter, random_horizontal_flip, random_resized_crop

CACHED_AREA = 160 * 160
"""Photographs are kept in memory at this many pixels: somewhat more than they are trained at, for the crops."""


class SceneSource:
    """Scenes drawn at the size that is asked for; two of a scene's four expressions are used, one after the other."""

    def __init__(self, sizes: Sequence[tuple[int, int]], seed: int = 0) -> None:
        self._scenes = {size: Scenes("train", size=size, seed=seed) for size in sizes}

    def segmentation(self, index: int, height: int, width: int) -> Example:
        scene, which = divmod(index, 2)
        expression = 2 * which + scene % 2
        return self._scenes[height, width][scene * Scenes.EXPRESSIONS_PER_SCENE + expression]

    def generation(self, index: int, height: int, width: int) -> Example:
        return self._scenes[height, width].caption(index * Scenes.EXPRESSIONS_PER_SCENE)

    def dialogues(self, index: int) -> list[Dialogue]:
        scenes = self._scenes[next(iter(self._scenes))]
        return scenes.dialogues(index * Scenes.EXPRESSIONS_PER_SCENE + index % Scenes.EXPRESSIONS_PER_SCENE)


class PhotographSource:
    """Photographs cropped, mirrored and jittered.

    A size takes those photographs whose aspect ratio is nearer to it than to any other size of about its area; all,
    if there are none.
    """

    def __init__(self, root: Path, sizes: Sequence[tuple[int, int]], seed: int = 0) -> None:
        self.seed = seed
        photographs = Photographs(root, "train", seed=seed, area=CACHED_AREA).photographs
        self._by_size: dict[tuple[int, int], Photographs] = {}
        for size in dict.fromkeys(sizes):
            fits = partial(_fits, size, sizes)
            select = fits if any(map(fits, photographs)) else None
            self._by_size[size] = Photographs(root, "train", seed=seed, area=CACHED_AREA, select=select)
            self._by_size[size].preload()

    def segmentation(self, index: int, height: int, width: int) -> Example:
        example = self._by_size[height, width][index]
        return self._augmented(example, np.random.default_rng((self.seed, index, 4)), height, width)

    def generation(self, index: int, height: int, width: int) -> Example:
        example = self._by_size[height, width].captions(index)
        rng = np.random.default_rng((self.seed, index, 5))
        return random_horizontal_flip(_crop(example, rng, height, width, smallest=0.8), rng)

    def _augmented(self, example: Example, rng: np.random.Generator, height: int, width: int) -> Example:
        return color_jitter(
            random_horizontal_flip(_crop(example, rng, height, width, smallest=0.45), rng), rng
        )


def _crop(example: Example, rng: np.random.Generator, height: int, width: int, smallest: float) -> Example:
    """A window of the asked-for aspect ratio (within a tenth), never smaller than the share `smallest`."""
    rows, columns = example.image.shape[:2]
    stretch = (width / height) / (columns / rows)
    largest = min(stretch, 1 / stretch)
    return random_resized_crop(
        example,
        rng,
        height,
        width,
        scale=(smallest * largest, largest),
        aspect=(stretch / 1.1, stretch * 1.1),
    )


def _fits(size: tuple[int, int], sizes: Sequence[tuple[int, int]], photo: Photograph) -> bool:
    """Of all sizes of about the area of `size`, that one is nearest to the photograph's aspect ratio."""
    rivals = [other for other in sizes if 0.8 < other[0] * other[1] / (size[0] * size[1]) < 1.25]
    return size == min(rivals, key=lambda size: abs(math.log(size[1] / size[0] * photo.height / photo.width)))
