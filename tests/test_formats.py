"""Every format read back by who reads it: pycocotools, this project's own readers, OpenCV, NumPy, Pillow."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy import ndimage

from genmask import Segmentation
from genmask.coco_document import coco_document
from genmask.data.coco_folder import CocoFolder
from genmask.data.labelme import LabelMe
from genmask.formats import FORMATS, merge_coco, save
from genmask.label_map import OKABE_ITO, label_color, label_map
from genmask.polygons import edge_polygon, pixel_polygon

cv2 = pytest.importorskip("cv2")

HEIGHT, WIDTH = 90, 120
PICTURE = Image.effect_noise((WIDTH, HEIGHT), 64).convert("RGB")
SPECK = 40
"""Pixels below which a part of the tests' masks is left out."""
masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12))


def result(soft_mask: np.ndarray, text: str = "the red mug", **fields: Any) -> Segmentation:
    defaults: dict[str, Any] = {"image": PICTURE, "target": text}
    return Segmentation(soft_mask=soft_mask.astype(np.float32), text=text, **{**defaults, **fields})


def blobs(seed: int, share: float = 0.3, *, holes: bool = True) -> np.ndarray:
    """(H, W) float32: smooth parts of some size on `share` of the picture, surer inside than at the edge."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((HEIGHT, WIDTH)), 4)
    mask = noise > np.quantile(noise, 1 - share)
    if not holes:
        mask = ndimage.binary_fill_holes(mask)
    parts, _ = ndimage.label(mask, np.ones((3, 3)))
    mask &= np.bincount(parts.ravel())[parts] >= SPECK
    return (mask * (0.6 + 0.4 * (noise - noise.min()) / np.ptp(noise))).astype(np.float32)


def ring() -> np.ndarray:
    soft = np.zeros((HEIGHT, WIDTH), np.float32)
    soft[10:50, 20:70] = 0.9
    soft[20:40, 30:60] = 0.1
    return soft


def empty() -> np.ndarray:
    return np.zeros((HEIGHT, WIDTH), np.float32)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def three() -> list[Segmentation]:
    """Found, found with a hole, and not found."""
    return [
        result(blobs(0, holes=False), "the mug"),
        result(ring(), "the table"),
        result(empty(), "a red bicycle"),
    ]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("formats", [[name] for name in FORMATS] + [list(FORMATS)])
def test_files_are_new_whole_and_the_same_for_the_same_results(tmp_path: Path, formats: list[str]) -> None:
    for folder in ("a", "b"):
        files = save(three(), tmp_path / folder / "deep", "photo", formats, image_name="photo.jpg")
        written = {path for path in (tmp_path / folder).rglob("*") if path.is_file()}
        assert set(files) == written
        assert len(files) == len(set(files))
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).rglob("*") if path.is_file()}
        for folder in "ab"
    )
    assert first == second


def test_png_of_one_result_is_what_segmentation_saves(tmp_path: Path) -> None:
    (one, *_) = three()
    files = save([one], tmp_path / "formats", "photo", ["png"], image_name="photo.jpg")
    own = one.save(tmp_path / "own", "photo")
    assert [path.name for path in files] == [path.name for path in own]
    for ours, theirs in zip(files, own, strict=True):
        assert ours.read_bytes() == theirs.read_bytes()


def test_png_of_several_results_gets_a_name_for_each(tmp_path: Path) -> None:
    texts = ["the mug", "the mug", "杯" * 200, ""]
    results = [result(blobs(seed), text) for seed, text in enumerate(texts)]
    files = save(results, tmp_path, "s" * 190, ["png"], image_name="photo.jpg")
    assert len(files) == len(set(files)) == 12
    records = [read(path) for path in files if path.suffix == ".json"]
    assert [record["text"] for record in records] == texts
    for record, one in zip(records, results, strict=True):
        mask = np.asarray(Image.open(tmp_path / record["files"]["mask"])) > 0
        np.testing.assert_array_equal(mask, one.mask)


def test_rle_holds_all_but_the_pixels(tmp_path: Path) -> None:
    (file,) = save(three(), tmp_path, "photo", ["rle"], image_name="a/photo.jpg")
    assert file.name == "photo.rle.json"
    document = read(file)
    assert document["image"] == "a/photo.jpg"
    for record, one in zip(document["results"], three(), strict=True):
        assert (record["text"], record["is_empty"]) == (one.text, one.is_empty)
        np.testing.assert_array_equal(coco_mask.decode(record["rle"]).astype(bool), one.mask)


def load_coco(document: dict[str, Any], folder: Path) -> COCO:
    path = folder / "instances.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return COCO(str(path))


@given(st.lists(masks, min_size=1, max_size=1))
def test_coco_outlines_are_the_mask_to_the_pixel(found: list[np.ndarray]) -> None:
    (mask,) = found
    image = Image.new("RGB", mask.shape[::-1])
    (one,) = [result(mask, image=image)]
    outlines = [row["segmentation"] for row in coco_document([one], "a.jpg")["annotations"]]
    assert bool(outlines) == bool(mask.any())
    for outline in outlines:
        runs = outline
        if isinstance(outline, list):
            runs = coco_mask.merge(coco_mask.frPyObjects(outline, *mask.shape))
        np.testing.assert_array_equal(coco_mask.decode(runs).astype(bool), mask)


def test_coco_is_read_back_by_pycocotools_and_by_our_own_reader(tmp_path: Path) -> None:
    (file,) = save(three(), tmp_path, "photo", ["coco"], image_name="photo.png")
    assert file.name == "photo.coco.json"
    PICTURE.save(tmp_path / "photo.png")
    coco = COCO(str(file))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == [
        "the mug",
        "the table",
        "a red bicycle",
    ]
    annotations = coco.loadAnns(coco.getAnnIds())
    assert [isinstance(row["segmentation"], dict) for row in annotations] == [
        False,
        True,
    ]  # a ring has a hole
    for annotation, one in zip(annotations, three(), strict=False):
        np.testing.assert_array_equal(coco.annToMask(annotation).astype(bool), one.mask)
        left, top, right, bottom = one.box
        assert annotation["bbox"] == [left, top, right - left, bottom - top]
        assert annotation["area"] == one.mask.sum()
        assert annotation["score"] == one.confidence
    (image,) = coco.loadImgs(coco.getImgIds())
    assert (image["file_name"], image["width"], image["height"]) == ("photo.png", WIDTH, HEIGHT)
    assert image["neg_category_ids"] == [3]

    examples = CocoFolder(file)
    assert [example.kind for example in examples] == ["the mug", "the table"]
    for example, one in zip(examples, three(), strict=False):
        np.testing.assert_array_equal(example.mask, one.mask)


def test_merged_coco_numbers_everything_once_and_further_pictures_change_nothing(tmp_path: Path) -> None:
    asked = [("a.jpg", ["cat", "dog"]), ("b.jpg", ["dog", "cow"]), ("c.jpg", ["bee"]), ("a.jpg", ["cow"])]
    documents, truth = [], {}
    for seed, (name, texts) in enumerate(asked):
        results = [
            result(empty() if text == "bee" else blobs(9 * seed + n), text) for n, text in enumerate(texts)
        ]
        documents.append(coco_document(results, name))
        truth.update({(name, one.text): one.mask for one in results if not one.is_empty})
    merged = merge_coco(iter(documents))
    coco = load_coco(merged, tmp_path)

    assert [image["file_name"] for image in merged["images"]] == ["a.jpg", "b.jpg", "c.jpg"]
    for rows in (merged["images"], merged["annotations"], merged["categories"]):
        assert [row["id"] for row in rows] == list(range(1, len(rows) + 1))
    names = {row["id"]: row["name"] for row in merged["categories"]}
    found = {}
    for image in coco.loadImgs(coco.getImgIds()):
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            found[image["file_name"], names[annotation["category_id"]]] = coco.annToMask(annotation) > 0
    assert found.keys() == truth.keys()
    for key, mask in truth.items():
        np.testing.assert_array_equal(found[key], mask)
    assert [[names[n] for n in image["neg_category_ids"]] for image in merged["images"]] == [[], [], ["bee"]]

    fewer = merge_coco(documents[:2])
    for part, rows in fewer.items():
        assert merged[part][: len(rows)] == rows if part != "info" else merged[part] == rows
    assert merge_coco([merged]) == merged


def test_a_picture_of_two_sizes_is_no_one_picture() -> None:
    other = result(np.zeros((4, 4)), image=PICTURE.resize((4, 4)))
    with pytest.raises(ValueError, match=r"Got 'a.jpg' in two sizes, expected one picture"):
        merge_coco([coco_document([one], "a.jpg") for one in (three()[0], other)])


@pytest.mark.parametrize("embedded", [True, False])
def test_labelme_is_read_back_by_our_own_reader(tmp_path: Path, embedded: bool) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    PICTURE.save(photos / "photo.png")
    path = None if embedded else photos / "photo.png"
    (file,) = save(three(), tmp_path / "out", "photo", ["labelme"], image_name="photo.png", image_path=path)
    assert file == tmp_path / "out" / "labelme" / "photo.json"
    document = read(file)
    assert (document["imageHeight"], document["imageWidth"]) == (HEIGHT, WIDTH)
    assert document["imagePath"] == ("photo.png" if embedded else "../../photos/photo.png")
    assert (document["imageData"] is not None) == embedded
    assert all(len(shape["points"]) >= 2 for shape in document["shapes"])
    assert {shape["group_id"] for shape in document["shapes"]} == {0, 1}

    examples = LabelMe(file.parent)
    assert [example.kind for example in examples] == ["the mug", "the table"]  # and no bicycle
    for example, one in zip(examples, three(), strict=False):
        np.testing.assert_array_equal(example.image, np.asarray(PICTURE))
        assert iou(example.mask, one.mask) >= 0.98
    np.testing.assert_array_equal(examples[1].mask, three()[1].mask)  # holes are kept


@given(masks)
def test_labelme_keeps_masks_of_any_shape_and_size(
    tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray
) -> None:
    one = result(mask, image=Image.new("RGB", mask.shape[::-1]))
    (file,) = save([one], tmp_path_factory.mktemp("out"), "a", ["labelme"], image_name="a.png")
    assert bool(read(file)["shapes"]) == bool(mask.any())
    if mask.any():
        assert iou(LabelMe(file.parent)[0].mask, mask) >= 0.98


def draw_yolo(path: Path, classes: list[str]) -> dict[str, np.ndarray]:
    """As Ultralytics does it: pixels cut down to whole numbers, polygons filled with their line."""
    drawn: dict[str, np.ndarray] = {}
    for line in path.read_text().splitlines():
        number, *values = line.split()
        points = np.array(values, float).reshape(-1, 2)
        assert len(points) >= 3
        assert points.min() > 0
        assert points.max() < 1
        canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.fillPoly(canvas, [(points * (WIDTH, HEIGHT)).astype(np.int32)], 1)
        drawn.setdefault(classes[int(number)], np.zeros((HEIGHT, WIDTH), bool))
        drawn[classes[int(number)]] |= canvas.astype(bool)
    return drawn


@pytest.mark.parametrize("seed", range(8))
def test_yolo_polygons_drawn_again_are_the_mask(tmp_path: Path, seed: int) -> None:
    results = [
        result(blobs(seed, holes=False), "the mug"),
        result(blobs(seed + 50, 0.05, holes=False), "the table"),
    ]
    label, names = save(results, tmp_path, "photo", ["yolo"], image_name="photo.jpg")
    assert (label, names) == (tmp_path / "yolo" / "photo.txt", tmp_path / "yolo" / "classes.txt")
    classes = names.read_text().splitlines()
    drawn = draw_yolo(label, classes)
    for one in results:
        assert iou(drawn[one.text], one.mask) >= 0.98


def test_an_outline_is_few_enough_points_to_be_moved_by_hand() -> None:
    rows, columns = np.ogrid[:201, :201]
    disc = (rows - 100) ** 2 + (columns - 100) ** 2 <= 100**2
    assert len(edge_polygon(disc)) > 400
    assert 3 <= len(pixel_polygon(disc)) < 50


def test_yolo_fills_holes_and_says_nothing_in_an_empty_file(tmp_path: Path) -> None:
    classes = ["a red bicycle", "the\ntable"]
    for name, soft, text in (("hole", ring(), classes[1]), ("nothing", empty(), classes[0])):
        save([result(soft, text)], tmp_path, name, ["yolo"], image_name=f"{name}.jpg", classes=classes)
    assert (tmp_path / "yolo" / "classes.txt").read_text() == "a red bicycle\nthe table\n"
    assert (tmp_path / "yolo" / "nothing.txt").read_bytes() == b""
    drawn = draw_yolo(tmp_path / "yolo" / "hole.txt", classes)
    np.testing.assert_array_equal(drawn[classes[1]], ndimage.binary_fill_holes(ring() > 0.5))


def test_yolo_numbers_mean_the_same_in_all_of_a_folder(tmp_path: Path) -> None:
    save([result(ring(), "mug")], tmp_path, "a", ["yolo"], image_name="a.jpg")
    with pytest.raises(ValueError, match=r"Got classes table, expected those of .*classes\.txt"):
        save([result(ring(), "table")], tmp_path, "b", ["yolo"], image_name="b.jpg")
    assert not (tmp_path / "yolo" / "b.txt").exists()
    with pytest.raises(ValueError, match="Got text 'table', expected one of the classes: mug"):
        save([result(ring(), "table")], tmp_path, "b", ["yolo"], image_name="b.jpg", classes=["mug"])


def test_numpy_needs_no_pickle(tmp_path: Path) -> None:
    (file,) = save(three(), tmp_path, "photo", ["numpy"], image_name="photo.jpg")
    assert file.name == "photo.npz"
    with np.load(file, allow_pickle=False) as arrays:
        assert arrays["soft_masks"].dtype == np.float16
        assert arrays["texts"].tolist() == ["the mug", "the table", "a red bicycle"]
        for index, one in enumerate(three()):
            np.testing.assert_array_equal(arrays["masks"][index], one.mask)
            np.testing.assert_allclose(arrays["soft_masks"][index], one.soft_mask, atol=1e-3)
            assert arrays["confidences"][index] == one.confidence
            assert arrays["thresholds"][index] == one.threshold


def test_label_map_gives_a_pixel_to_the_highest_soft_mask() -> None:
    results = [result(blobs(seed), f"thing {seed}") for seed in range(4)]
    labels = label_map(results).labels
    stack = np.stack([np.where(one.mask, one.soft_mask, 0) for one in results])
    np.testing.assert_array_equal(labels, np.where(stack.any(axis=0), stack.argmax(axis=0) + 1, 0))
    assert labels.dtype == np.uint8


@pytest.mark.parametrize("count", [3, 300])
def test_label_png_says_what_its_numbers_are(tmp_path: Path, count: int) -> None:
    small = Image.new("RGB", (30, 10))
    soft = np.zeros((count, 10, 30), np.float32)
    soft.reshape(count, 300)[np.arange(300) % count, np.arange(300)] = 1
    results = [result(one, f"№ {n}", image=small) for n, one in enumerate(soft)]
    labels, overlay = save(results, tmp_path, "photo", ["labels"], image_name="photo.png")
    assert (labels.name, overlay.name) == ("photo.labels.png", "photo.labels.overlay.png")
    with Image.open(labels) as image:
        image.load()
        assert image.mode == ("P" if count < 256 else "I;16")
        names = json.loads(image.text["labels"])
        pixels = np.asarray(image)
    assert names == {str(n + 1): f"№ {n}" for n in range(count)}
    np.testing.assert_array_equal(pixels.ravel(), np.arange(300) % count + 1)
    if count < 256:
        colors = np.asarray(Image.open(labels).convert("RGB"))
        assert {tuple(color) for color in colors.reshape(-1, 3).tolist()} == set(OKABE_ITO[:count])


@pytest.mark.parametrize("size", [(1, 1), (20, 15), (900, 20), (20, 900), (1500, 1000)])
def test_an_overlay_of_any_size_has_room_for_its_legend(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, (90, 120, 90))
    soft = np.zeros(size[::-1], np.float32)
    soft[: size[1] // 2 + 1, : size[0] // 2 + 1] = 0.8
    texts = ["красная кружка", "a long sentence, " * 12, "w" * 200, "two\nlines\0", "赤いマグカップ"]
    empties = [result(np.zeros_like(soft), text, image=picture) for text in texts]
    overlay = label_map([result(soft, "the mug", image=picture), *empties]).overlay()
    zoom = max(1, -(-640 // max(size)))
    assert overlay.width >= 360  # of which the type is a 24th, and so at least 15 pixels high
    assert overlay.width >= size[0] * zoom
    assert overlay.height > size[1] * zoom + 6 * 15
    below = np.asarray(overlay)[size[1] * zoom :].reshape(-1, 3)
    assert (below == 255).all(axis=1).mean() > 0.5  # dark type on white
    for number in range(1, 7):
        assert (below == label_color(number)).all(axis=1).any()


def test_every_part_of_some_size_is_tagged_in_its_colour() -> None:
    soft = np.zeros((2, 300, 640), np.float32)
    soft[0, 50:150, 50:150] = soft[0, 50:150, 350:450] = soft[1, 200:208, 500:508] = 1
    picture = Image.new("RGB", (640, 300), (90, 90, 90))
    results = [result(one, text, image=picture) for one, text in zip(soft, ("big", "small"), strict=True)]
    pixels = np.asarray(label_map(results).overlay())[:300]
    first, second = ((pixels == label_color(number)).all(axis=2) for number in (1, 2))
    for columns in (slice(50, 150), slice(350, 450)):
        assert first[50:150, columns].sum() > 100
    assert second.sum() > 100
    assert not second[200:208, 500:508].any()  # beside it: on it nothing would be left to see


def test_colours_stay_apart_without_red_or_green() -> None:
    """Protanopia and deuteranopia, as Machado, Oliveira and Fernandes simulate them (2009), in linear light."""
    protan = [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]
    deutan = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    linear = (np.array(OKABE_ITO) / 255) ** 2.2
    for matrix in (np.eye(3), np.array(protan), np.array(deutan)):
        seen = 255 * (linear @ matrix.T).clip(0, 1) ** (1 / 2.2)
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 40
    assert len({label_color(number) for number in range(1, 22)}) == 21


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_found_is_written_as_well(tmp_path: Path, name: str) -> None:
    nothing = result(empty(), "a red bicycle")
    files = save([nothing], tmp_path, "photo", [name], image_name="photo.jpg")
    assert files
    if name == "png":
        assert read(tmp_path / "photo.json")["is_empty"]
    elif name == "rle":
        assert read(files[0])["results"][0]["is_empty"]
    elif name == "coco":
        document = read(files[0])
        assert (len(document["images"]), document["annotations"]) == (1, [])
        assert COCO(str(files[0])).getImgIds() == [1]
    elif name == "labelme":
        assert read(files[0])["shapes"] == []
    elif name == "yolo":
        assert files[0].read_bytes() == b""
    else:
        content = np.load(files[0])["masks"] if name == "numpy" else np.asarray(Image.open(files[0]))
        assert not content.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"formats": ["png", "svg"]}, "Got format 'svg', expected one of png, rle, coco"),
        ({"stem": "../a"}, "expected a bare file name"),
        ({"results": []}, "expected those of one picture"),
        ({"results": [result(ring()), result(np.zeros((1, 1)), image=PICTURE.resize((1, 1)))]}, "of 2 sizes"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    good: dict[str, Any] = {
        "results": three(),
        "stem": "photo",
        "formats": ["png"],
        "image_name": "photo.jpg",
    }
    with pytest.raises(ValueError, match=message):
        save(folder=tmp_path / "out", **{**good, **arguments})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["coco", "labelme", "yolo"])
def test_polygons_without_opencv_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"pip install 'genmask\[formats\]'"):
        save(three(), tmp_path, "photo", [name], image_name="photo.jpg")
    save(three(), tmp_path, "photo", ["png", "rle", "numpy", "labels"], image_name="photo.jpg")
