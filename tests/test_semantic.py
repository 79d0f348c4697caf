"""Pairs from label maps and part outlines: the right class under the right pixels, in each layout on disk."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api

from genmask.data.ade20k import Ade20k
from genmask.data.class_names import (
    ADE20K,
    COCO_STUFF,
    COCO_STUFF_SPOKEN,
    PASCAL_VOC,
    class_phrase,
    is_absent,
)
from genmask.data.coco_stuff import CocoStuff
from genmask.data.example import Example
from genmask.data.pascal_part import PascalPart
from genmask.data.pascal_voc import PascalVoc
from genmask.data.semantic import ClassPairs, LabelMaps

SIZE = (6, 8)


def bands(*values: int) -> np.ndarray:
    """Label map of `SIZE` with one row for each value, the last one down to the bottom."""
    rows = [*values, *[values[-1]] * (SIZE[0] - len(values))]
    return np.repeat(np.array(rows, dtype=np.uint8)[:, None], SIZE[1], axis=1)


def write_photo(path: Path, grey: int, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0]), (grey, grey, grey)).save(path)


def write_labels(path: Path, labels: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    if palette:  # colours that have nothing to do with the ids, as VOC's have not
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(path)


def write_coco_stuff(root: Path, *maps: np.ndarray, split: str = "train") -> Path:
    for n, labels in enumerate(maps):
        write_photo(root / f"coco/{split}2017/{n:012d}.jpg", 40 * n)
        write_labels(root / f"cocostuff/{split}2017/{n:012d}.png", labels)
    return root


def write_ade20k(root: Path, *maps: np.ndarray, folder: str = "ADEChallengeData2016") -> Path:
    for n, labels in enumerate(maps):
        write_photo(root / folder / f"images/training/ADE_train_{n:08d}.jpg", 40 * n)
        write_labels(root / folder / f"annotations/training/ADE_train_{n:08d}.png", labels)
    return root


def write_voc(root: Path, **maps: np.ndarray) -> Path:
    home = root / "VOCdevkit/VOC2012"
    for n, (stem, labels) in enumerate(maps.items()):
        write_photo(home / f"JPEGImages/{stem}.jpg", 40 * n)
        write_labels(home / f"SegmentationClass/{stem}.png", labels, palette=True)
    lists = home / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text("".join(f"{stem}\n" for stem in maps))
    (lists / "val.txt").write_text(f"{list(maps)[-1]}\n\n")
    return root


def by_name(source: ClassPairs) -> dict[str, Example]:
    """Examples of the view "pairs", in order, by class."""
    examples = list(source)
    found = {example.kind: example for example in examples}
    assert len(found) == len(examples)
    return found


def rows_of(example: Example) -> list[int]:
    """Rows of the mask, each of which must be whole."""
    assert example.mask is not None
    assert (example.mask.all(axis=1) == example.mask.any(axis=1)).all()
    return np.flatnonzero(example.mask.any(axis=1)).tolist()


def ignored_rows(example: Example) -> list[int]:
    return [] if example.ignore is None else np.flatnonzero(example.ignore.all(axis=1)).tolist()


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(ValueError, match="expected") as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_coco_stuff_counts_from_zero_and_255_is_unknown(tmp_path: Path) -> None:
    write_coco_stuff(tmp_path, bands(0, 16, 181, 255))
    found = by_name(CocoStuff(tmp_path, view="pairs"))
    assert {name: rows_of(example) for name, example in found.items()} == {
        "person": [0],
        "cat": [1],
        "wood": [2],
    }
    for name, example in found.items():
        assert ignored_rows(example) == [3, 4, 5]
        assert (example.text, example.source) == (f"the {name}", "coco_stuff")
        assert example.id == f"{0:012d}/{name}"


def test_coco_stuff_asks_for_a_floor_by_its_material_and_for_all_floor(tmp_path: Path) -> None:
    write_coco_stuff(tmp_path, bands(114, 117, 170, 0))
    found = by_name(CocoStuff(tmp_path, view="pairs"))
    assert {name: rows_of(example) for name, example in found.items()} == {
        "person": [3, 4, 5],
        "floor": [0, 1],
        "wooden floor": [1],
        "brick wall": [2],
    }


def test_coco_stuff_as_lisa_has_it(tmp_path: Path) -> None:
    write_coco_stuff(tmp_path, bands(156, 114, 170, 144, 255))
    found = by_name(CocoStuff(tmp_path, view="pairs", lisa=True))
    assert {example.text: rows_of(example) for example in found.values()} == {"sky": [0], "playingfield": [3]}
    assert all(example.ignore is None for example in found.values())
    train = CocoStuff(tmp_path, lisa=True)
    assert {train[i].text for i in range(30)} == {"sky", "playingfield"}


def test_coco_stuff_in_two_places(tmp_path: Path) -> None:
    write_coco_stuff(tmp_path / "a", bands(3), split="val")
    (tmp_path / "a/cocostuff").rename(tmp_path / "stuffthingmaps")
    (tmp_path / "a/coco").rename(tmp_path / "photos")
    source = CocoStuff(tmp_path, "val", labels=tmp_path / "stuffthingmaps", images=tmp_path / "photos")
    assert [example.text for example in source] == ["the motorcycle"]
    message = refusal(lambda: CocoStuff(tmp_path, "val"))
    assert "cocostuff/val2017" in message
    assert "coco/{train,val}2017" in message


def test_ade20k_counts_from_one_and_zero_is_unknown(tmp_path: Path) -> None:
    write_ade20k(tmp_path, bands(0, 1, 13, 150))
    found = by_name(Ade20k(tmp_path, view="pairs"))
    assert {name: rows_of(example) for name, example in found.items()} == {
        "wall": [1],
        "person": [2],
        "flag": [3, 4, 5],
    }
    assert all(ignored_rows(example) == [0] for example in found.values())
    assert all(example.ignore is None for example in Ade20k(tmp_path, view="pairs", lisa=True))


@pytest.mark.parametrize("folder", ["ade20k", "."])
def test_ade20k_is_found_by_its_other_names(tmp_path: Path, folder: str) -> None:
    write_ade20k(tmp_path, bands(90), folder=folder)
    assert [example.text for example in Ade20k(tmp_path, view="pairs")] == ["the television"]
    assert [example.text for example in Ade20k(tmp_path, view="pairs", lisa=True)] == ["television receiver"]


def test_ade20k_trains_on_synonyms_that_mean_that_class_alone(tmp_path: Path) -> None:
    write_ade20k(tmp_path, bands(66))  # "toilet, can, commode, crapper, pot, potty, stool, throne"
    texts = {
        synonyms: Counter(_texts(Ade20k(tmp_path, synonyms=synonyms), 400)) for synonyms in (True, False)
    }
    assert any("potty" in text for text in texts[True])
    assert not any(word in text.split() for word in ("pot", "stool", "can") for text in texts[True])
    assert all("toilet" in text for text in texts[False])
    assert {"toilet", "a toilet", "every toilet", "all toilets"} <= set(texts[False])
    assert 0.4 < texts[False]["the toilet"] / 400 < 0.6


def _texts(source: ClassPairs, count: int) -> list[str]:
    return [source[index].text for index in range(count)]


def test_voc_has_a_known_background_and_an_unknown_border(tmp_path: Path) -> None:
    write_voc(tmp_path, b=bands(0, 255, 12, 11), a=bands(0, 20))
    source = PascalVoc(tmp_path, "trainval", view="pairs")
    assert [(e.id, e.text, rows_of(e), ignored_rows(e)) for e in source] == [
        ("b/dining table", "the dining table", [3, 4, 5], [1]),
        ("b/dog", "the dog", [2], [1]),
        ("a/tv monitor", "the tv monitor", [1, 2, 3, 4, 5], []),
    ]
    assert [example.id for example in PascalVoc(tmp_path / "VOCdevkit", "val")] == ["a/tv monitor"]
    lisa = PascalVoc(tmp_path, "trainval", view="pairs", lisa=True)
    assert [(e.text, e.ignore) for e in lisa] == [("diningtable", None), ("dog", None), ("tvmonitor", None)]


def test_voc_says_what_is_missing(tmp_path: Path) -> None:
    write_voc(tmp_path, a=bands(1))
    assert "ImageSets/Segmentation/train.txt" in refusal(lambda: PascalVoc(tmp_path))
    assert "VOC2007" in refusal(lambda: PascalVoc(tmp_path, "val", year=2007))
    assert "minival" in refusal(lambda: PascalVoc(tmp_path, "minival"))
    (tmp_path / "VOCdevkit/VOC2012/SegmentationClass/a.png").unlink()
    assert "SegmentationClass/a.png" in refusal(lambda: PascalVoc(tmp_path, "val"))


def test_pairs_leave_nothing_out_and_belong_to_their_photograph(tmp_path: Path) -> None:
    maps = [bands(n + 1, n + 2, 0) for n in range(4)]
    source = Ade20k(write_ade20k(tmp_path, *maps), view="pairs")
    assert len(source) == 8
    for index, example in enumerate(source):
        row, second = divmod(index, 2)
        assert abs(int(example.image.mean()) - 40 * row) <= 3
        assert example.kind == ADE20K[row + second][0]
        assert rows_of(example) == [second]
    with pytest.raises(IndexError):
        source[8]
    with pytest.raises(IndexError):
        source[-1]


def test_training_is_a_function_of_seed_and_index(tmp_path: Path) -> None:
    write_ade20k(tmp_path, *(bands(*range(n, n + 6)) for n in range(1, 20)))
    indices = [0, 7, 1000, 7, 3, 18]
    runs = [[Ade20k(tmp_path, seed=seed)[i] for i in indices] for seed in (0, 0, 1)]
    described = [[(e.id, e.text) for e in run] for run in runs]
    assert described[0] == described[1] != described[2]
    orders = [[Ade20k(tmp_path, seed=seed)[i].id.split("/")[0] for i in range(8)] for seed in (0, 1)]
    assert orders[0] != orders[1]
    one = Ade20k(tmp_path)
    assert [(one[i].id, one[i].text) for i in reversed(indices)] == described[0][::-1]


def test_training_shows_every_picture_once_an_epoch_and_scans_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ade20k(tmp_path, bands(0), *(bands(1, 2, 3) for _ in range(5)))
    monkeypatch.setattr(LabelMaps, "_list_pairs", lambda self: pytest.fail("scanned"))
    train = Ade20k(tmp_path)
    assert len(train) == 6
    orders = []
    for epoch in range(3):
        orders.append([train[6 * epoch + i].id.split("/")[0] for i in range(6)])
        assert set(orders[-1]) == {f"ADE_train_{n:08d}" for n in range(1, 6)}, "the first has no class"
    assert len({tuple(order) for order in orders}) == 3


def test_training_leaves_specks_out_unless_there_is_nothing_else(tmp_path: Path) -> None:
    speck = bands(1)
    speck[0, 0] = 2
    alone = bands(0)
    alone[0, :2], alone[1, 0] = 3, 4
    write_ade20k(tmp_path, speck, alone)
    train = Ade20k(tmp_path, min_share=0.1)
    assert {train[index].kind for index in range(40)} == {"wall", "sky"}
    everything = {Ade20k(tmp_path, lisa=True)[index].kind for index in range(60)}
    assert everything == {"wall", "building", "sky", "floor"}


def test_absent_classes_are_asked_for_at_their_share_and_are_not_there(tmp_path: Path) -> None:
    present = [1, 13, 8, 16]  # wall, person, bed, table
    write_ade20k(tmp_path, bands(0, *present))
    train = Ade20k(tmp_path, absent_share=0.3)
    examples = [train[index] for index in range(600)]
    absent = [example for example in examples if example.kind == "absent"]
    assert 0.24 < len(absent) / 600 < 0.36
    for example in absent:
        assert example.mask is not None
        assert not example.mask.any()
        assert ignored_rows(example) == [0]
        assert not {"wall", "person", "bed", "table", "desk", "pillow"} & set(example.text.split())
    assert len({example.text for example in absent}) > 40
    for share in (1.0, -0.1):
        assert "absent_share" in refusal(lambda s=share: Ade20k(tmp_path, absent_share=s))
    assert "lisa" in refusal(lambda: Ade20k(tmp_path, absent_share=0.1, lisa=True))


def test_a_thing_that_coco_never_labelled_is_never_called_absent(tmp_path: Path) -> None:
    write_coco_stuff(tmp_path, bands(123))
    train = CocoStuff(tmp_path, absent_share=0.9)
    texts = " ".join(train[index].text for index in range(400))
    assert "giraffe" in texts
    for name in ("hat", "shoe", "blender", "hair brush", "street sign", "eye glasses"):
        assert name not in texts


def test_absence_minds_names_that_overlap() -> None:
    assert is_absent("giraffe", frozenset(("sofa", "floor")))
    for name, present in (
        ("armchair", "sofa"),
        ("floor", "wooden floor"),
        ("lake", "sea"),
        ("metal", "giraffe"),
        ("lamp", "chandelier"),
    ):
        assert not is_absent(name, frozenset((present,))), name


def test_the_lists_are_whole_and_can_be_said() -> None:
    assert (len(COCO_STUFF), len(ADE20K), len(PASCAL_VOC)) == (182, 150, 20)
    assert COCO_STUFF[90:92] == ("hair brush", "banner")
    assert sum("-" in name for name in COCO_STUFF) == 29
    spoken = [COCO_STUFF_SPOKEN.get(name, name) for name in COCO_STUFF]
    assert not any("-" in name for name in spoken)
    twice = {name for name, count in Counter(spoken).items() if count > 1}
    assert twice == {"mirror", "window", "desk", "door"}, "of each, one is never used"
    rng = np.random.default_rng(0)
    said = {class_phrase(name, rng) for name in ("clouds", "mud", "chest of drawers") for _ in range(60)}
    assert {"the mud", "all the clouds", "chest of drawers"} <= said
    assert not any(text.startswith(("a ", "every ")) for text in said)


def test_a_missing_photograph_is_named_before_the_first_example(tmp_path: Path) -> None:
    write_ade20k(tmp_path, bands(1), bands(2))
    photograph = tmp_path / "ADEChallengeData2016/images/training/ADE_train_00000001.jpg"
    photograph.unlink()
    message = refusal(lambda: Ade20k(tmp_path))
    assert str(photograph) in message
    assert "ADEChallengeData2016/{images,annotations}" in message
    shutil.rmtree(photograph.parent)
    assert "images/training" in refusal(lambda: Ade20k(tmp_path))
    assert "annotations/validation" in refusal(lambda: Ade20k(tmp_path, "val"))
    (tmp_path / "empty/annotations/training").mkdir(parents=True)
    (tmp_path / "empty/images/training").mkdir(parents=True)
    assert "without label maps" in refusal(lambda: Ade20k(tmp_path / "empty"))


def test_labels_of_another_size_than_their_photograph_are_refused(tmp_path: Path) -> None:
    write_ade20k(tmp_path, bands(1))
    write_photo(tmp_path / "ADEChallengeData2016/images/training/ADE_train_00000000.jpg", 0, (8, 6))
    for view in ("pairs", "training"):
        message = refusal(lambda view=view: Ade20k(tmp_path, view=view)[0])
        assert "(6, 8)" in message
        assert "(8, 6)" in message


def test_labels_that_are_no_ids_of_the_set_are_refused(tmp_path: Path) -> None:
    path = (
        write_ade20k(tmp_path, bands(1)) / "ADEChallengeData2016/annotations/training/ADE_train_00000000.png"
    )
    for labels, said in ((bands(255), "label 255"), (bands(151), "0 to 150")):
        write_labels(path, labels)
        for view in ("pairs", "training"):
            message = refusal(lambda view=view: Ade20k(tmp_path, view=view)[0])
            assert said in message
            assert path.name in message
    Image.new("RGB", (8, 6)).save(path)
    assert "mode RGB" in refusal(lambda: Ade20k(tmp_path)[0])
    path.write_bytes(path.read_bytes()[:40])
    assert "Cannot read" in refusal(lambda: Ade20k(tmp_path)[0])
    write_coco_stuff(tmp_path, bands(182))
    assert "0 to 181, 255" in refusal(lambda: CocoStuff(tmp_path)[0])
    write_voc(tmp_path, a=bands(21))
    assert "0 to 20, 255" in refusal(lambda: PascalVoc(tmp_path, "val")[0])


def test_pictures_without_any_class_are_refused_in_training(tmp_path: Path) -> None:
    write_ade20k(tmp_path, bands(0), bands(0))
    assert "without any class" in refusal(lambda: Ade20k(tmp_path)[0])
    assert len(Ade20k(tmp_path, view="pairs")) == 0
    assert "view 'both'" in refusal(lambda: Ade20k(tmp_path, view="both"))  # type: ignore[arg-type]


def square(left: int, top: int, side: int = 2) -> list[float]:
    """Polygon around `side` x `side` pixels."""
    return [left, top, left + side, top, left + side, top + side, left, top + side]


def box(*corners: tuple[int, int], side: int = 2) -> np.ndarray:
    """The pixels of such squares at (left, top)."""
    mask = np.zeros(SIZE, dtype=bool)
    for left, top in corners:
        mask[top : top + side, left : left + side] = True
    return mask


def write_parts(root: Path, annotations: list[dict[str, Any]], home: str = "", **changes: Any) -> Path:
    write_photo(root / home / "VOCdevkit/VOC2010/JPEGImages/2008_000001.jpg", 80)
    names = {1: "cat:head", 2: "pottedplant:plant", 3: "bus:license_plate"}
    content: dict[str, Any] = {
        "images": [{"id": 5, "file_name": "2008_000001.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [{"id": 70 + n, "image_id": 5, **row} for n, row in enumerate(annotations)],
        "categories": [{"id": number, "name": name} for number, name in names.items()],
    } | changes
    path = root / "vlpart/pascal_part/train.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return root


def two_cats_and_a_plant() -> list[dict[str, Any]]:
    run_lengths = mask_api.encode(np.asfortranarray(box((5, 3))))
    run_lengths["counts"] = run_lengths["counts"].decode()
    return [
        {"category_id": 1, "segmentation": [square(0, 0), square(1, 1)]},
        {"category_id": 2, "segmentation": run_lengths},
        {"category_id": 1, "segmentation": [square(4, 0)]},
        {"category_id": 3, "segmentation": []},
    ]


@pytest.mark.parametrize("home", ["", "vlpart/pascal_part"])
def test_parts_of_one_kind_make_one_mask(tmp_path: Path, home: str) -> None:
    source = PascalPart(write_parts(tmp_path, two_cats_and_a_plant(), home), view="pairs")
    head, plant = source
    assert (head.text, head.id) == ("the head of the cat", "2008_000001/cat head")
    assert np.array_equal(head.mask, box((0, 0), (1, 1), (4, 0)))
    assert plant.text == "the plant of the potted plant"
    assert np.array_equal(plant.mask, box((5, 3)))
    assert head.ignore is plant.ignore is None
    assert abs(int(head.image.mean()) - 80) <= 3


def test_parts_as_lisa_has_them_are_single_annotations(tmp_path: Path) -> None:
    write_parts(tmp_path, two_cats_and_a_plant())
    first, plant, second = PascalPart(tmp_path, view="pairs", lisa=True)
    assert np.array_equal(first.mask, box((0, 0), (1, 1)))
    assert np.array_equal(second.mask, box((4, 0)))
    assert plant.text == "the plant of the pottedplant"
    train = PascalPart(tmp_path, lisa=True)
    texts = Counter(_texts(train, 200))
    assert set(texts) == {
        "cat head",
        "the head of the cat",
        "pottedplant plant",
        "the plant of the pottedplant",
    }


def test_parts_are_asked_for_in_many_ways_fixed_by_seed_and_index(tmp_path: Path) -> None:
    rows = [{"category_id": 3, "segmentation": [square(0, 0)]}]
    train = PascalPart(write_parts(tmp_path, rows))
    texts = Counter(_texts(train, 300))
    assert {"the license plate of the bus", "the bus's license plate", "bus license plate"} <= set(texts)
    assert 0.4 < texts["the license plate of the bus"] / 300 < 0.6
    assert _texts(PascalPart(tmp_path), 20) == _texts(train, 20) != _texts(PascalPart(tmp_path, seed=1), 20)


def test_an_outline_without_a_pixel_is_not_asked_for(tmp_path: Path) -> None:
    speck = [1.1, 1.1, 1.2, 1.1, 1.2, 1.2, 1.1, 1.2]
    rows = [{"category_id": 1, "segmentation": [speck]}, {"category_id": 2, "segmentation": [square(0, 0)]}]
    write_parts(tmp_path, rows)
    assert [example.kind for example in PascalPart(tmp_path, view="pairs")] == ["potted plant plant"]
    assert {PascalPart(tmp_path)[index].kind for index in range(20)} == {"potted plant plant"}


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    rows = [{"category_id": 1, "segmentation": [square(0, 0)]}]
    assert "category 'cat'" in refusal(
        lambda: PascalPart(write_parts(tmp_path, rows, categories=[{"id": 1, "name": "cat"}]))
    )
    assert "without any outline" in refusal(lambda: PascalPart(write_parts(tmp_path, [])))
    wrong = [{"category_id": 9, "segmentation": [square(0, 0)]}]
    assert "category_id 9" in refusal(lambda: PascalPart(write_parts(tmp_path, wrong)))
    assert "images" in refusal(lambda: PascalPart(write_parts(tmp_path, rows, images={})))
    assert "pascal_part/val.json" in refusal(lambda: PascalPart(write_parts(tmp_path, rows), "val"))
    photograph = tmp_path / "VOCdevkit/VOC2010/JPEGImages/2008_000001.jpg"
    write_photo(photograph, 0, (8, 6))
    assert "(8, 6)" in refusal(lambda: PascalPart(tmp_path)[0])
    photograph.unlink()
    assert "2008_000001.jpg" in refusal(lambda: PascalPart(tmp_path))
    photograph.parent.rmdir()
    assert "VOC2010/JPEGImages" in refusal(lambda: PascalPart(tmp_path))


GENUINE = Path(os.environ.get("GENMASK_DATA", "")) / "formats"
needs_samples = pytest.mark.skipif("GENMASK_DATA" not in os.environ, reason="GENMASK_DATA is not set")


@needs_samples
def test_genuine_ade20k_files() -> None:
    found = by_name(Ade20k(GENUINE / "ade20k", "val"))
    assert list(found) == ["wall", "building", "sky", "tree", "road", "grass", "plant"]
    labels = np.asarray(
        Image.open(GENUINE / "ade20k/ADEChallengeData2016/annotations/validation/ADE_val_00000001.png")
    )
    assert np.array_equal(found["sky"].mask, labels == 3)
    assert np.array_equal(found["sky"].ignore, labels == 0)
    sky = found["sky"].image[labels == 3].mean(axis=0)
    assert sky[2] > found["tree"].image[labels == 5].mean(axis=0)[2], "the sky is bluer than the trees"
    train = Ade20k(GENUINE / "ade20k", absent_share=0.2)
    names = {names[0] for names in ADE20K}
    assert {train[index].kind for index in range(60)} <= names | {"absent"}


@needs_samples
def test_genuine_voc_files(tmp_path: Path) -> None:
    home = tmp_path / "VOCdevkit/VOC2012"
    (home / "ImageSets/Segmentation").mkdir(parents=True)
    for folder in ("JPEGImages", "SegmentationClass"):
        (home / folder).symlink_to(GENUINE / "voc" / folder)
    (home / "ImageSets/Segmentation/val.txt").write_text("2011_000003\n2011_000006\n2011_000025\n")
    examples = list(PascalVoc(tmp_path, "val"))
    assert [example.id for example in examples] == [
        "2011_000003/bottle",
        "2011_000003/person",
        "2011_000006/chair",
        "2011_000006/person",
        "2011_000006/sofa",
        "2011_000025/bus",
        "2011_000025/car",
    ]
    assert [example.ignore is not None for example in examples] == [True] * 5 + [False] * 2
