"""Referring expressions of compositions: "the smaller horse", "the horse left of the tiger", "both dogs".

What they mean, and that they mean nothing else, is decided as for drawn scenes (`queries`); the words are those of the
photographs' classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

from genmask.data.drawing import Scene
from genmask.data.expressions import (
    EXTREMES,
    RELATIONS,
    SIDES,
    SYNONYM_SHARE,
    Expression,
    Kind,
    relation_between,
)
from genmask.data.phrases import MASS_NOUNS, SYNONYMS, plural
from genmask.data.queries import Extreme, Query, Relation, Side, evaluate, named

SHARES: dict[Kind, float] = {
    "category": 0.2,
    "position": 0.25,
    "size": 0.15,
    "relation": 0.2,
    "plural": 0.1,
    "absent": 0.1,
}
"""Shares of the kinds of expression."""

OF_TWO: dict[Extreme, tuple[str, ...]] = {
    "leftmost": ("the left {}", "the {} further to the left"),
    "rightmost": ("the right {}", "the {} further to the right"),
    "topmost": ("the upper {}", "the higher {}"),
    "bottommost": ("the lower {}",),
    "largest": ("the larger {}", "the bigger {}"),
    "smallest": ("the smaller {}",),
}
"""Extremes of two; half of the time these are said, else those of several."""
MEASURES = {"rice": "portion", "white bread": "slice"}
"""What a mass noun is counted in where it is told from others of its kind; the other foods in pieces."""
ATTEMPTS = 30
TELLING_ATTEMPTS = 20
"""At first only sentences that say something with the part that gives the kind its name."""

Draft = tuple[Query, Query | None]
"""A query, and the same without the part that its kind is named after (None where it cannot do without)."""


def expressions(
    scene: Scene, absent: Sequence[str], rng: Random, kinds: Sequence[Kind]
) -> list[Expression] | None:
    """A different expression of each of the kinds, None where the composition has not all of them to offer.

    Args:
        scene: the composition.
        absent: classes of which surely nothing is in the picture.
        rng: a stream of its own.
        kinds: of `SHARES`, in order; one may come several times.
    """
    found: list[Expression] = []
    for kind in kinds:
        texts = {expression.text for expression in found}
        fitting = (e for e in _candidates(kind, scene, absent, rng) if e.text not in texts)
        if (expression := next(fitting, None)) is None:
            return None
        found.append(expression)
    return found


def phrase(query: Query, scene: Scene, rng: Random, synonym_share: float = 0.0) -> str:
    """One way to say it, in this picture."""
    assert query.category is not None, "a background is full of objects: what is meant must be named"
    noun = _noun(query, scene)
    alike = evaluate(Query(category=query.category), scene)
    if query.plural:
        both = len(alike) == 2 and query.side is None
        text = rng.choice(("both {}", "the two {}") if both else ("all {}", "all the {}")).format(noun)
    elif query.extreme is not None:
        wordings = OF_TWO if len(alike) == 2 and rng.random() < 0.5 else EXTREMES
        text = rng.choice(wordings[query.extreme]).format(noun)
    elif rng.random() < synonym_share and query.category in SYNONYMS:
        text = f"the {rng.choice(SYNONYMS[query.category])}"
    else:
        text = f"the {noun}"
    if query.side is not None:
        text = rng.choice(SIDES[query.side]).format(text)
    if query.relation is not None and query.anchor is not None:
        anchor = phrase(query.anchor, scene, rng).replace("both ", "the two ")
        text += f" {rng.choice(RELATIONS[query.relation])} {anchor}"
    return text


def _noun(query: Query, scene: Scene) -> str:
    name = query.category or ""
    if name in MASS_NOUNS and len(evaluate(Query(category=name), scene)) > 1:
        measure = MEASURES.get(name, "piece")
        return f"{plural(measure) if query.plural else measure} of {name}"
    return plural(name) if query.plural else name


def _candidates(kind: Kind, scene: Scene, absent: Sequence[str], rng: Random) -> Iterator[Expression]:
    """Unambiguous expressions of one kind, as far as some attempts find any."""
    for attempt in range(ATTEMPTS):
        if kind == "absent":
            query, plainer = _absent(scene, absent, rng), None
        else:
            query, plainer = _GENERATORS[kind](scene, rng)
        targets = named(query, scene)
        if targets is None or bool(targets) == (kind == "absent"):
            continue
        telling = plainer is None or len(evaluate(plainer, scene)) != len(targets)
        if not telling and (attempt < TELLING_ATTEMPTS or query.extreme is not None):
            continue  # nobody says "the largest cake" of the only one
        text = phrase(query, scene, rng, SYNONYM_SHARE if kind in ("category", "absent") else 0.0)
        yield Expression(text=text, kind=kind, query=query, targets=targets)


def _category(scene: Scene, rng: Random) -> Draft:
    return Query(category=rng.choice(scene.objects).category), None


def _size(scene: Scene, rng: Random) -> Draft:
    name = rng.choice(scene.objects).category
    extreme: Extreme = rng.choice(("largest", "smallest"))
    return Query(category=name, extreme=extreme), Query(category=name)


def _position(scene: Scene, rng: Random) -> Draft:
    thing = rng.choice(scene.objects)
    x, y = thing.centre
    upright = rng.random() < 0.4
    plainer = Query(category=thing.category)
    if rng.random() < 0.5:
        extreme: Extreme = rng.choice(("topmost", "bottommost") if upright else ("leftmost", "rightmost"))
        return Query(category=thing.category, extreme=extreme), plainer
    row: Side = "top" if y < 0.5 else "bottom"
    column: Side = "left" if x < 0.5 else "right"
    side = row if upright else column
    if rng.random() < 0.2:
        side = next(corner for corner in SIDES if corner == f"{row} {column}")
    if max(abs(x - 0.5), abs(y - 0.5)) < 0.13:
        side = "middle"
    return Query(category=thing.category, side=side), plainer


def _relation(scene: Scene, rng: Random) -> Draft:
    index, other = rng.sample(range(len(scene.objects)), 2)
    thing, anchor = scene.objects[index], scene.objects[other]
    how = rng.random()
    relation = relation_between(scene, index, other, how)
    said = Query(category=anchor.category)
    if how > 0.8 and len(evaluate(said, scene)) == 2:
        relation, said = "between", Query(category=anchor.category, plural=True)
    return Query(category=thing.category, relation=relation, anchor=said), Query(category=thing.category)


def _plural(scene: Scene, rng: Random) -> Draft:
    names = [thing.category for thing in scene.objects]
    name = rng.choice([name for name in names if names.count(name) > 1] or names)
    side: Side = rng.choice(("left", "right", "top", "bottom"))
    if rng.random() < 0.12 and names.count(name) > 2:
        return Query(category=name, side=side, plural=True), Query(category=name, plural=True)
    return Query(category=name, plural=True), None


def _absent(scene: Scene, absent: Sequence[str], rng: Random) -> Query:
    """A class that is nowhere in the picture; now and then one that is, but not in that place."""
    if absent and rng.random() < 0.7:
        return Query(category=rng.choice(absent))
    thing, other = rng.sample(scene.objects, 2)
    relation: Relation = rng.choice(("left of", "right of", "above", "below"))
    return Query(category=thing.category, relation=relation, anchor=Query(category=other.category))


_GENERATORS: dict[Kind, Callable[[Scene, Random], Draft]] = {
    "category": _category,
    "size": _size,
    "position": _position,
    "relation": _relation,
    "plural": _plural,
}
