"""What `GenMaskPipeline.segment` returns: a mask at the picture's own size, and how sure it is."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from genmask.atomic import save_json, save_png
from genmask.instances import Box, Instance, clean, find_instances
from genmask.thresholds import FAINT, expected_iou, mean_confidence


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
    """One picture, one sentence, and the mask it asks for. Everything else follows from these fields.

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
    presence: float | None = None
    """The probability that what was asked for is in the picture; None of models without a head that tells it."""
    is_fallback: bool = False
    """Reasoning came to no description that could be used, and the text itself was looked for."""

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
        """In [0, 1]: the mean of the soft mask over the mask; where that is empty, 1 minus `presence` or, without one,
        1 minus the soft mask's maximum."""
        return mean_confidence(self.soft_mask, self.mask) if self._absence is None else self._absence

    @cached_property
    def expected_iou(self) -> float:
        """In [0, 1]: the IoU that the mask may expect, were the soft mask the probability of each pixel and pixels
        independent; where the mask is empty, as `confidence`. Nearer to the true IoU than that.
        """
        return expected_iou(self.soft_mask, self.mask, FAINT) if self._absence is None else self._absence

    @property
    def _absence(self) -> float | None:
        """How sure an empty answer is, from the head that tells it; None of other answers, or without one."""
        return 1 - self.presence if self.presence is not None and self.is_empty else None

    @cached_property
    def box(self) -> Box | None:
        """(left, top, right, bottom) in pixels, the last two exclusive, as in PIL; None for an empty mask."""
        return _box_of(self.mask)

    def instances(self, min_area: int = 1) -> list[Instance]:
        """The connected parts of the mask with at least `min_area` pixels, largest first.

        Pixels that touch at a corner belong together. Things that touch or overlap are one part, and a thing
        that something else cuts in two is two: parts are told apart by where they are, not by what they are.
        """
        return find_instances(self.mask, self.soft_mask, min_area)

    def cleaned(self, min_part: float = 0.001, max_hole: float = 0.001) -> Segmentation:
        """The same without specks and holes; cleaning that again changes nothing.

        In the soft mask a speck becomes 0 and a hole the mean over the mask, so that mask, box and confidence
        still follow from it and filling holes makes nothing surer.

        Args:
            min_part: connected parts smaller than this share of the picture are dropped, in [0, 1]; the
                default is a square of 16 pixels in 512 x 512. The largest part always stays, however small:
                what is found never becomes nothing found.
            max_hole: enclosed gaps up to this share of the picture are filled, in [0, 1]. A gap that reaches
                the picture's edge is none.

        Raises:
            ValueError: a share outside [0, 1].
        """
        for name, share in (("min_part", min_part), ("max_hole", max_hole)):
            if not 0 <= share <= 1:
                raise ValueError(f"Got {name} {share}, expected a share of the picture in [0, 1].")
        return replace(self, soft_mask=clean(self.soft_mask, self.threshold, min_part, max_hole))

    def rle(self) -> dict[str, Any]:
        """COCO's compressed run-length encoding, ready for JSON: "size" [H, W] and "counts", a string."""
        encoded = coco_mask.encode(np.asfortranarray(self.mask, dtype=np.uint8))
        return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}

    def overlay(self, color: tuple[int, int, int] = (255, 0, 96), opacity: float = 0.45) -> Image.Image:
        """The picture with the mask filled in a translucent `color` (RGB, 0 to 255), inside a contour line.

        The line is white with a black rim outside, so that it shows on light pictures, on dark ones and on
        those that have the colour of the fill. Its width grows with the picture, to survive scaling down.
        """
        return draw_mask(self.image.convert("RGB"), self.mask, color, opacity)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pixels of the picture, ready for JSON."""
        return {
            "text": self.text,
            "target": self.target,
            "is_fallback": self.is_fallback,
            "width": self.image.width,
            "height": self.image.height,
            "threshold": self.threshold,
            "confidence": self.confidence,
            "presence": self.presence,
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
        check_stem(stem)
        folder = Path(folder)
        files = SavedFiles(*(folder / f"{stem}.{suffix}" for suffix in ("mask.png", "overlay.png", "json")))
        record = self.to_dict() | {"files": {"mask": files.mask.name, "overlay": files.overlay.name}}

        folder.mkdir(parents=True, exist_ok=True)
        save_png(Image.fromarray(self.mask.astype(np.uint8) * 255), files.mask)
        save_png(self.overlay(), files.overlay)
        save_json(record, files.json)
        return files


def file_stem(text: str) -> str:
    """A file name from a sentence in any language: its words joined by hyphens, at most 60 characters."""
    return "-".join(re.findall(r"\w+", text.lower()))[:60].strip("-") or "mask"


def check_stem(stem: str) -> None:
    """Refuse what is not a bare file name, and so could leave its folder."""
    if not stem or Path(stem).name != stem:
        raise ValueError(
            f"Got stem {stem!r}, expected a bare file name such as 'red-mug'; the folder goes first."
        )


def draw_mask(
    picture: Image.Image, mask: np.ndarray, color: tuple[int, int, int], opacity: float
) -> Image.Image:
    """`mask` (H, W) bool over an RGB picture of its size; see `Segmentation.overlay`."""
    picture = picture.copy()
    if (box := _box_of(mask)) is None:
        return picture
    width = max(1, round(min(picture.size) / 256))
    # All that is drawn lies here; in a large picture that is far less to do.
    left, top = max(box[0] - width, 0), max(box[1] - width, 0)
    right, bottom = min(box[2] + width, picture.width), min(box[3] + width, picture.height)
    mask = mask[top:bottom, left:right]
    around = picture.crop((left, top, right, bottom))
    filled = Image.blend(around, Image.new("RGB", around.size, color), opacity)
    line = mask & _grow(~mask, width)
    rim = ~mask & _grow(mask, width)
    around.paste(filled, mask=Image.fromarray(mask))
    around.paste((255, 255, 255), mask=Image.fromarray(line))
    around.paste((0, 0, 0), mask=Image.fromarray(rim))
    picture.paste(around, (left, top))
    return picture


def _box_of(mask: np.ndarray) -> Box | None:
    """The smallest box around `mask` (H, W) bool; None if that is empty."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _grow(mask: np.ndarray, pixels: int) -> np.ndarray:
    """`mask` (H, W) bool, dilated by a square of `pixels` on every side; as fast for many as for few."""
    window = 2 * pixels + 1
    for _ in range(2):  # down the columns, then, transposed, along the rows
        count = np.pad(mask, ((pixels + 1, pixels), (0, 0))).cumsum(axis=0, dtype=np.int32)
        mask = (count[window:] > count[:-window]).T
    return mask
