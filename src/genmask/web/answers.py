"""What the page remembers of each visitor, so that the threshold can move without another run of the model."""

from __future__ import annotations

import html
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from genmask.label_map import label_color
from genmask.segmentation import Segmentation, file_stem

SHOWN_SIDE = 1600
"""Longest side in pixels of the picture that the page shows; what is downloaded has the picture's own size."""


class Answers:
    """The last answer of every visitor, forgotten from the oldest on once all together are too large.

    Args:
        max_bytes: of pictures and soft masks; the newest answer is kept whatever its size.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._results: OrderedDict[str, list[Segmentation]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, visitor: str, results: list[Segmentation]) -> None:
        with self._lock:
            self._results[visitor] = results
            self._results.move_to_end(visitor)
            while len(self._results) > 1 and sum(map(_num_bytes, self._results.values())) > self._max_bytes:
                self._results.popitem(last=False)

    def at(self, visitor: str, threshold: float | None) -> list[Segmentation] | None:
        """A visitor's answer, cut at a threshold if one is given; None if there is none, or none any more."""
        with self._lock:
            results = self._results.get(visitor)
        return None if results is None else cut(results, threshold)


def cut(results: list[Segmentation], threshold: float | None) -> list[Segmentation]:
    """The soft masks cut at another threshold; None leaves each its own."""
    return results if threshold is None else [replace(result, threshold=threshold) for result in results]


def draw_overlay(results: Sequence[Segmentation], folder: Path) -> Path:
    """All masks over the picture, each in its label's colour, as a JPEG in an empty folder."""
    picture = results[0].image.convert("RGB")
    for label, result in enumerate(results, 1):
        if not result.is_empty:
            picture = replace(result, image=picture).overlay(label_color(label))
    picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    partial, path = folder / ".part", folder / "masks.jpg"
    picture.save(partial, format="JPEG", quality=92, subsampling=0)
    partial.replace(path)
    return path


def write_zip(results: Sequence[Segmentation], folder: Path) -> Path:
    """What `Segmentation.save` writes for each text, numbered and zipped, in an empty folder."""
    for number, result in enumerate(results, 1):
        result.save(folder / "files", stem=f"{number:02d}-{file_stem(result.text)}")
    partial, path = folder / ".part", folder / "genmask.zip"
    with zipfile.ZipFile(partial, "w") as archive:  # PNG does not get smaller
        for file in sorted((folder / "files").iterdir()):
            archive.write(file, file.name)
            file.unlink()
    partial.replace(path)
    return path


def describe(results: Sequence[Segmentation]) -> str:
    """A card for each text: its colour, what was found, and how sure that is; HTML."""
    cards = []
    for label, result in enumerate(results, 1):
        red, green, blue = label_color(label)
        target = "" if result.target == result.text else f"<q>{html.escape(result.target)}</q>"
        found = "nothing found" if result.is_empty else f"{result.mask.mean():.1%} of the picture"
        cards.append(
            f'<li class="card{" empty" if result.is_empty else ""}" style="--colour: rgb({red} {green} {blue})">'
            f"<div><b>{html.escape(result.text)}</b>{target}<small>{found}</small></div>"
            f'<span class="confidence"><meter min="0" max="1" value="{result.confidence:.3f}"></meter>'
            f"{result.confidence:.2f}<small>confidence</small></span></li>"
        )
    return f'<ol class="cards">{"".join(cards)}</ol>'


def _num_bytes(results: Sequence[Segmentation]) -> int:
    picture = results[0].image
    return 3 * picture.width * picture.height + sum(result.soft_mask.nbytes for result in results)
