"""Captions, questions and indirect instructions on drawn scenes, with exact answers, for a language model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np

from genmask.data.backgrounds import BACKGROUNDS
from genmask.data.composition import COLOURS
from genmask.data.drawing import Scene
from genmask.data.example import Dialogue
from genmask.data.expressions import EXTREMES, RELATIONS, Expression, describe, phrase
from genmask.data.queries import Extreme, Query, evaluate, named
from genmask.data.riddles import BETWEEN, ODD_ONE_OUT, RIDDLES, SUPERLATIVES, answer_of
from genmask.data.shapes import SHAPES

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
CAPTION_REQUESTS = ("Describe the image.", "What is in the image?", "Write a caption for the image.")
SIZE_IN_CAPTION_SHARE = 0.6

Turn = tuple[str, str]
"""A question and its answer."""
QuestionKind = Literal["riddle", "odd one out", "superlative", "between"]


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


@dataclass(frozen=True, kw_only=True)
class Question:
    """An indirect instruction about a scene."""

    text: str
    kind: QuestionKind
    target: int
    """Index into `Scene.objects` of the one that is meant."""
    answer: str
    """A referring expression that names it and nothing else. It takes as little sight as will do: "what can I drink
    from?" is "the mug" wherever it is asked, and what is higher than all others "the topmost object". An odd one out,
    a riddle about several categories and what stands between two others must be seen."""


def questions(scene: Scene, rng: Random, held_out: bool = False) -> Iterator[Question]:
    """At most one of each kind, the rarest first; in held-out words or in those of training."""
    puzzles = [_odd_one_out, _riddle, _superlative]
    for puzzle in (_between, *rng.sample(puzzles, len(puzzles))):
        question = puzzle(scene, rng, held_out)
        if question is not None:
            yield question


def indirect_instruction(scene: Scene, rng: Random) -> Turn | None:
    """An instruction that takes a thought, and what the object that it means looks like, if the scene has one."""
    for question in questions(scene, rng):
        answer = describe(scene, question.target, rng)
        if answer is not None:
            return question.text, answer
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


def _riddle(scene: Scene, rng: Random, held_out: bool) -> Question | None:
    for riddle in rng.sample(RIDDLES, len(RIDDLES)):
        category = answer_of(riddle, [thing.category for thing in scene.objects])
        if category is not None:
            return Question(
                text=riddle.pick(rng, held_out),
                kind="riddle",
                target=next(i for i, thing in enumerate(scene.objects) if thing.category == category),
                answer=f"the {category}",
            )
    return None


def _odd_one_out(scene: Scene, rng: Random, held_out: bool) -> Question | None:
    """The one object that differs in category, or in colour, where all others agree, if just one does."""
    odd: dict[int, str] = {}
    for values, noun in (
        ([o.colour for o in scene.objects], "the {} object"),
        ([o.category for o in scene.objects], "the {}"),
    ):
        counts = Counter(values).most_common()
        if len(counts) == 2 and counts[1][1] == 1 and len(values) >= 4:
            odd[values.index(counts[1][0])] = noun.format(counts[1][0])
    if len(odd) != 1:
        return None
    ((target, answer),) = odd.items()
    return Question(text=ODD_ONE_OUT.pick(rng, held_out), kind="odd one out", target=target, answer=answer)


def _superlative(scene: Scene, rng: Random, held_out: bool) -> Question | None:
    extreme: Extreme = rng.choice(list(SUPERLATIVES))
    target = _only(Query(extreme=extreme), scene)
    if target is None:
        return None
    return Question(
        text=SUPERLATIVES[extreme].pick(rng, held_out),
        kind="superlative",
        target=target,
        answer=EXTREMES[extreme][0].format("object"),
    )


def _between(scene: Scene, rng: Random, held_out: bool) -> Question | None:
    pairs = [category for category, n in Counter(o.category for o in scene.objects).items() if n == 2]
    for category in rng.sample(pairs, len(pairs)):
        target = _only(Query(relation="between", anchor=Query(category=category, plural=True)), scene)
        answer = None if target is None else _looks(scene, target)
        if target is not None and answer is not None:
            text = BETWEEN.pick(rng, held_out).format(SHAPES[category].plural)
            return Question(text=text, kind="between", target=target, answer=answer)
    return None


def _looks(scene: Scene, target: int) -> str | None:
    """The fewest words for what an object looks like that name nothing else, if there are any."""
    thing = scene.objects[target]
    for query, words in (
        (Query(category=thing.category), thing.category),
        (Query(colour=thing.colour), f"{thing.colour} object"),
        (Query(category=thing.category, colour=thing.colour), f"{thing.colour} {thing.category}"),
    ):
        if named(query, scene) == {target}:
            return f"the {words}"
    return None
