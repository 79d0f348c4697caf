"""Your own pictures, outlined in LabelMe: a folder of JSON files with the pictures beside them."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from genmask.data.example import Example
from genmask.data.json_fields import read_field, read_json
from genmask.data.outlines import check_reach
from genmask.data.phrases import plain_phrase
from genmask.images import FORMATS, open_image

LAYOUT = "a folder of LabelMe's *.json (imagePath, shapes of label, points and shape_type) and their pictures"
IGNORED_LABEL = "__ignore__"
"""LabelMe's own name for what nobody can tell: ignored in every example of the picture."""
BACKGROUND_LABEL = "_background_"
FEWEST_POINTS = {"polygon": 3, "rotation": 3, "rectangle": 2, "circle": 2, "mask": 2}
"""Of the shapes that have an area; a rotation is a turned rectangle, given by its corners."""
LINES = frozenset(("line", "linestrip", "point", "points"))
"""Shapes without an area, which are left out."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One outline."""

    label: str
    kind: str
    """A key of `FEWEST_POINTS`."""
    points: np.ndarray
    """(N, 2) float64, x and y in pixels. Of a rectangle and a mask two opposite corners, of a circle the centre
    and a point on it."""
    pixels: str = ""
    """Of a mask: the base64 of a PNG that fills its box, corners included."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One JSON file."""

    path: Path
    image: Path | None
    """None where the JSON file itself holds the picture."""
    size: tuple[int, int] | None
    """(Height, width) in pixels, if the file says them."""
    shapes: tuple[Shape, ...]


class LabelMe:
    """One example per (JSON file, label in it), files by name, labels in the order of their first shapes.

    All shapes of a label make one mask; groups (group_id) are not told apart. "__ignore__" is ignored, and
    "_background_" is never asked for. Lines and points have no area: `skipped` counts them, with polygons of
    fewer than three points. The picture is looked for at imagePath, then beside the JSON file, then in it
    (imageData).

    Args:
        root: the folder.

    Raises:
        ValueError: no such folder, nothing outlined, or a file that is missing or not as `LAYOUT` says.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise ValueError(f"Got {str(root)!r}, which is not a folder, expected {LAYOUT}.")
        self.records: list[Record] = []
        self.skipped = 0
        for path in sorted(self.root.glob("*.json")):
            record, skipped = read_record(path)
            self.records.append(record)
            self.skipped += skipped
        self.pairs = [
            (row, label)
            for row, record in enumerate(self.records)
            for label in dict.fromkeys(shape.label for shape in record.shapes)
            if label not in (IGNORED_LABEL, BACKGROUND_LABEL)
        ]
        """Every (row of `records`, label)."""
        if not self.pairs:
            raise ValueError(f"Got {str(root)!r} without any outline, expected {LAYOUT}.")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Example:
        row, label = self.pairs[index]
        record = self.records[row]
        image = _open_picture(record)
        height, width = image.shape[:2]
        mask, unknown = (np.zeros((height, width), dtype=bool) for _ in range(2))
        for shape in record.shapes:
            if shape.label in (label, IGNORED_LABEL):
                plane = mask if shape.label == label else unknown
                plane |= draw_shape(shape, height, width, f"a {shape.kind} of {record.path}")
        ignore = unknown & ~mask
        return Example(
            image=image,
            text=plain_phrase(" ".join(label.replace("_", " ").split())),
            mask=mask,
            ignore=ignore if ignore.any() else None,
            source=f"labelme/{self.root.resolve().name}",
            id=f"{record.path.stem}/{label}",
            kind=label,
        )


def draw_shape(shape: Shape, height: int, width: int, where: str = "a shape") -> np.ndarray:
    """(H, W) bool, True inside of a shape and, as LabelMe draws it, on its outline.

    Raises:
        ValueError: points far outside the picture, or a mask that does not fill its box.
    """
    check_reach(shape.points, height, width, where)
    if shape.kind == "mask":
        return _paste_mask(shape, height, width, where)
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    (left, top), (right, bottom) = shape.points.min(axis=0).tolist(), shape.points.max(axis=0).tolist()
    if shape.kind == "rectangle":
        draw.rectangle((left, top, right, bottom), outline=1, fill=1)
    elif shape.kind == "circle":
        (x, y), (on_x, on_y) = shape.points[:2].tolist()
        radius = math.hypot(on_x - x, on_y - y)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=1, fill=1)
    else:
        draw.polygon([(x, y) for x, y in shape.points.tolist()], outline=1, fill=1)
    return np.asarray(canvas)


def _paste_mask(shape: Shape, height: int, width: int, where: str) -> np.ndarray:
    corners = shape.points[:2].astype(int)
    (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    size = (right - left + 1, bottom - top + 1)
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape.pixels)), formats=("PNG",)) as image:
            fits = image.size == size and left >= 0 and top >= 0 and right < width and bottom < height
            inside = np.asarray(image.convert("L")) > 0 if fits else None
    except Exception as error:  # damaged data makes Pillow raise nearly anything
        raise ValueError(f"Cannot read the mask of {where}, expected a PNG in base64.") from error
    if inside is None:
        raise ValueError(f"Got {where} that does not fill its box in the picture, expected a PNG of {size}.")
    mask = np.zeros((height, width), dtype=bool)
    mask[top : bottom + 1, left : right + 1] = inside
    return mask


def _open_picture(record: Record) -> np.ndarray:
    """(H, W, 3) uint8, RGB."""
    if record.image is not None:
        image = open_image(record.image)
    else:
        data = read_field(read_json(record.path, LAYOUT), "imageData", str, str(record.path))
        try:
            image = open_image(Image.open(io.BytesIO(base64.b64decode(data)), formats=FORMATS))
        except Exception as error:  # as above
            raise ValueError(
                f"Cannot read imageData in {record.path}, expected a picture in base64."
            ) from error
    size = (image.height, image.width)
    if record.size not in (None, size):
        raise ValueError(
            f"Got the picture of {record.path} of {size} (height, width), expected {record.size} as it says: "
            "fetch the picture that was outlined."
        )
    return np.asarray(image)


def read_record(path: Path) -> tuple[Record, int]:
    """A file, and how many of its shapes have no area."""
    content, where = read_json(path, LAYOUT), str(path)
    rows = read_field(content, "shapes", list, f"{path}, which should be one of {LAYOUT}")
    shapes = [_parse_shape(row, f"shapes[{index}] of {path}") for index, row in enumerate(rows)]
    kept = tuple(shape for shape in shapes if shape is not None)
    name = read_field(content, "imagePath", str, where).replace("\\", "/")  # Windows writes those
    candidates = (path.parent / name, path.parent / Path(name).name)
    image = next((candidate for candidate in candidates if candidate.is_file()), None)
    if image is None and not content.get("imageData"):
        raise ValueError(f"Got no file {candidates[0]} for imagePath of {path}, expected {LAYOUT}.")
    size = None
    if content.get("imageHeight") is not None and content.get("imageWidth") is not None:
        size = (read_field(content, "imageHeight", int, where), read_field(content, "imageWidth", int, where))
    return Record(path=path, image=image, size=size, shapes=kept), len(shapes) - len(kept)


def _parse_shape(row: Any, where: str) -> Shape | None:
    """None for a shape without an area."""
    label = read_field(row, "label", str, where).strip()
    kind = row.get("shape_type") or "polygon"  # the first versions drew nothing else
    if not isinstance(kind, str) or kind not in (*FEWEST_POINTS, *LINES):
        raise ValueError(f"Got shape_type {kind!r} in {where}, expected one of {', '.join(FEWEST_POINTS)}.")
    if not label:
        raise ValueError(f"Got no label in {where}, expected a name.")
    corners = read_field(row, "points", list, where)
    if kind in LINES or (kind == "polygon" and len(corners) < FEWEST_POINTS[kind]):
        return None
    if len(corners) < FEWEST_POINTS[kind]:
        raise ValueError(
            f"Got {len(corners)} points in {where}, expected {FEWEST_POINTS[kind]} for a {kind}."
        )
    try:
        points = np.asarray(corners)
    except ValueError:  # lists of unequal length
        points = np.empty(0)
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "iuf":
        raise ValueError(f"Got points in {where} that are no list of [x, y], expected that.")
    pixels = read_field(row, "mask", str, where) if kind == "mask" else ""
    return Shape(label=label, kind=kind, points=points.astype(np.float64), pixels=pixels)
