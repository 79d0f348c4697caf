"""The RefCOCO family: the layout on disk is read right with its traps, and a pickle runs nothing."""

from __future__ import annotations

import copyreg
import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api

from genmask.data.pickles import load_plain_pickle
from genmask.data.referring import Referring

HEIGHT, WIDTH = 8, 10
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
MSCOCO = "images/mscoco/images/train2014"
RLE_MASK = np.random.default_rng(3).random((HEIGHT, WIDTH)) < 0.5


def box(left: int, top: int, right: int, bottom: int) -> list[int]:
    """A polygon that covers exactly `[top:bottom, left:right]`."""
    return [left, top, right, top, right, bottom, left, bottom]


def covered(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    return mask


def sentence(sent_id: int, sent: str, raw: str | None = None) -> dict[str, Any]:
    raw = sent.capitalize() + "!" if raw is None else raw
    return {"tokens": sent.split(), "raw": raw, "sent_id": sent_id, "sent": sent}


def ref(
    ref_id: int, ann_id: Any, split: str, *sentences: dict[str, Any], image_id: int = 1
) -> dict[str, Any]:
    return {
        "sent_ids": [each["sent_id"] for each in sentences],
        "file_name": f"COCO_train2014_{image_id:012d}_{ref_id}.jpg",  # there is no such file
        "ann_id": ann_id,
        "ref_id": ref_id,
        "image_id": image_id,
        "split": split,
        "sentences": list(sentences),
        "category_id": 1,
    }


REFS = [
    ref(10, 100, "train", sentence(1, "two boxes"), sentence(2, "both of them")),
    ref(11, 101, "val", sentence(3, "run lengths as text")),
    ref(12, 102, "testA", sentence(4, "nothing drawn"), image_id=2),
    ref(13, 103, "testB", sentence(5, "a small box"), image_id=2),
    ref(14, 101, "train", sentence(6, "the last"), image_id=1),
]


def python2_pickle(value: Any) -> bytes:
    """Protocol 2 as Python 2 wrote it: text as bytes, every container remembered."""
    count = 0

    def remember() -> bytes:
        nonlocal count
        count += 1
        return b"q" + bytes([count - 1]) if count <= 256 else b"r" + struct.pack("<I", count - 1)

    def write(item: Any) -> bytes:
        if isinstance(item, dict):
            head = b"}" + remember()
            return head + b"(" + b"".join(write(k) + write(v) for k, v in item.items()) + b"u"
        if isinstance(item, list):
            head = b"]" + remember()
            return head + b"(" + b"".join(map(write, item)) + b"e"
        if isinstance(item, str):
            return b"U" + bytes([len(item)]) + item.encode("latin1") + remember()
        if 0 <= item < 256:
            return b"K" + bytes([item])
        return b"\x8a\x08" + struct.pack("<q", item)

    return b"\x80\x02" + write(value) + b"."


def write_family(root: Path, dataset: str = "refcoco", by: str = "unc", refs: Any = REFS) -> Path:
    folder = root / dataset
    images = root / ("images/saiapr_tc-12" if dataset == "refclef" else MSCOCO)
    for path in (folder, images):
        path.mkdir(parents=True, exist_ok=True)
    rle = mask_api.encode(np.asfortranarray(RLE_MASK.astype(np.uint8)))
    outlines = {
        100: [box(1, 1, 5, 4), box(3, 2, 8, 6)],
        101: [{"size": rle["size"], "counts": rle["counts"].decode()}],
        102: [],
        103: [box(0, 6, 2, 8)],
    }
    instances = {
        "images": [
            {"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "height": HEIGHT, "width": WIDTH}
            for i in (1, 2)
        ],
        "annotations": [
            {
                "id": i,
                "image_id": 1 if i < 102 else 2,
                "category_id": 1,
                "segmentation": outline,
                "iscrowd": 0,
            }
            for i, outline in outlines.items()
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (folder / "instances.json").write_text(json.dumps(instances), encoding="utf-8")
    prefix = "g" if dataset == "grefcoco" else ""
    (folder / f"{prefix}refs({by}).p").write_bytes(pickle.dumps(refs, protocol=2))
    for i in (1, 2):
        Image.fromarray(PIXELS).save(images / f"COCO_train2014_{i:012d}.jpg", "PNG")  # lossless, to compare
    return root


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(ValueError, match="expected") as error:
        Referring(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_sentence_is_an_example_in_the_order_of_the_file(tmp_path: Path) -> None:
    data = Referring(write_family(tmp_path), "refcoco", "train")
    examples = [data[i] for i in range(len(data))]
    assert [(each.id, each.text) for each in examples] == [
        ("10/1", "two boxes"),
        ("10/2", "both of them"),
        ("14/6", "the last"),
    ]
    for example in examples:
        assert (example.source, example.kind, example.ignore) == ("refcoco/train", "", None)
        assert np.array_equal(example.image, PIXELS)
    union = covered((1, 1, 5, 4), (3, 2, 8, 6))
    for example, mask in zip(examples, (union, union, RLE_MASK), strict=True):
        assert np.array_equal(example.mask, mask)


@pytest.mark.parametrize("overlap", ["lavt", "lisa"])
def test_published_codes_take_doubly_covered_pixels_for_background(tmp_path: Path, overlap: Any) -> None:
    data = Referring(write_family(tmp_path), "refcoco", "train", overlap=overlap)
    union = covered((1, 1, 5, 4), (3, 2, 8, 6))
    assert np.array_equal(data[0].mask, union & ~covered((3, 2, 5, 4)))
    assert np.array_equal(data[2].mask, RLE_MASK)


def test_an_annotation_without_an_outline_is_an_empty_mask(tmp_path: Path) -> None:
    example = Referring(write_family(tmp_path), "refcoco", "testA")[0]
    assert example.mask is not None
    assert not example.mask.any()


@pytest.mark.parametrize(
    ("split", "ids"),
    [
        ("train", ["1"]),
        ("val", ["2"]),
        ("testA", ["3", "5"]),
        ("testB", ["4", "5"]),
        ("testC", ["6"]),
        ("test", ["3", "4", "5", "6"]),
        ("testAB", ["5"]),
    ],
)
def test_splits_are_chosen_as_the_authors_reader_does(tmp_path: Path, split: str, ids: list[str]) -> None:
    names = ("train", "val", "testA", "testB", "testAB", "testC")
    refs = [ref(i, 100, name, sentence(i, "it")) for i, name in enumerate(names, start=1)]
    data = Referring(write_family(tmp_path, "refclef", refs=refs), "refclef", split)
    assert [data[i].id.split("/")[0] for i in range(len(data))] == ids


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    root = write_family(tmp_path)
    for split in ("testC", "trainval", "", "Val"):
        assert "one of test, testA, testB, train, val, which" in refusal(root, "refcoco", split)
    write_family(tmp_path, "refcocog", "google", [each for each in REFS if "test" not in each["split"]])
    assert "one of train, val, which" in refusal(root, "refcocog", "test", by="google")


@pytest.mark.parametrize(
    ("dataset", "by"), [("refcoco+", "unc"), ("refcocog", "umd"), ("refclef", "unc"), ("refcoco", "unc")]
)
def test_the_usual_partition_is_the_default(tmp_path: Path, dataset: Any, by: str) -> None:
    root = write_family(tmp_path, dataset, by)
    assert len(Referring(root, dataset, "train")) == 3


@pytest.mark.parametrize(
    ("dataset", "by"), [("refcoco", "google"), ("refcocog", "google"), ("refclef", "berkeley")]
)
def test_another_partition_is_another_file(tmp_path: Path, dataset: Any, by: str) -> None:
    root = write_family(tmp_path, dataset, by)
    assert len(Referring(root, dataset, "val", by=by)) == 1
    assert "refs(u" in refusal(root, dataset, "val")


def test_both_texts_are_read_and_blank_ones_replaced(tmp_path: Path) -> None:
    sentences = (
        sentence(1, "red mug"),
        sentence(2, "", "Blue Mug. "),
        sentence(3, "cup", " "),
        sentence(4, "", ""),
    )
    root = write_family(tmp_path, refs=[ref(1, 100, "val", *sentences)])
    texts = {}
    for text in ("sent", "raw"):
        data = Referring(root, "refcoco", "val", text=text)
        texts[text] = [data[i].text for i in range(len(data))]
        assert data.blank == 1
    assert texts == {"sent": ["red mug", "Blue Mug.", "cup"], "raw": ["Red mug!", "Blue Mug.", "cup"]}


GREFS = [
    ref(1, [-1], "val", sentence(1, "the zebra"), image_id=2),
    ref(2, [100, 101], "val", sentence(2, "all of it")),
    ref(3, [103], "val", sentence(3, "one box"), image_id=2),
    ref(4, -1, "val", sentence(4, "the lion"), image_id=2),
]


def check_grefcoco(root: Path) -> None:
    data = Referring(root, "grefcoco", "val")
    absent, several, one, unlisted = (data[i] for i in range(len(data)))
    assert [each.kind for each in (absent, several, one, unlisted)] == ["absent", "", "", "absent"]
    assert np.array_equal(absent.mask, covered())
    assert np.array_equal(several.mask, covered((1, 1, 5, 4), (3, 2, 8, 6)) | RLE_MASK)
    assert np.array_equal(one.mask, covered((0, 6, 2, 8)))


def test_grefcoco_means_nothing_one_thing_or_several(tmp_path: Path) -> None:
    check_grefcoco(write_family(tmp_path, "grefcoco", refs=GREFS))
    assert "overlap 'lavt'" in refusal(tmp_path, "grefcoco", "val", overlap="lavt")


def test_grefcoco_is_read_from_a_pickle_or_else_from_json(tmp_path: Path) -> None:
    root = write_family(tmp_path, "grefcoco", refs=GREFS)
    other = root / "grefcoco/grefs(unc).json"
    other.write_text("nothing to read while the pickle is there")
    check_grefcoco(root)
    (root / "grefcoco/grefs(unc).p").unlink()
    other.write_text(json.dumps(GREFS))
    check_grefcoco(root)


def test_missing_photographs_are_named_or_left_out(tmp_path: Path) -> None:
    root = write_family(tmp_path)
    (root / MSCOCO / "COCO_train2014_000000000002.jpg").unlink()
    assert len(Referring(root, "refcoco", "train")) == 3
    assert "2.jpg (1 of 1" in refusal(root, "refcoco", "testA", skip_missing=True)
    refs = [*REFS, ref(20, 103, "train", sentence(20, "a"), sentence(21, "b"), image_id=2)]
    write_family(tmp_path / "more", refs=refs)
    (tmp_path / "more" / MSCOCO / "COCO_train2014_000000000002.jpg").unlink()
    assert "2.jpg (1 of 2" in refusal(tmp_path / "more", "refcoco", "train")
    data = Referring(tmp_path / "more", "refcoco", "train", skip_missing=True)
    assert (len(data), data.skipped) == (3, 2)


def test_photographs_may_be_elsewhere(tmp_path: Path) -> None:
    root = write_family(tmp_path / "root")
    (root / MSCOCO).rename(tmp_path / "photographs")
    assert MSCOCO in refusal(root, "refcoco", "val")
    data = Referring(root, "refcoco", "val", images=tmp_path / "photographs")
    assert np.array_equal(data[0].mask, RLE_MASK)


def test_a_photograph_of_another_size_is_refused(tmp_path: Path) -> None:
    root = write_family(tmp_path)
    Image.fromarray(PIXELS[:, :-1]).save(root / MSCOCO / "COCO_train2014_000000000001.jpg")
    with pytest.raises(ValueError, match=r"\(8, 9\).*expected \(8, 10\)"):
        Referring(root, "refcoco", "val")[0]


def test_missing_files_are_named_with_the_layout(tmp_path: Path) -> None:
    message = refusal(tmp_path, "refcoco+", "val")
    assert "refcoco+/refs(unc).p" in message
    assert MSCOCO in message
    assert "grefs(unc).json" in refusal(tmp_path, "grefcoco", "val")
    root = write_family(tmp_path)
    (root / "refcoco/instances.json").unlink()
    assert "refcoco/instances.json" in refusal(root, "refcoco", "val")


def test_options_that_are_none_are_refused(tmp_path: Path) -> None:
    for options in (
        {"dataset": "refcoco2"},
        {"by": "umd"},
        {"text": "tokens"},
        {"overlap": "sum"},
    ):
        arguments = {"dataset": "refcoco", "split": "val", **options}
        assert next(iter(options.values())) in refusal(tmp_path, **arguments)


@pytest.mark.parametrize(
    ("refs", "said"),
    [
        ({}, "list of references"),
        ([], "list of references"),
        ([7], "int for reference 0"),
        ([{"ref_id": 1}], "split"),
        ([ref(1, 999, "val", sentence(1, "x"))], "ann_id"),
        ([ref(1, 103, "val", sentence(1, "x"))], "ann_id"),  # of another photograph
        ([ref(1, [100], "val", sentence(1, "x"))], "list for ann_id"),
        ([ref(1, -1, "val", sentence(1, "x"))], "ann_id"),
        ([ref(1, 100, "val", sentence(1, "x"), image_id=9)], "image_id 9"),
        ([{**ref(1, 100, "val"), "sentences": None}], "sentences"),
        ([ref(1, 100, "val", sentence(1, "", ""))], "without a sentence"),
        ([{**ref(1, 100, "val"), "sentences": [{"sent_id": 1}]}], "without sent"),
        ([{**ref(1, 100, "val"), "sentences": ["x"]}], "str for a sentence"),
    ],
)
def test_references_of_another_shape_are_refused(tmp_path: Path, refs: Any, said: str) -> None:
    message = refusal(write_family(tmp_path, refs=refs), "refcoco", "val")
    assert said in message
    assert "refs(unc).p" in message


PLAIN = {
    "text": ["caf\xe9", "", "two\nlines"],
    "numbers": [0, -1, 255, 65536, -(2**40), 2**70],
    "more": {"list": [], "dict": {}, "deep": [[[{"a": [1]}]]]},
}


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    value = [{"raw": "caf\xe9", "ann_id": 2**40, "tokens": ["x"] * 300, "n": -7}]
    data = python2_pickle(value)
    assert pickle.loads(data, encoding="latin1") == value
    (tmp_path / "refs.p").write_bytes(data)
    assert load_plain_pickle(tmp_path / "refs.p") == value
    protocol_0 = b"(lp0\n(dp1\nS'ann_id'\np2\nL12L\nsS'sent'\np3\nVcaf\xe9\np4\nsa."
    (tmp_path / "refs.p").write_bytes(protocol_0)
    assert load_plain_pickle(tmp_path / "refs.p") == [{"ann_id": 12, "sent": "caf\xe9"}]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_is_read_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    shared = ["the same"]
    value: dict[str, Any] = {
        **PLAIN,
        "constants": [None, True, False, 1.5],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "long": "x" * 70_000,
        7: [shared, shared],
    }
    if protocol > 2:  # before, bytes are made by a call
        value["bytes"] = [b"", b"\x00\xff" * 200]
    (tmp_path / "p").write_bytes(pickle.dumps(value, protocol))
    read = load_plain_pickle(tmp_path / "p")
    assert read == value
    assert type(read["constants"][1]) is bool


class Runs:
    """Its pickle calls a function with arguments when it is read."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


def hostile_pickles(trace: Path) -> dict[str, bytes]:
    command = f"touch {trace}".encode()
    call = f"open({str(trace)!r}, 'w')".encode()
    return {
        "os.system": pickle.dumps(Runs(os.system, command.decode()), 2),
        "eval": pickle.dumps([Runs(eval, call.decode())], 2),
        "eval in protocol 4": pickle.dumps([Runs(eval, call.decode())], 4),
        "eval in protocol 0": b"c__builtin__\neval\n(S" + repr(call.decode()).encode() + b"\ntR.",
        "getattr": b"c__builtin__\ngetattr\n(cos\n__dict__\nS'system'\ntR.",
        "a name alone": b"cos\nsystem\n.",
        "INST": b"(S'" + command + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + command + b"'\no.",
        "NEWOBJ": b"\x80\x02)\x81.",
        "BUILD": b"\x80\x02]}U\x01aK\x01sb.",
        "REDUCE": b"\x80\x02NN)R.",
        "persistent id": b"Pabc\n.",
        "binary persistent id": b"U\x01aQ.",
        "numpy scalar": pickle.dumps([np.float64(1.0)], 2),
        "numpy array": pickle.dumps(np.zeros(3), 2),
        "out-of-band buffer": b"\x80\x05\x97.",
        "set": pickle.dumps({1, 2}, 4),
    }


@pytest.mark.parametrize("name", sorted(hostile_pickles(Path("x"))))
def test_a_pickle_that_asks_for_code_is_refused_and_runs_nothing(tmp_path: Path, name: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / "hostile.p"
    path.write_bytes(hostile_pickles(trace)[name])
    with pytest.raises(ValueError, match=r"instruction [A-Z_0-9]+ at byte") as error:
        load_plain_pickle(path)
    assert str(path) in str(error.value)
    assert not trace.exists()


def test_a_hostile_pickle_would_run_if_it_were_unpickled(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    pickle.loads(hostile_pickles(trace)["os.system"])
    assert trace.exists()


def test_a_registered_extension_is_refused_even_when_python_remembers_it(tmp_path: Path) -> None:
    copyreg.add_extension("os", "getcwd", 240)
    try:
        data = b"\x80\x02\x82\xf0)R."
        assert pickle.loads(data) == os.getcwd()
        (tmp_path / "p").write_bytes(data)
        with pytest.raises(ValueError, match="instruction EXT1"):
            load_plain_pickle(tmp_path / "p")
    finally:
        copyreg.remove_extension("os", "getcwd", 240)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nothing",
        b"\x89PNG\r\n\x1a\n",
        pickle.dumps(PLAIN, 2)[:-1],
        pickle.dumps(PLAIN, 2)[:40],
        b".",
        b"a.",
        b"u.",
        b"h\x07.",
        b"(lp1\n(K\x01s.",
        b"}K\x01a.",
        b"]K\x01K\x02s.",
        b"}(K\x01u.",
        b"}]K\x01s.",
        b"U\xffabc.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"S" + b"x" * 10_000 + b"\n.",
    ],
)
def test_what_is_no_whole_pickle_is_refused_in_a_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "p").write_bytes(data)
    with pytest.raises(ValueError, match="no pickle of plain data") as error:
        load_plain_pickle(tmp_path / "p")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_a_pickle_that_takes_memory_or_for_ever_does_not(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_bytes(b"Nr\xff\xff\xff\xff.")  # to remember it, Python's unpickler takes 64 GB
    assert load_plain_pickle(path) is None
    path.write_bytes(b"]" * 100_000 + b"a" * 99_999 + b".")
    assert isinstance(load_plain_pickle(path), list)
    path.write_bytes(b"}()q\0" + b"h\0h\0\x86q\0" * 60 + b"K\1u.")  # a key that takes 2 ** 60 steps to hash
    with pytest.raises(ValueError, match="tuple as a key"):
        load_plain_pickle(path)
    with pytest.raises(ValueError, match=r"none\.p.*expected"):
        load_plain_pickle(tmp_path / "none.p")
