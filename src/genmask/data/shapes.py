"""What can be drawn: every category as a few outlines on the square [-1, 1] x [-1, 1], y downwards."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import pi
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

Paint = Literal["fill", "shade", "dark", "light", "wood", "hole"]
"""fill: the object's own colour and texture; shade: a darker tone of it; hole: what lies behind shows."""
Outline = np.ndarray
"""(N, 2) float, x then y."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One category. Later parts are painted over earlier ones."""

    parts: tuple[tuple[Paint, Outline], ...]
    plural: str
    turn: float = 180.0
    """Largest rotation in degrees, either way; small where "up" matters or turning would change the shape."""
    synonym: str = ""
    """Another word people use, never for another category; empty if there is none."""


def _points(*coordinates: float) -> Outline:
    return np.array(coordinates, dtype=float).reshape(-1, 2)


def _ellipse(
    x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360, n: int = 36
) -> Outline:
    """An ellipse, or the slice of one between two angles in degrees (0 right, 90 down)."""
    angle = np.linspace(start, stop, n) * (pi / 180)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def _box(left: float, top: float, right: float, bottom: float) -> Outline:
    return _points(left, top, right, top, right, bottom, left, bottom)


def _regular(corners: int, inner: float | None = None) -> Outline:
    """A regular polygon with a corner on top; with `inner`, a star of that inner radius."""
    radii = [1.0] if inner is None else [1.0, inner]
    angle = np.arange(corners * len(radii)) * (2 * pi / (corners * len(radii))) - pi / 2
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) * np.tile(radii, corners)[:, None]


def _heart() -> Outline:
    a = np.linspace(0, 2 * pi, 48)
    y = 13 * np.cos(a) - 5 * np.cos(2 * a) - 2 * np.cos(3 * a) - np.cos(4 * a)
    return np.stack([16 * np.sin(a) ** 3, -y - 2.5], axis=1) / 15.5


def _drop() -> Outline:
    return np.concatenate([_points(0, -1), _ellipse(0, 0.36, 0.62, 0.62, -28, 208)])


def _petals(count: int, distance: float, radius: float) -> tuple[tuple[Paint, Outline], ...]:
    angles = np.arange(count) * (2 * pi / count) - pi / 2
    return tuple(
        ("fill", _ellipse(distance * np.cos(a), distance * np.sin(a), radius, radius, n=20)) for a in angles
    )


SHAPES: dict[str, Shape] = {
    "circle": Shape(parts=(("fill", _ellipse(0, 0, 0.9, 0.9)),), plural="circles", synonym="disc"),
    "oval": Shape(parts=(("fill", _ellipse(0, 0, 1.0, 0.5)),), plural="ovals", synonym="ellipse"),
    "square": Shape(parts=(("fill", _box(-0.8, -0.8, 0.8, 0.8)),), plural="squares", turn=18),
    "triangle": Shape(parts=(("fill", _regular(3)),), plural="triangles"),
    "diamond": Shape(
        parts=(("fill", _points(0, -1, 0.62, 0, 0, 1, -0.62, 0)),),
        plural="diamonds",
        turn=12,
        synonym="rhombus",
    ),
    "hexagon": Shape(parts=(("fill", _regular(6)),), plural="hexagons"),
    "star": Shape(parts=(("fill", _regular(5, 0.44)),), plural="stars"),
    "cross": Shape(
        parts=(("fill", _box(-0.32, -0.95, 0.32, 0.95)), ("fill", _box(-0.95, -0.32, 0.95, 0.32))),
        plural="crosses",
        turn=20,
        synonym="plus sign",
    ),
    "ring": Shape(
        parts=(("fill", _ellipse(0, 0, 0.95, 0.95)), ("hole", _ellipse(0, 0, 0.5, 0.5))),
        plural="rings",
        synonym="hoop",
    ),
    "crescent": Shape(
        parts=(("fill", _ellipse(0, 0, 0.95, 0.95)), ("hole", _ellipse(0.48, 0, 0.72, 0.72))),
        plural="crescents",
        synonym="crescent moon",
    ),
    "heart": Shape(parts=(("fill", _heart()),), plural="hearts", turn=40),
    "drop": Shape(parts=(("fill", _drop()),), plural="drops", turn=60, synonym="teardrop"),
    "arrow": Shape(
        parts=(
            (
                "fill",
                _points(1, 0, 0.15, -0.8, 0.15, -0.32, -0.95, -0.32, -0.95, 0.32, 0.15, 0.32, 0.15, 0.8),
            ),
        ),
        plural="arrows",
    ),
    "house": Shape(
        parts=(
            ("fill", _box(-0.75, -0.15, 0.75, 0.9)),
            ("shade", _points(-1, -0.1, 0, -0.95, 1, -0.1)),
            ("dark", _box(-0.15, 0.3, 0.25, 0.9)),
            ("light", _box(-0.58, 0.1, -0.28, 0.42)),
            ("light", _box(0.38, 0.1, 0.62, 0.42)),
        ),
        plural="houses",
        turn=8,
    ),
    "tree": Shape(
        parts=(
            ("wood", _points(-0.15, 0.2, 0.15, 0.2, 0.2, 1, -0.2, 1)),
            ("fill", _ellipse(-0.38, 0.05, 0.45, 0.42)),
            ("fill", _ellipse(0.38, 0.05, 0.45, 0.42)),
            ("fill", _ellipse(0, -0.42, 0.55, 0.55)),
        ),
        plural="trees",
        turn=8,
    ),
    "car": Shape(
        parts=(
            (
                "fill",
                _points(
                    -1, 0.45, -1, 0.02, -0.62, -0.1, -0.38, -0.55, 0.36, -0.55, 0.62, -0.1, 1, 0.05, 1, 0.45
                ),
            ),
            ("light", _points(-0.48, -0.1, -0.3, -0.42, -0.04, -0.42, -0.04, -0.1)),
            ("light", _points(0.06, -0.1, 0.06, -0.42, 0.28, -0.42, 0.46, -0.1)),
            ("dark", _ellipse(-0.52, 0.45, 0.25, 0.25)),
            ("dark", _ellipse(0.52, 0.45, 0.25, 0.25)),
        ),
        plural="cars",
        turn=12,
    ),
    "boat": Shape(
        parts=(
            ("wood", _box(-0.05, -1, 0.05, 0.35)),
            ("light", _points(0.08, -0.95, 0.8, 0.22, 0.08, 0.22)),
            ("light", _points(-0.08, -0.7, -0.08, 0.22, -0.6, 0.22)),
            ("fill", _points(-1, 0.3, 1, 0.3, 0.62, 0.9, -0.62, 0.9)),
        ),
        plural="boats",
        turn=12,
        synonym="sailing boat",
    ),
    "fish": Shape(
        parts=(
            ("shade", _points(0.4, 0, 1, -0.5, 0.85, 0, 1, 0.5)),
            ("shade", _points(-0.25, -0.35, 0.05, -0.75, 0.3, -0.3)),
            ("fill", _ellipse(-0.2, 0, 0.8, 0.48)),
            ("light", _ellipse(-0.62, -0.1, 0.13, 0.13, n=16)),
            ("dark", _ellipse(-0.64, -0.1, 0.07, 0.07, n=12)),
        ),
        plural="fish",
        turn=30,
    ),
    "mug": Shape(
        parts=(
            ("fill", _ellipse(0.5, 0.05, 0.48, 0.48)),
            ("hole", _ellipse(0.5, 0.05, 0.25, 0.25)),
            ("fill", _box(-0.8, -0.75, 0.5, 0.85)),
            ("shade", _ellipse(-0.15, -0.75, 0.65, 0.16)),
        ),
        plural="mugs",
        turn=12,
        synonym="cup",
    ),
    "flower": Shape(
        parts=(
            *_petals(6, 0.58, 0.38),
            ("fill", _ellipse(0, 0, 0.5, 0.5)),
            ("wood", _ellipse(0, 0, 0.28, 0.28)),
        ),
        plural="flowers",
    ),
    "cat": Shape(
        parts=(
            ("fill", _points(-0.82, -0.95, -0.2, -0.5, -0.78, 0.1)),
            ("fill", _points(0.82, -0.95, 0.2, -0.5, 0.78, 0.1)),
            ("fill", _ellipse(0, 0.12, 0.86, 0.76)),
            ("light", _ellipse(-0.34, 0.0, 0.17, 0.17, n=16)),
            ("light", _ellipse(0.34, 0.0, 0.17, 0.17, n=16)),
            ("dark", _ellipse(-0.34, 0.0, 0.08, 0.13, n=12)),
            ("dark", _ellipse(0.34, 0.0, 0.08, 0.13, n=12)),
            ("dark", _points(-0.12, 0.3, 0.12, 0.3, 0, 0.45)),
        ),
        plural="cats",
        turn=15,
    ),
    "mushroom": Shape(
        parts=(
            ("light", _points(-0.24, 0.0, 0.24, 0.0, 0.34, 0.92, -0.34, 0.92)),
            ("fill", _ellipse(0, 0.12, 0.95, 1.0, 180, 360)),
        ),
        plural="mushrooms",
        turn=12,
        synonym="toadstool",
    ),
    "umbrella": Shape(
        parts=(
            ("wood", _box(-0.06, -0.9, 0.06, 0.9)),
            ("wood", _points(0.06, 0.78, 0.34, 0.78, 0.34, 0.6, 0.44, 0.6, 0.44, 0.9, 0.06, 0.9)),
            ("fill", _ellipse(0, 0.12, 1.0, 0.95, 180, 360)),
        ),
        plural="umbrellas",
        turn=20,
    ),
}


@lru_cache
def silhouette_area(category: str) -> float:
    """Area of a category's silhouette in units of its own coordinates, where the whole square has 4."""
    raster = Image.new("1", (200, 200))
    pen = ImageDraw.Draw(raster)
    for paint, outline in SHAPES[category].parts:
        pen.polygon(((outline + 1) * 100).ravel().tolist(), fill=paint != "hole")
    return 4 * float(np.asarray(raster).mean())


@lru_cache
def reach(category: str) -> float:
    """Distance from the centre to the outermost point of a category, in units of its own coordinates."""
    return max(float(np.hypot(*outline.T).max()) for _, outline in SHAPES[category].parts)
