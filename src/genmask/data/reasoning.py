"""ReasonSeg: pictures with questions that name their target by what it does or means."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from genmask.data.example import Example
from genmask.data.json_fields import read_field
from genmask.data.outlines import check_reach
from genmask.data.semantic import VIEWS, View, choose_split, find_folder
from genmask.images import open_image

LAYOUT = "ReasonSeg/{train,val,test}/*.jpg, each with a .json of shapes, text and is_sentence"
LISA_SENTENCES = 3
"""LISA trains on at most so many sentences of a picture at a time."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One polygon that somebody drew."""

    label: str
    """ "target", or one with "ignore" in it: pixels that count neither way."""
    points: np.ndarray
    """(N, 2) int32, x and y in pixels."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One picture, all sentences about it, and the outlines of their one target."""

    image: Path
    sentences: tuple[str, ...]
    is_sentence: bool
    """The sentences are whole ones ("What would keep me dry?"), not phrases ("the thing that keeps one dry")."""
    shapes: tuple[Shape, ...]
    """None for an empty mask."""


class ReasonSeg:
    """Examples from `LAYOUT`, pictures sorted by name; `kind` is "long" for whole sentences, else "short".

    * view "pairs", for scoring: one example per picture, its first sentence, in order.
    * view "training": every sentence of every picture once in `len(self)` examples, in a shuffled order that
      is new each time; any index is valid. An example depends on (seed, index) alone.

    Args:
        root: the folder that holds ReasonSeg (or reason_seg/ReasonSeg, as LISA has it), or that folder.
        split: "train", "val" or "test".
        view: None for what the split is for.
        seed: of the order.
        max_sentences: in training, at most so many sentences of a picture each time, others the next; None
            for all.
        lisa: as LISA trains: at most `LISA_SENTENCES`, phrases in lower case, ignored pixels are background.
            Its scoring is the same with and without.

    Raises:
        ValueError: unknown split or view; files that are missing or not as the layout says.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        view: View | None = None,
        seed: int = 0,
        max_sentences: int | None = None,
        lisa: bool = False,
    ) -> None:
        folder = choose_split(split, {name: name for name in ("train", "val", "test")})
        view = view or ("training" if split == "train" else "pairs")
        if view not in VIEWS:
            raise ValueError(f"Got view {view!r}, expected one of {', '.join(VIEWS)}.")
        if max_sentences is not None and max_sentences < 1:
            raise ValueError(f"Got max_sentences {max_sentences}, expected at least 1 or None for all.")
        self.split, self.view, self.seed, self.lisa = split, view, seed, lisa
        self.max_sentences = LISA_SENTENCES if lisa and max_sentences is None else max_sentences
        root = Path(root)
        homes = (root / "ReasonSeg", root / "reason_seg/ReasonSeg", root)
        self.questions = _read_folder(find_folder(LAYOUT, *(home / folder for home in homes)))
        self._order: tuple[int, list[tuple[int, int]]] = (-1, [])

    def __len__(self) -> int:
        """Number of pictures, or in the view "training" of sentences (of `max_sentences` each at most)."""
        if self.view == "pairs":
            return len(self.questions)
        return sum(self._limit(question) for question in self.questions)

    def __getitem__(self, index: int) -> Example:
        if index < 0 or (self.view == "pairs" and index >= len(self)):
            raise IndexError(f"Got index {index}, expected 0 to {len(self) - 1}.")
        if self.view == "pairs":
            return self._example(index, 0)
        epoch, position = divmod(index, len(self))
        if self._order[0] != epoch:
            self._order = (epoch, self._shuffle(np.random.default_rng((self.seed, epoch))))
        return self._example(*self._order[1][position])

    def _limit(self, question: Question) -> int:
        count = len(question.sentences)
        return count if self.max_sentences is None else min(count, self.max_sentences)

    def _shuffle(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        """(row, sentence) of one epoch."""
        chosen = [
            (row, int(sentence))
            for row, question in enumerate(self.questions)
            for sentence in rng.permutation(len(question.sentences))[: self._limit(question)]
        ]
        return [chosen[position] for position in rng.permutation(len(chosen))]

    def _example(self, row: int, sentence: int) -> Example:
        question = self.questions[row]
        image = np.asarray(open_image(question.image))
        height, width = image.shape[:2]
        mask, ignore = paint(question.shapes, height, width, str(question.image))
        text = question.sentences[sentence]
        as_lisa_trains = self.lisa and self.view == "training"
        return Example(
            image=image,
            text=text.lower() if as_lisa_trains and not question.is_sentence else text,
            mask=mask,
            ignore=ignore if ignore.any() and not as_lisa_trains else None,
            source="reason_seg",
            id=f"{self.split}/{question.image.stem}/{sentence}",
            kind="long" if question.is_sentence else "short",
        )


def paint(
    shapes: tuple[Shape, ...], height: int, width: int, where: str = "a picture"
) -> tuple[np.ndarray, np.ndarray]:
    """Target and ignored pixels of some shapes, both (H, W) bool.

    The largest shape (by its pixels in the picture) is painted first, so that a smaller one lies on top, be it
    target or ignored. Of two that are equally large the later in the file is painted first.

    A shape is its inside by the even-odd rule and its outline, one pixel wide and counted in. The data set's
    own tool paints it with OpenCV (`fillPoly` over `polylines`), here Pillow draws both; slanted edges round
    otherwise in places. Measured against OpenCV 5.0: rectangles are the same; of 200 outlines of 30 points in
    480 x 640, 0.06 % of the pixels differ (the worst has IoU 0.997), nearly all of them on the edge.
    """
    for shape in shapes:
        check_reach(shape.points, height, width, where)
    areas = [
        np.count_nonzero(np.asarray(_draw(Image.new("L", (width, height)), shape, 1))) for shape in shapes
    ]
    largest_first = np.argsort(areas, kind="stable")[::-1]
    canvas = Image.new("L", (width, height))
    for position in largest_first:
        shape = shapes[position]
        _draw(canvas, shape, 2 if "ignore" in shape.label.lower() else 1)
    painted = np.asarray(canvas)
    return painted == 1, painted == 2


def _draw(canvas: Image.Image, shape: Shape, value: int) -> Image.Image:
    points = [(int(x), int(y)) for x, y in shape.points]
    draw = ImageDraw.Draw(canvas)
    draw.line([*points, points[0]], fill=value)
    if len(points) > 2:
        draw.polygon(points, fill=value)
    return canvas


def _read_folder(folder: Path) -> tuple[Question, ...]:
    names = set(os.listdir(folder))
    stems = sorted({name[: -len(end)] for end in (".jpg", ".json") for name in names if name.endswith(end)})
    if not stems:
        raise ValueError(f"Got {folder} without pictures, expected {LAYOUT}.")
    for stem in stems:
        for name in (f"{stem}.jpg", f"{stem}.json"):
            if name not in names:
                raise ValueError(f"Got no {folder / name}, expected {LAYOUT}: fetch what is missing.")
    return tuple(read_question(folder / f"{stem}.json", folder / f"{stem}.jpg") for stem in stems)


def read_question(path: Path, image: Path) -> Question:
    """One JSON file: UTF-8, else Windows' cp1252. Shapes labelled "flag" (meaningless) are dropped.

    Raises:
        ValueError: not readable as JSON in either, or a field that is missing or of another type (named).
    """
    fields = _parse(path)
    sentences = read_field(fields, "text", list, str(path))
    if not sentences or not all(isinstance(text, str) and text.strip() for text in sentences):
        raise ValueError(f"Got {path} with text {sentences!r}, expected a list of sentences, at least one.")
    shapes = (_read_shape(row, f"shapes[{n}] of {path}") for n, row in enumerate(_list_shapes(fields, path)))
    return Question(
        image=image,
        sentences=tuple(text.strip() for text in sentences),
        is_sentence=read_field(fields, "is_sentence", bool, str(path)),
        shapes=tuple(shape for shape in shapes if shape.label.lower() != "flag"),
    )


def _parse(path: Path) -> Any:
    try:
        data = path.read_bytes()
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("cp1252")
        return json.loads(text)
    except OSError as error:
        raise ValueError(f"Cannot read {path} ({error.strerror}), expected {LAYOUT}.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Got no valid JSON in {path} ({error}), expected {LAYOUT}.") from error


def _list_shapes(fields: Any, path: Path) -> list[Any]:
    """A file with nothing to outline may leave them out."""
    return read_field(fields, "shapes", list, str(path)) if "shapes" in fields else []


def _read_shape(row: Any, where: str) -> Shape:
    label, points = read_field(row, "label", str, where), read_field(row, "points", list, where)
    try:
        values = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.ndim != 2 or values.shape[1] != 2 or not (np.abs(values) < 2**31).all():
        raise ValueError(f"Got points {str(points)[:40]} in {where}, expected a list of [x, y] in pixels.")
    return Shape(label=label, points=values.astype(np.int32))  # cut off, not rounded, as the tool does
