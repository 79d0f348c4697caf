"""What stands where in a drawn scene: the plan of a picture, before a pixel is painted and whatever its size."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, sqrt
from random import Random
from typing import Literal

import numpy as np

from genmask.data.backgrounds import BACKGROUNDS
from genmask.data.shapes import SHAPES

SizeWord = Literal["small", "medium", "large"]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 34, 38),
    "orange": (242, 128, 24),
    "yellow": (246, 208, 44),
    "green": (44, 150, 62),
    "blue": (38, 84, 206),
    "purple": (124, 56, 164),
    "pink": (242, 132, 180),
    "brown": (116, 70, 36),
    "black": (34, 34, 38),
    "white": (242, 242, 240),
    "gray": (138, 140, 144),
}
TEXTURES: dict[str, float] = {"plain": 0.3, "shaded": 0.28, "striped": 0.16, "dotted": 0.14, "checked": 0.12}
"""Shares in which textures are drawn."""
AREAS: dict[SizeWord, tuple[float, float]] = {
    "small": (0.011, 0.018),
    "medium": (0.027, 0.042),
    "large": (0.06, 0.09),
}
"""Share of the picture that an object covers. The gaps keep "small" and "large" beyond doubt."""
SIZE_SHARES: dict[SizeWord, float] = {"small": 0.27, "medium": 0.4, "large": 0.33}
OBJECTS = {3: 0.12, 4: 0.22, 5: 0.24, 6: 0.2, 7: 0.13, 8: 0.09}
"""Shares of scenes by number of objects."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One planned object. Lengths are in units of the square root of the picture's area, y downwards."""

    category: str
    colour: str
    texture: str
    size: SizeWord
    centre: tuple[float, float]
    radius: float
    angle: float
    """Radians."""
    tone: tuple[float, float, float]
    """RGB in [0, 255]: the named colour, jittered."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A background and 3 to 8 objects, those in front last."""

    background: str
    items: tuple[Item, ...]


def _outline_area(category: str) -> float:
    """Area of a category's silhouette on its [-1, 1] square, by counting a coarse grid of points."""
    from PIL import Image, ImageDraw

    raster = Image.new("1", (200, 200))
    pen = ImageDraw.Draw(raster)
    for paint, outline in SHAPES[category].parts:
        pen.polygon(((outline + 1) * 100).ravel().tolist(), fill=paint != "hole")
    return float(np.asarray(raster).mean()) * 4


_AREA = {category: _outline_area(category) for category in SHAPES}
_REACH = {c: max(float(np.hypot(*p.T).max()) for _, p in s.parts) for c, s in SHAPES.items()}


def _draw(rng: Random, shares: dict) -> object:
    return rng.choices(list(shares), weights=list(shares.values()))[0]


def _looks(rng: Random, count: int, colours: list[str]) -> list[tuple[str, str]]:
    """(category, colour) of each object. Most share one of the two with an earlier object: so the words matter."""
    categories = list(SHAPES)
    odd_one_out = rng.random() < 0.1
    first = (rng.choice(categories), rng.choice(colours))
    looks = [first]
    if odd_one_out:
        same_category = rng.random() < 0.5
        others = rng.sample(colours, 2)
        kinds = rng.sample(categories, 2)
        for k in range(1, count):
            pick = 0 if k < count - 1 else 1
            looks.append(
                (kinds[pick], rng.choice(colours))
                if same_category
                else (rng.choice(categories), others[pick])
            )
        looks[0] = (kinds[0], looks[0][1]) if same_category else (looks[0][0], others[0])
    else:
        while len(looks) < count:
            category, colour = rng.choice(looks)
            how = rng.random()
            if how < 0.42:
                looks.append((category, rng.choice(colours)))
            elif how < 0.8:
                looks.append((rng.choice(categories), colour))
            elif how < 0.9:
                looks.append((category, colour))
            else:
                looks.append((rng.choice(categories), rng.choice(colours)))
    rng.shuffle(looks)
    return looks


def compose(rng: Random, aspect: float = 1.0) -> Plan:
    """Plan one scene for a picture of the given aspect (width / height)."""
    background = rng.choice(list(BACKGROUNDS))
    colours = [c for c in COLOURS if c not in BACKGROUNDS[background].hides]
    width, height = sqrt(aspect), 1 / sqrt(aspect)
    crowded = rng.random() < 0.45
    items: list[Item] = []
    for category, colour in _looks(rng, int(_draw(rng, OBJECTS)), colours):
        size = _draw(rng, SIZE_SHARES)
        radius = sqrt(rng.uniform(*AREAS[size]) / _AREA[category])
        reach = radius * _REACH[category]
        spot = _spot(
            rng, reach, [(i.centre, i.radius * _REACH[i.category]) for i in items], (width, height), crowded
        )
        if spot is None:
            continue
        turn = SHAPES[category].turn
        jitter = rng.uniform(-12, 12)
        items.append(
            Item(
                category=category,
                colour=colour,
                texture=_draw(rng, TEXTURES),
                size=size,
                centre=spot,
                radius=radius,
                angle=np.deg2rad(rng.uniform(-turn, turn)),
                tone=tuple(min(255.0, max(0.0, c + jitter + rng.uniform(-8, 8))) for c in COLOURS[colour]),
            )
        )
    return Plan(background=background, items=tuple(items)) if len(items) >= 3 else compose(rng, aspect)


def _spot(
    rng: Random,
    reach: float,
    others: list[tuple[tuple[float, float], float]],
    canvas: tuple[float, float],
    crowded: bool,
) -> tuple[float, float] | None:
    """A centre inside the canvas that leaves at least about half of every object in sight; None if none is found."""
    for attempt in range(30):
        if crowded and others and attempt < 10:  # aim for an overlap with an object that is already there
            (x, y), other = rng.choice(others)
            angle, distance = rng.uniform(0, 6.2832), rng.uniform(0.72, 0.95) * (reach + other)
            x, y = x + distance * np.cos(angle), y + distance * np.sin(angle)
        else:
            x, y = rng.uniform(reach, canvas[0] - reach), rng.uniform(reach, canvas[1] - reach)
        inside = reach <= x <= canvas[0] - reach and reach <= y <= canvas[1] - reach
        slack = 0.72 if crowded else 0.95
        if inside and all(hypot(x - a, y - b) >= slack * (reach + r) for (a, b), r in others):
            return float(x), float(y)
    return None
