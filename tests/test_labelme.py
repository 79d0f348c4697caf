"""LabelMe files: every shape is drawn where it was, and what is wrong is named."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genmask.data.labelme import LabelMe

HEIGHT, WIDTH = 20, 30
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
GENUINE = Path(os.environ.get("GENMASK_DATA", "nowhere")) / "formats"
needs_genuine = pytest.mark.skipif(not GENUINE.is_dir(), reason="set GENMASK_DATA")


def encoded(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def shape(label: str, kind: str | None, *points: Any, **fields: Any) -> dict[str, Any]:
    return {"label": label, "shape_type": kind, "points": list(points), "group_id": None, **fields}


def write(root: Path, *shapes: Any, name: str = "a", **fields: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).save(root / "a.png")
    content = {
        "version": "5.4.1",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": "a.png",
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
        **fields,
    }
    (root / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def refusal(root: Path) -> str:
    with pytest.raises(ValueError, match="expected") as error:
        LabelMe(root)[0]
    assert "\n" not in str(error.value)
    return str(error.value)


def mask_of(root: Path) -> np.ndarray:
    mask = LabelMe(root)[0].mask
    assert mask is not None
    return mask


def inside(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """Corners included."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top : bottom + 1, left : right + 1] = True
    return mask


CORNERS = ([2, 3], [9, 3], [9, 8], [2, 8])


def test_one_example_per_file_and_label(tmp_path: Path) -> None:
    root = write(
        tmp_path / "mine",
        shape("stop_sign", "polygon", *CORNERS, group_id=1),
        shape("person", "rectangle", [12, 1], [14, 4]),
        shape("stop_sign", "rectangle", [25, 15], [7, 6], group_id=2),
        shape("_background_", "rectangle", [0, 0], [1, 1]),
    )
    write(root, shape("person", "rectangle", [0, 0], [3, 3]), name="Z")
    data = LabelMe(root)
    other, sign, person = (data[i] for i in range(len(data)))
    assert (other.id, sign.id, person.id) == ("Z/person", "a/stop_sign", "a/person")
    assert (sign.text, sign.kind, sign.source) == ("the stop sign", "stop_sign", "labelme/mine")
    assert np.array_equal(sign.mask, inside(2, 3, 9, 8) | inside(7, 6, 25, 15))
    assert np.array_equal(person.mask, inside(12, 1, 14, 4))
    for example in (other, sign, person):
        assert np.array_equal(example.image, PIXELS)
        assert example.ignore is None


@pytest.mark.parametrize(
    "outline",
    [
        shape("x", "polygon", *CORNERS),
        shape("x", None, *CORNERS),
        shape("x", "rotation", *CORNERS),
        shape("x", "rectangle", [9, 8], [2, 3]),
        shape("x", "rectangle", *CORNERS),
        shape("x", "mask", [2, 3], [9, 8], mask=encoded(np.ones((6, 8), dtype=np.uint8))),
        shape("x", "mask", [2.0, 3.0], [9.0, 8.0], mask=encoded(np.full((6, 8), True))),
    ],
)
def test_a_box_is_the_same_in_every_form(tmp_path: Path, outline: dict[str, Any]) -> None:
    assert np.array_equal(mask_of(write(tmp_path, outline)), inside(2, 3, 9, 8))


def test_a_mask_keeps_its_holes(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 2, (6, 8), dtype=np.uint8)
    mask = mask_of(write(tmp_path, shape("x", "mask", [2, 3], [9, 8], mask=encoded(pixels))))
    assert np.array_equal(mask[3:9, 2:10], pixels == 1)
    assert mask.sum() == pixels.sum()


def test_a_circle_is_given_by_its_centre_and_a_point_on_it(tmp_path: Path) -> None:
    mask = mask_of(write(tmp_path, shape("x", "circle", [14, 9], [14, 15])))
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(x - 14, y - 9)
    assert mask[distance <= 5.4].all()
    assert not mask[distance >= 6.9].any()


def test_what_has_no_area_is_left_out(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        shape("road", "linestrip", [0, 0], [9, 9], [12, 3]),
        shape("road", "line", [0, 0], [9, 9]),
        shape("road", "point", [4, 4]),
        shape("road", "polygon", [4, 4], [8, 8]),
        shape("car", "rectangle", [2, 3], [9, 8]),
    )
    data = LabelMe(root)
    assert (data.pairs, data.skipped) == ([(0, "car")], 4)


def test_what_nobody_can_tell_is_ignored(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        shape("car", "rectangle", [2, 3], [9, 8]),
        shape("__ignore__", "rectangle", [8, 7], [15, 15]),
    )
    data = LabelMe(root)
    assert len(data) == 1
    assert np.array_equal(data[0].mask, inside(2, 3, 9, 8))
    assert np.array_equal(data[0].ignore, inside(8, 7, 15, 15) & ~inside(2, 3, 9, 8))


def test_the_picture_is_found_by_path_beside_and_within(tmp_path: Path) -> None:
    car = shape("car", "rectangle", [2, 3], [9, 8])
    shades = [np.full_like(PIXELS, shade) for shade in (10, 20, 30)]
    (tmp_path / "raw").mkdir()
    root = write(tmp_path / "json", car, imagePath="..\\raw\\p.png", imageData=encoded(shades[2]))
    assert (LabelMe(root)[0].image == 30).all()
    Image.fromarray(shades[1]).save(root / "p.png")
    assert (LabelMe(root)[0].image == 20).all()
    Image.fromarray(shades[0]).save(tmp_path / "raw/p.png")
    assert (LabelMe(root)[0].image == 10).all()


def test_a_missing_or_broken_picture_is_named(tmp_path: Path) -> None:
    car = shape("car", "rectangle", [2, 3], [9, 8])
    assert "none.png" in refusal(write(tmp_path / "missing", car, imagePath="none.png"))
    broken = write(tmp_path / "broken", car, imagePath="none.png", imageData="AAAA")
    assert "imageData in" in refusal(broken)


def test_a_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    car = shape("car", "rectangle", [2, 3], [9, 8])
    assert "(20, 30)" in refusal(write(tmp_path / "other", car, imageHeight=30, imageWidth=20))
    assert len(LabelMe(write(tmp_path / "unsaid", car, imageHeight=None, imageWidth=None))) == 1


@pytest.mark.parametrize(
    ("outline", "said"),
    [
        ("car", "str for shapes[0]"),
        ({"points": []}, "label"),
        (shape(" ", "rectangle", [2, 3], [9, 8]), "no label"),
        (shape("x", "blob", [2, 3], [9, 8]), "'blob'"),
        (shape("x", ["polygon"], *CORNERS), "shape_type"),
        ({"label": "x", "shape_type": "polygon"}, "points"),
        (shape("x", "rectangle", [2, 3]), "1 points"),
        (shape("x", "polygon", [2, 3], [9, 3], [9]), "[x, y]"),
        (shape("x", "polygon", 2, 3, 9, 3), "[x, y]"),
        (shape("x", "polygon", [2, 3], [9, 3], [9, "8"]), "[x, y]"),
        (shape("x", "polygon", [2, 3], [9, 3], [9, 1e9]), "far outside"),
        (shape("x", "mask", [2, 3], [9, 8]), "mask"),
        (shape("x", "mask", [2, 3], [9, 8], mask="AAAA"), "PNG in base64"),
        (shape("x", "mask", [2, 3], [9, 9], mask=encoded(np.ones((6, 8), dtype=np.uint8))), "fill its box"),
        (shape("x", "mask", [25, 3], [32, 8], mask=encoded(np.ones((6, 8), dtype=np.uint8))), "fill its box"),
    ],
)
def test_shapes_that_mean_nothing_are_refused(tmp_path: Path, outline: Any, said: str) -> None:
    message = refusal(write(tmp_path, outline))
    assert said in message
    assert "a.json" in message


def test_folders_without_labelme_files_are_refused(tmp_path: Path) -> None:
    assert "nowhere" in refusal(tmp_path / "nowhere")
    assert "without any outline" in refusal(tmp_path)
    (tmp_path / "a.json").write_text('{"images": []}', encoding="utf-8")
    assert "shapes" in refusal(tmp_path)
    (tmp_path / "a.json").write_text("[]", encoding="utf-8")
    assert "a.json" in refusal(tmp_path)
    (tmp_path / "a.json").write_text("no", encoding="utf-8")
    assert "valid JSON" in refusal(tmp_path)


@needs_genuine
def test_genuine_files_agree_with_the_label_maps_drawn_from_them() -> None:
    data = LabelMe(GENUINE / "labelme")
    names = [line.strip() for line in (GENUINE / "voc/class_names.txt").read_text().splitlines()]
    classes = [name for name in names if name != "__ignore__"]
    assert len(data) == 7
    for i, (row, label) in enumerate(data.pairs):
        example = data[i]
        path = GENUINE / f"voc/SegmentationClass/{data.records[row].path.stem}.png"
        labels = np.asarray(Image.open(path))
        others = [
            data[j].mask for j, (other, name) in enumerate(data.pairs) if other == row and name != label
        ]
        contested = np.any([np.zeros(labels.shape, dtype=bool), *others], axis=0) | (labels == 255)
        target = labels == classes.index(label)
        assert example.mask is not None
        assert target.sum() > 100
        differing = (example.mask ^ target) & ~contested
        assert differing.sum() <= 2  # another version of Pillow drew them
