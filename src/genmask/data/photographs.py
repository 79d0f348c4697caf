"""Photographs with class masks: every class in a photograph becomes a sentence and the mask it asks for."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from genmask.data.example import Dialogue, Example
from genmask.data.phrases import indefinite_phrase, plain_phrase, surely_absent, varied_phrase
from genmask.images import open_image, processing_size

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
LAYOUT = "<root>/<source>/{index.jsonl, classes.json, images/*.jpg, labels/*.png}"

FULLY_LABELLED = ("camvid", "clothing_coparsing", "coco_panoptic")
"""Sources that label every pixel: a class that is not there is known to be absent, so it makes an empty target.
In the others a class that is not labelled may still be in the photograph, and is never asked for."""

UNKNOWN_IS_IGNORED = ("camvid", "coco_panoptic")
"""What label 0 means when a class that *is* present is asked for:

==================  =====================================================  ==========
source              0 is                                                   taken as
==================  =====================================================  ==========
camvid              void between or outside the eleven classes (3 %)       ignore
coco_panoptic       left without a label by the annotators (10 %)          ignore
clothing_coparsing  everything but the dressed person (named background)   background
weizmann_horses     everything but the horse (named background)            background
indonesian_food     table around the plate (named background)              background
animals             everything but the seven animals, all of them drawn    background
coco_instances      everything but the 80 object classes                   background
building_facades    sky and the rest around ten classes                    background
==================  =====================================================  ==========

In the object-only sources the annotators drew every instance of a class that they drew at all, so 0 is background
for a present class; to ignore it there would leave nothing that teaches where an object ends.
"""

STRANGERS = ("tiger", "otter", "turtle", "rhesus monkey", "elephant", "zebra", "giraffe", "bear")
"""Asked for as absent in the fully labelled sources besides their own classes: none of these walks there unlabelled."""

_CAPTION_OPENINGS = {
    "camvid": ("a street with", "a view from a car of a street with", "a photo of a road scene with"),
    "clothing_coparsing": (
        "a person with",
        "a fashion photo of a person with",
        "a street photo of a person with",
    ),
    "indonesian_food": ("a photo from above of", "a meal with", "a photo of"),
    "building_facades": ("a photo of a building with", "a street view with", "a photo of"),
}
_DEFAULT_OPENINGS = ("a photo of", "a picture of", "a photograph of", "")


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """One row of an index."""

    source: str
    image: Path
    labels: Path
    classes: dict[int, str]
    """Class ids that have at least one pixel, with their names."""
    captions: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self.image.stem


class Photographs:
    """Segmentation examples from folders laid out as ``LAYOUT``.

    * ``split="val"``: exactly one example per (photograph, class with at least one pixel), in order, asked for
      in the plain form "the {class}"; nothing is left out and nothing is random.
    * ``split="train"``: example ``i`` takes photograph ``i`` of a shuffled order (a new one for every
      ``len(self)`` examples, so any index is valid) and a random class of it that covers at least ``min_share``,
      rare classes more often (weight ``count ** -0.5``); or, at rate ``absent_share`` and only in
      ``FULLY_LABELLED`` sources, a class that is surely absent: an empty mask, ``kind="absent"``.

    Every example is a function of (seed, index) alone.

    Args:
        root: the folder that holds the sources.
        split: "train" or "val".
        sources: names of sources to use; all there are, if None.
        seed: of all random choices.
        area: pixels to which photographs and labels are resized on first use, and then kept in memory
            (4 bytes per pixel); None gives them at their own size, read anew each time.
        min_share: smallest share of the photograph that a class asked for in training covers.
        absent_share: share of empty targets among the training examples of fully labelled sources.

    Raises:
        ValueError: unknown split or source, or files missing from the layout.
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
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"Got split {split!r}, expected one of {', '.join(SPLITS)}.")
        self.root, self.split, self.seed, self.area = Path(root), split, seed, area
        self.min_share, self.absent_share = min_share, absent_share
        self.photographs: list[Photograph] = []
        self.classes: dict[str, dict[int, str]] = {}
        for source in _choose_sources(self.root, sources):
            self.classes[source] = _read_classes(self.root / source)
            self.photographs += _read_index(self.root / source, split, self.classes[source])
        if not self.photographs:
            raise ValueError(f"Got {self.root} without any {split} photograph, expected {LAYOUT}.")
        self.pairs = [(row, label) for row, photo in enumerate(self.photographs) for label in photo.classes]
        self._counts = Counter((self.photographs[row].source, label) for row, label in self.pairs)
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        """Number of (photograph, class) pairs of val; of photographs of train."""
        return len(self.pairs) if self.split == "val" else len(self.photographs)

    def __getitem__(self, index: int) -> Example:
        if index < 0 or (self.split == "val" and index >= len(self)):
            raise IndexError(f"Got index {index}, expected 0 to {len(self) - 1}.")
        if self.split == "val":
            row, label = self.pairs[index]
            name = self.photographs[row].classes[label]
            return self._example(row, label, name, plain_phrase(name))
        rng = np.random.default_rng((self.seed, index, 0))
        row = self._row(index)
        label = self._draw_class(row, rng)
        absent = self._absent_names(row)
        if absent and (label is None or rng.random() < self.absent_share):
            name = absent[rng.integers(len(absent))]
            return self._example(row, None, name, varied_phrase(name, rng))
        if label is None:  # nothing large enough: the largest there is
            label = max(self.photographs[row].classes, key=lambda c: self._shares(row)[c])
        name = self.photographs[row].classes[label]
        return self._example(row, label, name, varied_phrase(name, rng))

    def captions(self, index: int) -> Example:
        """Generation example ``index``: a person's caption where the index has some, else one made of the classes."""
        rng = np.random.default_rng((self.seed, index, 1))
        row = self._row(index)
        image, _ = self._load(row)
        photo = self.photographs[row]
        return Example(
            image=image,
            text=self._caption(row, rng),
            task="generation",
            source=f"photos/{photo.source}",
            id=photo.id,
            kind="caption",
        )

    def dialogues(self, index: int) -> list[Dialogue]:
        """Questions and answers about photograph ``index``: caption, list, yes or no, and where things are."""
        rng = np.random.default_rng((self.seed, index, 2))
        row = self._row(index)
        image, labels = self._load(row)
        names = self._names_by_area(row)
        some = names[rng.integers(len(names))]
        label = next(label for label, name in self.photographs[row].classes.items() if name == some)
        turns = [
            ("Describe the image.", self._caption(row, rng)),
            ("What is in the image?", ", ".join(names)),
            (f"Is there {indefinite_phrase(some)} in the image?", "yes"),
            (_instruction(some), box_answer(labels == label)),
        ]
        absent = self._absent_names(row)
        if absent:
            asked, sought = (absent[rng.integers(len(absent))] for _ in range(2))
            turns += [
                (f"Is there {indefinite_phrase(asked)} in the image?", "no"),
                (_instruction(sought), "none"),
            ]
        return [Dialogue(image=image, question=question, answer=answer) for question, answer in turns]

    def preload(self) -> None:
        """Read every photograph now (with an ``area``): processes forked afterwards share the memory."""
        for row in range(len(self.photographs)):
            self._load(row)

    def _row(self, index: int) -> int:
        """Which photograph: a shuffled order per epoch for train, the plain order for val."""
        count = len(self.photographs)
        if self.split == "val":
            return index % count
        epoch, position = divmod(index, count)
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng((self.seed, epoch, 3)).permutation(count))
        return int(self._order[1][position])

    def _draw_class(self, row: int, rng: np.random.Generator) -> int | None:
        shares, source = self._shares(row), self.photographs[row].source
        labels = [label for label in self.photographs[row].classes if shares[label] >= self.min_share]
        if not labels:
            return None
        weights = np.array([self._counts[source, label] ** -0.5 for label in labels])
        return labels[rng.choice(len(labels), p=weights / weights.sum())]

    def _shares(self, row: int) -> np.ndarray:
        labels = self._load(row)[1]
        return np.bincount(labels.ravel(), minlength=256) / labels.size

    def _names_by_area(self, row: int) -> list[str]:
        shares, classes = self._shares(row), self.photographs[row].classes
        visible = [label for label in classes if shares[label] >= self.min_share] or list(classes)
        return [classes[label] for label in sorted(visible, key=lambda label: -shares[label])]

    def _absent_names(self, row: int) -> list[str]:
        photo = self.photographs[row]
        if photo.source not in FULLY_LABELLED:
            return []
        present = list(photo.classes.values())
        return [
            name
            for name in dict.fromkeys((*self.classes[photo.source].values(), *STRANGERS))
            if surely_absent(name, present)
        ]

    def _caption(self, row: int, rng: np.random.Generator) -> str:
        photo = self.photographs[row]
        if photo.captions:
            return photo.captions[rng.integers(len(photo.captions))]
        names = [indefinite_phrase(name) for name in self._names_by_area(row)[: rng.integers(3, 6)]]
        listing = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
        openings = _CAPTION_OPENINGS.get(photo.source, _DEFAULT_OPENINGS)
        return f"{openings[rng.integers(len(openings))]} {listing}".strip()

    def _example(self, row: int, label: int | None, name: str, text: str) -> Example:
        photo = self.photographs[row]
        image, labels = self._load(row)
        unknown = labels == 0 if photo.source in UNKNOWN_IS_IGNORED else None
        return Example(
            image=image,
            text=text,
            mask=np.zeros(labels.shape, dtype=bool) if label is None else labels == label,
            ignore=unknown if unknown is not None and unknown.any() else None,
            source=f"photos/{photo.source}",
            id=f"{photo.id}/{name}",
            kind="absent" if label is None else name,
        )

    def _load(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) and labels (H, W), uint8 both."""
        if row in self._cache:
            return self._cache[row]
        photo = self.photographs[row]
        image = open_image(photo.image)
        labels = _read_labels(photo.labels)
        if labels.shape != (image.height, image.width):
            raise ValueError(
                f"Got labels {labels.shape} in {photo.labels}, expected {(image.height, image.width)} as the photograph."
            )
        if self.area is None:
            return np.asarray(image), labels
        height, width = processing_size(image.height, image.width, self.area)
        pixels = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
        self._cache[row] = (pixels, resize_labels(labels, height, width))
        return self._cache[row]


def resize_labels(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Each new pixel takes the class that covers most of it; for two classes this is coverage over one half."""
    ids = np.unique(labels)
    coverage = np.stack(
        [np.asarray(Image.fromarray((labels == i).astype(np.uint8) * 255).resize((width, height), Image.Resampling.BOX))
         for i in ids]
    )  # fmt: skip
    return ids[coverage.argmax(axis=0)].astype(np.uint8)


def box_answer(mask: np.ndarray, grid: int = 100) -> str:
    """ "box left top right bottom" on a ``grid`` x ``grid`` lattice (ends included, 0 to 99), or "none"."""
    if not mask.any():
        return "none"
    (height, width), rows, columns = mask.shape, np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    edges = (columns[0] * grid // width, rows[0] * grid // height)
    ends = (columns[-1] * grid // width, rows[-1] * grid // height)
    return "box " + " ".join(str(int(value)) for value in (*edges, *ends))


def _instruction(name: str) -> str:
    return f"Please segment the {name} in the image."


def _choose_sources(root: Path, wanted: tuple[str, ...] | None) -> list[str]:
    if not root.is_dir():
        raise ValueError(
            f"Got {str(root)!r}, which is not a folder, expected photographs laid out as {LAYOUT}."
        )
    found = sorted(path.parent.name for path in root.glob("*/index.jsonl"))
    if not found:
        raise ValueError(f"Got {str(root)!r} without any index.jsonl, expected {LAYOUT}.")
    unknown = sorted(set(wanted or ()) - set(found))
    if unknown:
        raise ValueError(f"Got source {unknown[0]!r}, expected one of {', '.join(found)}.")
    return found if wanted is None else [source for source in found if source in wanted]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"Cannot read {path} ({error.strerror}), expected {LAYOUT}.") from error


def _read_classes(folder: Path) -> dict[int, str]:
    names = json.loads(_read_text(folder / "classes.json"))
    return {int(label): name for label, name in names.items() if int(label) != 0}


def _read_index(folder: Path, split: Split, classes: dict[int, str]) -> list[Photograph]:
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in _read_text(folder / "index.jsonl").splitlines()
    ]
    return [
        Photograph(
            source=folder.name,
            image=folder / row["image"],
            labels=folder / row["labels"],
            classes={label: classes[label] for label in sorted(row["present"])},
            captions=tuple(caption.strip() for caption in row.get("captions", ())),
        )
        for row in rows
        if row["split"] == split and row["present"]
    ]


def _read_labels(path: Path) -> np.ndarray:
    """Class ids, (H, W) uint8; read as they are, never through a colour conversion."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode != "L":
                raise ValueError(
                    f"Got labels {path} of mode {image.mode}, expected 8-bit class ids (mode L)."
                )
            return np.asarray(image)
    except (OSError, SyntaxError) as error:
        raise ValueError(
            f"Cannot read labels {path}, expected an 8-bit PNG of class ids; {LAYOUT}."
        ) from error
