"""Your own data: a folder with `images/`, `masks/` and `captions.jsonl`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from genmask.data.example import Example
from genmask.images import open_image

LAYOUT = "a folder with captions.jsonl, images/ and masks/"
FIELDS = ("image", "text", "caption", "mask", "ignore")
MASK_FORMATS = ("PNG", "BMP", "TIFF", "GIF")
"""Lossless ones only: JPEG blurs the edge of a mask."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of `captions.jsonl`. Paths are relative to the folder.

    | field | meaning |
    |---|---|
    | `image` | the picture, "images/mug.jpg" |
    | `text` | what to segment, "the red mug"; or instead of it |
    | `caption` | the whole picture in words: the row is for text-to-image and has no mask |
    | `mask` | black-and-white picture, white on the target, "masks/mug.png"; null or left out: nothing is |
    | `ignore` | the same, white where nobody knows; null or left out: every pixel is known |

    One picture may stand in many rows.
    """

    image: Path
    text: str
    mask: Path | None = None
    ignore: Path | None = None
    is_caption: bool = False


class Folder:
    """Examples from `captions.jsonl`, in its order; see `Row` for the fields.

    All rows are checked, and every file they name is looked for, before the first example.

    Raises:
        ValueError: a missing file or folder, or a row that is not as `Row` says (named by its line).
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.rows = _read_rows(self.root)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = self.rows[index]
        image = np.asarray(open_image(row.image))
        size = image.shape[:2]
        mask = None
        if not row.is_caption:
            mask = np.zeros(size, dtype=bool) if row.mask is None else _read_sized_mask(row.mask, size)
        return Example(
            image=image,
            text=row.text,
            mask=mask,
            ignore=None if row.ignore is None else _read_sized_mask(row.ignore, size),
            task="generation" if row.is_caption else "segmentation",
            source=f"folder/{self.root.resolve().name}",
            id=f"{index:06d}",
            kind="caption" if row.is_caption else "absent" if row.mask is None else "",
        )


def read_mask(path: Path) -> np.ndarray:
    """(H, W) bool from a black-and-white picture: 1-bit, 8-bit grey or RGB, True above 127.

    A file that holds only the values 0 and 1 is taken as such.

    Raises:
        ValueError: unreadable, a lossy format, another mode, or in-between values only (class ids, say).
    """
    try:
        with Image.open(path, formats=MASK_FORMATS) as image:
            mode = image.mode
            values = np.asarray(image.convert("L")) if mode in ("1", "L", "RGB") else None
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise ValueError(
            f"Cannot read the mask {path}, expected a black-and-white picture ({', '.join(MASK_FORMATS)})."
        ) from error
    if values is None:
        raise ValueError(
            f"Got the mask {path} of mode {mode}, expected black and white: save it as 8-bit grey."
        )
    highest = values.max(initial=0)
    if 1 < highest <= 127:
        raise ValueError(
            f"Got the mask {path} with values up to {highest}, expected black (0) and white (255): write "
            "one such mask for each sentence."
        )
    return values > (0 if highest == 1 else 127)


def _read_sized_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    mask = read_mask(path)
    if mask.shape != size:
        raise ValueError(
            f"Got the mask {path} of {mask.shape} (height, width), expected {size} as its picture."
        )
    return mask


def _read_rows(root: Path) -> list[Row]:
    index = root / "captions.jsonl"
    for path, is_there in ((root, root.is_dir()), (index, index.is_file())):
        if not is_there:
            raise ValueError(f"Got no {path}, expected {LAYOUT}.")
    try:
        lines = index.read_text(encoding="utf-8").split("\n")  # not splitlines: JSON may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Cannot read {index} ({error}), expected UTF-8 text with one JSON object a line."
        ) from error
    rows = [
        parse_row(root, line, f"{index}, line {n}") for n, line in enumerate(lines, start=1) if line.strip()
    ]
    if not rows:
        raise ValueError(
            f"Got {index} without a row, expected one JSON object a line, fields {', '.join(FIELDS)}."
        )
    return rows


def parse_row(root: Path, line: str, where: str) -> Row:
    try:
        fields: Any = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"Got no valid JSON in {where} ({error}), expected one object a line.") from error
    if not isinstance(fields, dict):
        raise ValueError(
            f"Got {type(fields).__name__} in {where}, expected an object with {', '.join(FIELDS)}."
        )
    unknown = sorted(set(fields) - set(FIELDS))
    if unknown:
        raise ValueError(f"Got field {unknown[0]!r} in {where}, expected only {', '.join(FIELDS)}.")
    given = {name: value for name, value in fields.items() if value is not None}
    for name, value in given.items():
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"Got {name} {value!r} in {where}, expected text that is not empty.")
    if "image" not in given or ("text" in given) == ("caption" in given):
        raise ValueError(
            f"Got fields {', '.join(given)} in {where}, expected image and either text or caption."
        )
    if "caption" in given and ("mask" in given or "ignore" in given):
        raise ValueError(f"Got a caption with a mask in {where}, expected text for what the mask shows.")
    paths = {name: root / given[name] for name in ("image", "mask", "ignore") if name in given}
    for name, path in paths.items():
        if not path.is_file():
            raise ValueError(f"Got no file {path} for the {name} of {where}, expected {LAYOUT}.")
    return Row(text=given.get("text") or given["caption"], is_caption="caption" in given, **paths)
