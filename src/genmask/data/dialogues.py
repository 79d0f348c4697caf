"""Captions, questions and indirect instructions on drawn scenes, with exact answers, for a language model."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

import numpy as np

from genmask.data.backgrounds import BACKGROUNDS
from genmask.data.composition import COLOURS
from genmask.data.drawing import Scene
from genmask.data.example import Dialogue
from genmask.data.expressions import EXTREMES, RELATIONS, Expression, describe, phrase
from genmask.data.queries import Extreme, Query, evaluate, named
from genmask.data.riddles import RIDDLES, SUPERLATIVES
from genmask.data.shapes import SHAPES

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
CAPTION_REQUESTS = ("Describe the image.", "What is in the image?", "Write a caption for the image.")
SIZE_IN_CAPTION_SHARE = 0.6

Turn = tuple[str, str]
"""A question and its answer."""


def caption(scene: Scene, rng: Random) -> str:
    """All objects and the background: "a red star and two small blue rings on grass"."""
    sized = rng.random() < SIZE_IN_CAPTION_SHARE
    counts = Counter(
        Query(category=o.category, colour=o.colour, size=o.size if sized and o.size != "medium" else None)
        for o in scene.objects
    )
    groups = [_counted(query, count) for query, count in counts.items()]
    rng.shuffle(groups)
    listed = " and ".join(filter(None, (", ".join(groups[:-1]), groups[-1])))
    return f"{listed} {BACKGROUNDS[scene.background].where}"


def dialogues(scene: Scene, expression: Expression, rng: Random) -> list[Dialogue]:
    """A caption, two questions, the expression's box and, if the scene has one, an indirect instruction."""
    turns: list[Turn | None] = [(rng.choice(CAPTION_REQUESTS), caption(scene, rng))]
    questions = (_count, _colour_of, _category_of, _presence, _neighbour, _background)
    turns += [question(scene, rng) for question in rng.sample(questions, 2)]
    turns.append((grounding_prompt(expression.text), box_words(scene.mask(expression.targets))))
    turns.append(indirect_instruction(scene, rng))
    return [
        Dialogue(image=scene.image, question=turn[0], answer=turn[1]) for turn in turns if turn is not None
    ]


def grounding_prompt(target: str) -> str:
    """The instruction to segment a target; it brings its own article."""
    return f"Please segment the {re.sub('^(the|an?) ', '', target)} in the image."


def box_words(mask: np.ndarray) -> str:
    """The box of a (H, W) bool mask: left, top, right and bottom, each from 0 to 99; or "none"."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return "none"
    height, width = mask.shape
    edges = (
        columns[0] * 100 // width,
        rows[0] * 100 // height,
        columns[-1] * 100 // width,
        rows[-1] * 100 // height,
    )
    return " ".join(["box", *map(str, edges)])


def indirect_instruction(scene: Scene, rng: Random) -> Turn | None:
    """An instruction that takes a thought, and the clear description it comes to, if the scene has one."""
    puzzles = [
        _odd_one_out,
        rng.choice((_riddle, _between)),
        rng.choice((_superlative, _riddle)),
        _superlative,
    ]
    for puzzle in puzzles:
        found = puzzle(scene, rng)
        answer = None if found is None else describe(scene, found[1], rng)
        if found is not None and answer is not None:
            return found[0], answer
    return None


def _counted(query: Query, count: int) -> str:
    """ "a red star", "two small blue rings"."""
    assert query.category is not None, "a caption names categories"
    noun = SHAPES[query.category].plural if count > 1 else query.category
    words = " ".join(filter(None, (query.size, query.colour, noun)))
    return f"{NUMBERS[count]} {words}" if count > 1 else _with_article(words)


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _count(scene: Scene, rng: Random) -> Turn:
    thing = rng.choice(scene.objects)
    query = rng.choice((Query(category=thing.category), Query(colour=thing.colour), Query()))
    noun = SHAPES[query.category].plural if query.category else "objects"
    asked = f"{query.colour} {noun}" if query.colour else noun
    return f"How many {asked} are there?", str(len(evaluate(query, scene)))


def _colour_of(scene: Scene, rng: Random) -> Turn | None:
    category = rng.choice(scene.objects).category
    query = Query(category=category)
    if len(evaluate(query, scene)) > 1:
        query = Query(category=category, extreme=rng.choice(list(EXTREMES)))
    index = _only(query, scene)
    return None if index is None else (f"What colour is {phrase(query, rng)}?", scene.objects[index].colour)


def _category_of(scene: Scene, rng: Random) -> Turn | None:
    colour = rng.choice(scene.objects).colour
    query = Query(colour=colour)
    if len(evaluate(query, scene)) > 1:
        query = Query(colour=colour, extreme=rng.choice(list(EXTREMES)))
    index = _only(query, scene)
    return (
        None
        if index is None
        else (f"What is {phrase(query, rng)}?", _with_article(scene.objects[index].category))
    )


def _presence(scene: Scene, rng: Random) -> Turn:
    thing = rng.choice(scene.objects)
    if rng.random() < 0.5:
        category, colour = thing.category, thing.colour
    elif rng.random() < 0.8:
        category, colour = (
            thing.category,
            rng.choice((rng.choice(scene.objects).colour, rng.choice(list(COLOURS)))),
        )
    else:
        category, colour = rng.choice(list(SHAPES)), thing.colour
    present = bool(evaluate(Query(category=category, colour=colour), scene))
    return f"Is there {_with_article(f'{colour} {category}')}?", "yes" if present else "no"


def _neighbour(scene: Scene, rng: Random) -> Turn | None:
    anchor = rng.choice(scene.objects)
    noun = Query(category=anchor.category, colour=anchor.colour)
    relation = rng.choice([relation for relation in RELATIONS if relation != "between"])
    index = _only(Query(relation=relation, anchor=noun), scene)
    answer = None if index is None else describe(scene, index, rng)
    return (
        None
        if answer is None
        else (f"What is {rng.choice(RELATIONS[relation])} {phrase(noun, rng)}?", answer)
    )


def _background(scene: Scene, rng: Random) -> Turn:
    return rng.choice(("What is the background?", "Where are the objects?")), BACKGROUNDS[
        scene.background
    ].where


def _only(query: Query, scene: Scene) -> int | None:
    """The one object that a query names beyond doubt."""
    targets = named(query, scene)
    return min(targets) if targets else None


Puzzle = tuple[str, int]
"""An instruction and the index of the object that it is after."""


def _riddle(scene: Scene, rng: Random) -> Puzzle | None:
    for riddle in rng.sample(RIDDLES, len(RIDDLES)):
        answers = [i for i, thing in enumerate(scene.objects) if thing.category in riddle.answers]
        if len(answers) == 1 and not any(thing.category in riddle.doubtful for thing in scene.objects):
            return rng.choice(riddle.wordings), answers[0]
    return None


def _odd_one_out(scene: Scene, rng: Random) -> Puzzle | None:
    """The one object that differs in category, or in colour, where all others agree, if just one does."""
    odd = set()
    for values in ([o.category for o in scene.objects], [o.colour for o in scene.objects]):
        counts = Counter(values).most_common()
        if len(counts) == 2 and counts[1][1] == 1 and len(values) >= 4:
            odd.add(values.index(counts[1][0]))
    return (
        (rng.choice(("the odd one out", "what does not belong here?")), min(odd)) if len(odd) == 1 else None
    )


def _superlative(scene: Scene, rng: Random) -> Puzzle | None:
    extreme: Extreme = rng.choice(list(SUPERLATIVES))
    index = _only(Query(extreme=extreme), scene)
    return None if index is None else (rng.choice(SUPERLATIVES[extreme]), index)


def _between(scene: Scene, rng: Random) -> Puzzle | None:
    pairs = [category for category, n in Counter(o.category for o in scene.objects).items() if n == 2]
    for category in rng.sample(pairs, len(pairs)):
        query = Query(relation="between", anchor=Query(category=category, plural=True))
        index = _only(query, scene)
        if index is not None:
            return f"what is between the two {SHAPES[category].plural}?", index
    return None
