"""What is analysed: masks, pictures and examples, drawn or read from folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from PIL import Image

from genmask.data.example import Example
from genmask.data.expressions import SHARES
from genmask.data.folder import read_mask
from genmask.data.photographs import Photographs
from genmask.data.scenes import Scenes
from genmask.data.transforms import resize_mask
from genmask.images import open_image, processing_size, resize_to_area
from genmask.jobs.pictures import find_pictures
from genmask.training.own_folder import folder_split
from genmask.training.sources import SceneSource

Split = Literal["train", "val"]
Item = TypeVar("Item")


def drawn_examples(split: Split, side: int, seed: int) -> Iterator[Example]:
    """One sentence on each of endlessly many drawn scenes of `side` x `side` pixels.

    Of those in training, as many ask for something absent as in the training of a model.
    """
    shares = SceneSource.SHARES if split == "train" else SHARES
    scenes, step = Scenes(split, size=side, seed=seed, shares=shares), Scenes.EXPRESSIONS_PER_SCENE
    number = 0
    while True:
        yield scenes[number * step + number % step]
        number += 1


def read_examples(data: Path, split: Split, count: int, *, area: int, seed: int) -> Iterator[Example]:
    """At most `count` examples with masks.

    Args:
        data: photographs with class masks (see `photograph_index.LAYOUT`), or a folder of your own, of which "val" is
            the part that a training holds out.
        split: "train": photographs in varied words, at `area` pixels; "val": at their own size.
        count: evenly spread over what there is.
        area: see `split`.
        seed: of the order and the words of training photographs.

    Raises:
        ValueError: data that are missing or not as the layouts say.
    """
    if next(data.glob("*/index.jsonl"), None) is not None:
        photographs = Photographs(data, split, area=area if split == "train" else None, seed=seed)
        if split == "train":
            yield from (photographs[index] for index in range(count))
        else:
            yield from (photographs[index] for index in _spread(range(len(photographs)), count))
        return
    part = folder_split(data)[split == "val"]
    yield from (
        example for index in _spread(range(len(part)), count) if (example := part[index]).mask is not None
    )


def read_masks(folder: Path, count: int, area: int) -> list[np.ndarray]:
    """At most `count` masks of a folder, evenly spread, (h, w) bool at the processing size of `area`.

    Raises:
        ValueError: no folder, nothing in it, or a file that is no black-and-white picture.
    """
    return [_fit(read_mask(file), area) for file in _files(folder, count)]


def read_pictures(folder: Path, count: int, area: int) -> list[np.ndarray]:
    """At most `count` pictures of a folder, evenly spread, (h, w, 3) uint8 at the processing size of `area`.

    Raises:
        ValueError: no folder, nothing in it, or a file that cannot be opened.
    """
    return [np.asarray(resize_to_area(open_image(file), area)) for file in _files(folder, count)]


def masks_of(examples: Iterable[Example], area: int) -> list[np.ndarray]:
    """The masks of examples, (h, w) bool at the processing size of `area`; empty ones are left out."""
    masks = [example.mask for example in examples if example.mask is not None and example.mask.any()]
    return [_fit(mask, area) for mask in masks]


def pictures_of(examples: Iterable[Example], area: int) -> list[np.ndarray]:
    """The pictures of examples, (h, w, 3) uint8 at the processing size of `area`; each once."""
    distinct = {example.image.tobytes(): example.image for example in examples}
    return [np.asarray(resize_to_area(Image.fromarray(image), area)) for image in distinct.values()]


def by_shape(arrays: Sequence[np.ndarray], batch_size: int) -> list[list[int]]:
    """Rows of `arrays` in batches of one shape."""
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, array in enumerate(arrays):
        rows.setdefault(array.shape, []).append(row)
    return [same[i : i + batch_size] for same in rows.values() for i in range(0, len(same), batch_size)]


def _fit(mask: np.ndarray, area: int) -> np.ndarray:
    height, width = mask.shape
    return resize_mask(mask, *processing_size(height, width, area))


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of them, evenly from the first to the last."""
    rows = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[row] for row in rows]


def _files(folder: Path, count: int) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"Got {str(folder)!r}, which is not a folder, expected one that holds pictures.")
    return _spread([picture.path for picture in find_pictures([folder], [], output=Path(os.devnull))], count)
