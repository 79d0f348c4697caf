"""Several sentences about one picture as one map of labels: a palette PNG, and a picture with a legend."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from genmask.atomic import save_png
from genmask.legend import add_legend, draw_tags
from genmask.segmentation import Segmentation, check_stem, draw_mask

OKABE_ITO = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""Okabe and Ito's colours, which people with any kind of colour blindness tell apart."""
OPACITY = 0.45
MIN_SIDE = 640
"""Smaller pictures are drawn enlarged, so that what is written on them can be read."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelMap:
    """What each pixel of a picture is, out of several sentences; made by `label_map`."""

    results: tuple[Segmentation, ...]
    labels: np.ndarray
    """(H, W): 0 where nothing was found, i + 1 where it is result i. uint8, or uint16 for over 255 results."""

    def __repr__(self) -> str:
        return f"LabelMap(texts={[result.text for result in self.results]!r})"

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of label i + 1, for every i."""
        return tuple(result.text for result in self.results)

    def overlay(self) -> Image.Image:
        """The picture with every label in its colour and number, and a legend of texts and confidences below.

        Colours are safe for the colour-blind and repeat, lighter and darker, after seven; numbers do not. Type
        grows with the picture; one whose sides are all under `MIN_SIDE` is enlarged by a whole factor.
        """
        picture = self.results[0].image.convert("RGB")
        zoom = max(1, -(-MIN_SIDE // max(picture.size)))
        if zoom > 1:
            picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.BICUBIC)
        labels = self.labels.repeat(zoom, axis=0).repeat(zoom, axis=1)
        colors = [label_color(number) for number in range(1, len(self.results) + 1)]
        for number, color in enumerate(colors, 1):
            picture = draw_mask(picture, labels == number, color, OPACITY)
        entries = [
            _legend_entry(result, (self.labels == i).any()) for i, result in enumerate(self.results, 1)
        ]
        return add_legend(draw_tags(picture, labels, colors), entries, colors)

    def save(self, folder: str | Path, stem: str) -> tuple[Path, Path]:
        """Write `STEM.labels.png` and `STEM.labels.overlay.png`, each in one step; makes the folder if need be.

        The first holds the labels themselves, eight bits with the palette of the overlay, or sixteen of grey for
        over 255; its text chunk "labels" is a JSON object from label to text.

        Raises:
            ValueError: the stem is not a bare file name.
            OSError: the folder cannot be made or written to.
        """
        check_stem(stem)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files = folder / f"{stem}.labels.png", folder / f"{stem}.labels.overlay.png"
        image = Image.fromarray(self.labels)
        if image.mode == "L":
            image.putpalette([0, 0, 0, *(level for label in range(1, 256) for level in label_color(label))])
        info = PngInfo()
        names = json.dumps(dict(enumerate(self.texts, 1)), ensure_ascii=False)
        info.add_itxt("labels", names)
        save_png(image, files[0], info)
        save_png(self.overlay(), files[1])
        return files


def label_map(results: Sequence[Segmentation]) -> LabelMap:
    """Several results on one picture as one map; a pixel in several masks goes to the highest soft mask.

    Where soft masks are equal too, the earlier result has it.

    Raises:
        ValueError: no result, over 65535, or results of several sizes.
    """
    shapes = {result.soft_mask.shape for result in results}
    if len(shapes) != 1 or len(results) > 65535:
        raise ValueError(
            f"Got {len(results)} results of {len(shapes)} sizes, expected 1 to 65535 on one picture."
        )
    best = np.zeros(shapes.pop(), dtype=np.float32)
    labels = np.zeros(best.shape, dtype=np.uint8 if len(results) < 256 else np.uint16)
    for number, result in enumerate(results, 1):
        wins = result.mask & (result.soft_mask > best)
        labels[wins] = number
        best[wins] = result.soft_mask[wins]
    return LabelMap(results=tuple(results), labels=labels)


def label_color(label: int) -> tuple[int, int, int]:
    """RGB of a label from 1: `OKABE_ITO`, then the same darker, then lighter, and so on."""
    turn, place = divmod(label - 1, len(OKABE_ITO))
    target = (None, 0, 255)[turn % 3]
    red, green, blue = OKABE_ITO[place] if target is None else ((c + target) // 2 for c in OKABE_ITO[place])
    return red, green, blue


def _legend_entry(result: Segmentation, is_visible: bool) -> str:
    text = " ".join(result.text.split())
    if result.is_empty:
        return f"{text}: nothing found, {result.confidence:.2f}"
    return f"{text}, {result.confidence:.2f}" + ("" if is_visible else " (all of it under others)")
