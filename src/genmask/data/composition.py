"""What stands where in a drawn scene: the plan of a picture, before a pixel is painted, whatever its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import cos, hypot, pi, radians, sin, sqrt
from random import Random
from typing import Literal, TypeVar

from genmask.data import shapes
from genmask.data.backgrounds import BACKGROUNDS
from genmask.data.shapes import SHAPES

SizeWord = Literal["small", "medium", "large"]
Texture = Literal["plain", "shaded", "striped", "dotted", "checked"]
Colour = tuple[float, float, float]
"""RGB in [0, 255]."""

COLOURS: dict[str, Colour] = {
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
AREAS: dict[SizeWord, tuple[float, float]] = {
    "small": (0.011, 0.018),
    "medium": (0.027, 0.042),
    "large": (0.06, 0.09),
}
"""Share of the picture that an object covers. The gaps keep "small" and "large" beyond doubt."""

SIZE_SHARES: dict[SizeWord, float] = {"small": 0.27, "medium": 0.4, "large": 0.33}
TEXTURE_SHARES: dict[Texture, float] = {
    "plain": 0.3,
    "shaded": 0.28,
    "striped": 0.16,
    "dotted": 0.14,
    "checked": 0.12,
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How many objects scenes have, which ones and how large; shares are weights of any sum."""

    categories: tuple[str, ...] = tuple(SHAPES)
    object_shares: Mapping[int, float] = field(
        default_factory=lambda: {3: 0.12, 4: 0.22, 5: 0.24, 6: 0.2, 7: 0.13, 8: 0.09}
    )
    """Of numbers of objects, at least 3; a crowded canvas may hold fewer than are drawn, and at least 3."""
    areas: Mapping[SizeWord, tuple[float, float]] = field(default_factory=lambda: dict(AREAS))
    """Share of the picture that an object of each size covers."""
    crowded_share: float = 0.45
    """Share of scenes whose objects overlap."""
    odd_one_out_share: float = 0.1
    """Share of scenes in which all objects but one agree in category or in colour."""


FULL = Layout()
"""What models are trained and measured on."""
PLAIN = Layout(
    categories=tuple(SHAPES)[:12],
    object_shares={3: 0.6, 4: 0.4},
    areas={"small": (0.05, 0.07), "medium": (0.1, 0.14), "large": (0.2, 0.26)},
    crowded_share=0.0,
    odd_one_out_share=0.0,
)
"""A few large objects of simple shapes, apart from each other: what a small transformer learns to see in minutes."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One planned object. Lengths are in units of the square root of the picture's area, y downwards."""

    category: str
    colour: str
    texture: Texture
    size: SizeWord
    centre: tuple[float, float]
    radius: float
    """Half a side of the square that the category is drawn on."""
    angle: float
    """Radians."""
    tone: Colour
    """The named colour, jittered."""

    @property
    def reach(self) -> float:
        """Distance from the centre to the outermost point."""
        return self.radius * shapes.reach(self.category)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A background and 3 to 8 objects, those in front last."""

    background: str
    items: tuple[Item, ...]


def compose(rng: Random, aspect: float = 1.0, layout: Layout = FULL) -> Plan:
    """Plan one scene for a picture of the given aspect (width / height)."""
    background = rng.choice(list(BACKGROUNDS))
    colours = [colour for colour in COLOURS if colour not in BACKGROUNDS[background].hides]
    canvas = (sqrt(aspect), 1 / sqrt(aspect))
    crowded = rng.random() < layout.crowded_share
    items: list[Item] = []
    for category, colour in _looks(rng, _draw(rng, layout.object_shares), colours, layout):
        size = _draw(rng, SIZE_SHARES)
        radius = sqrt(rng.uniform(*layout.areas[size]) / shapes.silhouette_area(category))
        centre = _spot(rng, radius * shapes.reach(category), items, canvas, crowded)
        if centre is None:
            continue
        turn = SHAPES[category].turn
        items.append(
            Item(
                category=category,
                colour=colour,
                texture=_draw(rng, TEXTURE_SHARES),
                size=size,
                centre=centre,
                radius=radius,
                angle=radians(rng.uniform(-turn, turn)),
                tone=_jittered(COLOURS[colour], rng),
            )
        )
    return (
        Plan(background=background, items=tuple(items)) if len(items) >= 3 else compose(rng, aspect, layout)
    )


Value = TypeVar("Value")


def _draw(rng: Random, shares: Mapping[Value, float]) -> Value:
    return rng.choices(list(shares), weights=list(shares.values()))[0]


def _looks(rng: Random, count: int, colours: list[str], layout: Layout) -> list[tuple[str, str]]:
    """(category, colour) of each object; most share one with another, so that no single word is enough."""
    categories = list(layout.categories)
    if rng.random() < layout.odd_one_out_share:
        if rng.random() < 0.5:
            odd, shared = rng.sample(categories, 2)
            looks = [(shared if k else odd, rng.choice(colours)) for k in range(count)]
        else:
            odd, shared = rng.sample(colours, 2)
            looks = [(rng.choice(categories), shared if k else odd) for k in range(count)]
    else:
        looks = [(rng.choice(categories), rng.choice(colours))]
        while len(looks) < count:
            category, colour = rng.choice(looks)
            how = rng.random()
            if how < 0.38 or how > 0.9:
                category = rng.choice(categories)
            if how > 0.48:
                colour = rng.choice(colours)
            looks.append((category, colour))
    rng.shuffle(looks)
    return looks


def _jittered(colour: Colour, rng: Random) -> Colour:
    """A little brighter or darker, and of another hue, though a gray one stays gray."""
    brighter, hue = rng.uniform(-12, 12), 2 if max(colour) - min(colour) < 10 else 8
    red, green, blue = (min(255.0, max(0.0, c + brighter + rng.uniform(-hue, hue))) for c in colour)
    return red, green, blue


def _spot(
    rng: Random, reach: float, others: list[Item], canvas: tuple[float, float], crowded: bool
) -> tuple[float, float] | None:
    """A centre that keeps the object on the canvas and others in sight; None if none is found."""
    closest = 0.72 if crowded else 0.95
    for attempt in range(30):
        if crowded and others and attempt < 10:  # aim at an overlap with an object that is already there
            other = rng.choice(others)
            angle, distance = rng.uniform(0, 2 * pi), rng.uniform(closest, 0.95) * (reach + other.reach)
            x, y = other.centre[0] + distance * cos(angle), other.centre[1] + distance * sin(angle)
        else:
            x, y = rng.uniform(reach, canvas[0] - reach), rng.uniform(reach, canvas[1] - reach)
        inside = reach <= x <= canvas[0] - reach and reach <= y <= canvas[1] - reach
        if inside and all(
            hypot(x - other.centre[0], y - other.centre[1]) >= closest * (reach + other.reach)
            for other in others
        ):
            return x, y
    return None
