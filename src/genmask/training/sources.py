"""Data sources as endless streams of equal-sized training samples: sample `index` at a size is always the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from genmask.data.captions import CaptionError, Skips
from genmask.data.composition import FULL, Layout
from genmask.data.compositions import Compositions
from genmask.data.compositions_material import Material
from genmask.data.example import Dialogue, Example
from genmask.data.expressions import SHARES, Kind
from genmask.data.mixture import Indexed, Repeat, Sized
from genmask.data.photograph_index import Photograph
from genmask.data.photographs import Photographs
from genmask.data.scenes import Scenes
from genmask.data.transforms import color_jitter, crop, random_horizontal_flip, random_resized_crop, resize
from genmask.images import read_size

Size = tuple[int, int]
"""(height, width) in pixels."""
CACHED_AREA = 1.25**2
"""Photographs are kept in memory at so many times the pixels that they are trained at, for the crops."""
MAX_ENLARGEMENT = 2
"""A captioned picture that would have to be made larger than so many times, in height or width, is left out."""
MAX_SKIPS = 1000
"""So many captioned pictures may be left out one after the other."""


@runtime_checkable
class SegmentationSource(Protocol):
    """Masks: sample `index` (any from 0 on) at exactly (height, width), one of the sizes it was opened with."""

    def segmentation(self, index: int, height: int, width: int) -> Example: ...


@runtime_checkable
class GenerationSource(Protocol):
    """Pictures with captions: likewise."""

    def generation(self, index: int, height: int, width: int) -> Example: ...


class SceneSource:
    """Scenes drawn at the size that is asked for; two of a scene's four expressions are used, one after the other.

    Sentences about nothing in the picture come twice as often as in the held-out scenes: to tell that something is
    missing is harder than to find it.
    """

    SHARES: ClassVar[Mapping[Kind, float]] = {**SHARES, "absent": 2 * SHARES["absent"]}

    def __init__(
        self,
        sizes: Sequence[Size],
        seed: int = 0,
        *,
        shares: Mapping[Kind, float] = SHARES,
        layout: Layout = FULL,
    ) -> None:
        self.concepts: Sequence[str] = Scenes.CONCEPTS
        options: Any = {"seed": seed, "shares": shares, "layout": layout}
        self._scenes = {size: Scenes("train", size=size, **options) for size in sizes}

    def segmentation(self, index: int, height: int, width: int) -> Example:
        scene, which = divmod(index, 2)
        expression = 2 * which + scene % 2
        return self._scenes[height, width][scene * Scenes.EXPRESSIONS_PER_SCENE + expression]

    def recognition(self, index: int, height: int, width: int) -> Example:
        return self._scenes[height, width].recognition(index)

    def generation(self, index: int, height: int, width: int) -> Example:
        return self._scenes[height, width].caption(index * Scenes.EXPRESSIONS_PER_SCENE)

    def dialogues(self, index: int) -> list[Dialogue]:
        scenes = self._scenes[next(iter(self._scenes))]
        return scenes.dialogues(index * Scenes.EXPRESSIONS_PER_SCENE + index % Scenes.EXPRESSIONS_PER_SCENE)


class PhotographSource:
    """Photographs cropped, mirrored and jittered, each at the size that it suits (see `group_by_size`)."""

    def __init__(
        self, root: Path, sizes: Sequence[Size], seed: int = 0, sources: tuple[str, ...] | None = None
    ) -> None:
        self.seed = seed
        area = round(CACHED_AREA * max(height * width for height, width in sizes))
        everything = Photographs(root, "train", sources, seed=seed, area=area)
        photographs = everything.photographs
        self.concepts: Sequence[str] = everything.concepts
        self._by_size: dict[Size, Photographs] = {}
        groups = group_by_size([(photo.height, photo.width) for photo in photographs], sizes)
        for size, rows in groups.items():
            images = {photographs[row].image for row in rows}
            select = partial(_is_one_of, images)
            self._by_size[size] = Photographs(root, "train", sources, seed=seed, area=area, select=select)
            self._by_size[size].preload()

    def segmentation(self, index: int, height: int, width: int) -> Example:
        example = self._by_size[height, width][index]
        return _augment(example, np.random.default_rng((self.seed, index, 4)), height, width)

    def recognition(self, index: int, height: int, width: int) -> Example:
        return self.segmentation(index, height, width)

    def generation(self, index: int, height: int, width: int) -> Example:
        example = self._by_size[height, width].captions(index)
        rng = np.random.default_rng((self.seed, index, 5))
        return random_horizontal_flip(_crop(example, rng, height, width, smallest=0.8), rng)


class CompositionSource:
    """Compositions made at the size that is asked for, in slightly other colours; their material is in memory.

    Two of a picture's four expressions are used, one after the other, as of drawn scenes.
    """

    def __init__(
        self, root: Path, sizes: Sequence[Size], seed: int = 0, sources: tuple[str, ...] | None = None
    ) -> None:
        self.seed = seed
        material = Material(root, "train", sources, area=max(height * width for height, width in sizes))
        material.preload()
        self.concepts: Sequence[str] = material.names
        self._by_size = {size: Compositions(material, size, seed) for size in sizes}

    def segmentation(self, index: int, height: int, width: int) -> Example:
        picture, which = divmod(index, 2)
        example = self._by_size[height, width][picture * Compositions.EXPRESSIONS + 2 * which + picture % 2]
        return color_jitter(example, np.random.default_rng((self.seed, index, 6)))

    def recognition(self, index: int, height: int, width: int) -> Example:
        return self.segmentation(2 * index, height, width)


class MaskSource:
    """Masks of a data set, each picture at the size that it suits.

    Args:
        by_size: for each size its examples, by any index from 0 on.
        seed: of the augmentation.
        names_classes: the sentences do so, and stay true in a crop, in the mirror and in slightly other colours,
            which the pictures then get. A sentence that tells things apart ("the left one") may not: its
            picture is resized, whole.
    """

    def __init__(self, by_size: Mapping[Size, Indexed], seed: int, *, names_classes: bool) -> None:
        self.by_size, self.seed, self.names_classes = by_size, seed, names_classes

    def segmentation(self, index: int, height: int, width: int) -> Example:
        example = self.by_size[height, width][index]
        if not self.names_classes:
            return resize(example, height, width)
        return _augment(example, np.random.default_rng((self.seed, index, 4)), height, width)


class Rows:
    """Some examples of a data set."""

    def __init__(self, data: Sized, rows: Sequence[int] | np.ndarray) -> None:
        self.data, self.rows = data, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        return self.data[int(self.rows[index])]


class CaptionSource:
    """Captioned pictures, cropped in the middle to the aspect ratio of any size and resized.

    A damaged picture, and one too small (see `MAX_ENLARGEMENT`), gives way to the next in the shuffled order.

    Args:
        data: gives a picture at its own size; a `CaptionError` says that it is damaged.
        seed: of the order, a new one every `len(data)` samples.

    Raises:
        ValueError: on use, `MAX_SKIPS` pictures in turn are left out, or all there are.
    """

    def __init__(self, data: Sized, seed: int = 0) -> None:
        self._endless = Repeat(data, seed)
        self._attempts = min(len(data), MAX_SKIPS)
        self._skips = Skips("skip")

    def generation(self, index: int, height: int, width: int) -> Example:
        for attempt in range(index, index + self._attempts):
            try:
                return _central_crop(self._endless[attempt], height, width)
            except CaptionError as error:
                self._skips.meet(error)
        raise ValueError(
            f"Got {self._attempts} captioned pictures in turn that are of no use for {height} x {width} pixels "
            f"({self._skips}), expected one at least: train at smaller sizes or on other pictures."
        )


def _is_one_of(images: Set[Path], photo: Photograph) -> bool:
    return photo.image in images


def group_by_size(pictures: Sequence[Size], sizes: Sequence[Size]) -> dict[Size, np.ndarray]:
    """Of each size, the rows (int64, ascending) of the pictures that are trained on at it.

    These are the pictures whose aspect ratio is nearer to it than to any other size of about its area; all, if
    there are none.

    Args:
        pictures: their own sizes.
        sizes: those that are trained at; repeated ones count once.

    Raises:
        ValueError: no picture.
    """
    if not pictures:
        raise ValueError("Got no picture, expected at least one to train on.")
    own = np.array(pictures, dtype=np.float64)
    groups = {}
    for size in dict.fromkeys(sizes):
        area = size[0] * size[1]
        rivals = [other for other in dict.fromkeys(sizes) if 0.8 < other[0] * other[1] / area < 1.25]
        distances = [np.abs(np.log(width / height * own[:, 0] / own[:, 1])) for height, width in rivals]
        rows = np.flatnonzero(np.argmin(distances, axis=0) == rivals.index(size))
        groups[size] = rows if len(rows) else np.arange(len(own))
    return groups


def repeat_by_size(
    data: Sized, pictures: Sequence[Size], sizes: Sequence[Size], seed: int
) -> dict[Size, Indexed]:
    """Of each size an endless source of the examples that are trained on at it; `pictures` as in `group_by_size`."""
    groups = group_by_size(pictures, sizes)
    return {size: Repeat(Rows(data, rows), seed) for size, rows in groups.items()}


def read_picture_sizes(paths: Sequence[Path]) -> list[Size]:
    """Sizes of picture files, upright as `open_image` gives them, from their headers alone.

    20,000 files take about a second on two cores; the threads are for disks that are slow to answer.

    Raises:
        ValueError: a file that is missing or no picture.
    """
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(read_size, paths))


def _augment(example: Example, rng: np.random.Generator, height: int, width: int) -> Example:
    window = _crop(example, rng, height, width, smallest=0.45)
    return color_jitter(random_horizontal_flip(window, rng), rng)


def _central_crop(example: Example, height: int, width: int) -> Example:
    """The largest window in the middle that has the asked-for aspect ratio, resized."""
    rows, columns = example.image.shape[:2]
    window = (min(rows, round(columns * height / width)), min(columns, round(rows * width / height)))
    if window[0] * MAX_ENLARGEMENT < height or window[1] * MAX_ENLARGEMENT < width:
        raise CaptionError(
            "small picture",
            f"Got {example.id} of {example.source} of {rows} x {columns} pixels for {height} x {width}, expected "
            f"at least {1 / MAX_ENLARGEMENT:g} of the sides.",
        )
    top, left = (rows - window[0]) // 2, (columns - window[1]) // 2
    return resize(crop(example, top, left, *window), height, width)


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
