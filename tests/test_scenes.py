"""Drawn scenes: the sentences name exactly their masks, the stated shares hold, and the words matter."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from genmask.data.backgrounds import BACKGROUNDS
from genmask.data.composition import COLOURS, PLAIN
from genmask.data.dialogues import NUMBERS, box_words, grounding_prompt
from genmask.data.drawing import Scene, SceneObject
from genmask.data.expressions import SHARES, Expression
from genmask.data.queries import Query, evaluate, named
from genmask.data.riddles import RIDDLES
from genmask.data.scenes import Scenes
from genmask.data.shapes import SHAPES
from genmask.evaluation.metrics import IoUTotals

COUNT = 300
"""Scenes that the statistics are taken over."""


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Scene, Expression]]:
    scenes = Scenes("val", seed=1)
    return [(scenes.scene(i), scenes.expression(i)) for i in range(COUNT * Scenes.EXPRESSIONS_PER_SCENE)]


def thing(
    category: str = "star", colour: str = "red", x: float = 0.5, y: float = 0.5, **more: object
) -> SceneObject:
    known: dict = {"texture": "plain", "size": "medium", "area": 0.03, "span": 0.2, "covers": {}} | more
    return SceneObject(
        category=category, colour=colour, centre=(x, y), mask=np.zeros((64, 64), dtype=bool), **known
    )


def scene_of(*things: SceneObject) -> Scene:
    return Scene(image=np.zeros((64, 64, 3), np.uint8), background="grass", objects=things)


def test_an_index_holds_the_same_whatever_was_drawn_before() -> None:
    one, other = Scenes(size=64, seed=3), Scenes(size=64, seed=3)
    examples = [one[i] for i in range(12)]
    for i in (11, 2, 7):
        again = other[i]
        assert (again.text, again.kind, again.id) == (examples[i].text, examples[i].kind, examples[i].id)
        np.testing.assert_array_equal(again.image, examples[i].image)
        np.testing.assert_array_equal(again.mask, examples[i].mask)
    assert one.caption(5).text == other.caption(5).text
    assert [d.answer for d in one.dialogues(5)] == [d.answer for d in other.dialogues(5)]


def test_splits_and_seeds_are_different_streams() -> None:
    images = [Scenes(split, size=32, seed=seed)[0].image for split in ("train", "val") for seed in (0, 1)]
    assert len({image.tobytes() for image in images}) == 4
    assert Scenes("val", size=32)[123].id == "val/000123"


def test_a_changed_example_does_not_spoil_the_next() -> None:
    scenes = Scenes(size=32)
    first = scenes[0].image
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(scenes[0].image, kept)


@pytest.mark.parametrize("size", [(96, 160), (64, 64)])
def test_a_scene_is_alike_at_every_size(size: tuple[int, int]) -> None:
    small, large = Scenes(size=size), Scenes(size=(2 * size[0], 2 * size[1]))
    alike = 0
    for i in range(0, 40, Scenes.EXPRESSIONS_PER_SCENE):
        one, other = small.scene(i), large.scene(i)
        assert one.image.shape == (*size, 3)
        assert [o.category for o in one.objects] == [o.category for o in other.objects]
        for a, b in zip(one.objects, other.objects, strict=True):
            coarse = b.mask.reshape(size[0], 2, size[1], 2).mean((1, 3)) > 0.5
            alike += (a.mask & coarse).sum() > 0.8 * (a.mask | coarse).sum()
    assert alike == sum(len(small.scene(i).objects) for i in range(0, 40, Scenes.EXPRESSIONS_PER_SCENE))


def test_masks_are_the_visible_pixels(drawn: list[tuple[Scene, Expression]]) -> None:
    hidden = 0
    for scene, _ in drawn[:: Scenes.EXPRESSIONS_PER_SCENE]:
        assert 3 <= len(scene.objects) <= 8
        assert np.sum([o.mask for o in scene.objects], axis=0).max() == 1, "a pixel belongs to one object"
        for o in scene.objects:
            assert o.mask.sum() >= 60
            assert o.mask.mean() <= o.area + 1e-9
            hidden += o.mask.mean() < 0.98 * o.area
            if o.texture == "plain" and len(SHAPES[o.category].parts) == 1:
                seen = np.median(scene.image[o.mask], axis=0)
                assert np.abs(seen - COLOURS[o.colour]).max() < 70, (o.category, o.colour, seen)
    assert hidden > COUNT / 10, "some objects are partly hidden"


def test_every_sentence_names_exactly_its_targets(drawn: list[tuple[Scene, Expression]]) -> None:
    for scene, expression in drawn:
        assert evaluate(expression.query, scene) == evaluate(expression.query, scene, strict=True)
        assert evaluate(expression.query, scene) == expression.targets
        assert (expression.kind == "absent") == (not expression.targets)
        assert (expression.kind == "plural") == (len(expression.targets) > 1)
        # read back from the words alone, where they are plain
        words = re.fullmatch(rf"the (?:({'|'.join(COLOURS)}) )?({'|'.join(SHAPES)})", expression.text)
        if words:
            fits = {
                i
                for i, o in enumerate(scene.objects)
                if o.category == words[2] and words[1] in (None, o.colour)
            }
            assert fits == expression.targets, expression.text


def test_examples_carry_the_mask_of_their_targets() -> None:
    scenes = Scenes("train", size=64)
    for i in range(24):
        example, expression = scenes[i], scenes.expression(i)
        assert (example.task, example.source, example.kind) == ("segmentation", "scenes", expression.kind)
        np.testing.assert_array_equal(example.mask, scenes.scene(i).mask(expression.targets))
    texts = [[scenes[i + k].text for k in range(Scenes.EXPRESSIONS_PER_SCENE)] for i in range(0, 24, 4)]
    assert all(len(set(of_scene)) == len(of_scene) for of_scene in texts)


def test_kinds_come_in_their_stated_shares(drawn: list[tuple[Scene, Expression]]) -> None:
    assert sum(SHARES.values()) == pytest.approx(1)
    counts = Counter(expression.kind for _, expression in drawn)
    for kind, share in SHARES.items():
        assert counts[kind] / len(drawn) == pytest.approx(share, abs=0.035), kind


def test_targets_are_small_and_have_distractors(drawn: list[tuple[Scene, Expression]]) -> None:
    present = [(scene, expression.targets) for scene, expression in drawn if expression.targets]
    areas = [scene.mask(targets).mean() for scene, targets in present]
    assert 0.03 < np.median(areas) <= 0.05
    rivalled = 0
    for scene, targets in present:
        others = [o for i, o in enumerate(scene.objects) if i not in targets]
        rivalled += any(
            o.colour == scene.objects[t].colour or o.category == scene.objects[t].category
            for o in others
            for t in targets
        )
    assert rivalled >= 0.8 * len(present)


def test_a_layout_says_how_many_objects_there_are_which_and_how_large() -> None:
    scenes = Scenes("train", size=64, layout=PLAIN, shares={"colour": 1.0})
    for number in range(60):
        scene = scenes.scene(number * Scenes.EXPRESSIONS_PER_SCENE)
        assert 3 <= len(scene.objects) <= 4
        for thing in scene.objects:
            low, high = PLAIN.areas[thing.size]
            assert 0.8 * low < thing.area < 1.2 * high
            assert thing.category in PLAIN.categories
            assert thing.mask.sum() > 0.9 * thing.area * 64 * 64  # next to nothing hides it
    assert max(Scenes("train", size=64).scene(4 * n).objects[0].area for n in range(20)) < 0.11


def test_absent_things_are_plausible(drawn: list[tuple[Scene, Expression]]) -> None:
    absent = [(scene, e.query) for scene, e in drawn if e.kind == "absent"]
    plausible = [any(o.category == query.category for o in scene.objects) for scene, query in absent]
    assert np.mean(plausible) > 0.6


def test_without_the_right_sentence_even_a_perfect_answerer_fails(
    drawn: list[tuple[Scene, Expression]],
) -> None:
    told, shuffled, prior = IoUTotals(), IoUTotals(), IoUTotals()
    truths = [scene.mask(expression.targets) for scene, expression in drawn]
    usual = np.mean(truths, axis=0)
    usual = usual >= np.quantile(usual, 0.5)
    for k, ((scene, expression), truth) in enumerate(zip(drawn, truths, strict=True)):
        wrong = drawn[(k + 2 * Scenes.EXPRESSIONS_PER_SCENE) % len(drawn)][1]
        told.add(scene.mask(evaluate(expression.query, scene)), truth)
        shuffled.add(scene.mask(evaluate(wrong.query, scene)), truth)
        prior.add(usual, truth)
    assert told.overall_iou() == 1
    assert shuffled.overall_iou() < 0.25
    assert prior.overall_iou() < 0.15


def test_the_evaluator_tells_clear_from_borderline() -> None:
    left, middle, right = thing(x=0.2), thing("ring", x=0.5), thing(x=0.8)
    row = scene_of(left, middle, right)
    assert named(Query(category="star", extreme="leftmost"), row) == {0}
    assert named(Query(category="star", side="right"), row) == {2}
    assert named(Query(side="middle"), row) == {1}
    assert named(Query(relation="left of", anchor=Query(category="ring")), row) == {0}
    assert named(Query(relation="between", anchor=Query(category="star", plural=True)), row) == {1}
    assert named(Query(category="star", plural=True), row) == {0, 2}
    assert named(Query(category="star"), row) is None, "two, but one is asked for"
    assert named(Query(category="ring", plural=True), row) is None, "one, but several are asked for"
    assert named(Query(relation="right of", anchor=Query(category="star")), row) is None, "of which star?"
    assert named(Query(relation="closest to", anchor=Query(category="ring")), row) is None, "both as close"
    assert named(Query(category="car"), row) == frozenset()

    close = scene_of(thing(x=0.2), thing(x=0.25), thing(x=0.8))
    assert named(Query(extreme="leftmost"), close) is None
    assert named(Query(extreme="rightmost"), close) == {2}
    diagonal = scene_of(thing("ring", x=0.5, y=0.5), thing("star", x=0.4, y=0.9))
    assert named(Query(category="star", relation="left of", anchor=Query(category="ring")), diagonal) is None
    assert named(Query(category="star", relation="below", anchor=Query(category="ring")), diagonal) == {1}


def test_size_words_need_a_clear_difference() -> None:
    small, medium, large = (
        thing(size=word, area=area, span=area**0.5)
        for word, area in (("small", 0.012), ("medium", 0.03), ("large", 0.08))
    )
    assert named(Query(size="small"), scene_of(small, large)) == {0}
    assert named(Query(size="small"), scene_of(small, medium, large)) is None, (
        "a medium one may pass for small"
    )
    assert named(Query(extreme="largest"), scene_of(small, medium, large)) == {2}
    assert named(Query(extreme="largest"), scene_of(large, thing(area=0.07, span=0.1))) is None
    assert named(Query(extreme="largest"), scene_of(large, thing(area=0.03, span=0.28))) is None, "as wide"


def test_behind_and_in_front_follow_the_overlap() -> None:
    hidden, front, touching = thing("ring"), thing(covers={0: 0.01}), thing("car", covers={0: 0.0005})
    scene = scene_of(hidden, front)
    assert named(Query(relation="behind", anchor=Query(category="star")), scene) == {0}
    assert named(Query(relation="in front of", anchor=Query(category="ring")), scene) == {1}
    scene = scene_of(hidden, touching)
    assert named(Query(relation="in front of", anchor=Query(category="ring")), scene) is None, (
        "by a few pixels"
    )


def test_captions_count_every_object_and_say_where() -> None:
    scenes = Scenes(size=64)
    for i in range(0, 80, Scenes.EXPRESSIONS_PER_SCENE):
        example, scene = scenes.caption(i), scenes.scene(i)
        assert (example.task, example.mask) == ("generation", None)
        assert example.text.endswith(" " + BACKGROUNDS[scene.background].where)
        listed = example.text.removesuffix(" " + BACKGROUNDS[scene.background].where)
        counts: Counter[str] = Counter()
        for group in re.split(", | and ", listed):
            number, *words = group.split()
            colour, noun = words[-2:]
            category = next(c for c, shape in SHAPES.items() if noun in (c, shape.plural))
            counts[f"{colour} {category}"] += 1 if number in ("a", "an") else NUMBERS.index(number)
        assert counts == Counter(f"{o.colour} {o.category}" for o in scene.objects)


def test_dialogues_answer_exactly() -> None:
    scenes, seen = Scenes(size=64), Counter[str]()
    for i in range(160):
        scene, expression = scenes.scene(i), scenes.expression(i)
        turns = {d.question: d.answer for d in scenes.dialogues(i)}
        assert turns[grounding_prompt(expression.text)] == box_words(scene.mask(expression.targets))
        for question, answer in turns.items():
            assert answer
            if match := re.fullmatch(rf"Is there an? ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\?", question):
                present = any((o.colour, o.category) == match.groups() for o in scene.objects)
                assert answer == ("yes" if present else "no")
                seen[answer] += 1
            elif question == "How many objects are there?":
                assert answer == str(len(scene.objects))
                seen["count"] += 1
            elif any(question in riddle.wordings for riddle in RIDDLES):
                asked = next(riddle for riddle in RIDDLES if question in riddle.wordings)
                (answerer,) = (o for o in scene.objects if o.category in asked.answers)
                nouns = (answerer.category, SHAPES[answerer.category].synonym or answerer.category)
                assert answer.endswith(nouns), (question, answer)
                seen["riddle"] += 1
    assert all(seen[name] >= 5 for name in ("yes", "no", "count", "riddle")), seen


def test_box_words_name_the_pixels_at_the_edges() -> None:
    mask = np.zeros((50, 200), dtype=bool)
    assert box_words(mask) == "none"
    mask[10:21, 0:200] = True
    assert box_words(mask) == "box 0 20 99 40"


def test_grounding_asks_with_the_prompt_of_segmentation() -> None:
    from genmask.processor import segmentation_prompt

    for text in ("the red star", "both rings", "all the small cars", "the star closest to the oval"):
        assert grounding_prompt(text) == segmentation_prompt(text)


def test_riddles_name_known_categories() -> None:
    for riddle in RIDDLES:
        assert riddle.answers | riddle.doubtful <= SHAPES.keys()
        assert not riddle.answers & riddle.doubtful


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"'test'.*'train', 'val'"):
        Scenes("test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="16"):
        Scenes(size=16)
    with pytest.raises(TypeError, match="length="):
        len(Scenes())
    bounded = Scenes(size=32, length=3)
    assert len(bounded) == 3
    assert len([example.id for example in bounded]) == 3  # type: ignore[attr-defined]
    with pytest.raises(IndexError):
        bounded[-1]
