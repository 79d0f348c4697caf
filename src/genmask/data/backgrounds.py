"""Photograph-like backgrounds from a few small random arrays: grass, sky, sand, water, wood, brick, ..."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import pi

import numpy as np
from PIL import Image

Size = tuple[int, int]
"""(height, width) in pixels."""


def smooth_noise(rng: np.random.Generator, size: Size, cells: tuple[float, float]) -> np.ndarray:
    """(H, W) float32 in [0, 1]: random values on a grid of about `cells` (rows, columns), interpolated.

    The grid is drawn before the size matters, so one seed looks alike at every size.
    """
    grid = rng.random((round(cells[0]) + 1, round(cells[1]) + 1), dtype=np.float32)
    noise = Image.fromarray(grid).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(noise)


def cloudy_noise(
    rng: np.random.Generator, size: Size, cells: tuple[float, float], octaves: int = 3
) -> np.ndarray:
    """(H, W) float32, about [0, 1]: octaves of smooth noise, each twice as fine and half as strong."""
    noise = sum(
        smooth_noise(rng, size, (cells[0] * 2**k, cells[1] * 2**k)) * (0.5**k) for k in range(octaves)
    )
    return np.asarray(noise / (2 - 2 * 0.5**octaves), dtype=np.float32)


@lru_cache(maxsize=8)
def grid(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Rows (H, 1) and columns (1, W) as float32 in [0, 1]."""
    height, width = size
    rows = (np.arange(height, dtype=np.float32) + 0.5) / height
    columns = (np.arange(width, dtype=np.float32) + 0.5) / width
    return rows[:, None], columns[None, :]


def _blend(low: tuple[int, int, int], high: tuple[int, int, int], amount: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 in [0, 255] from one colour to another, by a (H, W) amount."""
    start, stop = np.array(low, np.float32), np.array(high, np.float32)
    return start + amount[..., None] * (stop - start)


def _grass(rng: np.random.Generator, size: Size) -> np.ndarray:
    blades = smooth_noise(rng, size, (28, 70)) * 0.55 + cloudy_noise(rng, size, (4, 4)) * 0.6
    return _blend((38, 74, 24), (132, 168, 74), blades - 0.1)


def _sky(rng: np.random.Generator, size: Size) -> np.ndarray:
    rows, _ = grid(size)
    clouds = np.clip((cloudy_noise(rng, size, (3, 2), 4) - rng.uniform(0.42, 0.56)) * 4, 0, 0.92)
    blue = _blend((66, 128, 205), (168, 205, 238), np.broadcast_to(rows, size))
    return blue + clouds[..., None] * (np.float32(246) - blue)


def _sand(rng: np.random.Generator, size: Size) -> np.ndarray:
    rows, columns = grid(size)
    dunes = np.sin((rows * 9 + columns * rng.uniform(-3, 3) + cloudy_noise(rng, size, (3, 3)) * 2) * 2 * pi)
    return _blend(
        (186, 154, 104), (228, 204, 158), 0.5 + 0.22 * dunes + smooth_noise(rng, size, (60, 60)) * 0.4 - 0.2
    )


def _water(rng: np.random.Generator, size: Size) -> np.ndarray:
    rows, _ = grid(size)
    ripples = smooth_noise(rng, size, (26, 7)) * 0.6 + cloudy_noise(rng, size, (9, 3)) * 0.5
    glints = np.clip((ripples - 0.72) * 4, 0, 0.6)
    return _blend((24, 78, 112), (92, 158, 184), ripples + rows * 0.2 - 0.15) + glints[..., None] * 110


def _wood(rng: np.random.Generator, size: Size) -> np.ndarray:
    rows, _ = grid(size)
    planks = rng.integers(3, 6)
    plank = np.floor(rows * planks)
    tone = rng.random(6, dtype=np.float32)[plank.astype(int)] * 0.35
    grain = smooth_noise(rng, size, (46, 3)) * 0.45 + smooth_noise(rng, size, (14, 2)) * 0.4
    gap = np.abs(rows * planks - plank - 0.5) > 0.475
    return _blend((104, 66, 38), (204, 154, 100), np.where(gap, -0.25, grain + tone - 0.1))


def _brick(rng: np.random.Generator, size: Size) -> np.ndarray:
    rows, columns = grid(size)
    courses = int(rng.integers(7, 11))
    course = np.floor(rows * courses)
    along = columns * (courses / 2) + (course % 2) * 0.5
    mortar = (np.abs(rows * courses - course - 0.5) > 0.42) | (np.abs(along - np.floor(along) - 0.5) > 0.46)
    tones = rng.random((16, 16), dtype=np.float32)[course.astype(int), np.floor(along).astype(int) % 16]
    wall = _blend((124, 54, 40), (186, 104, 80), tones * 0.7 + smooth_noise(rng, size, (50, 50)) * 0.4)
    return np.where(mortar[..., None], np.array((188, 178, 166), np.float32) + tones[..., None] * 12, wall)


def _stone(rng: np.random.Generator, size: Size) -> np.ndarray:
    speckle = smooth_noise(rng, size, (64, 64)) * 0.4 + cloudy_noise(rng, size, (5, 5), 4) * 0.9
    return _blend((84, 84, 82), (176, 172, 164), speckle - 0.15)


def _night(rng: np.random.Generator, size: Size) -> np.ndarray:
    rows, _ = grid(size)
    sky = _blend((8, 12, 34), (40, 46, 86), rows * 0.6 + cloudy_noise(rng, size, (3, 3)) * 0.5)
    stars = np.clip((smooth_noise(rng, size, (40, 40)) - 0.96) * 12, 0, 1)
    return sky + stars[..., None] * 190


def _snow(rng: np.random.Generator, size: Size) -> np.ndarray:
    drifts = cloudy_noise(rng, size, (5, 3), 3) + smooth_noise(rng, size, (64, 64)) * 0.15
    return _blend((188, 202, 222), (248, 250, 252), drifts)


def _wall(rng: np.random.Generator, size: Size) -> np.ndarray:
    rows, columns = grid(size)
    tint = np.array((214, 200, 178), np.float32) + rng.uniform(-22, 22, 3).astype(np.float32)
    light = 0.86 + 0.2 * (rows * rng.uniform(-0.7, 0.7) + columns * rng.uniform(-0.7, 0.7))
    return (
        tint
        * (light + smooth_noise(rng, size, (60, 60)) * 0.05 + smooth_noise(rng, size, (3, 3)) * 0.08)[
            ..., None
        ]
    )


def _meadow(rng: np.random.Generator, size: Size) -> np.ndarray:
    rows, columns = grid(size)
    hills = rng.uniform(0.3, 0.5) + 0.05 * np.sin(columns * rng.uniform(3, 9) + rng.uniform(0, 6))
    ground = np.clip((rows - hills) * size[0] * 0.7, 0, 1).astype(np.float32)[..., None]
    return _sky(rng, size) * (1 - ground) + _grass(rng, size) * ground


@dataclass(frozen=True, kw_only=True)
class Background:
    """One kind of background."""

    paint: Callable[[np.random.Generator, Size], np.ndarray]
    """(generator, (height, width)) -> (H, W, 3) float32, about [0, 255]."""
    where: str
    """How a caption says it: "two red stars {where}"."""
    hides: frozenset[str]
    """Colours of objects that it would hide."""
    solid: bool = True
    """Whether objects cast a shadow on it."""


BACKGROUNDS: dict[str, Background] = {
    "grass": Background(paint=_grass, where="on grass", hides=frozenset({"green"})),
    "sky": Background(paint=_sky, where="in a cloudy sky", hides=frozenset({"white", "blue"}), solid=False),
    "sand": Background(paint=_sand, where="on sand", hides=frozenset({"yellow", "brown"})),
    "water": Background(paint=_water, where="on water", hides=frozenset({"blue"})),
    "wood": Background(paint=_wood, where="on a wooden table", hides=frozenset({"brown", "orange"})),
    "brick": Background(paint=_brick, where="on a brick wall", hides=frozenset({"red", "brown", "orange"})),
    "stone": Background(paint=_stone, where="on stone", hides=frozenset({"gray"})),
    "night": Background(
        paint=_night, where="in the night sky", hides=frozenset({"black", "blue", "purple"}), solid=False
    ),
    "snow": Background(paint=_snow, where="on snow", hides=frozenset({"white"})),
    "wall": Background(paint=_wall, where="on a plain wall", hides=frozenset({"white", "gray"})),
    "meadow": Background(
        paint=_meadow,
        where="in a meadow under the sky",
        hides=frozenset({"green", "blue", "white"}),
        solid=False,
    ),
}
