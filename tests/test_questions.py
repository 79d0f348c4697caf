"""Indirect instructions: each means one object, its description names that object and nothing else."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from genmask.data.composition import COLOURS
from genmask.data.dialogues import questions
from genmask.data.expressions import EXTREMES
from genmask.data.photograph_riddles import PHOTOGRAPH_RIDDLES
from genmask.data.queries import Query, named
from genmask.data.questions import PhotographQuestions, SceneQuestions
from genmask.data.riddles import BETWEEN, ODD_ONE_OUT, RIDDLES, SUPERLATIVES, Wordings, answer_of
from genmask.data.shapes import SHAPES

ALL: tuple[Wordings, ...] = (*RIDDLES, *PHOTOGRAPH_RIDDLES, *SUPERLATIVES.values(), ODD_ONE_OUT, BETWEEN)
HELD_OUT = {
    wording.format(shape.plural) for said in ALL for wording in said.held_out for shape in SHAPES.values()
}


def meaning(answer: str) -> Query:
    """What a description says, read by the grammar of expressions, which the networks are trained with."""
    *before, last = answer.removeprefix("the ").split()
    word = before[0] if before else None
    if last in SHAPES:
        return Query(category=last, colour=word)
    assert last == "object"
    if word in COLOURS:
        return Query(colour=word)
    return Query(extreme=next(name for name, said in EXTREMES.items() if said[0].format(last) == answer))


def test_a_description_names_the_one_object_that_is_meant() -> None:
    source, seen = SceneQuestions("train", 64), Counter[str]()
    for index in range(300):
        scene, found, _ = source._draw(index)
        assert len({question.kind for question in found}) == len(found)
        for question in found:
            assert named(meaning(question.answer), scene) == {question.target}, question
            seen[question.kind] += 1
    assert set(seen) == {"riddle", "odd one out", "superlative", "between"}


def test_no_held_out_wording_is_trained_on() -> None:
    trained = {wording for said in ALL for wording in said.wordings}
    for said in ALL:
        assert said.held_out
        assert not trained.intersection(said.held_out)
        assert len(said.wordings) >= 2
    for index in range(150):
        asked = [dialogue.question for dialogue in SceneQuestions("train", 64).dialogues(index)[:-1]]
        assert not HELD_OUT.intersection(asked)


def test_one_wording_means_one_thing_in_scenes_and_in_photographs() -> None:
    """A describer cannot tell two riddles in the same words apart."""
    owners: dict[str, frozenset[str]] = {}
    for riddle in (*RIDDLES, *PHOTOGRAPH_RIDDLES):
        for wording in (*riddle.wordings, *riddle.held_out):
            assert owners.setdefault(wording, riddle.answers) == riddle.answers, wording
            assert wording == " ".join(wording.split())


def test_riddles_are_asked_only_where_one_thing_is_meant() -> None:
    rolling = next(riddle for riddle in RIDDLES if "circle" in riddle.answers)
    assert answer_of(rolling, ["circle", "star"]) == "circle"
    for things in ((), ("star",), ("circle", "ring"), ("circle", "circle"), ("circle", "car")):
        assert answer_of(rolling, things) is None


def test_the_validation_split_asks_every_second_question_in_held_out_words() -> None:
    source = SceneQuestions("val", 64, length=80)
    kinds = Counter[str]()
    for index in range(80):
        example = source[index]
        scene, (question, *_), _ = source._draw(index)
        assert example.mask is not None
        assert np.array_equal(example.mask, scene.mask({question.target}))
        assert example.text == question.text
        assert (example.text in HELD_OUT) == example.kind.endswith(", new wording") == bool(index % 2)
        assert source.answer(index) == question.answer
        kinds[example.kind] += 1
    assert len(kinds) >= 6
    with pytest.raises(IndexError, match="Got index 80, expected 0 to 79"):
        source[80]


def test_an_index_is_always_the_same_and_the_splits_share_nothing() -> None:
    one, other = SceneQuestions("val", 64), SceneQuestions("val", 64)
    other[5]
    assert one[3].text == other[3].text
    assert np.array_equal(one[3].image, other[3].image)
    assert not np.array_equal(one[3].image, SceneQuestions("train", 64)[3].image)
    assert not np.array_equal(one[3].image, SceneQuestions("val", 64, seed=1)[3].image)


def test_a_plain_expression_is_its_own_description() -> None:
    for index in range(20):
        *indirect, plain = SceneQuestions("train", 64).dialogues(index)
        assert plain.question == plain.answer
        assert indirect
        assert all(dialogue.question != dialogue.answer for dialogue in indirect)


def test_a_scene_without_a_puzzle_has_no_question() -> None:
    scene = SceneQuestions("train", 64)._draw(0)[0]
    bare = replace(scene, objects=())
    assert list(questions(bare, Random(0))) == []


def write_photographs(root: Path) -> None:
    """A tiger alone; a tiger beside a zebra, which has stripes too; a road under a sky."""
    folder = root / "animals"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    classes = {0: "background", 1: "tiger", 2: "zebra", 3: "road", 4: "sky"}
    (folder / "classes.json").write_text(json.dumps(classes))
    rows = []
    for split in ("train", "val"):
        for number, present in enumerate(([1], [1, 2], [3, 4])):
            labels = np.zeros((40, 40), dtype=np.uint8)
            for place, label in enumerate(present):
                labels[:, place * 20 : place * 20 + 20] = label
            names = {"image": f"images/{split}{number}.png", "labels": f"labels/{split}{number}.png"}
            Image.fromarray(np.stack([labels * 60] * 3, axis=-1)).save(folder / names["image"])
            Image.fromarray(labels).save(folder / names["labels"])
            rows.append({**names, "height": 40, "width": 40, "split": split, "present": present})
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_photographs_are_asked_about_where_one_class_is_the_answer(tmp_path: Path) -> None:
    write_photographs(tmp_path)
    source = PhotographQuestions(tmp_path, "val")
    found = {(source[i].id, source.answer(i)): source[i] for i in range(len(source))}
    assert {photo.split("/")[0] for photo, _ in found} == {"val0", "val2"}
    assert {answer for _, answer in found} == {"the tiger", "the road", "the sky"}
    assert len(source) == 4  # the tiger twice: by its stripes, and as the animal in the picture
    for example in found.values():
        assert example.text in HELD_OUT
        assert example.mask is not None
        assert 0 < example.mask.mean() <= 0.5
    asked, plain = PhotographQuestions(tmp_path, "train").dialogues(7)
    assert asked.question not in HELD_OUT
    assert plain.question == plain.answer
    with pytest.raises(IndexError, match="Got index 4, expected 0 to 3"):
        source[4]


def test_photographs_without_a_riddle_are_refused(tmp_path: Path) -> None:
    write_photographs(tmp_path)
    classes = tmp_path / "animals/classes.json"
    classes.write_text(json.dumps({1: "a", 2: "b", 3: "c", 4: "d"}))
    with pytest.raises(ValueError, match=r"Got no val photograph in .* that a riddle fits"):
        PhotographQuestions(tmp_path, "val")
