"""COCO-format annotations: reading them, and opening the pictures that they are of."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genmask.data.json_fields import read_field, read_json
from genmask.images import open_image

LAYOUT = (
    "COCO instance JSON with images (id, file_name, height, width), annotations (id, image_id, category_id, "
    "segmentation) and categories (id, name)"
)


@dataclass(frozen=True, kw_only=True)
class CocoImage:
    """One picture of a COCO file."""

    id: int
    file_name: str
    """Path in the folder of pictures."""
    height: int
    """In pixels; so is the width."""
    width: int


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """One thing in one picture."""

    id: int
    image_id: int
    category_id: int
    segmentation: list[Any] | dict[str, Any]
    """As in the file; see `decode_segmentation`."""
    is_crowd: bool
    """It is the region of a crowd of such things, not one of them."""


@dataclass(frozen=True, kw_only=True)
class CocoInstances:
    """The content of a COCO instance file, in its order."""

    images: dict[int, CocoImage]
    annotations: tuple[Annotation, ...]
    categories: dict[int, str]
    """Names by id."""


def read_instances(path: str | Path) -> CocoInstances:
    """Read and check a COCO instance file. A missing `iscrowd` is 0, a missing `segmentation` is empty.

    Raises:
        ValueError: missing, no JSON, or a field that is missing or of another type (named).
    """
    path = Path(path)
    content = read_json(path, LAYOUT)
    images: dict[int, CocoImage] = {}
    for where, row in _rows(content, "images", path):
        image = CocoImage(
            id=read_field(row, "id", int, where),
            file_name=read_field(row, "file_name", str, where),
            height=read_field(row, "height", int, where),
            width=read_field(row, "width", int, where),
        )
        if image.id in images or min(image.height, image.width) < 1 or not image.file_name:
            raise ValueError(f"Got {where} with a second id, no name or no size, expected {LAYOUT}.")
        images[image.id] = image
    annotations = tuple(
        Annotation(
            id=read_field(row, "id", int, where),
            image_id=read_field(row, "image_id", int, where),
            category_id=read_field(row, "category_id", int, where),
            segmentation=_segmentation(row, where),
            is_crowd=bool(row.get("iscrowd", 0)),
        )
        for where, row in _rows(content, "annotations", path)
    )
    categories = {
        read_field(row, "id", int, where): read_field(row, "name", str, where)
        for where, row in _rows(content, "categories", path)
    }
    if not all(name.strip() for name in categories.values()):
        raise ValueError(f"Got a category without a name in {path}, expected {LAYOUT}.")
    return CocoInstances(images=images, annotations=annotations, categories=categories)


def open_annotated(path: Path, height: int, width: int, annotations: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB: the picture, which must be of the size that its annotations say."""
    image = np.asarray(open_image(path))
    if image.shape[:2] != (height, width):
        raise ValueError(
            f"Got {path} of {image.shape[:2]} (height, width), expected {(height, width)} as {annotations} "
            "says: if the sides are swapped, take out its EXIF rotation; else fetch the picture that was "
            "annotated."
        )
    return image


def find_missing(paths: Collection[Path], expected: str, skip_missing: bool) -> set[Path]:
    """Which pictures are not on disk.

    Raises:
        ValueError: some are missing and may not be skipped, or all are.
    """
    missing = {path for path in paths if not path.is_file()}
    if missing and (not skip_missing or len(missing) == len(paths)):
        hint = "" if len(missing) == len(paths) else ", or set skip_missing to leave them out"
        raise ValueError(
            f"Got no file {min(missing)} ({len(missing)} of {len(paths)} are missing), expected the {expected}: "
            f"fetch them, name their folder as images{hint}."
        )
    return missing


def _rows(content: Any, name: str, path: Path) -> list[tuple[str, Any]]:
    rows = content.get(name) if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f"Got {path} without a list of {name}, expected {LAYOUT}.")
    return [(f"{name}[{index}] of {path}", row) for index, row in enumerate(rows)]


def _segmentation(row: dict[str, Any], where: str) -> list[Any] | dict[str, Any]:
    segmentation = row.get("segmentation") or []
    if not isinstance(segmentation, list | dict):
        found = type(segmentation).__name__
        raise ValueError(f"Got {found} for segmentation of {where}, expected polygons or run lengths (RLE).")
    return segmentation
