"""Pictures that hold several named classes: every class in one is a sentence and the mask it asks for.

`ClassPairs` says which (picture, class) an index is, `LabelMaps` reads the sets whose PNGs name each pixel;
the sets themselves are in `coco_stuff`, `ade20k`, `pascal_voc` and `pascal_part`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from genmask.data.class_names import class_phrase, is_absent
from genmask.data.example import Example
from genmask.data.phrases import plain_phrase
from genmask.images import open_image

View = Literal["pairs", "training"]
VIEWS: tuple[View, ...] = ("pairs", "training")


@dataclass(frozen=True, kw_only=True)
class LabelClass:
    """One class of a label map, and how it is asked for."""

    name: str
    synonyms: tuple[str, ...] = ()
    covers: tuple[int, ...] = ()
    """Further values whose pixels the name means too: "floor" covers "wooden floor"."""
    may_be_absent: bool = True
    """Whether a picture without the label is one without the thing, names of other classes aside."""


@dataclass(frozen=True, kw_only=True)
class LabelledPicture:
    """A picture and the PNG that gives each of its pixels a class."""

    image: Path
    labels: Path

    @property
    def id(self) -> str:
        """Stem of the file: unique within the set."""
        return self.labels.stem


class ShuffledRows:
    """Which row each index takes: all of them once, in a new shuffled order every `count` indices."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def starting_at(self, index: int) -> Iterator[int]:
        """The row of `index`, then those after it in the same order, which closes up, should it be of no use."""
        epoch, position = divmod(index, self.count)
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng((self.seed, epoch, 1)).permutation(self.count))
        order = self._order[1]
        return (int(order[(position + step) % self.count]) for step in range(self.count))


class ClassPairs(ABC):
    """Examples of (picture, class) pairs.

    * view "pairs", for scoring: exactly one example per (picture, class with at least one pixel), in order, in
      its plain words. The labels of all pictures are read once, on first use.
    * view "training": example `i` takes the next picture of a shuffled order (a new one every `len(self)`
      examples; any index is valid) and one of its classes, chosen by (seed, index) alone, in varied words.
      Nothing is read beforehand; a picture with nothing to ask for gives way to the next.

    Raises:
        ValueError: unknown view, no picture.
    """

    def __init__(self, num_pictures: int, *, view: View, seed: int) -> None:
        if view not in VIEWS:
            raise ValueError(f"Got view {view!r}, expected one of {', '.join(VIEWS)}.")
        self.num_pictures, self.view, self.seed = num_pictures, view, seed
        self._order = ShuffledRows(num_pictures, seed)

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Every (row of the picture, class in it), in order."""
        return self._list_pairs()

    def __len__(self) -> int:
        """Number of pairs, or in the view "training" of pictures."""
        return len(self.pairs) if self.view == "pairs" else self.num_pictures

    def __getitem__(self, index: int) -> Example:
        if index < 0 or (self.view == "pairs" and index >= len(self)):
            raise IndexError(f"Got index {index}, expected 0 to {len(self) - 1}.")
        if self.view == "pairs":
            return self.plain(index)
        rng = np.random.default_rng((self.seed, index, 0))
        for row in self._order.starting_at(index):
            example = self._draw(row, rng)
            if example is not None:
                return example
        raise ValueError(f"Got {self.num_pictures} pictures without any class, expected one to ask for.")

    @abstractmethod
    def plain(self, pair: int) -> Example:
        """The example of `pairs[pair]` in its plain words, in either view."""

    @abstractmethod
    def _list_pairs(self) -> list[tuple[int, int]]: ...

    @abstractmethod
    def _draw(self, row: int, rng: np.random.Generator) -> Example | None:
        """A training example of a picture; None where there is nothing in it."""


class LabelMaps(ClassPairs):
    """Pairs from label maps; see `ClassPairs` for the two views.

    Unlabelled pixels are ignored: they count neither in the loss nor in a score.

    Args:
        pictures: in order.
        classes: what can be asked for, by value in the PNGs.
        source: name of the data set.
        unlabelled: the value of pixels of which nothing is known.
        others: values that are known and never asked for (background).
        min_share: smallest share of the picture that a class must cover to be asked for in training; where
            none does, the largest is.
        absent_share: share of training examples that ask for a class which is surely not there: the mask is
            empty, the kind "absent". For sets that label every pixel only.
        lisa: as LISA trains: unlabelled pixels count as background, the text is the bare name, every class
            is equally likely however small.

    Raises:
        ValueError: a share that is none; on use, labels or pictures that cannot be read or do not fit.
    """

    def __init__(
        self,
        pictures: Sequence[LabelledPicture],
        classes: Mapping[int, LabelClass],
        *,
        source: str,
        unlabelled: int,
        others: Collection[int] = (),
        view: View,
        seed: int = 0,
        min_share: float = 0.003,
        absent_share: float = 0.0,
        lisa: bool = False,
    ) -> None:
        super().__init__(len(pictures), view=view, seed=seed)
        for name, share in (("min_share", min_share), ("absent_share", absent_share)):
            if not 0 <= share < 1:
                raise ValueError(f"Got {name} {share}, expected at least 0 and less than 1.")
        if lisa and absent_share:
            raise ValueError(f"Got absent_share {absent_share} with lisa, expected 0: LISA never asks so.")
        self.pictures, self.classes, self.source, self.unlabelled = pictures, classes, source, unlabelled
        self.min_share, self.absent_share, self.lisa = 0.0 if lisa else min_share, absent_share, lisa
        self._known = np.zeros(256, dtype=bool)
        self._known[[*classes, *others, unlabelled]] = True

    def plain(self, pair: int) -> Example:
        row, value = self.pairs[pair]
        name = self.classes[value].name
        text = name if self.lisa else plain_phrase(name)
        return self._example(row, read_label_map(self.pictures[row].labels), value, text)

    def _list_pairs(self) -> list[tuple[int, int]]:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding a PNG frees the interpreter
            present = list(pool.map(self._scan, self.pictures))
        return [(row, value) for row, values in enumerate(present) for value in values]

    def _scan(self, picture: LabelledPicture) -> list[int]:
        labels = read_label_map(picture.labels)
        return self._present(self._count(labels, picture.labels))

    def _count(self, labels: np.ndarray, path: Path) -> np.ndarray:
        """Pixels by value, (256,)."""
        counts = np.bincount(labels.ravel(), minlength=256)
        strange = np.flatnonzero((counts > 0) & ~self._known)
        if len(strange):
            raise ValueError(
                f"Got label {strange[0]} in {path}, expected {self._ranges()}: use the set's own label maps, "
                "not shifted ones."
            )
        return counts

    def _ranges(self) -> str:
        known = np.flatnonzero(self._known)
        runs = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1)
        return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)

    def _present(self, counts: np.ndarray) -> list[int]:
        return [value for value in sorted(self.classes) if counts[value]]

    def _draw(self, row: int, rng: np.random.Generator) -> Example | None:
        path = self.pictures[row].labels
        labels = read_label_map(path)
        counts = self._count(labels, path)
        present = self._present(counts)
        if rng.random() < self.absent_share and counts[self.unlabelled] < labels.size:
            absent = self._draw_absent(present, rng)
            if absent is not None:
                return self._example(row, labels, None, class_phrase(absent, rng))
        if not present:
            return None
        visible = [value for value in present if counts[value] >= self.min_share * labels.size]
        visible = visible or [max(present, key=lambda value: counts[value])]
        value = visible[rng.integers(len(visible))]
        asked = self.classes[value]
        if self.lisa:
            return self._example(row, labels, value, asked.name)
        # As often by the plain name as by all synonyms together.
        names = asked.synonyms if asked.synonyms and rng.random() < 0.5 else (asked.name,)
        return self._example(row, labels, value, class_phrase(names[rng.integers(len(names))], rng))

    def _draw_absent(self, present: list[int], rng: np.random.Generator) -> str | None:
        names = {
            name for value in present for name in (self.classes[value].name, *self.classes[value].synonyms)
        }
        values = [value for value in sorted(self.classes) if self.classes[value].may_be_absent]
        for position in rng.permutation(len(values)):
            name = self.classes[values[position]].name
            if is_absent(name, frozenset(names)):
                return name
        return None

    def _example(self, row: int, labels: np.ndarray, value: int | None, text: str) -> Example:
        """Class `value` of a picture; None for an absent one."""
        picture = self.pictures[row]
        image = np.asarray(open_image(picture.image))
        if image.shape[:2] != labels.shape:
            raise ValueError(
                f"Got labels {picture.labels} of {labels.shape} (height, width), expected {image.shape[:2]} as "
                f"{picture.image} has: fetch both from the same release."
            )
        if value is None:
            mask, name = np.zeros(labels.shape, dtype=bool), "absent"
        else:
            mask, name = labels == value, self.classes[value].name
            for other in self.classes[value].covers:
                mask |= labels == other
        unlabelled = labels == self.unlabelled
        return Example(
            image=image,
            text=text,
            mask=mask,
            ignore=unlabelled if unlabelled.any() and not self.lisa else None,
            source=self.source,
            id=f"{picture.id}/{name}",
            kind=name,
        )


def read_label_map(path: Path) -> np.ndarray:
    """Class ids, (H, W) uint8, as they are in the file; a palette's colours are left aside.

    Raises:
        ValueError: unreadable, or colours instead of ids.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode in ("L", "P"):
                return np.asarray(image)
            mode = image.mode
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise ValueError(
            f"Cannot read labels {path}, expected an 8-bit PNG of class ids: fetch it again."
        ) from error
    raise ValueError(
        f"Got labels {path} of mode {mode}, expected class ids, 8-bit grey or palette: use the set's own files."
    )


def find_folder(layout: str, *candidates: Path) -> Path:
    """The first of the candidates that is a folder."""
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise ValueError(f"Got no folder {candidates[0]}, expected {layout}.")


def match_pictures(
    labels: Path, images: Path, layout: str, stems: Sequence[str] | None = None
) -> list[LabelledPicture]:
    """Every label map `labels/*.png` with its picture `images/*.jpg`, sorted; only the `stems`, if given.

    Raises:
        ValueError: a folder or file is missing, or there is nothing.
    """
    for folder in (labels, images):
        find_folder(layout, folder)
    names = set(os.listdir(labels))
    pictures = set(os.listdir(images))
    if stems is None:
        stems = sorted(name.removesuffix(".png") for name in names if name.endswith(".png"))
    if not stems:
        raise ValueError(f"Got {labels} without label maps, expected {layout}.")
    for stem in stems:
        for folder, files, name in ((labels, names, f"{stem}.png"), (images, pictures, f"{stem}.jpg")):
            if name not in files:
                raise ValueError(f"Got no {folder / name}, expected {layout}: fetch what is missing.")
    return [LabelledPicture(image=images / f"{stem}.jpg", labels=labels / f"{stem}.png") for stem in stems]


def choose_split(split: str, folders: Mapping[str, str]) -> str:
    """What a split is called on disk."""
    if split not in folders:
        raise ValueError(f"Got split {split!r}, expected one of {', '.join(folders)}.")
    return folders[split]
