"""Captions, questions and indirect instructions on drawn scenes, with exact answers: text for the language model."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np

from genmask.data.backgrounds import BACKGROUNDS
from genmask.data.composition import COLOURS
from genmask.data.drawing import Scene
from genmask.data.example import Dialogue
from genmask.data.expressions import EXTREMES, RELATIONS, Expression, Query, describe, evaluate, named, phrase
from genmask.data.shapes import SHAPES

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
CAPTION_REQUESTS = ("Describe the image.", "What is in the image?", "Write a caption for the image.")
RIDDLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "what could roll away?": (("circle", "ring"), ("oval", "car", "mug", "drop")),
    "something to drink from": (("mug",), ()),
    "what lives in water?": (("fish",), ("boat", "drop")),
    "what can swim without a sail?": (("fish",), ("drop",)),
    "something that people drive on roads": (("car",), ()),
    "what has wheels?": (("car",), ("circle", "ring")),
    "what sails on the sea?": (("boat",), ("fish",)),
    "where could a family live?": (("house",), ("boat",)),
    "the building": (("house",), ()),
    "what keeps you dry in the rain?": (("umbrella",), ("house", "car")),
    "the animal with whiskers": (("cat",), ()),
    "which animal says meow?": (("cat",), ()),
    "the plant with a trunk": (("tree",), ()),
    "what has petals?": (("flower",), ()),
    "what grows in the forest under the trees and has a cap?": (("mushroom",), ("tree",)),
    "the symbol of love": (("heart",), ()),
    "the shape that shows a direction": (("arrow",), ()),
    "the object with the most points": (("star",), ("flower",)),
    "the shape with a hole in the middle": (("ring",), ("mug",)),
    "the shape with three corners": (("triangle",), ("arrow", "drop")),
    "the shape with six sides": (("hexagon",), ()),
    "what looks like the moon?": (("crescent",), ("circle",)),
    "what looks like a drop of water?": (("drop",), ()),
    "the sign for adding numbers": (("cross",), ()),
}
"""Indirect instruction -> (categories that answer it, categories that might be argued to, and must be away)."""


def grounding_prompt(target: str) -> str:
    """The segmentation prompt, as a question to the language model."""
    return f"Please segment the {target.removeprefix('the ')} in the image."


def caption(scene: Scene, rng: Random) -> str:
    """Names all objects and the background: "a red star and two small blue rings on grass"."""
    counts = Counter((o.category, o.colour, o.size if o.size != "medium" else None) for o in scene.objects)
    groups = list(counts.items())
    rng.shuffle(groups)
    with_size = rng.random() < 0.6
    if not with_size:
        merged = Counter((category, colour, None) for category, colour, _ in counts.elements())
        groups = list(merged.items())
        rng.shuffle(groups)
    phrases = []
    for (category, colour, size), count in groups:
        noun = SHAPES[category].plural if count > 1 else category
        words = " ".join(filter(None, (size, colour, noun)))
        article = NUMBERS[count] if count > 1 else ("an" if words[0] in "aeiou" else "a")
        phrases.append(f"{article} {words}")
    listed = phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    return f"{listed} {BACKGROUNDS[scene.background].where}"


def dialogues(scene: Scene, expression: Expression, rng: Random) -> list[Dialogue]:
    """A caption, two questions, a box for the expression and, where the scene has one, an indirect instruction."""
    found = [(rng.choice(CAPTION_REQUESTS), caption(scene, rng))]
    for question in rng.sample([_count, _colour_of, _category_of, _presence, _neighbour, _background], 3):
        answer = question(scene, rng)
        if answer is not None and len(found) < 3:
            found.append(answer)
    found.append((grounding_prompt(expression.text), box_words(scene.mask(expression.targets))))
    indirect = indirect_instruction(scene, rng)
    if indirect is not None:
        found.append(indirect)
    return [Dialogue(image=scene.image, question=question, answer=answer) for question, answer in found]


def box_words(mask: np.ndarray) -> str:
    """ "box left top right bottom" of a (H, W) bool mask, each 0 to 99 of the width or height; "none" if empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return "none"
    height, width = mask.shape
    left, top, right, bottom = columns[0] / width, rows[0] / height, columns[-1] / width, rows[-1] / height
    return "box " + " ".join(str(int(100 * edge)) for edge in (left, top, right, bottom))


def _count(scene: Scene, rng: Random) -> tuple[str, str]:
    thing = rng.choice(scene.objects)
    query = rng.choice([Query(category=thing.category), Query(colour=thing.colour), Query()])
    count = len(evaluate(query, scene))
    noun = SHAPES[query.category].plural if query.category else "objects"
    return f"How many {query.colour + ' ' if query.colour else ''}{noun} are there?", str(count)


def _colour_of(scene: Scene, rng: Random) -> tuple[str, str] | None:
    thing = rng.choice(scene.objects)
    query = Query(category=thing.category)
    if len(evaluate(query, scene)) != 1:
        query = Query(category=thing.category, place=rng.choice(list(EXTREMES)))
    targets = named(query, scene)
    if not targets:
        return None
    (index,) = targets
    return f"What colour is {phrase(query, rng)}?", scene.objects[index].colour


def _category_of(scene: Scene, rng: Random) -> tuple[str, str] | None:
    query = Query(colour=rng.choice(scene.objects).colour)
    if rng.random() < 0.5:
        query = Query(colour=query.colour, place=rng.choice(list(EXTREMES)))
    targets = named(query, scene)
    if not targets:
        return None
    (index,) = targets
    return f"What is {phrase(query, rng)}?", "a " + scene.objects[index].category if (
        scene.objects[index].category[0] not in "aeiou"
    ) else "an " + scene.objects[index].category


def _presence(scene: Scene, rng: Random) -> tuple[str, str]:
    thing = rng.choice(scene.objects)
    colour = rng.choice([thing.colour, rng.choice(scene.objects).colour, rng.choice(list(COLOURS))])
    category = thing.category if rng.random() < 0.8 else rng.choice(list(SHAPES))
    present = bool(evaluate(Query(category=category, colour=colour), scene))
    return f"Is there a{'n' if colour[0] in 'aeiou' else ''} {colour} {category}?", "yes" if present else "no"


def _neighbour(scene: Scene, rng: Random) -> tuple[str, str] | None:
    anchor = rng.choice(scene.objects)
    noun = Query(category=anchor.category, colour=anchor.colour)
    query = Query(relation=rng.choice(list(RELATIONS)), anchor=noun)
    targets = named(query, scene)
    if not targets:
        return None
    (index,) = targets
    answer = describe(scene, index, rng)
    return None if answer is None else (f"What is {query.relation} {phrase(noun, rng)}?", answer)


def _background(scene: Scene, rng: Random) -> tuple[str, str]:
    return rng.choice(["What is the background?", "Where are the objects?"]), BACKGROUNDS[
        scene.background
    ].where


def indirect_instruction(scene: Scene, rng: Random) -> tuple[str, str] | None:
    """An instruction that needs a thought, and the clear expression that it comes to; None where the scene has none."""
    puzzles = [_riddle, _odd_one_out, _superlative, _between]
    rng.shuffle(puzzles)
    for puzzle in puzzles:
        found = puzzle(scene, rng)
        if found is not None:
            question, index = found
            answer = describe(scene, index, rng)
            if answer is not None:
                return question, answer
    return None


def _riddle(scene: Scene, rng: Random) -> tuple[str, int] | None:
    for question in rng.sample(list(RIDDLES), len(RIDDLES)):
        answers, doubtful = RIDDLES[question]
        fits = [i for i, o in enumerate(scene.objects) if o.category in answers]
        if len(fits) == 1 and not any(o.category in doubtful for o in scene.objects):
            return question, fits[0]
    return None


def _odd_one_out(scene: Scene, rng: Random) -> tuple[str, int] | None:
    """Exactly one object differs where all others agree, in category or in colour, and no other reading is open."""
    odd = set()
    for values in ([o.category for o in scene.objects], [o.colour for o in scene.objects]):
        counts = Counter(values).most_common()
        if len(counts) == 2 and counts[1][1] == 1 and counts[0][1] >= 3:
            odd.add(values.index(counts[1][0]))
    return (
        (rng.choice(["the odd one out", "which object does not belong?"]), odd.pop())
        if len(odd) == 1
        else None
    )


def _superlative(scene: Scene, rng: Random) -> tuple[str, int] | None:
    place, question = rng.choice(
        [
            ("largest", "what takes up the most room?"),
            ("smallest", "what is easiest to overlook because of its size?"),
        ]
    )
    targets = named(Query(place=place), scene)
    return (question, next(iter(targets))) if targets else None


def _between(scene: Scene, rng: Random) -> tuple[str, int] | None:
    """The one object whose centre lies near the middle of the line between the only two of a category."""
    pairs = [c for c, n in Counter(o.category for o in scene.objects).items() if n == 2]
    if not pairs:
        return None
    category = rng.choice(pairs)
    a, b = (np.array(o.centre) for o in scene.objects if o.category == category)
    near, far = [], []
    for i, thing in enumerate(scene.objects):
        if thing.category == category:
            continue
        along = float((thing.centre - a) @ (b - a) / max((b - a) @ (b - a), 1e-6))
        aside = float(np.hypot(*(a + along * (b - a) - thing.centre)))
        if 0.1 < along < 0.9 and aside < 0.2:
            far.append(i)
        if 0.25 < along < 0.75 and aside < 0.1:
            near.append(i)
    if len(near) != 1 or near != far:
        return None
    return f"what is between the two {SHAPES[category].plural}?", near[0]
