"""Own data is looked through to the end: every fault is found, named by its place, and told from the others."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genmask.data.check import STOPS, Report, check_folder
from genmask.data.contact_sheet import CELL, TILE, contact_sheet
from genmask.data.folder import Folder

TARGET = np.zeros((30, 40), dtype=bool)
TARGET[5:20, 10:30] = True
ROW = {"image": "images/a.png", "text": "the mug", "mask": "masks/a.png"}


def write_folder(root: Path, *rows: object) -> Path:
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for value, name in enumerate(("a", "b")):
        pixels = np.full((30, 40, 3), 100 * value, dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"images/{name}.png")
    for name, mask in (("a", TARGET), ("copy", TARGET), ("rest", ~TARGET), ("none", TARGET & False)):
        Image.fromarray(mask).save(root / f"masks/{name}.png")
    (root / "captions.jsonl").write_text(
        "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8"
    )
    return root


def found(report: Report) -> list[tuple[str, str]]:
    """(kind, end of the place) of every problem."""
    for problem in report.problems:
        assert problem.kind in STOPS
        assert "\n" not in problem.message
        assert f"{problem.where}: {problem.kind}: {problem.message}" in report.summary().splitlines()
    return [(problem.kind, problem.where.split(", ", 1)[-1]) for problem in report.problems]


def test_a_good_folder_is_counted_and_nothing_found(tmp_path: Path) -> None:
    root = write_folder(
        tmp_path,
        ROW,
        {**ROW, "text": "the cup"},  # another sentence for the same mask
        {"image": "images/a.png", "text": "the dog"},
        {"image": "images/b.png", "text": "the mug", "mask": "masks/a.png"},
        {"image": "images/b.png", "caption": "a mug"},
    )
    report = check_folder(root)
    assert report.problems == ()
    assert report.is_usable
    counts = (report.layout, report.rows, report.pictures, report.masks, report.absent, report.captions)
    assert counts == ("captions.jsonl", 5, 2, 3, 1, 1)
    assert "5 rows, 2 pictures, 3 masks, 1 absent, 1 captions; 0 problems" in report.summary()


def test_all_faults_are_found_at_once_where_folder_stops_at_the_first(tmp_path: Path) -> None:
    root = write_folder(
        tmp_path,
        ROW,
        "{'image': 1}",
        {"image": "images/a.png"},
        "",
        {"image": "images/gone.png", "text": "x", "mask": "masks/gone.png"},
        {"image": "images/gone.png", "text": "x", "typo": "y"},
        {"image": "images/broken.png", "text": "x"},
        {"image": "images/a.png", "text": "x", "mask": "masks/small.png"},
        {"image": "images/a.png", "text": "x", "mask": "masks/ids.png"},
        {"image": "images/b.png", "caption": "fine"},
    )
    (root / "images/broken.png").write_bytes((root / "images/a.png").read_bytes()[:50])
    Image.fromarray(TARGET[:9]).save(root / "masks/small.png")
    Image.fromarray(np.full((30, 40), 7, dtype=np.uint8)).save(root / "masks/ids.png")
    report = check_folder(root)
    assert found(report) == [
        ("malformed row", "line 2"),
        ("malformed row", "line 3"),
        ("missing file", "line 5"),
        ("missing file", "line 5"),
        ("missing file", "line 6"),
        ("malformed row", "line 6"),
        ("unreadable picture", "line 7"),
        ("size mismatch", "line 8"),
        ("bad mask", "line 9"),
    ]
    assert not report.is_usable
    assert (report.rows, report.masks, report.absent, report.captions) == (9, 1, 0, 1)
    assert len(report.examples) == 2
    assert "3 x malformed row\n3 x missing file" in report.summary()
    with pytest.raises(ValueError, match="line 2"):
        Folder(root)


def test_empty_and_repeated_things_are_pointed_out_but_stop_nothing(tmp_path: Path) -> None:
    root = write_folder(
        tmp_path,
        ROW,
        {"image": "images/a.png", "text": "the cup", "mask": "masks/copy.png"},
        {"image": "images/a.png", "text": "the table", "mask": "masks/none.png"},
        {"image": "images/a.png", "text": "The mug", "mask": "masks/rest.png"},
        {"image": "images/b.png", "text": "the mug", "mask": "masks/copy.png"},
        {"image": "images/b2.png", "text": "the rest", "mask": "masks/rest.png"},
    )
    (root / "images/b2.png").write_bytes((root / "images/b.png").read_bytes())
    report = check_folder(root)
    assert found(report) == [
        ("duplicate mask", "line 2"),
        ("empty mask", "line 3"),
        ("duplicate row", "line 4"),
        ("duplicate picture", "line 6"),
    ]
    assert "line 1" in report.problems[0].message
    assert "images/b.png" in report.problems[3].message
    assert report.is_usable
    assert len(Folder(root)) == len(report.examples) == 6


def test_a_file_that_is_not_utf8_is_read_on(tmp_path: Path) -> None:
    root = write_folder(tmp_path, ROW)
    content = (root / "captions.jsonl").read_bytes()
    (root / "captions.jsonl").write_bytes(content + b'\n{"image": "images/b.png", "caption": "caf\xe9"}')
    report = check_folder(root)
    assert [problem.kind for problem in report.problems] == ["malformed file"]
    assert (report.masks, report.captions, report.is_usable) == (1, 1, False)


@pytest.mark.parametrize(
    "line", ["[" * 100_000, json.dumps({"image": "a" * 5000, "text": "x"}), '{"image": "\\u0000"}']
)
def test_a_hostile_row_is_a_problem_like_others(tmp_path: Path, line: str) -> None:
    report = check_folder(write_folder(tmp_path, line, ROW))
    assert {place for _, place in found(report)} == {"line 1"}
    assert not report.is_usable
    assert report.masks == 1


def test_a_folder_without_rows_is_not_usable(tmp_path: Path) -> None:
    assert not check_folder(write_folder(tmp_path)).is_usable


def test_what_is_of_no_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[1]")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "other.json"):
        with pytest.raises(ValueError, match=r"expected a folder with captions\.jsonl") as error:
            check_folder(path)
        assert "\n" not in str(error.value)


def write_coco(root: Path, **changed: Any) -> Path:
    (root / "images").mkdir(parents=True)
    for n in (1, 2):
        Image.fromarray(np.full((30, 40, 3), n, dtype=np.uint8)).save(root / f"images/{n}.png")
    square = [[10.0, 5.0, 30.0, 5.0, 30.0, 20.0, 10.0, 20.0]]
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 30, "width": 40} for n in (1, 2)],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "segmentation": square}
            for n, (image, category) in enumerate([(1, 1), (1, 2), (2, 1)])
        ],
        "categories": [{"id": 1, "name": "mug"}, {"id": 2, "name": "cup"}],
    }
    (root / "annotations").mkdir()
    (root / "annotations/all.json").write_text(json.dumps({**content, **changed}))
    return root


def test_a_coco_folder_is_looked_through(tmp_path: Path) -> None:
    images = [
        {"id": 1, "file_name": "1.png", "height": 30, "width": 40},
        {"id": 2, "file_name": "2.png", "height": 40, "width": 30},
        {"id": 3, "file_name": "3.png", "height": 30, "width": 40},
    ]
    root = write_coco(tmp_path, images=images)
    report = check_folder(root, images=root / "images")
    assert found(report) == [
        ("missing file", str(root / "annotations/all.json")),
        ("duplicate mask", "image 1, 'cup'"),
        ("size mismatch", "image 2, 'mug'"),
    ]
    assert "3.png" in report.problems[0].message
    assert (report.layout, report.rows, report.pictures, report.masks) == ("COCO", 3, 2, 2)
    gone = check_folder(root / "annotations/all.json", images=tmp_path)
    assert [problem.kind for problem in gone.problems] == ["missing file"] * 3
    assert not gone.is_usable


def test_a_coco_file_of_the_wrong_shape_is_one_problem(tmp_path: Path) -> None:
    root = write_coco(tmp_path, annotations=[{"id": 1}])
    report = check_folder(root, images=root / "images")
    assert [problem.kind for problem in report.problems] == ["malformed file"]
    assert not report.is_usable


def test_a_labelme_folder_is_looked_through(tmp_path: Path) -> None:
    def record(name: str, *labels: str, **changed: Any) -> None:
        shapes = [
            {"label": label, "points": [[10, 5], [29, 19]], "shape_type": "rectangle"} for label in labels
        ]
        (tmp_path / f"{name}.json").write_text(
            json.dumps({"imagePath": f"{name}.png", "shapes": shapes, **changed})
        )

    Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(tmp_path / "b.png")
    (tmp_path / "a.json").write_text("{")
    record("b", "mug", "cup")
    record("c", "mug")
    data = base64.b64encode((tmp_path / "b.png").read_bytes()).decode()
    record("d", "dog", imageData=data)
    record("e", "dog", imageData=data, imageHeight=40, imageWidth=30)
    report = check_folder(tmp_path)
    assert [(problem.kind, problem.where.split("/")[-1]) for problem in report.problems] == [
        ("malformed file", "a.json"),
        ("missing file", "c.json"),
        ("duplicate mask", "b.json, 'cup'"),
        ("duplicate mask", "d.json, 'dog'"),
        ("size mismatch", "e.json, 'dog'"),
    ]
    assert (report.layout, report.masks, report.is_usable) == ("LabelMe", 3, False)


def test_a_contact_sheet_shows_pictures_masks_and_words(tmp_path: Path) -> None:
    root = write_folder(
        tmp_path / "data",
        {"image": "images/b.png", "text": "the mug", "mask": "masks/a.png", "ignore": "masks/rest.png"},
        {"image": "images/b.png", "caption": "a caption that is " + "long " * 60},
        {"image": "images/b.png", "text": "the mug"},
    )
    contact_sheet(check_folder(root).examples, tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    assert pixels.shape == (CELL[1], 3 * CELL[0], 3)
    marked, unknown, bare = pixels[4 + 12, 4 + 20], pixels[4 + 2, 4 + 2], pixels[4 + 12, CELL[0] + 4 + 20]
    assert marked[0] > 150 > marked[1]
    assert unknown[2] > 150 > unknown[0]
    assert np.array_equal(bare, [100, 100, 100])
    for column in range(3):
        assert (pixels[TILE + 6 :, column * CELL[0] : (column + 1) * CELL[0]] < 100).any()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["sheet.png"]


def test_a_contact_sheet_takes_evenly_spread_examples(tmp_path: Path) -> None:
    asked: list[int] = []

    class Noted(Folder):
        def __len__(self) -> int:
            return 101

        def __getitem__(self, index: int) -> Any:
            asked.append(index)
            return super().__getitem__(0)

    source = Noted(write_folder(tmp_path, ROW))
    contact_sheet(source, tmp_path / "sheet.png", count=5)
    assert asked == [0, 25, 50, 75, 100]
    contact_sheet(source, tmp_path / "sheet.png")
    assert len(asked) == 5 + 24
    assert Image.open(tmp_path / "sheet.png").size == (6 * CELL[0], 4 * CELL[1])


def test_a_sheet_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", ROW)
    contact_sheet(Folder(root), tmp_path / "sheet.png")
    before = (tmp_path / "sheet.png").read_bytes()
    broken = Folder(root)
    (root / "images/a.png").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"a\.png"):
        contact_sheet(broken, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes() == before
    with pytest.raises(ValueError, match=r"ends in \.png"):
        contact_sheet(broken, tmp_path / "sheet.jpg")
    with pytest.raises(ValueError, match="0 examples"):
        contact_sheet(check_folder(root).examples, tmp_path / "sheet.png")
