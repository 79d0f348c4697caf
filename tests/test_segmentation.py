"""Segmentation: everything follows from the soft mask, and what is saved can be read back."""

from __future__ import annotations

import itertools
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


def connected_parts(mask: np.ndarray, *, corners: bool) -> list[set[tuple[int, int]]]:
    """Pixel by pixel: the sets of pixels of `mask` that touch at a side or, if so asked, at a corner."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    parts = []
    while left:
        part = waiting = {left.pop()}
        while waiting:
            near = {
                (y + dy, x + dx)
                for y, x in waiting
                for dy, dx in itertools.product((-1, 0, 1), repeat=2)
                if corners or not dy or not dx
            }
            waiting = near & left
            left -= waiting
            part = part | waiting
        parts.append(part)
    return parts


@given(soft_masks, st.integers(1, 5))
def test_instances_are_the_connected_parts_largest_first(soft: np.ndarray, min_area: int) -> None:
    result = segmentation(soft)
    instances = result.instances()
    areas = [instance.area for instance in instances]
    assert areas == sorted(areas, reverse=True)
    found = {frozenset(map(tuple, np.argwhere(instance.mask).tolist())) for instance in instances}
    assert found == set(map(frozenset, connected_parts(result.mask, corners=True)))
    for instance in instances:
        alone = segmentation(np.where(instance.mask, soft, 0))
        assert (instance.area, instance.box) == (alone.mask.sum(), alone.box)
        assert instance.confidence == pytest.approx(alone.confidence)
    assert [instance.area for instance in result.instances(min_area)] == [a for a in areas if a >= min_area]


def test_instances_of_nothing_are_none_and_a_part_has_at_least_a_pixel() -> None:
    assert segmentation(np.zeros((4, 4), np.float32)).instances() == []
    with pytest.raises(ValueError, match="Got min_area 0, expected at least 1 pixel"):
        disc().instances(0)


shares = st.floats(0, 0.4)


@given(soft_masks, st.floats(0, 0.9), shares, shares)
def test_cleaning_removes_specks_and_holes_and_nothing_else(
    soft: np.ndarray, threshold: float, min_part: float, max_hole: float
) -> None:
    result = segmentation(soft, threshold=threshold)
    cleaned = result.cleaned(min_part, max_hole)

    parts = connected_parts(result.mask, corners=True)
    largest = max(map(len, parts), default=0)
    kept = [part for part in parts if len(part) >= min_part * soft.size]
    kept = kept or [part for part in parts if len(part) == largest][:1]
    height, width = soft.shape
    without_specks = np.zeros(soft.shape, bool)
    for pixel in set().union(*kept):
        without_specks[pixel] = True
    expected = without_specks.copy()
    for gap in connected_parts(~without_specks, corners=False):
        is_open = any(y in (0, height - 1) or x in (0, width - 1) for y, x in gap)
        if not is_open and len(gap) <= max_hole * soft.size:
            expected[tuple(np.transpose(list(gap)))] = True

    if sum(len(part) == largest for part in parts) == 1 or largest >= min_part * soft.size:
        np.testing.assert_array_equal(cleaned.mask, expected)
    assert cleaned.is_empty == result.is_empty
    untouched = cleaned.mask == result.mask
    np.testing.assert_array_equal(cleaned.soft_mask[untouched], soft[untouched])
    if not result.is_empty and not (result.mask & ~cleaned.mask).any():
        assert cleaned.confidence == pytest.approx(result.confidence)  # holes make it no surer
    np.testing.assert_array_equal(cleaned.cleaned(min_part, max_hole).soft_mask, cleaned.soft_mask)
    np.testing.assert_array_equal(result.cleaned(0, 0).soft_mask, soft)


def test_cleaning_by_default_mends_a_mask_and_leaves_the_result_it_came_from() -> None:
    soft = disc(256).soft_mask * np.linspace(0.6, 1, 256, dtype=np.float32)
    soft[128:132, 128:132] = 0  # a hole
    soft[5:9, 5:9] = 0.9  # a speck
    result = segmentation(soft)
    cleaned = result.cleaned()
    np.testing.assert_array_equal(cleaned.mask, disc(256).mask)
    assert cleaned.box == disc(256).box
    untouched = cleaned.mask == result.mask
    np.testing.assert_array_equal(cleaned.soft_mask[untouched], soft[untouched])
    assert result.mask[6, 6]
    assert not result.mask[130, 130]


@pytest.mark.parametrize("shares", [{"min_part": -0.1}, {"max_hole": 1.1}, {"min_part": float("nan")}])
def test_a_share_of_the_picture_is_checked(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"Got m.* expected a share of the picture in \[0, 1\]"):
        disc().cleaned(**shares)


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
