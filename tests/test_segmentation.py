"""Segmentation: everything follows from the soft mask, and what is saved can be read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pycocotools import mask as coco_mask

from genmask import Segmentation
from genmask.segmentation import file_stem

soft_masks = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.floats(0, 1, width=32),
)


def segmentation(soft_mask: np.ndarray, **fields: object) -> Segmentation:
    height, width = soft_mask.shape
    image = Image.effect_noise((width, height), 64).convert("RGB")
    defaults: dict = {"image": image, "text": "the red mug", "target": "the red mug"}
    return Segmentation(soft_mask=soft_mask, **{**defaults, **fields})


def disc(size: int = 64, color: tuple[int, int, int] = (90, 90, 90)) -> Segmentation:
    rows, columns = np.ogrid[:size, :size]
    soft = ((rows - size // 2) ** 2 + (columns - size // 2) ** 2 <= (size // 4) ** 2).astype(np.float32)
    return segmentation(soft, image=Image.new("RGB", (size, size), color))


@given(soft_masks, st.floats(0, 0.99))
def test_mask_confidence_and_box_follow_from_the_soft_mask(soft: np.ndarray, threshold: float) -> None:
    result = segmentation(soft, threshold=threshold)
    inside = [(y, x) for y, x in np.ndindex(soft.shape) if soft[y, x] > threshold]

    assert result.mask.dtype == np.bool_
    assert [tuple(pixel) for pixel in np.argwhere(result.mask)] == inside
    assert result.is_empty == (not inside)
    assert 0 <= result.confidence <= 1
    if inside:
        assert result.confidence == pytest.approx(np.mean([soft[pixel] for pixel in inside]), abs=1e-6)
        left, top, right, bottom = result.box
        ys, xs = zip(*inside, strict=True)
        assert (left, top, right, bottom) == (min(xs), min(ys), max(xs) + 1, max(ys) + 1)
        assert result.mask[top:bottom, left:right].sum() == len(inside)
    else:
        assert result.box is None
        assert result.confidence == pytest.approx(1 - soft.max(), abs=1e-6)


@given(soft_masks)
def test_rle_survives_json_and_decodes_to_the_mask(soft: np.ndarray) -> None:
    result = segmentation(soft)
    rle = json.loads(json.dumps(result.rle()))
    assert rle["size"] == list(soft.shape)
    np.testing.assert_array_equal(coco_mask.decode(rle).astype(bool), result.mask)


@given(soft_masks)
def test_overlay_leaves_pixels_far_from_the_mask_alone(soft: np.ndarray) -> None:
    result = segmentation(soft)
    overlay, picture = np.asarray(result.overlay()), np.asarray(result.image)
    assert overlay.shape == picture.shape
    near = np.zeros(soft.shape, bool)
    for y, x in np.argwhere(result.mask):
        near[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = True
    np.testing.assert_array_equal(overlay[~near], picture[~near])


@pytest.mark.parametrize("color", [(255, 255, 255), (0, 0, 0), (255, 0, 96)])
def test_overlay_draws_a_contour_that_shows_on_any_colour(color: tuple[int, int, int]) -> None:
    result = disc(color=color)
    overlay = np.asarray(result.overlay(color=(255, 0, 96))).astype(int)
    row = overlay[32]  # crosses the disc, whose leftmost pixel is 16
    assert row[15].tolist() == [0, 0, 0]
    assert row[16].tolist() == [255, 255, 255]
    assert np.allclose(row[32], 0.55 * np.array(color) + 0.45 * np.array((255, 0, 96)), atol=1)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1"])
def test_overlay_takes_a_picture_in_any_mode(mode: str) -> None:
    result = disc()
    other = segmentation(result.soft_mask, image=result.image.convert(mode))
    assert (other.overlay().mode, other.overlay().size) == ("RGB", (64, 64))


@given(soft_masks)
def test_what_is_saved_reads_back(tmp_path_factory: pytest.TempPathFactory, soft: np.ndarray) -> None:
    result = segmentation(soft, text="le café", target="the coffee")
    files = result.save(tmp_path_factory.mktemp("saved") / "deep" / "folder", "one")

    mask = np.asarray(Image.open(files.mask))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, np.where(result.mask, 255, 0))
    np.testing.assert_array_equal(np.asarray(Image.open(files.overlay)), np.asarray(result.overlay()))

    record = json.loads(files.json.read_text(encoding="utf-8"))
    assert (record["text"], record["target"]) == ("le café", "the coffee")
    assert (record["height"], record["width"]) == soft.shape
    assert record["threshold"] == 0.5
    assert record["confidence"] == result.confidence
    assert record["is_empty"] == result.is_empty
    assert record["area_fraction"] == result.mask.mean()
    assert record["box"] == (list(result.box) if result.box else None)
    np.testing.assert_array_equal(coco_mask.decode(record["rle"]).astype(bool), result.mask)
    named = {files.json.parent / name for name in record["files"].values()}
    assert named == {files.mask, files.overlay}
    assert set(files.json.parent.iterdir()) == set(files)  # and no half-written file beside them


def test_saving_again_replaces_and_a_failed_save_keeps_the_old(tmp_path: Path) -> None:
    files = disc().save(tmp_path, "one")
    empty = segmentation(np.zeros((64, 64), np.float32))
    empty.save(tmp_path, "one")
    assert not np.asarray(Image.open(files.mask)).any()

    files.mask.unlink()
    files.mask.mkdir()  # a file cannot be renamed over a folder
    with pytest.raises(OSError, match=r"one\.mask\.png"):
        disc().save(tmp_path, "one")
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert json.loads(files.json.read_text())["is_empty"]


def test_texts_get_files_of_their_own(tmp_path: Path) -> None:
    result = disc()
    for text in ("the red mug", "the blue mug"):
        segmentation(result.soft_mask, text=text).save(tmp_path)
    assert {path.name for path in tmp_path.glob("*.json")} == {"the-red-mug.json", "the-blue-mug.json"}


@given(st.text(max_size=300))
def test_any_text_gives_a_usable_file_name(text: str) -> None:
    stem = file_stem(text)
    assert stem
    assert not stem.startswith((".", "-"))
    assert Path(stem).name == stem
    assert len(f"{stem}.overlay.png".encode()) <= 255


@pytest.mark.parametrize("stem", ["", ".", "a/b", "../a", "/etc/passwd", "a/"])
def test_a_stem_cannot_leave_the_folder(tmp_path: Path, stem: str) -> None:
    with pytest.raises(ValueError, match="bare file name"):
        disc().save(tmp_path / "inside", stem)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"soft_mask": np.zeros((3, 5), np.float32)}, r"\(3, 5\) float32, expected \(5, 3\)"),
        ({"soft_mask": np.zeros((5, 3), np.float64)}, "float64, expected"),
        ({"soft_mask": np.full((5, 3), 1.5, np.float32)}, r"expected \[0, 1\]"),
        ({"soft_mask": np.full((5, 3), np.nan, np.float32)}, r"expected \[0, 1\]"),
        ({"threshold": 1.0}, "threshold 1.0"),
        ({"threshold": float("nan")}, "threshold nan"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields: dict, message: str) -> None:
    good: dict = {
        "image": Image.new("RGB", (3, 5)),
        "text": "",
        "target": "",
        "soft_mask": np.zeros((5, 3), np.float32),
    }
    with pytest.raises(ValueError, match=message):
        Segmentation(**{**good, **fields})


def test_repr_is_one_short_line() -> None:
    assert repr(disc()) == "Segmentation(text='the red mug', box=(16, 16, 49, 49), confidence=1.000)"
    assert "empty" in repr(segmentation(np.zeros((4, 4), np.float32)))
