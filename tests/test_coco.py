"""COCO files: an outline is drawn right in every form, and a class's outlines make one mask."""

from __future__ import annotations

import json
import os
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from genmask.data.coco import read_instances
from genmask.data.coco_folder import CocoFolder
from genmask.data.outlines import count_parts, decode_segmentation

HEIGHT, WIDTH = 8, 10
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
GENUINE = Path(os.environ.get("GENMASK_DATA", "nowhere")) / "formats"
needs_genuine = pytest.mark.skipif(not GENUINE.is_dir(), reason="set GENMASK_DATA")


def box(left: int, top: int, right: int, bottom: int) -> list[int]:
    """A polygon that covers exactly `[top:bottom, left:right]`."""
    return [left, top, right, top, right, bottom, left, bottom]


def covered(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    return mask


def run_lengths(mask: np.ndarray) -> list[int]:
    runs = [(bool(value), len(list(group))) for value, group in groupby(mask.ravel(order="F"))]
    return [0] * runs[0][0] + [length for _, length in runs]


def write_coco(root: Path, annotations: Any, **changes: Any) -> Path:
    """Two pictures and three categories, of which two share a name; returns the JSON file."""
    root.mkdir(parents=True, exist_ok=True)
    if isinstance(annotations, list):
        annotations = [{"id": i, **annotation} for i, annotation in enumerate(annotations)]
    content = {
        "images": [
            {"id": 7, "file_name": "b.png", "height": HEIGHT, "width": WIDTH},
            {"id": 3, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
        ],
        "annotations": annotations,
        "categories": [
            {"id": 2, "name": "dog"},
            {"id": 1, "name": "traffic_light"},
            {"id": 5, "name": "dog"},
        ],
        **changes,
    }
    for name in ("a.png", "b.png"):
        Image.fromarray(PIXELS).save(root / name)
    path = root / "annotations.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def thing(image: int, category: int, segmentation: Any, **fields: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "segmentation": segmentation, **fields}


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(ValueError, match="expected") as error:
        CocoFolder(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_overlapping_polygons_are_united() -> None:
    parts = [box(1, 1, 5, 4), box(3, 2, 8, 6)]
    assert np.array_equal(decode_segmentation(parts, HEIGHT, WIDTH), covered((1, 1, 5, 4), (3, 2, 8, 6)))
    assert np.array_equal(count_parts(parts, HEIGHT, WIDTH) == 2, covered((3, 2, 5, 4)))


def test_an_outline_of_nothing_is_an_empty_mask() -> None:
    for segmentation in ([], [[]], [[1, 1]], [[1, 1, 5, 5]]):
        mask = decode_segmentation(segmentation, HEIGHT, WIDTH)
        assert mask.shape == (HEIGHT, WIDTH)
        assert mask.dtype == bool
        assert not mask.any()


def test_polygons_may_leave_the_picture() -> None:
    parts = [[-20, -20, 4, -20, 4, 3, -20, 3], [7, 5, 90, 5, 90, 70, 7, 70]]
    assert np.array_equal(decode_segmentation(parts, HEIGHT, WIDTH), covered((0, 0, 4, 3), (7, 5, 10, 8)))


@pytest.mark.parametrize("height_width", [(8, 10), (211, 307)])
@pytest.mark.parametrize("density", [0.0, 0.004, 0.5, 0.996, 1.0])
def test_run_lengths_are_read_alike_in_every_form(height_width: tuple[int, int], density: float) -> None:
    mask = np.random.default_rng(1).random(height_width) < density
    rle = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
    size = list(height_width)
    for counts in (rle["counts"], rle["counts"].decode(), run_lengths(mask)):
        form = {"size": size, "counts": counts}
        assert np.array_equal(decode_segmentation(form, *height_width), mask)
        assert np.array_equal(decode_segmentation([form, form], *height_width), mask)


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        (box(1, 1, 5, 4), "polygon"),
        ([[[1, 1], [5, 1], [5, 4]]], "polygon"),
        ([[1, 1, 5, 1, 5, 4, 2]], "polygon"),
        ([[1, 1, 5, 1, 5, "4"]], "polygon"),
        ([[1, 1, 5, 1, [5], 4]], "polygon"),
        (["abc"], "polygon"),
        ("abc", "str"),
        ([[0, 0, 1e9, 0, 0, 5]], "far outside"),
        ([[0, 0, float("nan"), 0, 0, 5]], "far outside"),
        ({"size": [10, 8], "counts": [80]}, "another size"),
        ({"size": [8, 10]}, "counts"),
        ({"size": [8, 10], "counts": [79]}, "80 pixels"),
        ({"size": [8, 10], "counts": [90, -10]}, "80 pixels"),
        ({"size": [8, 10], "counts": [40, 40.0]}, "80 pixels"),
        ({"size": [8, 10], "counts": "o" * 99}, "80 pixels"),
        ({"size": [8, 10], "counts": "é"}, "80 pixels"),
        ({"size": [8, 10], "counts": "`2`"}, "80 pixels"),
    ],
)
def test_outlines_of_another_form_are_refused(segmentation: Any, said: str) -> None:
    with pytest.raises(ValueError, match=r"in annotation 9.*expected") as error:
        decode_segmentation(segmentation, HEIGHT, WIDTH, "annotation 9")
    assert said in str(error.value)


def test_one_example_per_picture_and_class(tmp_path: Path) -> None:
    far = covered((8, 6, 10, 8))
    folder = CocoFolder(
        write_coco(
            tmp_path / "mine",
            [
                thing(3, 1, [box(0, 0, 2, 2)]),
                thing(3, 2, [box(1, 1, 5, 4)]),
                thing(3, 5, [box(3, 2, 8, 6)]),
                thing(3, 2, {"size": [HEIGHT, WIDTH], "counts": run_lengths(far)}),
                thing(7, 2, [box(5, 5, 9, 7)], iscrowd=0),
            ],
        )
    )
    examples = [folder[i] for i in range(len(folder))]
    assert [(each.id, each.text, each.kind) for each in examples] == [
        ("7/dog", "the dog", "dog"),
        ("3/dog", "the dog", "dog"),
        ("3/traffic_light", "the traffic light", "traffic_light"),
    ]
    masks = [
        covered((5, 5, 9, 7)),
        covered((1, 1, 5, 4), (3, 2, 8, 6), (8, 6, 10, 8)),
        covered((0, 0, 2, 2)),
    ]
    for example, mask in zip(examples, masks, strict=True):
        assert example.mask is not None
        assert np.array_equal(example.mask, mask)
        assert np.array_equal(example.image, PIXELS)
        assert example.ignore is None
        assert example.source == "coco/mine/annotations"


def test_a_crowd_is_ignored_for_its_class_alone(tmp_path: Path) -> None:
    crowd = {"size": [HEIGHT, WIDTH], "counts": run_lengths(covered((4, 0, 9, 4)))}
    folder = CocoFolder(
        write_coco(
            tmp_path,
            [
                thing(3, 2, [box(1, 1, 6, 3)]),
                thing(3, 2, crowd, iscrowd=1),
                thing(3, 1, [box(0, 0, 9, 4)]),
                thing(7, 1, crowd, iscrowd=1),
            ],
        )
    )
    dog, light = (folder[i] for i in range(len(folder)))
    assert dog.ignore is not None
    assert np.array_equal(dog.ignore, covered((4, 0, 9, 4)) & ~covered((1, 1, 6, 3)))
    assert light.ignore is None


def test_a_class_with_a_bare_box_is_never_asked_for(tmp_path: Path) -> None:
    folder = CocoFolder(
        write_coco(
            tmp_path,
            [
                thing(3, 2, [box(1, 1, 6, 3)]),
                thing(3, 2, []),
                thing(3, 1, [box(0, 0, 2, 2)]),
                {"image_id": 7, "category_id": 2, "bbox": [1, 1, 2, 2]},
            ],
        )
    )
    assert folder.pairs == [(3, "traffic_light")]
    assert folder.unoutlined == 2
    assert "without any outline" in refusal(write_coco(tmp_path / "boxes", [thing(3, 2, [])]))


def test_training_words_vary_and_examples_do_not(tmp_path: Path) -> None:
    things = [thing(3, 1, [box(0, 0, 2, 2)]), thing(7, 1, [box(0, 0, 2, 2)])]
    path = write_coco(tmp_path, things)
    texts = {CocoFolder(path, split="train", seed=seed)[0].text for seed in range(30)}
    assert {"the traffic light", "all traffic lights"} <= texts
    one, other = (CocoFolder(path, split="train", seed=4) for _ in range(2))
    assert one.pairs == CocoFolder(path).pairs
    assert [one[i].text for i in range(2)] == [other[i].text for i in range(2)]


def test_missing_pictures_are_named_or_left_out(tmp_path: Path) -> None:
    things = [thing(3, 1, [box(0, 0, 2, 2)]), thing(3, 2, [box(0, 0, 2, 2)]), thing(7, 2, [box(0, 0, 2, 2)])]
    path = write_coco(tmp_path, things)
    (tmp_path / "a.png").unlink()
    message = refusal(path)
    assert "a.png" in message
    assert "1 of 2" in message
    folder = CocoFolder(path, skip_missing=True)
    assert (folder.pairs, folder.skipped) == ([(7, "dog")], 2)
    assert "2 of 2" in refusal(path, images=tmp_path / "elsewhere", skip_missing=True)


def test_a_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    path = write_coco(tmp_path, [thing(3, 1, [box(0, 0, 2, 2)])])
    Image.fromarray(PIXELS[:, :-1]).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png of \(8, 9\).*expected \(8, 10\)"):
        CocoFolder(path)[0]


IMAGE = {"id": 3, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": None}, "without a list of images"),
        ({"annotations": {}}, "without a list of annotations"),
        ({"categories": "dog"}, "without a list of categories"),
        ({"images": [7]}, "int for images[0]"),
        ({"images": [{**IMAGE, "id": "3"}]}, "str for id of images[0]"),
        ({"images": [{**IMAGE, "id": True}]}, "bool for id"),
        ({"images": [{**IMAGE, "height": None}]}, "height"),
        ({"images": [{**IMAGE, "width": 0}]}, "no size"),
        ({"images": [IMAGE, IMAGE]}, "second id"),
        ({"annotations": [{"id": 1, "image_id": 3}]}, "nothing for category_id of annotations[0]"),
        ({"annotations": [{"id": 1, **thing(3, 1, "abc")}]}, "str for segmentation"),
        ({"annotations": [{"id": 1, **thing(4, 1, [])}]}, "image_id 4"),
        ({"annotations": [{"id": 1, **thing(3, 9, [])}]}, "category_id 9"),
        ({"categories": [{"id": 1, "name": " "}]}, "without a name"),
    ],
)
def test_files_of_another_shape_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    message = refusal(write_coco(tmp_path, **{"annotations": [], **changes}))
    assert said in message
    assert "annotations.json" in message


def test_files_that_are_no_json_are_refused(tmp_path: Path) -> None:
    assert "none.json" in refusal(tmp_path / "none.json")
    path = tmp_path / "broken.json"
    for content in (b"{'images': []}", b"\xff\xfe", b"[" * 100_000, b"[]"):
        path.write_bytes(content)
        assert "broken.json" in refusal(path)
    assert "split 'test'" in refusal(path, split="test")


@needs_genuine
@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("coco_instances/annotations/instances_val2017.json", "coco_instances/val2017"),
        ("coco_instances/annotations/instances_train2017.json", "coco_instances/train2017"),
        ("roboflow_coco/test/_annotations.coco.json", None),
    ],
)
def test_genuine_files_agree_with_pycocotools(annotations: str, images: str | None) -> None:
    path = GENUINE / annotations
    folder = CocoFolder(path, None if images is None else GENUINE / images, skip_missing=True)
    api = COCO(path)
    names = {row["id"]: row["name"] for row in api.dataset["categories"]}
    assert folder.skipped > 0
    assert len(folder) > 3
    for i, (image_id, name) in enumerate(folder.pairs):
        example = folder[i]
        parts = {
            crowd: [
                api.annToMask(row)
                for row in api.imgToAnns[image_id]
                if names[row["category_id"]] == name and row["iscrowd"] == crowd
            ]
            for crowd in (0, 1)
        }
        mask = np.any(parts[0], axis=0)
        assert np.array_equal(example.mask, mask)
        if parts[1]:
            assert np.array_equal(example.ignore, np.any(parts[1], axis=0) & ~mask)


@needs_genuine
def test_every_genuine_outline_agrees_with_pycocotools() -> None:
    path = GENUINE / "coco_instances/annotations/instances_val2017.json"
    api, instances = COCO(path), read_instances(path)
    assert any(annotation.is_crowd for annotation in instances.annotations)
    for annotation in instances.annotations:
        image = instances.images[annotation.image_id]
        mask = decode_segmentation(annotation.segmentation, image.height, image.width)
        assert np.array_equal(mask, api.annToMask(api.anns[annotation.id]))
