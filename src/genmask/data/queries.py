"""The meaning of a referring expression, and the one place that decides which objects of a scene it names.

`evaluate` reads a query strictly (borderline cases are out) or generously (they are in). `named` accepts a
query only where both readings agree, so that no expression is ambiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot
from typing import Literal

from genmask.data.drawing import Scene, SceneObject

Extreme = Literal["leftmost", "rightmost", "topmost", "bottommost", "largest", "smallest"]
Side = Literal[
    "left", "right", "top", "bottom", "middle", "top left", "top right", "bottom left", "bottom right"
]
Relation = Literal["left of", "right of", "above", "below", "in front of", "behind", "closest to", "between"]

EXTREME_GAP = 0.08
"""A centre less than this share of the picture behind the extreme one might be called extreme too,"""
EXTREME_AREA_RATIO = 1.5
"""as might an object of an area within this factor of the largest or smallest,"""
EXTREME_DISTANCE_RATIO = 1.3
"""or at a distance within this factor of the closest."""
CLEAR_OVERLAP = 0.0015
"""Share of the picture that one object must take from another to be clearly in front of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A noun, then at most one of an extreme, a side and a relation, which apply among what the noun fits."""

    category: str | None = None
    colour: str | None = None
    texture: str | None = None
    size: Literal["small", "large"] | None = None
    extreme: Extreme | None = None
    side: Side | None = None
    relation: Relation | None = None
    anchor: Query | None = None
    """What the relation is to: a query for one object, or for two with "between"."""
    plural: bool = False


def named(query: Query, scene: Scene) -> frozenset[int] | None:
    """The objects that the query names beyond doubt: none or one; for a plural, two or more.

    None where the readings differ, the number is not as the query says, or its anchor is not clear.
    """
    targets = evaluate(query, scene)
    if (len(targets) < 2) if query.plural else (len(targets) > 1):
        return None
    if query.anchor is not None and len(named(query.anchor, scene) or ()) != _anchors(query):
        return None
    return targets if targets == evaluate(query, scene, strict=True) else None


def evaluate(query: Query, scene: Scene, strict: bool = False) -> frozenset[int]:
    """Indices of all objects that the query fits, borderline cases left out (strict) or let in (generous)."""
    found = [i for i, thing in enumerate(scene.objects) if _is_a(thing, query, strict)]
    if query.relation is not None:
        assert query.anchor is not None, "a relation is to something"
        anchors = sorted(evaluate(query.anchor, scene, strict))
        found = _related(query, [i for i in found if i not in anchors], anchors, scene, strict)
    if query.side is not None:
        found = [i for i in found if _on_side(query.side, scene.objects[i], strict)]
    if query.extreme is not None:
        found = _extremes(query.extreme, found, scene)
    return frozenset(found)


def _anchors(query: Query) -> int:
    return 2 if query.relation == "between" else 1


def _is_a(thing: SceneObject, query: Query, strict: bool) -> bool:
    return (
        (query.category is None or query.category == thing.category)
        and (query.colour is None or query.colour == thing.colour)
        and (query.texture is None or query.texture == thing.texture)
        and (query.size is None or query.size == thing.size or (thing.size == "medium" and not strict))
    )


def _related(query: Query, found: list[int], anchors: list[int], scene: Scene, strict: bool) -> list[int]:
    """Those found that stand in the query's relation to any of the anchors, or between each two of them."""
    things = scene.objects
    match query.relation:
        case "in front of":
            return [i for i in found if any(_covers(things[i], a, strict) for a in anchors)]
        case "behind":
            return [i for i in found if any(_covers(things[a], i, strict) for a in anchors)]
        case "closest to":
            distances = [min((_distance(i, a, scene) for a in anchors), default=0.0) for i in found]
            limit = EXTREME_DISTANCE_RATIO * min(distances, default=0.0)
            return [i for i, distance in zip(found, distances, strict=True) if anchors and distance <= limit]
        case "between":
            pairs = [(a, b) for a in anchors for b in anchors if a < b]
            return [
                i for i in found if any(_between(things[i], things[a], things[b], strict) for a, b in pairs)
            ]
        case "left of" | "right of" | "above" | "below" as side:
            return [i for i in found if any(_beside(side, things[i], things[a], strict) for a in anchors)]
        case None:
            return found


def _distance(i: int, j: int, scene: Scene) -> float:
    """Between two centres, in pixels."""
    (height, width), (x, y), (a, b) = scene.image.shape[:2], scene.objects[i].centre, scene.objects[j].centre
    return hypot((x - a) * width, (y - b) * height)


def _covers(thing: SceneObject, hidden: int, strict: bool) -> bool:
    return thing.covers.get(hidden, 0.0) > (CLEAR_OVERLAP if strict else 0.0)


def _beside(relation: Relation, thing: SceneObject, anchor: SceneObject, strict: bool) -> bool:
    """Strictly: well apart, and more along the relation's axis than across it; generously: at all."""
    dx, dy = thing.centre[0] - anchor.centre[0], thing.centre[1] - anchor.centre[1]
    along, across = {"left of": (-dx, dy), "right of": (dx, dy), "above": (-dy, dx), "below": (dy, dx)}[
        relation
    ]
    return along > max(0.12, abs(across)) if strict else along > 0.03


def _between(thing: SceneObject, a: SceneObject, b: SceneObject, strict: bool) -> bool:
    """Whether the centre lies near the middle of the line from a to b."""
    (x, y), (ax, ay), (bx, by) = thing.centre, a.centre, b.centre
    dx, dy = bx - ax, by - ay
    length = max(hypot(dx, dy), 1e-6)
    along = ((x - ax) * dx + (y - ay) * dy) / length**2
    aside = abs((x - ax) * dy - (y - ay) * dx) / length
    return 0.25 < along < 0.75 and aside < 0.1 if strict else 0.05 < along < 0.95 and aside < 0.2


def _on_side(side: Side, thing: SceneObject, strict: bool) -> bool:
    x, y = thing.centre
    if side == "middle":
        return max(abs(x - 0.5), abs(y - 0.5)) < (0.13 if strict else 0.24)
    margins = {"left": x, "right": 1 - x, "top": y, "bottom": 1 - y}
    return all(margins[edge] < (0.36 if strict else 0.48) for edge in side.split())


def _extremes(extreme: Extreme, found: list[int], scene: Scene) -> list[int]:
    """The extreme one of those found, and every other that comes so close that it might be meant as well."""
    things = [scene.objects[i] for i in found]
    match extreme:
        case "largest" | "smallest":
            # a ring covers less than a disc as wide: the largest is largest either way
            power = 1 if extreme == "largest" else -1
            close = _within(EXTREME_AREA_RATIO, [t.area**power for t in things])
            close |= _within(EXTREME_AREA_RATIO, [t.span ** (2 * power) for t in things])
        case "leftmost" | "rightmost":
            sign = 1 if extreme == "rightmost" else -1
            close = _near([sign * t.centre[0] for t in things])
        case "topmost" | "bottommost":
            sign = 1 if extreme == "bottommost" else -1
            close = _near([sign * t.centre[1] for t in things])
    return [i for k, i in enumerate(found) if k in close]


def _within(ratio: float, values: Sequence[float]) -> set[int]:
    return {k for k, value in enumerate(values) if value * ratio > max(values)}


def _near(values: Sequence[float]) -> set[int]:
    return {k for k, value in enumerate(values) if value > max(values) - EXTREME_GAP}
