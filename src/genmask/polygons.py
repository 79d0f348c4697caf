"""Outlines of a mask's parts as polygons, in the two conventions that annotation tools draw them by."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

TOLERANCES = (1.0, 0.5, 0.0)
"""How far, in pixels, a polygon with fewer points may lie from the outline."""
FAITHFUL = 0.98
"""IoU with the part that a polygon with fewer points must keep."""


def require_opencv() -> Any:
    """The module cv2.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            "Got no OpenCV, expected it to trace outlines: pip install 'genmask[formats]'."
        ) from error
    return cv2


def has_hole(part: np.ndarray) -> bool:
    """Whether a connected part, (h, w) bool, encloses a gap."""
    cv2 = require_opencv()
    outside = np.pad(~part, 1, constant_values=True).astype(np.uint8)
    count, _ = cv2.connectedComponents(outside, connectivity=4)
    return count > 2  # the first is the part itself


def edge_polygon(part: np.ndarray) -> np.ndarray:
    """The outline along pixel edges, (N, 2) int as x, y: what COCO's tools draw again to the pixel.

    Args:
        part: one connected part, (h, w) bool; its holes are not told.
    """
    cv2 = require_opencv()
    # Where a pixel is four, the outermost centres tell on which side of the pixel the edge is.
    doubled = part.repeat(2, axis=0).repeat(2, axis=1).astype(np.uint8)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    points = (contours[0][:, 0].astype(np.int64) + 1) // 2
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    return points[(np.sign(before) != np.sign(after)).any(axis=1)]


def pixel_polygon(part: np.ndarray) -> np.ndarray:
    """The outline through the centres of the outermost pixels, (N, 2) int as x, y with N >= 3.

    This is what tools draw again that fill a polygon and its line, as LabelMe and OpenCV do. Of the
    `TOLERANCES` it takes the largest at which the polygon so drawn keeps an IoU of `FAITHFUL`.

    Args:
        part: one connected part, (h, w) bool; its holes are not told.
    """
    cv2 = require_opencv()
    contours, _ = cv2.findContours(part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    filled = _draw(_at_least_three(contours[0]), part.shape)[0]
    for tolerance in TOLERANCES:
        points = _at_least_three(cv2.approxPolyDP(contours[0], tolerance, True))
        if all(
            np.count_nonzero(drawn & filled) >= FAITHFUL * np.count_nonzero(drawn | filled)
            for drawn in _draw(points, part.shape)
        ):
            break
    return points[:, 0].astype(np.int64)


def _at_least_three(points: np.ndarray) -> np.ndarray:
    """(N, 1, 2), with the last point repeated for a single pixel and for a line."""
    return np.pad(points, ((0, max(0, 3 - len(points))), (0, 0), (0, 0)), mode="edge")


def _draw(points: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A polygon (N, 1, 2) filled, each (h, w) bool: as OpenCV draws it, and as Pillow and so LabelMe does."""
    by_opencv = require_opencv().fillPoly(np.zeros(size, np.uint8), [points], 1)
    canvas = Image.new("1", size[::-1])
    ImageDraw.Draw(canvas).polygon(points.ravel().tolist(), outline=1, fill=1)
    return by_opencv.astype(bool), np.asarray(canvas)
