"""Looking again at small things: where, what becomes of the two answers, and when the first one stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from genmask.cli import main
from genmask.instances import Box
from genmask.pipeline import GenMaskPipeline
from genmask.thresholds import best_threshold
from genmask.zoom import MAX_MAGNIFICATION, MIN_MAGNIFICATION, Zoom, blend
from tests.conftest import random_picture

SIDES = st.integers(1, 400)


@st.composite
def pictures_and_boxes(draw: st.DrawFn) -> tuple[int, int, Box]:
    width, height = draw(SIDES), draw(SIDES)
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return (
        width,
        height,
        (left, top, draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))),
    )


# -- where to look


@given(pictures_and_boxes(), st.floats(0, 3))
def test_the_crop_holds_what_was_found_and_lies_in_the_picture(
    case: tuple[int, int, Box], padding: float
) -> None:
    width, height, found = case
    crop = Zoom(padding=padding).crop_box(found, width, height)
    assume(crop is not None)
    assert 0 <= crop[0] <= found[0] < found[2] <= crop[2] <= width
    assert 0 <= crop[1] <= found[1] < found[3] <= crop[3] <= height


@given(pictures_and_boxes(), st.floats(0, 3))
def test_the_crop_has_the_aspect_of_the_picture(case: tuple[int, int, Box], padding: float) -> None:
    width, height, found = case
    crop = Zoom(padding=padding).crop_box(found, width, height)
    assume(crop is not None)
    shares = (crop[2] - crop[0]) / width, (crop[3] - crop[1]) / height
    # To the whole pixel, or what was found would be cut.
    assert abs(shares[0] - shares[1]) <= 1 / width + 1 / height
    assert all(share <= 1 / MIN_MAGNIFICATION + 1 / min(width, height) for share in shares)


@given(pictures_and_boxes())
def test_the_padding_is_kept_on_every_side_that_has_room(case: tuple[int, int, Box]) -> None:
    width, height, found = case
    padding = 0.5
    crop = Zoom(padding=padding).crop_box(found, width, height)
    assume(crop is not None)
    margin = padding * max(found[2] - found[0], found[3] - found[1])
    for axis, length in enumerate((width, height)):
        assert crop[axis] <= max(0, found[axis] - margin + 1)
        assert crop[2 + axis] >= min(length, found[2 + axis] + margin - 1)


def test_a_speck_is_not_enlarged_beyond_the_limit() -> None:
    crop = Zoom().crop_box((400, 200, 401, 201), 800, 400)
    assert crop is not None
    assert (crop[2] - crop[0], crop[3] - crop[1]) == (800 // MAX_MAGNIFICATION, 400 // MAX_MAGNIFICATION)


def test_nothing_found_and_what_is_large_are_not_looked_at_again() -> None:
    assert Zoom().crop_box(None, 80, 60) is None
    assert Zoom().crop_box((0, 0, 80, 60), 80, 60) is None
    assert Zoom(padding=1).crop_box((30, 20, 50, 40), 80, 60) is None, "three times 20 is all of 60"
    assert Zoom(padding=0.25).crop_box((30, 20, 50, 40), 80, 60) is not None


@pytest.mark.parametrize("wrong", [{"padding": -1.0}, {"padding": float("nan")}, {"agreement": 1.5}])
def test_a_senseless_zoom_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"^Got .*, expected "):
        Zoom(**wrong)


# -- what becomes of two answers


@given(pictures_and_boxes(), st.integers(0, 2**32 - 1))
def test_outside_the_crop_the_first_answer_stands(case: tuple[int, int, Box], seed: int) -> None:
    width, height, (left, top, right, bottom) = case
    rng = np.random.default_rng(seed)
    first = rng.random((height, width), dtype=np.float32)
    second = rng.random((bottom - top, right - left), dtype=np.float32)
    before = first.copy()
    blended = blend(first, (left, top, right, bottom), second)
    outside = np.ones((height, width), dtype=bool)
    outside[top:bottom, left:right] = False
    assert np.array_equal(first, before), "the first answer is not written to"
    assert np.array_equal(blended[outside], first[outside])
    assert blended.dtype == np.float32
    assert 0 <= blended.min() <= blended.max() <= 1
    place = first[top:bottom, left:right]
    inside = blended[top:bottom, left:right]
    assert (inside >= np.minimum(place, second) - 1e-6).all()
    assert (inside <= np.maximum(place, second) + 1e-6).all()


def test_a_crop_that_is_the_picture_is_its_answer() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 60, 80), dtype=np.float32)
    assert np.array_equal(blend(first, (0, 0, 80, 60), second), second)


def test_the_second_answer_fades_in_where_the_crop_ends_inside_the_picture() -> None:
    blended = blend(np.zeros((100, 100), np.float32), (0, 0, 64, 64), np.ones((64, 64), np.float32))
    assert (blended[:60, :60] == 1).all(), "up to the picture's own edge, and further in"
    border = blended[30, 58:66]
    assert (np.diff(border) <= 0).all()
    assert 0 < border[5] < 0.5
    assert (border[6:] == 0).all()
    assert np.array_equal(blended, blended.T)


def test_masks_agree_from_the_stated_iou_on() -> None:
    first = np.zeros((8, 8), dtype=bool)
    first[2:4, 2:6] = True
    box, second = (2, 2, 6, 6), np.zeros((4, 4), dtype=bool)
    assert not Zoom(agreement=0.5).agrees(first, box, second), "nothing found is no agreement"
    second[0, :] = True  # half of the first, and no more: IoU 1/2
    assert Zoom(agreement=0.5).agrees(first, box, second)
    assert not Zoom(agreement=0.51).agrees(first, box, second)
    assert Zoom(agreement=0).agrees(first, box, ~first[2:6, 2:6])


# -- the pipeline

TEXT = "the red mug"
ALWAYS = Zoom(agreement=0)
PICTURE = random_picture(1, 160, 120)
CROP = (30, 20, 110, 80)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Box:
    """The crop of every answer; a toy model finds things all over the picture."""
    monkeypatch.setattr(Zoom, "crop_box", lambda how, found, width, height: CROP)
    return CROP


def difference(a: Any, b: Any) -> float:
    return float(np.abs(a.soft_mask - b.soft_mask).max())


def test_what_is_found_small_is_looked_at_again(pipeline: GenMaskPipeline) -> None:
    soft = pipeline.segment(PICTURE, TEXT).soft_mask
    threshold = float(np.sort(soft, axis=None)[-2])  # the peak alone is above
    first = pipeline.segment(PICTURE, TEXT, threshold=threshold)
    box = ALWAYS.crop_box(first.box, *PICTURE.size)
    assert box is not None
    second = pipeline.segment(PICTURE.crop(box), TEXT, threshold=threshold)
    found = pipeline.segment(PICTURE, TEXT, threshold=threshold, zoom=ALWAYS)
    assert np.abs(found.soft_mask - blend(first.soft_mask, box, second.soft_mask)).max() < 1e-5
    assert difference(first, found) > 1e-3
    assert (found.text, found.target, found.threshold) == (TEXT, TEXT, threshold)


def test_an_empty_answer_costs_no_second_pass(
    pipeline: GenMaskPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = pipeline.segment(PICTURE, TEXT, threshold=0.999)
    assert plain.is_empty
    passes = []
    predict = GenMaskPipeline.predict_mask
    monkeypatch.setattr(
        GenMaskPipeline, "predict_mask", lambda *arguments: passes.append(1) or predict(*arguments)
    )
    zoomed = pipeline.segment(PICTURE, TEXT, threshold=0.999, zoom=True)
    assert len(passes) == 1
    assert np.array_equal(plain.soft_mask, zoomed.soft_mask)


def test_where_the_answers_do_not_agree_the_first_stands(pipeline: GenMaskPipeline, small: Box) -> None:
    soft = pipeline.segment(PICTURE, TEXT).soft_mask
    threshold = float(np.median(soft))
    first, kept, taken = (
        pipeline.segment(PICTURE, TEXT, threshold=threshold, zoom=zoom)
        for zoom in (False, Zoom(agreement=1), ALWAYS)
    )
    assert np.array_equal(kept.soft_mask, first.soft_mask)
    assert difference(taken, first) > 1e-3


def test_same_seed_same_zoomed_mask_to_the_bit(pipeline: GenMaskPipeline, small: Box) -> None:
    one, again, other = (pipeline.segment(PICTURE, TEXT, zoom=ALWAYS, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(one.soft_mask, again.soft_mask)
    assert not np.array_equal(one.soft_mask, other.soft_mask)


def test_a_zoomed_answer_does_not_depend_on_its_batch(pipeline: GenMaskPipeline, small: Box) -> None:
    pictures = [random_picture(2, 120, 160), random_picture(3, 160, 120), PICTURE]
    alone = [pipeline.segment(picture, TEXT, zoom=ALWAYS) for picture in pictures]
    together: Any = pipeline.segment(pictures, TEXT, zoom=ALWAYS, batch_size=3)
    assert all(difference(*pair) < 1e-4 for pair in zip(alone, together, strict=True))
    assert difference(together[2], pipeline.segment(PICTURE, TEXT)) > 1e-3


def test_many_texts_about_one_picture(pipeline: GenMaskPipeline, small: Box) -> None:
    texts = ["a green star", TEXT]
    together: Any = pipeline.segment(PICTURE, texts, zoom=ALWAYS)
    alone = [pipeline.segment(PICTURE, text, zoom=ALWAYS) for text in texts]
    assert [result.text for result in together] == texts
    assert all(difference(*pair) < 1e-4 for pair in zip(alone, together, strict=True))
    assert difference(*together) > 1e-3


def test_the_automatic_threshold_is_that_of_the_blended_mask(pipeline: GenMaskPipeline, small: Box) -> None:
    found = pipeline.segment(PICTURE, TEXT, threshold="auto", zoom=ALWAYS)
    assert found.threshold == best_threshold(found.soft_mask)
    assert found.threshold != pipeline.segment(PICTURE, TEXT, threshold="auto").threshold


# -- the doors


@pytest.fixture
def always(small: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer is looked at again, and every second answer counts."""
    monkeypatch.setattr(Zoom, "agrees", lambda *_: True)


def test_the_shell_zooms(
    pipeline: GenMaskPipeline, toy_pipeline_folder: Path, tmp_path: Path, always: None, capsys: Any
) -> None:
    PICTURE.save(tmp_path / "photo.png")
    threshold = float(np.median(pipeline.segment(PICTURE, TEXT).soft_mask))
    command = ["segment", str(tmp_path / "photo.png"), "--text", TEXT, "--threshold", str(threshold)]
    command += ["--model", str(toy_pipeline_folder), "--device", "cpu", "--dtype", "float32", "--json"]
    masks = []
    for zoom in (False, True):
        assert main([*command, "--output", str(tmp_path / str(zoom)), *["--zoom"][: int(zoom)]]) == 0
        (record,) = json.loads(capsys.readouterr().out)["results"]
        assert record["rle"] == pipeline.segment(PICTURE, TEXT, threshold=threshold, zoom=zoom).rle()
        masks.append(record["rle"])
    assert masks[0] != masks[1]


def test_evaluation_zooms_and_keeps_the_counts_apart(
    toy_pipeline_folder: Path, tmp_path: Path, always: None, capsys: Any
) -> None:
    command = ["evaluate", "--benchmark", "scenes/val", "--limit", "2", "--no-oracle", "--json"]
    command += ["--model", str(toy_pipeline_folder), "--output"]
    counts = []
    for options in (["plain"], ["zoomed", "--zoom"]):
        assert main([*command, str(tmp_path / options[0]), *options[1:]]) == 0
        (lines,) = (tmp_path / options[0]).glob("*/rank-*.jsonl")
        counts.append([json.loads(line)["answer"] for line in lines.read_text().splitlines()])
    assert counts[0] != counts[1]
    capsys.readouterr()
    assert main([*command, str(tmp_path / "zoomed")]) == 2
    assert "zoom=False" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "x"), "--zoom", "--predictions", str(tmp_path)]) == 2
    assert "Got --zoom with --predictions" in capsys.readouterr().err
