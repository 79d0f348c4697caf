"""Referring expressions of drawn scenes: sentences as people say them, each naming exactly its targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal

from genmask.data.composition import COLOURS
from genmask.data.drawing import Scene, SceneObject
from genmask.data.queries import Extreme, Query, Relation, Side, evaluate, named
from genmask.data.shapes import SHAPES

Kind = Literal["category", "colour", "size", "position", "relation", "plural", "absent"]

SHARES: dict[Kind, float] = {
    "category": 0.13,
    "colour": 0.22,
    "size": 0.12,
    "position": 0.15,
    "relation": 0.17,
    "plural": 0.11,
    "absent": 0.10,
}
"""Shares of the kinds of expression; where a scene offers none of a kind, colour stands in."""
SINGULAR = tuple(kind for kind in SHARES if kind not in ("plural", "absent"))
"""Kinds of expression that name exactly one object."""

EXTREMES: dict[Extreme, tuple[str, ...]] = {
    "leftmost": ("the leftmost {}", "the {} furthest to the left"),
    "rightmost": ("the rightmost {}", "the {} furthest to the right"),
    "topmost": ("the topmost {}", "the highest {}"),
    "bottommost": ("the bottommost {}", "the lowest {}"),
    "largest": ("the largest {}", "the biggest {}"),
    "smallest": ("the smallest {}", "the tiniest {}"),
}
SIDES: dict[Side, tuple[str, ...]] = {
    "left": ("{} on the left", "{} on the left side"),
    "right": ("{} on the right", "{} on the right side"),
    "top": ("{} at the top",),
    "bottom": ("{} at the bottom",),
    "middle": ("{} in the middle", "{} in the centre"),
    "top left": ("{} in the top left corner", "{} in the upper left"),
    "top right": ("{} in the top right corner", "{} in the upper right"),
    "bottom left": ("{} in the bottom left corner", "{} in the lower left"),
    "bottom right": ("{} in the bottom right corner", "{} in the lower right"),
}
RELATIONS: dict[Relation, tuple[str, ...]] = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above",),
    "below": ("below", "under"),
    "in front of": ("in front of",),
    "behind": ("behind", "partly hidden by"),
    "closest to": ("closest to", "nearest to"),
    "between": ("between",),
}
TEXTURE_WORDS = ("striped", "dotted", "checked")
"""Textures that people name; plain and shaded ones go without a word."""
SYNONYM_SHARE = 0.15


@dataclass(frozen=True, kw_only=True)
class Expression:
    """A sentence about one scene, its meaning, and the objects of the scene that it names."""

    text: str
    kind: Kind
    query: Query
    targets: frozenset[int]
    """Indices into `Scene.objects`; empty where the sentence names nothing in the picture."""


def expressions(
    scene: Scene, rng: Random, count: int, shares: Mapping[Kind, float] = SHARES
) -> list[Expression]:
    """`count` different expressions of one scene, their kinds drawn by `shares` (weights of any sum)."""
    found: list[Expression] = []
    for kind in rng.choices(list(shares), weights=list(shares.values()), k=count):
        texts = {expression.text for expression in found}
        found.append(next(e for e in _candidates(kind, scene, rng) if e.text not in texts))
    return found


def describe(scene: Scene, index: int, rng: Random) -> str | None:
    """A short expression that names one object and nothing else, the plainest that will do, if any."""
    thing = scene.objects[index]
    category, colour, size = thing.category, thing.colour, None if thing.size == "medium" else thing.size
    queries = [Query(category=category)] if rng.random() < 0.5 else []
    queries += [Query(category=category, colour=colour), Query(category=category, colour=colour, size=size)]
    extremes: tuple[Extreme, ...] = ("leftmost", "rightmost", "topmost", "bottommost")
    queries += [Query(category=category, colour=colour, extreme=extreme) for extreme in extremes]
    return next((phrase(query, rng) for query in queries if named(query, scene) == {index}), None)


def phrase(query: Query, rng: Random, count: int = 1) -> str:
    """One way to say it; `count` is how many objects a plural names ("both" for two)."""
    noun = _noun_words(query, rng)
    if query.plural:
        text = rng.choice(("both {}", "the two {}") if count == 2 else ("all {}", "all the {}")).format(noun)
    elif query.extreme is not None:
        text = rng.choice(EXTREMES[query.extreme]).format(noun)
    else:
        text = "the " + noun
    if query.side is not None:
        text = rng.choice(SIDES[query.side]).format(text)
    if query.relation is not None and query.anchor is not None:
        anchor = phrase(query.anchor, rng, 2).replace("both ", "the two ")
        text += f" {rng.choice(RELATIONS[query.relation])} {anchor}"
    return text


def _noun_words(query: Query, rng: Random) -> str:
    if query.category is None:
        head = rng.choice(("object", "object", "thing")) + ("s" if query.plural else "")
    else:
        shape = SHAPES[query.category]
        head = shape.plural if query.plural else query.category
        if shape.synonym and rng.random() < SYNONYM_SHARE:
            head = shape.synonym + ("s" if query.plural else "")
    return " ".join(filter(None, (query.size, query.texture, query.colour, head)))


def _candidates(kind: Kind, scene: Scene, rng: Random) -> Iterator[Expression]:
    """Unambiguous expressions of one kind; of another where the scene has none (left) to offer."""
    for attempt in range(50):
        query, plainer = _GENERATORS[kind](scene, rng)
        targets = named(query, scene)
        if targets is None or bool(targets) == (kind == "absent"):
            continue
        # at first only sentences that say something with the part that gives the kind its name
        if attempt < 25 and plainer is not None and len(evaluate(plainer, scene)) == len(targets):
            continue
        yield Expression(text=phrase(query, rng, len(targets)), kind=kind, query=query, targets=targets)
    yield from _candidates("position" if kind == "colour" else "colour", scene, rng)


Draft = tuple[Query, Query | None]
"""A query, and the same without the part that its kind is named after (None where it cannot do without)."""


def _noun(thing: SceneObject, rng: Random) -> Query:
    """What one may call an object: by its category, often; its colour; both; or, seldom, just "object"."""
    with_category, with_colour = rng.choice(((1, 0), (1, 0), (1, 0), (1, 1), (1, 1), (0, 1), (0, 0)))
    return Query(
        category=thing.category if with_category else None, colour=thing.colour if with_colour else None
    )


def _category(scene: Scene, rng: Random) -> Draft:
    thing = rng.choice(scene.objects)
    if thing.texture in TEXTURE_WORDS and rng.random() < 0.5:
        return Query(category=thing.category, texture=thing.texture), Query(category=thing.category)
    return Query(category=thing.category), None


def _colour(scene: Scene, rng: Random) -> Draft:
    thing = rng.choice(scene.objects)
    category = thing.category if rng.random() < 0.8 else None
    return Query(category=category, colour=thing.colour), Query(category=category)


def _size(scene: Scene, rng: Random) -> Draft:
    thing = rng.choice([thing for thing in scene.objects if thing.size != "medium"] or scene.objects)
    noun = _noun(thing, rng)
    if thing.size == "medium" or rng.random() < 0.08:  # superlatives fit far more scenes, so try them seldom
        extreme: Extreme = rng.choice(("largest", "smallest"))
        return Query(category=noun.category, colour=noun.colour, extreme=extreme), noun
    return Query(category=noun.category, colour=noun.colour, size=thing.size), noun


def _position(scene: Scene, rng: Random) -> Draft:
    thing = rng.choice(scene.objects)
    noun, (x, y) = _noun(thing, rng), thing.centre
    how, upright = rng.random(), rng.random() < 0.5
    if how < 0.45:
        extreme: Extreme = rng.choice(("topmost", "bottommost") if upright else ("leftmost", "rightmost"))
        return Query(category=noun.category, colour=noun.colour, extreme=extreme), noun
    row: Side = "top" if y < 0.5 else "bottom"
    column: Side = "left" if x < 0.5 else "right"
    corner = next(side for side in SIDES if side == f"{row} {column}")
    side = (row if upright else column) if how < 0.75 else corner
    if max(abs(x - 0.5), abs(y - 0.5)) < 0.13:
        side = "middle"
    return Query(category=noun.category, colour=noun.colour, side=side), noun


def relation_between(scene: Scene, index: int, other: int, how: float) -> Relation:
    """What object `index` is to object `other`; `how` in [0, 1) chooses where several relations are true."""
    thing, anchor = scene.objects[index], scene.objects[other]
    dx, dy = thing.centre[0] - anchor.centre[0], thing.centre[1] - anchor.centre[1]
    if other in thing.covers and how < 0.8:
        return "in front of"
    if index in anchor.covers and how < 0.8:
        return "behind"
    if how > 0.9:
        return "closest to"
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def _relation(scene: Scene, rng: Random) -> Draft:
    index, other = rng.sample(range(len(scene.objects)), 2)
    thing, anchor = scene.objects[index], scene.objects[other]
    how = rng.random()
    relation = relation_between(scene, index, other, how)
    noun = _noun(thing, rng)
    size = thing.size if thing.size != "medium" and rng.random() < 0.2 else None
    anchor_colour = anchor.colour if rng.random() < 0.5 else None
    anchor_size = anchor.size if anchor.size != "medium" and rng.random() < 0.2 else None
    said = Query(category=anchor.category, colour=anchor_colour, size=anchor_size)
    if how > 0.8 and len(evaluate(Query(category=anchor.category), scene)) == 2:
        relation, said = "between", Query(category=anchor.category, plural=True)
    query = Query(category=noun.category, colour=noun.colour, size=size, relation=relation, anchor=said)
    return query, Query(category=noun.category, colour=noun.colour, size=size)


def _plural(scene: Scene, rng: Random) -> Draft:
    thing = rng.choice(scene.objects)
    nouns = [Query(category=thing.category, plural=True), Query(colour=thing.colour, plural=True)]
    nouns.append(Query(category=thing.category, colour=thing.colour, plural=True))
    if thing.texture in TEXTURE_WORDS:
        nouns.append(Query(texture=thing.texture, plural=True))
    if thing.size != "medium":
        nouns.append(Query(size=thing.size, plural=True))
        nouns.append(Query(category=thing.category, size=thing.size, plural=True))
    noun = rng.choice([n for n in nouns if len(evaluate(n, scene)) > 1] or nouns)
    if rng.random() < 0.12:
        side: Side = rng.choice(("left", "right", "top", "bottom"))
        return Query(category=noun.category, colour=noun.colour, side=side, plural=True), noun
    return noun, Query()


def _absent(scene: Scene, rng: Random) -> Draft:
    """Mostly the colour of one object with the category of another: each word is right, only not together."""
    looks = [(thing.category, thing.colour) for thing in scene.objects]
    crossed = [(c, colour) for c, _ in looks for _, colour in looks if (c, colour) not in looks]
    thing, other = rng.sample(scene.objects, 2)
    how = rng.random()
    if crossed and how < 0.7:
        category, colour = rng.choice(crossed)
        return Query(category=category, colour=colour), None
    if how < 0.8:
        return Query(category=thing.category, size=rng.choice(("small", "large"))), None
    if how < 0.9:
        relation: Relation = rng.choice(("left of", "right of", "above", "below"))
        anchor = Query(category=other.category, colour=rng.choice((None, other.colour)))
        return Query(category=thing.category, relation=relation, anchor=anchor), None
    novel = rng.choice(list(COLOURS)) if rng.random() < 0.5 else None
    return Query(category=rng.choice(list(SHAPES)), colour=novel), None


_GENERATORS: dict[Kind, Callable[[Scene, Random], Draft]] = {
    "category": _category,
    "colour": _colour,
    "size": _size,
    "position": _position,
    "relation": _relation,
    "plural": _plural,
    "absent": _absent,
}
