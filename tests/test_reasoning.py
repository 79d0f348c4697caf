"""ReasonSeg: its polygons are painted in the right order on the right pixels, and its sentences are all asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genmask.data.reasoning import ReasonSeg, Shape, paint

SIZE = (12, 16)


def shape(label: str, *points: tuple[float, float]) -> dict[str, Any]:
    return {"label": label, "points": [list(point) for point in points], "shape_type": "polygon"}


def rectangle(label: str, left: float, top: float, right: float, bottom: float) -> dict[str, Any]:
    return shape(label, (left, top), (right, top), (right, bottom), (left, bottom))


def write_question(
    root: Path,
    *shapes: dict[str, Any],
    stem: str = "a",
    split: str = "val",
    text: tuple[str, ...] = ("the thing that keeps one dry",),
    is_sentence: bool = False,
    encoding: str = "utf-8",
    **changes: Any,
) -> Path:
    folder = root / "ReasonSeg" / split
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE[::-1], (90, 90, 90)).save(folder / f"{stem}.jpg")
    content = {"shapes": list(shapes), "text": list(text), "is_sentence": is_sentence} | changes
    (folder / f"{stem}.json").write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    return root


def painted(*shapes: dict[str, Any]) -> np.ndarray:
    """0 background, 1 target, 2 ignored."""
    read = tuple(Shape(label=s["label"], points=np.array(s["points"]).astype(np.int32)) for s in shapes)
    mask, ignore = paint(read, *SIZE)
    assert not (mask & ignore).any()
    return mask + 2 * ignore.astype(int)


def filled(*regions: tuple[slice, slice, int]) -> np.ndarray:
    expected = np.zeros(SIZE, dtype=int)
    for rows, columns, value in regions:
        expected[rows, columns] = value
    return expected


def refusal(root: Path) -> str:
    with pytest.raises(ValueError, match="expected") as error:
        ReasonSeg(root, "val")[0]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_rectangle_takes_its_boundary_with_it() -> None:
    drawn = painted(rectangle("target", 2, 1, 6, 4))
    assert np.array_equal(drawn, filled((slice(1, 5), slice(2, 7), 1)))


def test_a_triangle_takes_its_boundary_with_it() -> None:
    drawn = painted(shape("target", (0, 0), (5, 0), (0, 5)))
    rows, columns = np.indices(SIZE)
    assert np.array_equal(drawn == 1, rows + columns <= 5)


def test_lines_and_points_are_drawn_and_the_overhang_is_cut_off() -> None:
    assert np.array_equal(painted(shape("target", (3, 2), (7, 2))), filled((slice(2, 3), slice(3, 8), 1)))
    assert np.array_equal(painted(shape("target", (3, 2))), filled((slice(2, 3), slice(3, 4), 1)))
    assert np.array_equal(painted(rectangle("target", -5, -5, 3, 40)), filled((slice(0, 12), slice(0, 4), 1)))


def test_a_self_crossing_outline_is_filled_by_the_even_odd_rule() -> None:
    ring = [(0, 0), (10, 0), (10, 10), (0, 10), (0, 0), (3, 3), (7, 3), (7, 7), (3, 7), (3, 3)]
    drawn = painted(shape("target", *ring))
    assert drawn[1, 5] == 1
    assert drawn[5, 5] == 0
    assert drawn[3, 5] == 1, "an edge is part of it"


def test_smaller_shapes_lie_on_top_whatever_their_order() -> None:
    outer, ignored = rectangle("target", 0, 0, 12, 10), rectangle("Ignore this", 2, 2, 8, 8)
    inner = rectangle("target", 4, 4, 6, 6)
    expected = filled(
        (slice(0, 11), slice(0, 13), 1), (slice(2, 9), slice(2, 9), 2), (slice(4, 7), slice(4, 7), 1)
    )
    for order in ((outer, ignored, inner), (inner, ignored, outer), (ignored, outer, inner)):
        assert np.array_equal(painted(*order), expected)


def test_of_two_equally_large_shapes_the_first_lies_on_top() -> None:
    left, right = rectangle("target", 0, 0, 5, 5), rectangle("ignore", 3, 0, 8, 5)
    assert painted(left, right)[0].tolist()[:10] == [1] * 6 + [2] * 3 + [0]
    assert painted(right, left)[0].tolist()[:10] == [1] * 3 + [2] * 6 + [0]


def test_area_is_what_lies_in_the_picture() -> None:
    wide = rectangle("ignore", 0, 0, 100, 1)  # 202 pixels, 32 of them in the picture
    tall = rectangle("target", 4, 0, 8, 9)  # 50
    assert (painted(tall, wide)[0] == 2).all()


def test_a_question_is_read_as_it_was_drawn(tmp_path: Path) -> None:
    write_question(
        tmp_path,
        rectangle("target", 1.9, 1.9, 6.9, 4.9),
        rectangle("ignore", 9, 9, 11, 11),
        rectangle("FLAG", 0, 0, 15, 11),
        text=("What keeps me dry?", "Something else"),
        is_sentence=True,
    )
    (example,) = ReasonSeg(tmp_path, "val")
    assert np.array_equal(example.mask, filled((slice(1, 5), slice(1, 7), 1)) == 1), "cut off, not rounded"
    assert np.array_equal(example.ignore, filled((slice(9, 12), slice(9, 12), 1)) == 1)
    assert (example.text, example.kind, example.source) == ("What keeps me dry?", "long", "reason_seg")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_text_is_utf8_or_else_cp1252(tmp_path: Path, encoding: str) -> None:
    write_question(tmp_path, text=("the caf\u00e9\u2019s sign",), encoding=encoding)
    assert ReasonSeg(tmp_path, "val")[0].text == "the caf\u00e9\u2019s sign"


def test_no_shapes_make_an_empty_mask(tmp_path: Path) -> None:
    write_question(tmp_path, split="test")
    write_question(tmp_path, rectangle("flag", 0, 0, 5, 5), stem="b", split="test")
    path = write_question(tmp_path, stem="c", split="test") / "ReasonSeg/test/c.json"
    path.write_text(json.dumps({"text": ["it"], "is_sentence": False}))
    examples = list(ReasonSeg(tmp_path, "test"))
    assert len(examples) == 3
    for example in examples:
        assert example.mask is not None
        assert not example.mask.any()
        assert (example.ignore, example.kind) == (None, "short")


def test_scoring_goes_by_name_and_asks_the_first_sentence(tmp_path: Path) -> None:
    for stem in ("c", "a", "b"):
        write_question(tmp_path, stem=stem, text=(f"first {stem}", "second"))
    assert [(e.text, e.id) for e in ReasonSeg(tmp_path, "val")] == [
        (f"first {stem}", f"val/{stem}/0") for stem in "abc"
    ]
    with pytest.raises(IndexError):
        ReasonSeg(tmp_path, "val")[3]


@pytest.fixture
def train_root(tmp_path: Path) -> Path:
    for stem, count in (("a", 5), ("b", 1), ("c", 2)):
        sentences = tuple(f"{stem}{n} Thing" for n in range(count))
        ignored = rectangle("ignore", 0, 0, 3, 3)
        write_question(tmp_path, ignored, stem=stem, split="train", text=sentences, is_sentence=stem == "c")
    return tmp_path


def test_training_asks_every_sentence_once_an_epoch(train_root: Path) -> None:
    train = ReasonSeg(train_root)
    every = [f"{stem}{n} Thing" for stem, count in (("a", 5), ("b", 1), ("c", 2)) for n in range(count)]
    assert len(train) == 8
    orders = [[train[8 * epoch + i].text for i in range(8)] for epoch in range(3)]
    assert all(sorted(order) == every for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    again = ReasonSeg(train_root)
    assert [again[i].text for i in reversed(range(8))] == orders[0][::-1]
    assert [ReasonSeg(train_root, seed=1)[i].text for i in range(8)] != orders[0]
    assert all(train[i].ignore is not None for i in range(8))


def test_training_can_be_held_to_some_sentences_of_a_picture(train_root: Path) -> None:
    train = ReasonSeg(train_root, max_sentences=3)
    assert len(train) == 6
    epochs = [[train[6 * epoch + i].text for i in range(6)] for epoch in range(20)]
    assert all(sum(text.startswith("a") for text in epoch) == 3 and len(set(epoch)) == 6 for epoch in epochs)
    assert len({text for epoch in epochs for text in epoch}) == 8, "others the next time"
    with pytest.raises(ValueError, match="max_sentences 0"):
        ReasonSeg(train_root, max_sentences=0)


def test_training_as_lisa_does_takes_three_sentences_and_ignores_nothing(train_root: Path) -> None:
    train = ReasonSeg(train_root, lisa=True)
    assert len(train) == 6
    texts = [train[i].text for i in range(6)]
    assert {"c0 Thing", "c1 Thing", "b0 thing"} < set(texts), "phrases alone are lowered"
    assert all(train[i].ignore is None for i in range(6))
    scored = ReasonSeg(train_root, view="pairs", lisa=True)
    assert [example.text for example in scored] == ["a0 Thing", "b0 Thing", "c0 Thing"]
    assert all(example.ignore is not None for example in scored)


@pytest.mark.parametrize("inside", ["", "ReasonSeg", "reason_seg"])
def test_the_folder_is_found(tmp_path: Path, inside: str) -> None:
    write_question(tmp_path)
    root = tmp_path / inside if inside != "reason_seg" else tmp_path / "lisa"
    if inside == "reason_seg":
        (root / "reason_seg").mkdir(parents=True)
        (tmp_path / "ReasonSeg").rename(root / "reason_seg/ReasonSeg")
    assert len(ReasonSeg(root, "val")) == 1


def test_missing_files_are_named(tmp_path: Path) -> None:
    assert "ReasonSeg/val" in refusal(tmp_path)
    folder = write_question(tmp_path) / "ReasonSeg/val"
    write_question(tmp_path, stem="b")
    (folder / "b.jpg").unlink()
    assert str(folder / "b.jpg") in refusal(tmp_path)
    (folder / "b.json").unlink()
    (folder / "a.json").unlink()
    assert str(folder / "a.json") in refusal(tmp_path)
    (folder / "a.jpg").unlink()
    assert "without pictures" in refusal(tmp_path)
    with pytest.raises(ValueError, match="split 'dev'"):
        ReasonSeg(tmp_path, "dev")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text": []}, "text"),
        ({"text": "the mug"}, "text"),
        ({"text": ["mug", " "]}, "text"),
        ({"is_sentence": 1}, "is_sentence"),
        ({"shapes": {}}, "shapes"),
        ({"shapes": [[1, 2]]}, "shapes[0]"),
        ({"shapes": [{"label": "target"}]}, "points"),
        ({"shapes": [{"points": [[1, 2]]}]}, "label"),
        ({"shapes": [shape("target")]}, "points"),
        ({"shapes": [{"label": "target", "points": [1, 2, 3, 4]}]}, "points"),
        ({"shapes": [{"label": "target", "points": [[1, 2], [3]]}]}, "points"),
        ({"shapes": [shape("target", (float("nan"), 1))]}, "points"),
        ({"shapes": [shape("target", (1e12, 1))]}, "points"),
        ({"shapes": [shape("target", (1e6, 1), (2, 2))]}, "far outside"),
    ],
)
def test_json_that_is_not_as_it_should_be_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    message = refusal(write_question(tmp_path, **changes))
    assert said in message
    assert "/ReasonSeg/val/a." in message


def test_files_that_are_no_json_are_refused(tmp_path: Path) -> None:
    path = write_question(tmp_path) / "ReasonSeg/val/a.json"
    for content in (b"{'text': 1}", b"\x81\xff", b"[]", b"[" * 100_000):
        path.write_bytes(content)
        assert "a.json" in refusal(tmp_path)
