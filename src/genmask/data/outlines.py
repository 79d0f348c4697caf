"""COCO's forms of an outline - polygons, and run lengths (RLE) - as masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as mask_api

MAX_REACH = 10
"""How far outside its picture a point may lie, in picture sides: drawing takes memory for every pixel of an
edge, and what lies further out is a mistake of units."""


def decode_segmentation(
    segmentation: Any, height: int, width: int, where: str = "a segmentation"
) -> np.ndarray:
    """(H, W) bool from COCO's forms of an outline, its parts united; all False if there are none.

    Args:
        segmentation: a list of polygons (x, y, x, y, ... in pixels; under three points they are nothing),
            an RLE {size: [height, width], counts}, or a list of RLE. Counts are run lengths down the
            columns, the first of background: a list of integers, or their compressed form as text or bytes.
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        where: what it is, for the error.

    Raises:
        ValueError: another form, another size, or points far outside the picture.
    """
    return count_parts(segmentation, height, width, where) > 0


def count_parts(segmentation: Any, height: int, width: int, where: str = "a segmentation") -> np.ndarray:
    """(H, W) int32: how many parts of an outline cover each pixel; see `decode_segmentation`."""
    parts = [segmentation] if isinstance(segmentation, dict) else segmentation
    if not isinstance(parts, list):
        raise ValueError(
            f"Got {type(parts).__name__} in {where}, expected a list of polygons or run lengths (RLE)."
        )
    covered = np.zeros((height, width), dtype=np.int32)
    for part in parts:
        if isinstance(part, dict):
            covered += _decode_runs(part, height, width, where)
        else:
            covered += _draw_polygon(part, height, width, where)
    return covered


def _draw_polygon(points: Any, height: int, width: int, where: str) -> np.ndarray:
    """(H, W) uint8."""
    try:
        flat = np.asarray(points)
    except ValueError:  # lists of unequal length
        flat = np.empty((0, 0))
    if not isinstance(points, list) or flat.ndim != 1 or flat.dtype.kind not in "iuf" or flat.size % 2:
        raise ValueError(
            f"Got a polygon in {where} that is no list of numbers x, y, x, y, ...: expected that."
        )
    if flat.size < 6:  # and four numbers would be drawn as a box
        return np.zeros((height, width), dtype=np.uint8)
    check_reach(flat.reshape(-1, 2), height, width, where)
    return mask_api.decode(mask_api.frPyObjects([flat.tolist()], height, width)[0])


def check_reach(points: np.ndarray, height: int, width: int, where: str) -> None:
    """Refuse points, (N, 2) as x, y in pixels, that are not finite or over `MAX_REACH` sides away."""
    reach = MAX_REACH * max(height, width)
    if not (np.abs(points) <= reach).all():  # so also for NaN
        raise ValueError(
            f"Got points far outside a picture of {(height, width)} (height, width) in {where}, "
            "expected pixels."
        )


def _decode_runs(rle: dict[str, Any], height: int, width: int, where: str) -> np.ndarray:
    """(H, W) bool. Done here since pycocotools does not check what it is given before it reads and writes."""
    if rle.get("size") != [height, width]:
        raise ValueError(f"Got RLE of another size in {where}, expected [{height}, {width}].")
    counts = rle.get("counts")
    if isinstance(counts, str):
        counts = counts.encode()
    runs = _expand_counts(counts) if isinstance(counts, bytes) else counts
    if (
        not isinstance(runs, list)
        or not all(isinstance(run, int) and run >= 0 for run in runs)
        or sum(runs) != height * width
    ):
        raise ValueError(
            f"Got RLE counts that do not fill the picture in {where}, expected {height * width} pixels."
        )
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape((height, width), order="F")


def _expand_counts(text: bytes) -> list[int] | None:
    """Run lengths from their compressed form; None if it is none.

    A character holds five bits, lowest first, and whether more follow; the highest is a sign. From the
    fourth run on, a number is the difference to the run two before.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return None if shift else runs
