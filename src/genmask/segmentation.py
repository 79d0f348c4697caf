"""What `GenMaskPipeline.segment` returns: a mask at the picture's own size, and how sure it is."""

from __future__ import annotations

import json
import os
import re
import secrets
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

Box = tuple[int, int, int, int]


class SavedFiles(NamedTuple):
    """The files that `Segmentation.save` wrote."""

    mask: Path
    """PNG, one 8-bit channel: 255 on the mask, 0 elsewhere."""
    overlay: Path
    """PNG, RGB: the picture with the mask drawn over it."""
    json: Path
    """`Segmentation.to_dict`, plus the names of the two files above under "files"."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Segmentation:
    """One picture, one sentence, and the mask it asks for. Everything else follows from these five fields.

    Raises:
        ValueError: the soft mask is not float32 in [0, 1] at the picture's size; a threshold outside [0, 1).
    """

    image: Image.Image
    """The source picture, W x H, in any mode."""
    text: str
    """What the user asked for."""
    target: str
    """What the network was asked for: the text itself or, when reasoning, the description written from it."""
    soft_mask: np.ndarray
    """(H, W) float32 in [0, 1]."""
    threshold: float = 0.5
    """A pixel is in the mask if its soft mask is greater than this; in [0, 1)."""

    def __post_init__(self) -> None:
        soft, height_width = self.soft_mask, (self.image.height, self.image.width)
        if soft.shape != height_width or soft.dtype != np.float32:
            raise ValueError(
                f"Got a soft mask {soft.shape} {soft.dtype}, expected {height_width} float32, "
                "the size of the picture: resize it and convert it first."
            )
        if not (soft.min() >= 0 and soft.max() <= 1):  # written so that NaN is refused as well
            raise ValueError(
                f"Got a soft mask from {soft.min()} to {soft.max()}, expected [0, 1]: clip it first."
            )
        if not 0 <= self.threshold < 1:
            raise ValueError(f"Got threshold {self.threshold}, expected a number in [0, 1), such as 0.5.")

    def __repr__(self) -> str:
        found = "empty" if self.is_empty else f"box={self.box}"
        return f"Segmentation(text={self.text!r}, {found}, confidence={self.confidence:.3f})"

    @cached_property
    def mask(self) -> np.ndarray:
        """(H, W) bool: `soft_mask > threshold`."""
        return self.soft_mask > self.threshold

    @property
    def is_empty(self) -> bool:
        """No pixel lies above the threshold: what was asked for is not in the picture."""
        return not self.mask.any()

    @cached_property
    def confidence(self) -> float:
        """In [0, 1]: the mean of the soft mask over the mask; where that is empty, 1 minus its maximum."""
        if self.is_empty:
            return 1.0 - float(self.soft_mask.max())
        return float(self.soft_mask[self.mask].mean(dtype=np.float64))

    @cached_property
    def box(self) -> Box | None:
        """(left, top, right, bottom) in pixels, the last two exclusive, as in PIL; None for an empty mask."""
        if self.is_empty:
            return None
        columns, rows = np.flatnonzero(self.mask.any(axis=0)), np.flatnonzero(self.mask.any(axis=1))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    def rle(self) -> dict[str, Any]:
        """COCO's compressed run-length encoding, ready for JSON: "size" [H, W] and "counts", a string."""
        encoded = coco_mask.encode(np.asfortranarray(self.mask, dtype=np.uint8))
        return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}

    def overlay(self, color: tuple[int, int, int] = (255, 0, 96), opacity: float = 0.45) -> Image.Image:
        """The picture with the mask filled in a translucent `color` (RGB, 0 to 255), inside a contour line.

        The line is white with a black rim outside, so that it shows on light pictures, on dark ones and on
        those that have the colour of the fill. Its width grows with the picture, to survive scaling down.
        """
        picture = self.image.convert("RGB")
        filled = Image.blend(picture, Image.new("RGB", picture.size, color), opacity)
        width = max(1, round(min(picture.size) / 256))
        line = self.mask & _grow(~self.mask, width)
        rim = ~self.mask & _grow(self.mask, width)
        picture = Image.composite(filled, picture, Image.fromarray(self.mask))
        picture.paste((255, 255, 255), mask=Image.fromarray(line))
        picture.paste((0, 0, 0), mask=Image.fromarray(rim))
        return picture

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pixels of the picture, ready for JSON."""
        return {
            "text": self.text,
            "target": self.target,
            "width": self.image.width,
            "height": self.image.height,
            "threshold": self.threshold,
            "confidence": self.confidence,
            "is_empty": self.is_empty,
            "area_fraction": float(self.mask.mean()),
            "box": self.box,
            "rle": self.rle(),
        }

    def save(self, folder: str | Path, stem: str | None = None) -> SavedFiles:
        """Write `STEM.mask.png` (lossless), `STEM.overlay.png` and `STEM.json`; makes the folder if need be.

        The stem is made from the text by default. A file of that name is replaced in one step: whoever reads
        the folder meanwhile sees the old file or the new one, never half of one; a failed write leaves
        nothing behind.

        Raises:
            ValueError: the stem is not a bare file name.
            OSError: the folder cannot be made or written to.
        """
        stem = file_stem(self.text) if stem is None else stem
        if not stem or Path(stem).name != stem:
            raise ValueError(
                f"Got stem {stem!r}, expected a bare file name such as 'red-mug'; the folder goes first."
            )
        folder = Path(folder)
        files = SavedFiles(*(folder / f"{stem}.{suffix}" for suffix in ("mask.png", "overlay.png", "json")))
        record = self.to_dict() | {"files": {"mask": files.mask.name, "overlay": files.overlay.name}}

        folder.mkdir(parents=True, exist_ok=True)
        save_png(Image.fromarray(self.mask.astype(np.uint8) * 255), files.mask)
        save_png(self.overlay(), files.overlay)
        _replace(files.json, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())
        return files


def file_stem(text: str) -> str:
    """A file name from a sentence in any language: its words joined by hyphens, at most 60 characters."""
    return "-".join(re.findall(r"\w+", text.lower()))[:60].strip("-") or "mask"


def save_png(image: Image.Image, path: Path) -> None:
    """Write a picture without loss and in one step."""
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    _replace(path, buffer.getvalue())


def _grow(mask: np.ndarray, pixels: int) -> np.ndarray:
    """`mask` (H, W) bool, dilated by a square of `pixels` on every side; as fast for many as for few."""
    window = 2 * pixels + 1
    for _ in range(2):  # down the columns, then, transposed, along the rows
        count = np.pad(mask, ((pixels + 1, pixels), (0, 0))).cumsum(axis=0, dtype=np.int32)
        mask = (count[window:] > count[:-window]).T
    return mask


def _replace(path: Path, content: bytes) -> None:
    """Write a file in one step: beside it first, then renamed over it."""
    partial = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
