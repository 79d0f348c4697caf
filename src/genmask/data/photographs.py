"""Photographs with class masks: every class in a photograph is a sentence and the mask it asks for.

What label 0 means decides which empty targets can be trusted and which pixels count.

| source | 0 is | for a present class | absent classes |
|---|---|---|---|
| camvid | void, between and outside the eleven classes (3 %) | ignore | empty target |
| coco_panoptic | left without a label by the annotators (10 %) | ignore | empty target |
| clothing_coparsing | all but the dressed person (named background) | background | empty target |
| weizmann_horses | all but the horse (named background) | background | never asked for |
| indonesian_food | the table around the plate (named background) | background | never asked for |
| animals | all but seven animals, every one of which is drawn | background | never asked for |
| coco_instances | all but 80 kinds of object, every one of which is drawn | background | never asked for |
| building_facades | sky and whatever is none of ten classes | background | never asked for |

In the last five a class that was not labelled may still be there, so nobody asks for it. A class that *was*
labelled is labelled throughout the photograph, so 0 is background for it; ignored, nothing would teach where
an object ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from genmask.data.dialogues import CAPTION_REQUESTS, box_words, grounding_prompt
from genmask.data.example import Dialogue, Example
from genmask.data.photograph_index import (
    LAYOUT,
    Photograph,
    find_sources,
    read_classes,
    read_index,
    read_labels,
    resize_labels,
)
from genmask.data.phrases import caption, existence_question, plain_phrase, surely_absent, varied_phrase
from genmask.data.regions import IS, IS_NOT, UNKNOWN, Regions
from genmask.images import open_image, processing_size

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")

FULLY_LABELLED = frozenset(("camvid", "clothing_coparsing", "coco_panoptic"))
"""Sources that label every pixel: here a class that is not in a photograph makes an empty target."""
UNLABELLED_IS_IGNORED = frozenset(("camvid", "coco_panoptic"))
"""Sources in which a pixel labelled 0 may be anything, and so counts neither in the loss nor in a score."""
STRANGERS = ("tiger", "otter", "turtle", "rhesus monkey", "elephant", "zebra", "giraffe", "bear")
"""Asked for as absent in the fully labelled sources, besides their own classes: none walks there
unnoticed."""


class Photographs:
    """Segmentation examples, captions and dialogues from photographs laid out as `photograph_index.LAYOUT`.

    * `split="val"`: exactly one example per (photograph, class with at least one pixel), in order, in the
      plain form "the tiger": nothing is left out, nothing is random.
    * `split="train"`: example `i` takes the next photograph of a shuffled order (a new one every `len(self)`
      examples; any index is valid) and one of its classes that covers at least `min_share`, rare classes
      more often (weight 1 / count), in varied words. At rate `absent_share`, in fully labelled sources,
      it asks for a class that is surely absent: the mask is empty, the kind "absent".

    An example depends on (seed, index) alone. With an `area` a photograph and its labels are resized on
    first use and kept in memory, 4 bytes per pixel of the area; without one they are read at their own size
    each time. Measure at their own size: a class of a few pixels may vanish at a smaller one.

    Args:
        root: the folder that holds the sources.
        split: "train" or "val".
        sources: which sources; None for all there are.
        seed: of every random choice.
        area: processing area in pixels (see `images.processing_size`), or None.
        min_share: smallest share of the photograph that a class must cover to be asked for in training.
        absent_share: share of empty targets in training among the examples of fully labelled sources.
        select: which photographs to keep; None for all.

    Raises:
        ValueError: unknown split or source; files that are missing or not as the layout says.
    """

    def __init__(
        self,
        root: str | Path,
        split: Split = "train",
        sources: tuple[str, ...] | None = None,
        *,
        seed: int = 0,
        area: int | None = None,
        min_share: float = 0.003,
        absent_share: float = 0.12,
        select: Callable[[Photograph], bool] | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"Got split {split!r}, expected one of {', '.join(SPLITS)}.")
        folders = [Path(root) / source for source in find_sources(Path(root), sources)]
        self.split, self.seed, self.area = split, seed, area
        self.min_share, self.absent_share = min_share, absent_share
        self.photographs = [
            photograph
            for folder in folders
            for photograph in read_index(folder, split)
            if select is None or select(photograph)
        ]
        if not self.photographs:
            raise ValueError(f"Got {str(root)!r} without any {split} photograph, expected {LAYOUT}.")
        self.pairs = [(row, label) for row, photo in enumerate(self.photographs) for label in photo.classes]
        """Every (row of `photographs`, class id)."""
        self._class_names = {folder.name: list(read_classes(folder).values()) for folder in folders}
        self.concepts = sorted({name for names in self._class_names.values() for name in names})
        """Class names of all sources: the columns of `Regions.table`."""
        self._counts = Counter((self.photographs[row].source, label) for row, label in self.pairs)
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._absent: dict[int, tuple[list[str], list[str]]] = {}
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        """Number of (photograph, class) pairs for "val", of photographs for "train"."""
        return len(self.pairs) if self.split == "val" else len(self.photographs)

    def __getitem__(self, index: int) -> Example:
        if index < 0 or (self.split == "val" and index >= len(self)):
            raise IndexError(f"Got index {index}, expected 0 to {len(self) - 1}.")
        return self.plain(index) if self.split == "val" else self._varied(index)

    def plain(self, pair: int) -> Example:
        """The example of `pairs[pair]` in the plain form, of either split."""
        row, label = self.pairs[pair]
        return self._example(row, label, plain_phrase(self.photographs[row].classes[label]))

    def captions(self, index: int) -> Example:
        """Generation example `index`: somebody's caption where there is one, else one made of the classes."""
        row, rng = self._row(index), np.random.default_rng((self.seed, index, 1))
        photo = self.photographs[row]
        return Example(
            image=self._load(row)[0],
            text=self._caption(row, rng),
            task="generation",
            source=f"photos/{photo.source}",
            id=photo.id,
            kind="caption",
        )

    def dialogues(self, index: int) -> list[Dialogue]:
        """Questions and answers about a photograph: a caption, what is in it, is this there, and where.

        "Please segment the tiger in the image." is answered by `box_words`. "no" and "none" are said in
        fully labelled sources only.
        """
        row, rng = self._row(index), np.random.default_rng((self.seed, index, 2))
        image, labels = self._load(row)
        by_area = self._visible(row)
        names = [self.photographs[row].classes[label] for label in by_area]
        chosen = int(rng.integers(len(names)))
        turns = [
            (CAPTION_REQUESTS[rng.integers(len(CAPTION_REQUESTS))], self._caption(row, rng)),
            ("List what is in the image.", ", ".join(names)),
            (existence_question(names[chosen]), "yes"),
            (grounding_prompt(names[chosen]), box_words(labels == by_area[chosen])),
        ]
        if self.photographs[row].source in FULLY_LABELLED:
            asked, sought = (self._draw_absent(row, rng) for _ in range(2))
            turns += [(existence_question(asked), "no"), (grounding_prompt(sought), "none")]
        return [Dialogue(image=image, question=question, answer=answer) for question, answer in turns]

    def preload(self) -> None:
        """Read every photograph now (given an `area`), so that processes forked later share the memory."""
        for row in range(len(self.photographs)):
            self._load(row)

    def _varied(self, index: int) -> Example:
        row, rng = self._row(index), np.random.default_rng((self.seed, index, 0))
        photo = self.photographs[row]
        if photo.source in FULLY_LABELLED and rng.random() < self.absent_share:
            return self._example(row, None, varied_phrase(self._draw_absent(row, rng), rng))
        labels = self._visible(row)
        weights = np.array([self._counts[photo.source, label] ** -1.0 for label in labels])
        label = labels[rng.choice(len(labels), p=weights / weights.sum())]
        return self._example(row, label, varied_phrase(photo.classes[label], rng))

    def _row(self, index: int) -> int:
        """Which photograph: train has a new shuffled order every epoch, val that of the index."""
        epoch, position = divmod(index, len(self.photographs))
        if self.split == "val":
            return position
        if self._order[0] != epoch:
            order = np.random.default_rng((self.seed, epoch, 3)).permutation(len(self.photographs))
            self._order = (epoch, order)
        return int(self._order[1][position])

    def _visible(self, row: int) -> list[int]:
        """Classes that cover at least `min_share`, largest first; the largest of all if none does."""
        labels = self._load(row)[1]
        shares = np.bincount(labels.ravel(), minlength=256) / labels.size
        by_area = sorted(self.photographs[row].classes, key=lambda label: -shares[label])
        return [label for label in by_area if shares[label] >= self.min_share] or by_area[:1]

    def _draw_absent(self, row: int, rng: np.random.Generator) -> str:
        """A class that is not in a fully labelled photograph: of its source half of the time."""
        photo = self.photographs[row]
        if row not in self._absent:
            present = frozenset(photo.classes.values())
            own, strangers = (
                [name for name in names if surely_absent(name, present)]
                for names in (self._class_names[photo.source], STRANGERS)
            )
            self._absent[row] = (own or strangers, strangers)
        names = self._absent[row][int(rng.random() < 0.5)]
        return names[rng.integers(len(names))]

    def _caption(self, row: int, rng: np.random.Generator) -> str:
        photo = self.photographs[row]
        if photo.captions:
            return photo.captions[rng.integers(len(photo.captions))]
        return caption([photo.classes[label] for label in self._visible(row)], photo.source, rng)

    def _example(self, row: int, label: int | None, text: str) -> Example:
        """Class `label` of a photograph; None for an absent one."""
        photo = self.photographs[row]
        image, labels = self._load(row)
        unlabelled = labels == 0 if photo.source in UNLABELLED_IS_IGNORED else None
        name = "absent" if label is None else photo.classes[label]
        return Example(
            image=image,
            text=text,
            mask=np.zeros(labels.shape, dtype=bool) if label is None else labels == label,
            ignore=unlabelled if unlabelled is not None and unlabelled.any() else None,
            regions=self._regions(row, labels),
            source=f"photos/{photo.source}",
            id=f"{photo.id}/{name}",
            kind=name,
        )

    def _regions(self, row: int, labels: np.ndarray) -> Regions:
        """Every class of the photograph; of other sources' classes nothing is known."""
        photo = self.photographs[row]
        columns = {name: self.concepts.index(name) for name in self._class_names[photo.source]}
        table = np.full((1 + len(photo.classes), len(self.concepts)), UNKNOWN, dtype=np.int8)
        table[:, list(columns.values())] = IS_NOT
        if photo.source in UNLABELLED_IS_IGNORED:
            table[0] = UNKNOWN
        rows = np.zeros(256, dtype=np.uint8)
        for region, (label, name) in enumerate(photo.classes.items(), start=1):
            rows[label] = region
            table[region, columns[name]] = IS
        return Regions(labels=rows[labels], table=table)

    def _load(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture (H, W, 3) and labels (H, W), both uint8."""
        if row in self._cache:
            return self._cache[row]
        photo = self.photographs[row]
        image, labels = open_image(photo.image), read_labels(photo.labels)
        if labels.shape != (image.height, image.width):
            raise ValueError(
                f"Got {labels.shape} labels in {photo.labels}, expected {(image.height, image.width)}."
            )
        if self.area is None:
            return np.asarray(image), labels
        height, width = processing_size(image.height, image.width, self.area)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
        self._cache[row] = (np.asarray(image), resize_labels(labels, height, width))
        return self._cache[row]
