"""The layout of photographs with class masks on disk: index, class names, label maps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LAYOUT = "<root>/<source>/ with index.jsonl, classes.json, images/*.jpg and labels/*.png"
"""`index.jsonl` has one object per photograph with the `ROW_FIELDS` and, for some, captions (a list of
sentences). `classes.json` maps id to plain name; 0 is background or unlabelled."""
ROW_FIELDS = ("image", "labels", "width", "height", "split", "present")
"""Image and labels are paths in the source's folder; split is "train" or "val"; present lists the ids of the
classes that have at least one pixel."""


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """One row of an index: where the picture and its labels are, and what is in it."""

    source: str
    image: Path
    labels: Path
    classes: dict[int, str]
    """Names of the classes that have at least one pixel, by id."""
    captions: tuple[str, ...] = ()
    height: int
    """Of the picture, in pixels; so is the width."""
    width: int

    @property
    def id(self) -> str:
        """Stem of the file: unique within the source."""
        return self.image.stem


def find_sources(root: Path, wanted: tuple[str, ...] | None = None) -> list[str]:
    """Names of the sources under `root`, sorted; only the `wanted` ones, if given.

    Raises:
        ValueError: no such folder, nothing in it, or a name that is not there.
    """
    if not root.is_dir():
        raise ValueError(f"Got {str(root)!r}, which is not a folder, expected {LAYOUT}.")
    found = sorted(path.parent.name for path in root.glob("*/index.jsonl"))
    if not found:
        raise ValueError(f"Got {str(root)!r} without any source, expected {LAYOUT}.")
    unknown = sorted(set(wanted or ()) - set(found))
    if unknown:
        raise ValueError(f"Got source {unknown[0]!r}, expected one of {', '.join(found)}.")
    return found if wanted is None else [source for source in found if source in wanted]


def read_classes(folder: Path) -> dict[int, str]:
    """Names by id, without 0 (background or unlabelled)."""
    names = _parse(_read(folder / "classes.json"), f"{folder / 'classes.json'}")
    return {int(label): name for label, name in names.items() if int(label) != 0}


def read_index(folder: Path, split: str) -> list[Photograph]:
    """The photographs of a split that have at least one class in them, in the order of the index."""
    classes, path = read_classes(folder), folder / "index.jsonl"
    rows = [_parse(line, f"{path}, line {n}") for n, line in enumerate(_read(path).splitlines(), start=1)]
    for n, row in enumerate(rows, start=1):
        missing = [field for field in ROW_FIELDS if field not in row]
        if missing:
            raise ValueError(f"Got {path}, line {n} without {missing[0]}, expected {', '.join(ROW_FIELDS)}.")
    return [
        Photograph(
            source=folder.name,
            image=folder / row["image"],
            labels=folder / row["labels"],
            classes={label: classes[label] for label in sorted(row["present"])},
            captions=tuple(" ".join(caption.split()) for caption in row.get("captions", ())),
            height=row["height"],
            width=row["width"],
        )
        for row in rows
        if row["split"] == split and row["present"]
    ]


def read_labels(path: Path) -> np.ndarray:
    """Class ids, (H, W) uint8, as they are in the file: no colour conversion may touch them."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode == "L":
                return np.asarray(image)
            mode = image.mode
    except (OSError, SyntaxError) as error:
        raise ValueError(
            f"Cannot read labels {path}, expected an 8-bit PNG of class ids; {LAYOUT}."
        ) from error
    raise ValueError(f"Got labels {path} of mode {mode}, expected 8-bit class ids (mode L).")


def resize_labels(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Label map at another size: each new pixel takes the class that covers most of it."""
    ids = np.unique(labels)
    planes = (Image.fromarray((labels == i).astype(np.uint8) * 255) for i in ids)
    coverage = [np.asarray(plane.resize((width, height), Image.Resampling.BOX)) for plane in planes]
    return ids[np.argmax(coverage, axis=0)]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"Cannot read {path} ({error.strerror}), expected {LAYOUT}.") from error


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"Got no valid JSON in {where} ({error}), expected {LAYOUT}.") from error
