"""Training sources: every data set as a stream of one size, fixed by its index, with nothing of what scores are for."""

from __future__ import annotations

import base64
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
wds = pytest.importorskip("webdataset")

from genmask.data.example import Example  # noqa: E402
from genmask.data.transforms import resize  # noqa: E402
from genmask.training import sources  # noqa: E402
from genmask.training.datasets import REFERRING, TRAINING_SETS, open_source  # noqa: E402
from genmask.training.own_folder import folder_split, open_folder  # noqa: E402
from genmask.training.sources import (  # noqa: E402
    CaptionSource,
    GenerationSource,
    SegmentationSource,
    group_by_size,
    read_picture_sizes,
)
from tests.pictures import png_of_size  # noqa: E402

SHAPES = ((60, 60), (40, 80), (80, 40))
"""(Height, width) of the pictures of each data set."""
SIZES = ((48, 48), (32, 64), (64, 32))
"""What is trained at: each suits the picture of the same place."""


def target(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[height // 4 : 3 * height // 4, width // 8 : width // 2] = True
    return mask


def painted(mask: np.ndarray) -> Image.Image:
    """Red where the mask is, on grey that grows brighter from left to right."""
    grey = np.broadcast_to(np.linspace(60, 180, mask.shape[1]).astype(np.uint8), mask.shape)
    return Image.fromarray(np.where(mask[..., None], np.uint8([220, 20, 20]), grey[..., None]))


def png(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    painted(mask).save(buffer, "PNG")
    return buffer.getvalue()


def corners(height: int, width: int) -> list[int]:
    """The outline of `target`."""
    top, bottom, left, right = height // 4, 3 * height // 4, width // 8, width // 2
    return [left, top, right, top, right, bottom, left, bottom]


def is_on_red(example: Example) -> bool:
    """Whether the mask is where the picture is red, but for the edge and for what is ignored."""
    assert example.mask is not None
    known = np.ones(example.mask.shape, dtype=bool) if example.ignore is None else ~example.ignore
    red = example.image[..., 0].astype(int) - example.image[..., 1] > 60
    both, either = (op(red, example.mask) & known for op in (np.logical_and, np.logical_or))
    return both.sum() > 0.85 * either.sum() > 0


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_label_maps(images: Path, labels: Path, name: str, value: int, background: int) -> None:
    for number, shape in enumerate(SHAPES):
        write(images / f"{name.format(number)}.jpg", png(target(*shape)))
        buffer = io.BytesIO()
        Image.fromarray(np.where(target(*shape), np.uint8(value), np.uint8(background))).save(buffer, "PNG")
        write(labels / f"{name.format(number)}.png", buffer.getvalue())


def write_coco_stuff(root: Path) -> None:
    write_label_maps(root / "coco/train2017", root / "cocostuff/train2017", "{:012d}", 16, 255)


def write_ade20k(root: Path) -> None:
    home = root / "ADEChallengeData2016"
    write_label_maps(home / "images/training", home / "annotations/training", "ADE_train_{:08d}", 20, 0)


def write_voc(root: Path) -> None:
    home = root / "VOCdevkit/VOC2012"
    write_label_maps(home / "JPEGImages", home / "SegmentationClass", "2007_{:06d}", 12, 0)
    write(home / "ImageSets/Segmentation/train.txt", b"2007_000000\n2007_000001\n2007_000002\n")


def coco_content(file_name: str, category: str) -> dict[str, Any]:
    return {
        "images": [
            {"id": n, "file_name": file_name.format(n), "height": height, "width": width}
            for n, (height, width) in enumerate(SHAPES)
        ],
        "annotations": [
            {"id": 50 + n, "image_id": n, "category_id": 1, "segmentation": [corners(*shape)]}
            for n, shape in enumerate(SHAPES)
        ],
        "categories": [{"id": 1, "name": category}],
    }


def write_pascal_part(root: Path) -> None:
    for number, shape in enumerate(SHAPES):
        write(root / f"VOCdevkit/VOC2010/JPEGImages/{number}.jpg", png(target(*shape)))
    write(root / "vlpart/pascal_part/train.json", json.dumps(coco_content("{}.jpg", "cat:head")).encode())


def write_referring(root: Path, dataset: str, splits: tuple[str, ...] = ("train",) * 3, by: str = "") -> None:
    """Picture n of the three is in splits[n], and has two sentences."""
    by = by or ("umd" if dataset == "refcocog" else "unc")
    for number, shape in enumerate(SHAPES):
        write(root / f"images/mscoco/images/train2014/{number}.jpg", png(target(*shape)))
    write(root / dataset / "instances.json", json.dumps(coco_content("{}.jpg", "thing")).encode())
    sentences = [{"sent_id": n, "sent": text, "raw": text} for n, text in enumerate(("left one", "it"))]
    refs = [
        {"ref_id": n, "ann_id": 50 + n, "image_id": n, "split": split, "sentences": sentences}
        for n, split in enumerate(splits)
    ]
    write(root / dataset / f"refs({by}).p", pickle.dumps(refs, protocol=2))


def write_diffusiondb(root: Path) -> None:
    part = root / "diffusiondb/images/part-000001"
    names = [f"u{n}.png" for n in range(3)]
    for name, shape in zip(names, SHAPES, strict=True):
        write(part / name, png(target(*shape)))
    write(part / "part-000001.json", json.dumps({name: {"p": f"a {name}"} for name in names}).encode())
    scores = pa.array([0.0] * 3, pa.float32())
    columns = {"image_name": names, "part_id": pa.array([1] * 3, pa.uint16())}
    pq.write_table(
        pa.table({**columns, "image_nsfw": scores, "prompt_nsfw": scores}),
        root / "diffusiondb/metadata.parquet",
    )


def write_shard(path: Path, *pictures: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wds.TarWriter(str(path), encoder=False) as writer:
        for number, content in enumerate(pictures):
            writer.write({"__key__": f"k{number}", "jpg": content, "txt": f"caption {number}".encode()})


def write_blip3o(root: Path) -> None:
    write_shard(root / "blip3o/sa_000000.tar", *(png(target(*shape)) for shape in SHAPES))


def write_photographs(root: Path) -> None:
    write_label_maps(root / "animals/images", root / "animals/labels", "{}", 1, 0)
    rows = [
        {"image": f"images/{n}.jpg", "labels": f"labels/{n}.png", "height": height, "width": width}
        | {"split": "train", "present": [1]}
        for n, (height, width) in enumerate(SHAPES)
    ]
    write(root / "animals/index.jsonl", "\n".join(map(json.dumps, rows)).encode())
    write(root / "animals/classes.json", b'{"1": "tiger"}')


def write_open_photographs(root: Path) -> None:
    """Cars, facades without any, and rice: large enough to be cut out."""
    kinds = {"building_facades": {2: "car", 3: "building facade"}, "indonesian_food": {2: "rice"}}
    for source, classes in kinds.items():
        rows = []
        for label in classes:
            for height, width in ((2 * height, 2 * width) for height, width in SHAPES):
                mask, number = target(height, width), len(rows)
                write(root / source / f"images/{number}.png", png(mask))
                (root / source / "labels").mkdir(exist_ok=True)
                Image.fromarray(mask.astype(np.uint8) * np.uint8(label)).save(
                    root / source / f"labels/{number}.png"
                )
                row = {"image": f"images/{number}.png", "labels": f"labels/{number}.png", "split": "train"}
                rows.append(row | {"height": height, "width": width, "present": [label]})
        write(root / source / "index.jsonl", "\n".join(map(json.dumps, rows)).encode())
        write(root / source / "classes.json", json.dumps(classes).encode())


def write_folder(root: Path, count: int = 6, captions: bool = True, first: int = 0) -> Path:
    """Pictures in turn of the three shapes, each with a sentence and a caption."""
    rows = []
    for number in range(first, first + count):
        mask = target(*SHAPES[number % 3])
        write(root / f"images/{number}.png", png(mask))
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / f"masks/{number}.png")
        rows.append({"image": f"images/{number}.png", "text": "left", "mask": f"masks/{number}.png"})
        if captions:
            rows.append({"image": f"images/{number}.png", "caption": f"picture {number}"})
    with (root / "captions.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return root


def write_coco(root: Path) -> Path:
    for number, shape in enumerate(SHAPES):
        write(root / f"{number}.png", png(target(*shape)))
    return write(root / "coco.json", json.dumps(coco_content("{}.png", "left_mitten")).encode())


def write_labelme(root: Path) -> Path:
    """The last file holds its picture itself; each has two labels."""
    for number, shape in enumerate(SHAPES):
        outline = np.reshape(corners(*shape), (4, 2)).tolist()
        content: dict[str, Any] = {
            "shapes": [{"label": label, "points": outline} for label in ("mug", "cup")],
            "imagePath": f"{number}.png",
        }
        if number < 2:
            write(root / f"{number}.png", png(target(*shape)))
        else:
            content["imageData"] = base64.b64encode(png(target(*shape))).decode()
        write(root / f"{number}.json", json.dumps(content).encode())
    return root


WRITERS = {
    "coco-stuff": write_coco_stuff,
    "ade20k": write_ade20k,
    "pascal-voc": write_voc,
    "pascal-part": write_pascal_part,
    "refcoco": lambda root: write_referring(root, "refcoco"),
    "refcoco+": lambda root: write_referring(root, "refcoco+"),
    "refcocog": lambda root: write_referring(root, "refcocog"),
    "diffusiondb": write_diffusiondb,
    "blip3o": write_blip3o,
    "scenes": lambda root: None,
    "photographs": write_photographs,
    "open-photographs": write_open_photographs,
    "compositions": write_open_photographs,
    "open-compositions": write_open_photographs,
    "folder": write_folder,
}


def draw(source: Any, task: str, index: int, size: tuple[int, int]) -> Example:
    return getattr(source, task)(index, *size)


def pictures_of(source: Any, count: int = 40, sizes: Any = SIZES) -> set[str]:
    """What ids begin with: in all of the sets that are asked, another for each picture."""
    return {draw(source, "segmentation", i, size).id.split("/")[0] for size in sizes for i in range(count)}


def refusal(action: Any) -> str:
    with pytest.raises(ValueError, match="xpected") as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_equal(one: Example, other: Example) -> None:
    assert (one.text, one.id) == (other.text, other.id)
    assert np.array_equal(one.image, other.image)
    for plane in ("mask", "ignore"):
        assert np.array_equal(getattr(one, plane), getattr(other, plane))


@pytest.mark.parametrize("name", TRAINING_SETS)
def test_every_set_is_a_stream_of_exact_sizes_fixed_by_the_index(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path)
    root = None if name == "scenes" else tmp_path
    source, again = (open_source(name, root, SIZES, seed=1) for _ in range(2))
    again = pickle.loads(pickle.dumps(again))  # as a DataLoader that spawns its workers does
    tasks = {
        "segmentation": isinstance(source, SegmentationSource),
        "generation": isinstance(source, GenerationSource),
    }
    assert tuple(task for task, is_served in tasks.items() if is_served) == TRAINING_SETS[name].tasks
    for task in TRAINING_SETS[name].tasks:
        drawn = [(index, size) for size in SIZES for index in (0, 1, 5, 123_456)]
        examples = [draw(source, task, *place) for place in drawn]
        for (_, size), example in zip(drawn, examples, strict=True):
            assert example.image.shape == (*size, 3)
            assert example.task == task
            assert example.text
        for place, example in reversed(list(zip(drawn, examples, strict=True))):
            assert_equal(example, draw(again, task, *place))


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in TRAINING_SETS
        if name not in ("scenes", "diffusiondb", "blip3o") and "compositions" not in name
    ],
)
def test_a_mask_stays_on_its_thing_through_crops_mirrors_and_colours(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path)
    source = open_source(name, tmp_path, SIZES)
    for size in SIZES:
        assert all(is_on_red(draw(source, "segmentation", index, size)) for index in range(12))


def test_what_nobody_labelled_is_ignored_after_augmentation_too(tmp_path: Path) -> None:
    write_coco_stuff(tmp_path)
    source = open_source("coco-stuff", tmp_path, SIZES)
    for index in range(8):
        example = draw(source, "segmentation", index, SIZES[0])
        assert example.mask is not None
        assert example.ignore is not None
        assert (example.ignore | example.mask).mean() > 0.99


@pytest.mark.parametrize("name", ["coco-stuff", "pascal-part", "refcocog", "folder"])
def test_a_size_takes_the_pictures_that_suit_it_and_all_of_them_come(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path)
    source = open_source(name, tmp_path, SIZES)
    found = [pictures_of(source, sizes=[size]) for size in SIZES]
    assert all(found)
    assert all(not one & other for one in found for other in found if one is not other)
    alone = open_source(name, tmp_path, [(48, 48)])
    assert pictures_of(alone, sizes=[(48, 48)]) == set.union(*found)


def test_an_epoch_shows_every_sentence_once_and_the_next_in_another_order(tmp_path: Path) -> None:
    write_referring(tmp_path, "refcoco")
    source = open_source("refcoco", tmp_path, [(48, 48)], seed=3)
    ids = [draw(source, "segmentation", index, (48, 48)).id for index in range(60)]
    epochs = [ids[start : start + 6] for start in range(0, 60, 6)]
    assert all(len(set(epoch)) == 6 for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 5


def test_sizes_are_compared_with_those_of_their_own_area_alone() -> None:
    pictures = [(60, 60), (40, 80), (50, 60)]
    groups = group_by_size(pictures, [(48, 48), (32, 64), (48, 48), (96, 96), (64, 128), (64, 32)])
    assert {size: rows.tolist() for size, rows in groups.items()} == {
        (48, 48): [0, 2],
        (32, 64): [1],
        (96, 96): [0, 2],
        (64, 128): [1],
        (64, 32): [0, 1, 2],  # suits none
    }
    assert "no picture" in refusal(lambda: group_by_size([], SIZES))


def test_sizes_are_read_from_headers_and_upright(tmp_path: Path) -> None:
    write(tmp_path / "claims.png", png_of_size(70, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    painted(target(20, 50)).save(tmp_path / "turned.jpg", exif=exif)
    painted(target(20, 50)).save(tmp_path / "turned.png", exif=exif)
    paths = [tmp_path / name for name in ("claims.png", "turned.jpg", "turned.png")]
    assert read_picture_sizes(paths) == [(30, 70), (50, 20), (50, 20)]
    write(tmp_path / "broken.jpg", b"no picture")
    assert "broken.jpg" in refusal(lambda: read_picture_sizes([tmp_path / "broken.jpg"]))


def test_a_sentence_about_places_keeps_its_whole_picture(tmp_path: Path) -> None:
    write_folder(tmp_path / "own", 4, captions=False)
    write_referring(tmp_path, "refcoco")
    whole = [Example(image=np.asarray(painted(target(*s))), text="", mask=target(*s)) for s in SHAPES]
    images = [resize(each, *SIZES[0]).image for each in whole]
    for name, root in (("refcoco", tmp_path), ("folder", tmp_path / "own")):
        source = open_source(name, root, SIZES)
        for index in range(10):
            example = draw(source, "segmentation", index, SIZES[0])
            assert any(np.array_equal(example.image, image) for image in images)
            assert example.text in ("left", "left one", "it")


def is_mirrored(example: Example) -> bool:
    assert example.mask is not None
    columns = np.nonzero(~example.mask)[1]
    return np.corrcoef(columns, example.image[~example.mask][:, 1])[0, 1] < 0


def test_a_mirrored_class_says_so(tmp_path: Path) -> None:
    source = open_source("folder", write_coco(tmp_path), SIZES)
    mirrored = set()
    for index in range(30):
        example = draw(source, "segmentation", index, SIZES[0])
        mirrored.add(is_mirrored(example))
        assert ("right" in example.text, "left" in example.text) == (
            is_mirrored(example),
            not is_mirrored(example),
        )
    assert mirrored == {True, False}


# Captions


class Captions:
    """Captioned pictures of the given sizes."""

    def __init__(self, *shapes: tuple[int, int]) -> None:
        self.shapes = shapes

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Example:
        height, width = self.shapes[index]
        image = np.zeros((height, width, 3), dtype=np.uint8)
        image[..., 0], image[..., 1] = np.arange(height)[:, None], np.arange(width)
        return Example(image=image, text=f"number {index}", task="generation", id=str(index))


def test_a_captioned_picture_is_cropped_in_the_middle() -> None:
    for shape, size, window in (
        ((40, 100), (40, 40), (0, 40, 30, 70)),
        ((100, 40), (20, 40), (40, 60, 0, 40)),
        ((64, 64), (64, 64), (0, 64, 0, 64)),
    ):
        example = CaptionSource(Captions(shape)).generation(7, *size)
        top, bottom, left, right = window
        assert np.array_equal(example.image, Captions(shape)[0].image[top:bottom, left:right])


def test_a_picture_is_enlarged_twice_at_most() -> None:
    shapes = [(16, 32)] * 3 + [(32, 32)] * 3
    source = CaptionSource(Captions(*shapes))
    assert {source.generation(i, 64, 64).text for i in range(30)} == {"number 3", "number 4", "number 5"}
    assert {source.generation(i, 16, 64).text for i in range(60)} == {f"number {i}" for i in range(6)}


def test_pictures_of_no_use_give_way_to_the_next_and_end_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = png(target(60, 60))
    write_shard(
        tmp_path / "blip3o/0.tar", good, b"damaged", png(target(20, 20)), good[: len(good) // 2], good
    )
    source = open_source("blip3o", tmp_path, SIZES)
    assert isinstance(source, GenerationSource)
    texts = [source.generation(index, 48, 48).text for index in range(20)]
    assert set(texts) == {"caption 0", "caption 4"}
    again = open_source("blip3o", tmp_path, SIZES)
    assert [draw(again, "generation", index, (48, 48)).text for index in reversed(range(20))] == texts[::-1]

    message = refusal(lambda: source.generation(0, 480, 480))
    assert "480 x 480" in message
    assert "small picture" in message
    monkeypatch.setattr(sources, "MAX_SKIPS", 2)
    shapes = [(8, 8)] * 50
    assert "Got 2 captioned pictures" in refusal(
        lambda: CaptionSource(Captions(*shapes)).generation(0, 48, 48)
    )


def test_a_shard_that_is_cut_is_named_before_training(tmp_path: Path) -> None:
    write_blip3o(tmp_path)
    path = tmp_path / "blip3o/sa_000000.tar"
    path.write_bytes(path.read_bytes()[:700])
    assert str(path) in refusal(lambda: open_source("blip3o", tmp_path, SIZES))


# What is evaluated on


def test_pictures_that_any_of_the_family_evaluates_on_are_trained_on_by_none(tmp_path: Path) -> None:
    write_referring(tmp_path, "refcoco", ("train", "train", "testA"))
    write_referring(tmp_path, "refcoco+", ("train", "val", "train"))
    write_referring(tmp_path, "refcocog", ("train", "train", "train"))
    write_coco_stuff(tmp_path)
    for name in REFERRING:
        assert pictures_of(open_source(name, tmp_path, SIZES)) == {"0"}
    assert pictures_of(open_source("coco-stuff", tmp_path, SIZES)) == {f"{0:012d}"}


def test_only_sets_that_are_there_take_pictures_away(tmp_path: Path) -> None:
    write_referring(tmp_path, "refcocog", ("train", "test", "train"))
    write_referring(tmp_path, "refcocog", ("val", "val", "train"), by="google")
    write_coco_stuff(tmp_path)
    assert pictures_of(open_source("refcocog", tmp_path, SIZES)) == {"0", "2"}
    assert pictures_of(open_source("coco-stuff", tmp_path, SIZES)) == {f"{n:012d}" for n in (0, 2)}
    (tmp_path / "refcocog/refs(umd).p").unlink()
    assert pictures_of(open_source("coco-stuff", tmp_path, SIZES)) == {f"{n:012d}" for n in (0, 1, 2)}


def test_nothing_left_to_train_on_is_refused(tmp_path: Path) -> None:
    write_referring(tmp_path, "refcoco", ("train", "train", "train"))
    write_referring(tmp_path, "refcoco+", ("val", "testA", "testB"))
    assert "no picture" in refusal(lambda: open_source("refcoco", tmp_path, SIZES))


# A folder of one's own


def names(part: Any) -> set[str]:
    return {row.picture.name for row in part.candidates}


def test_a_picture_is_held_out_whole_and_never_trained_on(tmp_path: Path) -> None:
    write_folder(tmp_path, 40)
    train, held_out = folder_split(tmp_path)
    assert names(train) & names(held_out) == set()
    assert names(train) | names(held_out) == {f"{n}.png" for n in range(40)}
    assert 1 <= len(held_out) <= 12
    assert all(example.task == "segmentation" for example in held_out)
    assert len(train) == 2 * len(names(train))
    source = open_source("folder", tmp_path, SIZES)
    assert isinstance(source, GenerationSource)
    shown = {source.generation(index, 48, 48).text.split()[-1] + ".png" for index in range(200)}
    assert shown == names(train)
    assert len(folder_split(tmp_path, share=0.5)[1]) > len(held_out)
    assert names(folder_split(tmp_path, seed=1)[1]) != names(held_out)


def test_further_rows_and_pictures_change_no_sides(tmp_path: Path) -> None:
    write_folder(tmp_path, 30)
    train, held_out = (names(part) for part in folder_split(tmp_path, share=0.3))
    write_folder(tmp_path, 30)
    assert [names(part) for part in folder_split(tmp_path, share=0.3)] == [train, held_out]
    write_folder(tmp_path, 30, first=30)
    more = [names(part) for part in folder_split(tmp_path, share=0.3)]
    assert train < more[0]
    assert held_out < more[1]


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_neither_side_of_two_pictures_is_empty(tmp_path: Path, share: float) -> None:
    write_folder(tmp_path, 2, captions=False)
    assert [len(part) for part in folder_split(tmp_path, share)] == [1, 1]


def test_one_picture_is_trained_on_and_so_are_captions_without_masks(tmp_path: Path) -> None:
    write_folder(tmp_path, 1)
    train, held_out = folder_split(tmp_path)
    assert (len(train), len(held_out)) == (2, 0)
    rows = (tmp_path / "captions.jsonl").read_text().splitlines()
    (tmp_path / "captions.jsonl").write_text(rows[1])
    source = open_source("folder", tmp_path, SIZES)
    assert not isinstance(source, SegmentationSource)
    assert draw(source, "generation", 0, SIZES[0]).text == "picture 0"


def test_coco_and_labelme_are_split_by_picture_too(tmp_path: Path) -> None:
    for root, rows in ((write_coco(tmp_path / "coco"), 3), (write_labelme(tmp_path / "labelme"), 6)):
        train, held_out = folder_split(root, share=0.34)
        pictures = [{example.id.split("/")[0] for example in part} for part in (train, held_out)]
        assert len(train) + len(held_out) == rows
        assert not pictures[0] & pictures[1]
        assert all(pictures)
        source = open_folder(train, SIZES)
        assert all(is_on_red(draw(source, "segmentation", index, SIZES[1])) for index in range(8))
    assert {open_folder(train, SIZES).segmentation(i, 48, 48).kind for i in range(20)} == {"mug", "cup"}


def test_a_class_of_coco_is_asked_for_in_many_words_in_training_alone(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    train, held_out = folder_split(root)
    texts = {draw(open_folder(train, SIZES, seed), "segmentation", 0, (48, 48)).text for seed in range(12)}
    assert len({text.replace("right", "left") for text in texts}) > 2
    assert {example.text for example in held_out} == {"the left mitten"}


def test_what_cannot_be_trained_on_is_counted_and_the_first_named(tmp_path: Path) -> None:
    write_folder(tmp_path, 2)
    (tmp_path / "images/0.png").unlink()
    message = refusal(lambda: open_source("folder", tmp_path, SIZES))
    assert "captions.jsonl, line 1" in message
    assert "2 problems" in message
    (tmp_path / "captions.jsonl").write_text("\n")
    assert "without an example" in refusal(lambda: folder_split(tmp_path))
    for share in (0.0, 1.0):
        assert "share" in refusal(lambda share=share: folder_split(tmp_path, share))


# What is missing


@pytest.mark.parametrize("name", [name for name in TRAINING_SETS if name != "scenes"])
def test_a_missing_set_is_one_line_that_says_what_was_expected(tmp_path: Path, name: str) -> None:
    assert name in refusal(lambda: open_source(name, None, SIZES))
    assert str(tmp_path) in refusal(lambda: open_source(name, tmp_path, SIZES))


def test_an_unknown_name_lists_the_known_ones() -> None:
    assert "refcoco+, refcocog" in refusal(lambda: open_source("coco", None, SIZES))
