"""A user's own folder: every field means what it says, and what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genmask.data.folder import Folder, read_mask
from genmask.images import ImageError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
TARGET = np.zeros((6, 8), dtype=bool)
TARGET[2:4, 1:5] = True


def write_folder(root: Path, *rows: object, text: str | None = None) -> Path:
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).save(root / "images/a.png")
    Image.fromarray(TARGET).save(root / "masks/a.png")
    Image.fromarray(~TARGET).save(root / "masks/rest.png")
    lines = "\n".join(json.dumps(row) for row in rows) if text is None else text
    (root / "captions.jsonl").write_text(lines, encoding="utf-8")
    return root


def refusal(root: Path) -> str:
    with pytest.raises(ValueError, match="expected") as error:
        Folder(root)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_rows_become_examples_in_order(tmp_path: Path) -> None:
    folder = Folder(
        write_folder(
            tmp_path / "mine",
            {
                "image": "images/a.png",
                "text": "the red mug",
                "mask": "masks/a.png",
                "ignore": "masks/rest.png",
            },
            {"image": "images/a.png", "text": "the caf\u00e9"},
            {"image": "images/a.png", "text": "the dog", "mask": None},
            {"image": "images/a.png", "caption": "a mug on a table"},
        )
    )
    present, unsaid, absent, caption = (folder[i] for i in range(len(folder)))
    for example in (present, unsaid, absent, caption):
        assert np.array_equal(example.image, PIXELS)
    assert present.mask is not None
    assert np.array_equal(present.mask, TARGET)
    assert present.ignore is not None
    assert np.array_equal(present.ignore, ~TARGET)
    assert (present.text, present.task, present.source) == ("the red mug", "segmentation", "folder/mine")
    for example in (unsaid, absent):
        assert example.mask is not None
        assert not example.mask.any()
        assert example.kind == "absent"
    assert unsaid.text == "the caf\u00e9"
    assert (caption.text, caption.task, caption.mask) == ("a mug on a table", "generation", None)
    assert len({folder[i].id for i in range(4)}) == 4


@pytest.mark.parametrize("form", ["1", "L", "RGB", "zero and one", "antialiased"])
def test_masks_are_read_alike_in_every_form(tmp_path: Path, form: str) -> None:
    values = TARGET.astype(np.uint8) * 255
    image = Image.fromarray(values)
    if form in ("1", "RGB"):
        image = image.convert(form)
    elif form == "zero and one":
        image = Image.fromarray(TARGET.astype(np.uint8))
    elif form == "antialiased":
        image = Image.fromarray(np.where(TARGET, 200, 60).astype(np.uint8))
    image.save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png"), TARGET)


def test_masks_that_are_none_are_refused(tmp_path: Path) -> None:
    ids = np.arange(48, dtype=np.uint8).reshape(6, 8)
    Image.fromarray(ids).save(tmp_path / "ids.png")
    Image.fromarray(PIXELS).quantize(8).save(tmp_path / "palette.png")
    Image.fromarray(TARGET.astype(np.uint8) * 255).save(tmp_path / "lossy.jpg")
    (tmp_path / "broken.png").write_bytes((tmp_path / "ids.png").read_bytes()[:40])
    with pytest.raises(ValueError, match="values up to 47"):
        read_mask(tmp_path / "ids.png")
    with pytest.raises(ValueError, match="mode P"):
        read_mask(tmp_path / "palette.png")
    for name in ("lossy.jpg", "broken.png"):
        with pytest.raises(ValueError, match="Cannot read the mask"):
            read_mask(tmp_path / name)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"image": "images/a.png", "text": "x", "mask": "masks/a.png"})
    Image.fromarray(TARGET[:3]).save(root / "masks/a.png")
    with pytest.raises(ValueError, match=r"\(3, 8\).*expected \(6, 8\)"):
        Folder(root)[0]


def test_a_rotated_picture_goes_with_its_upright_mask(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"image": "images/a.png", "text": "x", "mask": "masks/a.png"})
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(PIXELS[::-1, ::-1].copy()).save(root / "images/a.png", exif=exif)
    assert np.array_equal(Folder(root)[0].image, PIXELS)


def test_a_broken_picture_says_so(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"image": "images/a.png", "text": "x"})
    (root / "images/a.png").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"a\.png"):
        Folder(root)[0]


def test_missing_files_are_named_with_the_layout(tmp_path: Path) -> None:
    assert "nowhere" in refusal(tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    assert "captions.jsonl" in refusal(tmp_path / "bare")
    row = {"image": "images/a.png", "text": "x", "mask": "masks/a.png"}
    for field in ("image", "mask", "ignore"):
        message = refusal(write_folder(tmp_path / field, row, {**row, field: "masks/none.png"}))
        assert "none.png" in message
        assert f"{field} of" in message
        assert "line 2" in message


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"image": "images/a.png"}, "either text or caption"),
        ({"text": "x"}, "expected image"),
        ({"image": "images/a.png", "text": "x", "caption": "y"}, "either text or caption"),
        ({"image": "images/a.png", "caption": "y", "mask": "masks/a.png"}, "caption with a mask"),
        ({"image": "images/a.png", "text": " "}, "text ' '"),
        ({"image": "images/a.png", "text": 7}, "text 7"),
        ({"image": "images/a.png", "txt": "x"}, "'txt'"),
        (["images/a.png", "x"], "list"),
    ],
)
def test_rows_that_mean_nothing_are_refused(tmp_path: Path, row: object, said: str) -> None:
    message = refusal(write_folder(tmp_path, row))
    assert said in message
    assert "line 1" in message


def test_files_that_are_no_rows_are_refused(tmp_path: Path) -> None:
    assert "line 1" in refusal(write_folder(tmp_path, text="{'image': 1}"))
    assert "without a row" in refusal(write_folder(tmp_path, text="\n\n"))
    (tmp_path / "captions.jsonl").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refusal(tmp_path)
