"""Referring expressions of drawn scenes: what they mean, which objects they name, and how people would say them.

A `Query` is the meaning. `evaluate` is the one place that decides which objects it names, twice: strictly (clearly
so) and generously (arguably so). An expression is used only where both readings agree, so none is ambiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import hypot
from random import Random
from typing import Literal

from genmask.data.composition import COLOURS
from genmask.data.drawing import Scene, SceneObject
from genmask.data.shapes import SHAPES

Kind = Literal["category", "colour", "size", "position", "relation", "plural", "absent"]
Relation = Literal["left of", "right of", "above", "below", "in front of", "behind", "closest to"]

SHARES: dict[Kind, float] = {
    "category": 0.13,
    "colour": 0.22,
    "size": 0.12,
    "position": 0.15,
    "relation": 0.17,
    "plural": 0.11,
    "absent": 0.10,
}
"""Stated shares of the kinds of expression."""

EXTREMES: dict[str, tuple[str, ...]] = {
    "leftmost": ("the leftmost {}", "the {} furthest to the left"),
    "rightmost": ("the rightmost {}", "the {} furthest to the right"),
    "topmost": ("the topmost {}", "the highest {}"),
    "bottommost": ("the bottommost {}", "the lowest {}"),
    "largest": ("the largest {}", "the biggest {}"),
    "smallest": ("the smallest {}", "the tiniest {}"),
}
SIDES: dict[str, tuple[str, ...]] = {
    "left": ("the {} on the left", "the {} on the left side"),
    "right": ("the {} on the right", "the {} on the right side"),
    "top": ("the {} at the top",),
    "bottom": ("the {} at the bottom",),
    "middle": ("the {} in the middle", "the {} in the centre"),
    "top left": ("the {} in the top left corner", "the {} in the upper left"),
    "top right": ("the {} in the top right corner", "the {} in the upper right"),
    "bottom left": ("the {} in the bottom left corner", "the {} in the lower left"),
    "bottom right": ("the {} in the bottom right corner", "the {} in the lower right"),
}
RELATIONS: dict[Relation, tuple[str, ...]] = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above",),
    "below": ("below", "under"),
    "in front of": ("in front of", "overlapping"),
    "behind": ("behind", "partly hidden by"),
    "closest to": ("closest to", "nearest to"),
}
TEXTURE_WORDS = {"striped": "striped", "dotted": "dotted", "checked": "checked"}
"""Textures that have a word; plain and shaded ones go without."""

EXTREME_GAP = 0.08
"""A centre less than this share of the picture behind the extreme one might be called extreme too."""
LARGEST_RATIO = 1.5
"""So might an object of an area within this factor of the largest or smallest."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """The meaning of an expression: a noun, then at most one of a place and a relation."""

    category: str | None = None
    colour: str | None = None
    texture: str | None = None
    size: Literal["small", "large"] | None = None
    place: str | None = None
    """A key of EXTREMES or SIDES."""
    relation: Relation | None = None
    anchor: Query | None = None
    """What the relation is to."""
    plural: bool = False

    @property
    def noun(self) -> Query:
        """The same without place, relation and number."""
        return replace(self, place=None, relation=None, anchor=None, plural=False)


@dataclass(frozen=True, kw_only=True)
class Expression:
    """A sentence about one scene, its meaning, and the objects of the scene that it names."""

    text: str
    kind: Kind
    query: Query
    targets: frozenset[int]
    """Indices into `Scene.objects`; empty where the sentence names nothing in the picture."""


def evaluate(query: Query, scene: Scene, strict: bool = False) -> frozenset[int]:
    """Indices of the objects that the query names, borderline cases left out (strict) or let in (generous)."""
    found = [i for i, o in enumerate(scene.objects) if _is_a(o, query, strict)]
    if query.relation is not None:
        assert query.anchor is not None, "a relation needs an anchor"
        anchors = evaluate(query.anchor, scene, strict)
        if query.relation == "closest to":
            found = _closest([i for i in found if i not in anchors], anchors, scene)
        else:
            found = [
                i
                for i in found
                if any(i != a and _related(query.relation, i, a, scene, strict) for a in anchors)
            ]
    if query.place in EXTREMES:
        found = _extreme(query.place, found, scene)
    elif query.place is not None:
        found = [i for i in found if _on_side(query.place, scene.objects[i], strict)]
    return frozenset(found)


def named(query: Query, scene: Scene) -> frozenset[int] | None:
    """The objects that the query names beyond doubt; None where that is open, or their number is not as it says."""
    targets = evaluate(query, scene)
    if query.anchor is not None and not query.anchor.plural and len(evaluate(query.anchor, scene)) != 1:
        return None
    if (len(targets) < 2 if query.plural else len(targets) > 1) or targets != evaluate(
        query, scene, strict=True
    ):
        return None
    return targets


def _is_a(thing: SceneObject, query: Query, strict: bool) -> bool:
    return (
        query.category in (None, thing.category)
        and query.colour in (None, thing.colour)
        and query.texture in (None, thing.texture)
        and (query.size in (None, thing.size) or (not strict and thing.size == "medium"))
    )


def _related(relation: Relation, index: int, anchor: int, scene: Scene, strict: bool) -> bool:
    thing, other = scene.objects[index], scene.objects[anchor]
    if relation == "in front of":
        return anchor in thing.covers
    if relation == "behind":
        return index in other.covers
    dx, dy = thing.centre[0] - other.centre[0], thing.centre[1] - other.centre[1]
    along, across = {"left of": (-dx, dy), "right of": (dx, dy), "above": (-dy, dx), "below": (dy, dx)}[
        relation
    ]
    return along > max(0.12, abs(across)) if strict else along > 0.03


def _closest(found: list[int], anchors: Iterable[int], scene: Scene) -> list[int]:
    height, width = scene.image.shape[:2]

    def distance(i: int) -> float:
        (x, y), spots = scene.objects[i].centre, [scene.objects[a].centre for a in anchors]
        return min((hypot((x - a) * width, (y - b) * height) for a, b in spots), default=0.0)

    nearest = min((distance(i) for i in found), default=0.0)
    return [i for i in found if distance(i) < 1.3 * nearest] if anchors else []


def _extreme(place: str, found: list[int], scene: Scene) -> list[int]:
    """All that might be meant by a superlative: the extreme one and every other that comes close to it."""
    if not found:
        return []
    things = [scene.objects[i] for i in found]
    if place in ("largest", "smallest"):
        sizes = [t.area if place == "largest" else 1 / t.area for t in things]
        return [i for i, s in zip(found, sizes, strict=True) if s * LARGEST_RATIO > max(sizes)]
    axis = 0 if place in ("leftmost", "rightmost") else 1
    sign = -1 if place in ("leftmost", "topmost") else 1
    reach = [sign * t.centre[axis] for t in things]
    return [i for i, r in zip(found, reach, strict=True) if r > max(reach) - EXTREME_GAP]


def _on_side(place: str, thing: SceneObject, strict: bool) -> bool:
    x, y = thing.centre
    if place == "middle":
        return max(abs(x - 0.5), abs(y - 0.5)) < (0.13 if strict else 0.24)
    bound = 0.36 if strict else 0.48
    depth = {"left": x, "right": 1 - x, "top": y, "bottom": 1 - y}
    return all(depth[side] < bound for side in place.split())


def phrase(query: Query, rng: Random, count: int = 1) -> str:
    """One way to say it; `count` is how many objects a plural names ("both" for two)."""
    noun = _noun_words(query, rng)
    if query.plural:
        whole = rng.choice(
            ["both {}", "the two {}", "all {}"] if count == 2 else ["all {}", "all the {}", "every {}"]
        )
        if whole == "every {}":
            noun = _noun_words(replace(query, plural=False), rng)
    elif query.place is not None:
        whole = rng.choice((EXTREMES | SIDES)[query.place])
    else:
        whole = "the {}"
    text = whole.format(noun)
    if query.plural and query.place is not None:
        text += rng.choice(SIDES[query.place]).removeprefix("the {}")
    if query.relation is not None and query.anchor is not None:
        text += f" {rng.choice(RELATIONS[query.relation])} {phrase(query.anchor, rng)}"
    return text


def _noun_words(query: Query, rng: Random) -> str:
    if query.category is None:
        head = rng.choice(["object", "object", "thing"]) + ("s" if query.plural else "")
    else:
        shape = SHAPES[query.category]
        head = shape.plural if query.plural else query.category
        if shape.synonym and rng.random() < 0.15:
            head = shape.synonym + ("s" if query.plural else "")
    return " ".join(filter(None, (query.size, query.texture, query.colour, head)))


def describe(scene: Scene, index: int, rng: Random) -> str | None:
    """A short expression that names one object and nothing else, the plainest that will do; None if there is none."""
    thing = scene.objects[index]
    noun = Query(category=thing.category)
    size = None if thing.size == "medium" else thing.size
    both = replace(noun, colour=thing.colour)
    queries = [rng.choice([noun, both]), both, replace(noun, size=size), replace(both, size=size)]
    queries += [replace(both, place=place) for place in ("leftmost", "rightmost", "topmost", "bottommost")]
    query = next((q for q in queries if named(q, scene) == {index}), None)
    return None if query is None else phrase(query, rng)


def expressions(scene: Scene, rng: Random, count: int) -> list[Expression]:
    """`count` different expressions of one scene, their kinds drawn by `SHARES`."""
    found: list[Expression] = []
    for kind in rng.choices(list(SHARES), weights=list(SHARES.values()), k=count):
        fresh = (e for e in _candidates(kind, scene, rng) if all(e.text != f.text for f in found))
        found.append(next(fresh))
    return found


def _candidates(kind: Kind, scene: Scene, rng: Random) -> Iterable[Expression]:
    """Unambiguous expressions of one kind without end; of other kinds where the scene has none to offer."""
    for attempt in range(60):
        query = _GENERATORS[kind](scene, rng)
        targets = named(query, scene)
        if targets is None or (not targets) != (kind == "absent"):
            continue
        # at first only sentences of which every part matters
        if attempt < 25 and kind != "absent" and _redundant(kind, query, scene):
            continue
        yield Expression(text=phrase(query, rng, len(targets)), kind=kind, query=query, targets=targets)
    yield from _candidates("colour" if kind != "colour" else "position", scene, rng)


def _redundant(kind: Kind, query: Query, scene: Scene) -> bool:
    """Whether the noun alone would name the same, so that the sentence's kind makes no difference."""
    if kind == "colour":
        plainer = replace(query, colour=None)
    elif kind == "size":
        plainer = replace(query, size=None, place=None)
    elif kind in ("position", "relation"):
        plainer = query.noun
    else:
        return False
    return len(evaluate(plainer, scene)) == 1


def _category(scene: Scene, rng: Random) -> Query:
    thing = rng.choice(scene.objects)
    texture = thing.texture if thing.texture in TEXTURE_WORDS and rng.random() < 0.5 else None
    return Query(category=thing.category, texture=texture)


def _colour(scene: Scene, rng: Random) -> Query:
    thing = rng.choice(scene.objects)
    return Query(category=thing.category if rng.random() < 0.8 else None, colour=thing.colour)


def _any_noun(scene: Scene, rng: Random) -> Query:
    """A noun that fits some object: its category, colour, both or, seldom, only "object"."""
    thing = rng.choice(scene.objects)
    with_category, with_colour = rng.choice([(1, 0), (1, 0), (1, 0), (1, 1), (1, 1), (0, 1), (0, 0)])
    return Query(
        category=thing.category if with_category else None, colour=thing.colour if with_colour else None
    )


def _size(scene: Scene, rng: Random) -> Query:
    noun = _any_noun(scene, rng)
    if rng.random() < 0.4:
        return replace(noun, place=rng.choice(["largest", "smallest"]))
    return replace(noun, size=rng.choice(["small", "large"]))


def _position(scene: Scene, rng: Random) -> Query:
    places = [p for p in EXTREMES if p not in ("largest", "smallest")] * 2 + list(SIDES)
    return replace(_any_noun(scene, rng), place=rng.choice(places))


def _relation(scene: Scene, rng: Random) -> Query:
    anchor = _any_noun(scene, rng)
    if anchor.category is None:
        anchor = replace(anchor, category=rng.choice(scene.objects).category)
    if rng.random() < 0.2:
        anchor = replace(anchor, size=rng.choice(["small", "large"]))
    noun = _any_noun(scene, rng)
    if rng.random() < 0.2:
        noun = replace(noun, size=rng.choice(["small", "large"]))
    return replace(noun, relation=rng.choice(list(RELATIONS)), anchor=anchor)


def _plural(scene: Scene, rng: Random) -> Query:
    query = _any_noun(scene, rng)
    if query.category is None and query.colour is None:
        texture = rng.choice(scene.objects).texture
        query = replace(query, texture=texture) if texture in TEXTURE_WORDS else replace(query, size="small")
    if rng.random() < 0.12:
        query = replace(query, place=rng.choice(["left", "right", "top", "bottom"]))
    return replace(query, plural=True)


def _absent(scene: Scene, rng: Random) -> Query:
    """Mostly the colour of one object with the category of another: each word is right, only not together."""
    how = rng.random()
    thing, other = rng.choice(scene.objects), rng.choice(scene.objects)
    if how < 0.6:
        return Query(category=thing.category, colour=other.colour)
    if how < 0.7:
        return Query(category=thing.category, size=rng.choice(["small", "large"]))
    if how < 0.8:
        return Query(
            category=thing.category,
            relation=rng.choice(list(RELATIONS)[:4]),
            anchor=Query(category=other.category),
        )
    colour = rng.choice(list(COLOURS)) if rng.random() < 0.5 else None
    return Query(category=rng.choice(list(SHAPES)), colour=colour)


_GENERATORS: dict[Kind, Callable[[Scene, Random], Query]] = {
    "category": _category,
    "colour": _colour,
    "size": _size,
    "position": _position,
    "relation": _relation,
    "plural": _plural,
    "absent": _absent,
}
