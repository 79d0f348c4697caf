"""Photographs: what is asked for is there (or surely is not), always the same, and val leaves nothing out."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from benchmarks.constant_baseline import best_constants, totals
from PIL import Image

from genmask.data.photograph_index import read_classes, resize_labels
from genmask.data.photographs import FULLY_LABELLED, STRANGERS, UNLABELLED_IS_IGNORED, Photographs
from genmask.data.phrases import SYNONYMS, existence_question, plural, surely_absent, varied_phrase

CLASSES = {
    "animals": {1: "tiger", 2: "otter"},
    "camvid": {1: "sky", 4: "road", 6: "tree", 9: "car", 10: "pedestrian"},
    "clothing_coparsing": {25: "jeans", 38: "shirt", 5: "blouse", 20: "hat"},
}
SIZE = (48, 64)


def label_map(source: str, seed: int) -> np.ndarray:
    """Rectangles of two classes over 0; of a third, one pixel."""
    first, second, third = list(CLASSES[source])[:2] + list(CLASSES[source])[-1:]
    labels = np.zeros(SIZE, dtype=np.uint8)
    labels[4 : 30 + seed, 4:60], labels[34:, 10:40] = first, second
    if third not in (first, second):
        labels[0, 0] = third
    return labels


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sources of four photographs, one of which has no class and one of which is for val."""
    folder = tmp_path_factory.mktemp("photos")
    for source, classes in CLASSES.items():
        rows = []
        for seed in range(5):
            for name in ("images", "labels"):
                (folder / source / name).mkdir(parents=True, exist_ok=True)
            labels = label_map(source, seed) if seed < 4 else np.zeros(SIZE, dtype=np.uint8)
            image = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            image[labels > 0] = labels[labels > 0, None] * 7
            Image.fromarray(image).save(folder / source / f"images/{seed}.jpg")
            Image.fromarray(labels).save(folder / source / f"labels/{seed}.png")
            row = {
                "image": f"images/{seed}.jpg",
                "labels": f"labels/{seed}.png",
                "split": "train" if seed else "val",
            }
            row |= {"height": SIZE[0], "width": SIZE[1]}
            row["present"] = [int(label) for label in np.unique(labels) if label]
            if source == "animals" and seed == 1:
                row["captions"] = ["A tiger\nrests. ", "Two animals."]
            rows.append(row)
        (folder / source / "index.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        (folder / source / "classes.json").write_text(json.dumps({0: "background", **classes}))
    return folder


def test_val_asks_for_every_class_of_every_photograph_once_and_plainly(root: Path) -> None:
    val = Photographs(root, "val")
    examples = list(val)
    assert len(examples) == len(val) == 2 + 3 + 3
    assert len({(example.source, example.id) for example in examples}) == len(val)
    for example in examples:
        source = example.source.removeprefix("photos/")
        label = next(label for label, name in CLASSES[source].items() if name == example.kind)
        assert example.text == f"the {example.kind}"
        assert example.mask is not None
        assert np.array_equal(example.mask, label_map(source, 0) == label)
        assert example.mask.any()
    assert [example.text for example in Photographs(root, "val", seed=9)] == [
        example.text for example in examples
    ]


def test_unlabelled_pixels_are_ignored_only_where_they_may_be_anything(root: Path) -> None:
    for example in Photographs(root, "val"):
        source = example.source.removeprefix("photos/")
        if source in UNLABELLED_IS_IGNORED:
            assert example.ignore is not None
            assert np.array_equal(example.ignore, label_map(source, 0) == 0)
        else:
            assert example.ignore is None


def test_train_is_a_function_of_seed_and_index(root: Path) -> None:
    indices = [0, 5, 1000, 5, 3]
    runs = [[Photographs(root, seed=seed)[i] for i in indices] for seed in (0, 0, 1)]
    described = [[(e.source, e.id, e.text, e.image.tobytes()) for e in run] for run in runs]
    assert described[0] == described[1] != described[2]
    assert described[0][1] == described[0][3]


def test_an_epoch_of_train_shows_every_photograph_that_has_a_class(root: Path) -> None:
    train = Photographs(root)
    assert len(train) == 9
    for epoch in range(3):
        shown = {(e.source, e.id.split("/")[0]) for e in (train[epoch * 9 + i] for i in range(9))}
        assert shown == {(f"photos/{source}", str(seed)) for source in CLASSES for seed in (1, 2, 3)}


def test_a_selection_keeps_what_it_selects(root: Path) -> None:
    train = Photographs(root, select=lambda photo: photo.id == "2" and photo.width > photo.height)
    assert {train[index].id.split("/")[0] for index in range(9)} == {"2"}
    assert len(train) == 3
    with pytest.raises(ValueError, match="without any train photograph"):
        Photographs(root, select=lambda photo: photo.width < photo.height)


def test_train_asks_in_many_ways_for_what_is_there_and_seldom_for_what_is_not(root: Path) -> None:
    train, texts, absent = Photographs(root, area=64**2), Counter(), Counter()
    for index in range(1800):
        example = train[index]
        source = example.source.removeprefix("photos/")
        assert example.mask is not None
        if example.kind == "absent":
            absent[source] += 1
            assert not example.mask.any()
        else:
            assert example.mask.mean() >= 0.003, "the one pixel is left out"
            texts[example.text] += 1
    assert set(absent) == set(CLASSES) & FULLY_LABELLED
    for count in absent.values():
        assert 0.08 < count / 600 < 0.16
    assert {
        "the tiger",
        "tiger",
        "a tiger",
        "all tigers",
        "every tiger",
        "the sky above",
        "all the sky",
    } <= set(texts)
    assert not {"a sky", "all skys", "a jeans"} & set(texts)
    tigers = sum(count for text, count in texts.items() if "tiger" in text)
    assert texts["the tiger"] / tigers == pytest.approx(0.5, abs=0.1)


def test_with_an_area_photographs_are_resized_once_and_labels_with_them(root: Path) -> None:
    small, full = Photographs(root, "val", area=32**2), Photographs(root, "val")
    for index in range(len(small)):
        example, original = small[index], full[index]
        assert example.image.shape == (32, 32, 3) or example.image.shape[0] * example.image.shape[1] < 1300
        assert example.mask is not None
        assert original.mask is not None
        if original.mask.sum() > 1:
            assert example.mask.mean() == pytest.approx(original.mask.mean(), rel=0.2)
        assert small[index].image is example.image


def test_labels_resize_to_the_majority() -> None:
    labels = np.zeros((6, 6), dtype=np.uint8)
    labels[:3, :3], labels[0, 3:], labels[3:, 3:] = 7, 9, 200
    labels[3, 3] = 9
    assert resize_labels(labels, 2, 2).tolist() == [[7, 0], [0, 200]]
    assert np.array_equal(resize_labels(labels, 6, 6), labels)
    assert np.array_equal(resize_labels(labels, 12, 12)[::2, ::2], labels)


def test_captions_are_peoples_where_there_are_some_and_made_of_classes_else(root: Path) -> None:
    train = Photographs(root, area=32**2)
    captions = [train.captions(index) for index in range(200)]
    assert all(example.task == "generation" and example.mask is None for example in captions)
    texts = {(example.source, example.id): set() for example in captions}
    for example in captions:
        texts[example.source, example.id].add(example.text)
    assert texts["photos/animals", "1"] == {"A tiger rests.", "Two animals."}
    assert "a photo of a tiger and an otter" in texts["photos/animals", "2"]
    assert "a person with jeans and a shirt" in texts["photos/clothing_coparsing", "3"]


def test_dialogues_say_no_only_where_everything_is_labelled(root: Path) -> None:
    train = Photographs(root, area=64**2)
    for index in range(60):
        source = train[index].source.removeprefix("photos/")
        turns = {dialogue.question: dialogue.answer for dialogue in train.dialogues(index)}
        answers = set(turns.values())
        assert "yes" in answers
        assert (("no" in answers), ("none" in answers)) == (source in FULLY_LABELLED,) * 2
        if "Please segment the tiger in the image." in turns and source == "animals":
            assert turns["Please segment the tiger in the image."].startswith("box 6 8 92 ")
            assert turns["List what is in the image."] == "tiger, otter"
        assert train.dialogues(index)[0].image is train.captions(index).image


def test_phrases_are_english() -> None:
    forms = {
        varied_phrase(name, np.random.default_rng(i))
        for i in range(300)
        for name in ("scarf", "jeans", "snow")
    }
    assert {"the scarf", "a scarf", "every scarf", "all scarves", "all the jeans", "jeans", "snow"} <= forms
    assert not {"a jeans", "a snow", "all snows", "every jeans"} & forms
    assert [plural(name) for name in ("bus", "bench", "monkey", "berry", "person")] == [
        "buses", "benches", "monkeys", "berries", "people",
    ]  # fmt: skip
    assert existence_question("otter") == "Is there an otter in the image?"
    assert existence_question("jeans") == "Are there jeans in the image?"
    assert existence_question("rice") == "Is there rice in the image?"


def test_what_may_hide_under_another_name_is_not_called_absent() -> None:
    for name, other in (
        ("shirt", "blouse"),
        ("window", "house"),
        ("table", "dining table"),
        ("brick wall", "wall"),
    ):
        assert not surely_absent(name, frozenset([other]))
        assert not surely_absent(other, frozenset([name]))
        assert surely_absent(name, frozenset(["zebra"]))
    assert not surely_absent("zebra", frozenset(["zebra"]))
    assert not surely_absent("accessories", frozenset())


def test_what_is_wrong_is_said_with_the_layout(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="animals, camvid, clothing_coparsing"):
        Photographs(root, sources=("zoo",))
    with pytest.raises(ValueError, match="one of train, val"):
        Photographs(root, "test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"not a folder.*index\.jsonl"):
        Photographs(tmp_path / "none")
    with pytest.raises(ValueError, match=r"without any source.*index\.jsonl"):
        Photographs(tmp_path)
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo/index.jsonl").write_text("{}")
    with pytest.raises(ValueError, match=r"Cannot read .*classes\.json"):
        Photographs(tmp_path)
    (tmp_path / "zoo/classes.json").write_text("{}")
    with pytest.raises(ValueError, match=r"index\.jsonl, line 1 without image"):
        Photographs(tmp_path)
    (tmp_path / "zoo/classes.json").write_text("{")
    with pytest.raises(ValueError, match=r"no valid JSON in .*classes\.json"):
        Photographs(tmp_path)


def test_a_constant_answer_is_right_where_the_masks_do_not_differ(root: Path) -> None:
    sums = totals(Photographs(root, "val"), best_constants(Photographs(root)))
    assert set(sums) == {("animals", "tiger"), ("animals", "otter")} | {
        (source, CLASSES[source][label])
        for source in ("camvid", "clothing_coparsing")
        for label in (*list(CLASSES[source])[:2], list(CLASSES[source])[-1])
    }
    for (_, name), (intersection, union, pairs) in sums.items():
        assert pairs == 1
        if name in ("otter", "road", "shirt"):
            assert intersection / union > 0.8


@pytest.mark.skipif("GENMASK_DATA" not in os.environ, reason="GENMASK_DATA is not set")
def test_the_real_photographs() -> None:
    folder = Path(os.environ["GENMASK_DATA"]) / "photos"
    val = Photographs(folder, "val")
    assert len(val) == 2647
    assert len({(val.photographs[row].source, label) for row, label in val.pairs}) == 210
    train = Photographs(folder)
    assert len(train) == 2991
    names = {name for source in folder.glob("*/index.jsonl") for name in read_classes(source.parent).values()}
    assert set(SYNONYMS) <= names
    assert set(STRANGERS) <= names
    for index in range(0, 40):
        example = train[index]
        assert example.mask is not None
        assert example.mask.any() == (example.kind != "absent")
