"""IoUTotals against a pixel-by-pixel reference, and the laws that make its scores comparable."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from genmask.evaluation.metrics import IoUTotals

SIZE = (3, 4)
planes = arrays(np.bool_, SIZE)
samples = st.lists(st.tuples(planes, planes, st.none() | planes), min_size=1, max_size=8)


def totals_of(batch: list) -> IoUTotals:
    totals = IoUTotals()
    for prediction, target, ignore in batch:
        totals.add(prediction, target, ignore)
    return totals


def count_pixels(prediction: np.ndarray, target: np.ndarray, ignore: np.ndarray | None) -> tuple[int, int]:
    """(intersection, union), one pixel at a time."""
    intersection = union = 0
    for row, column in np.ndindex(SIZE):
        if ignore is None or not ignore[row, column]:
            intersection += bool(prediction[row, column] and target[row, column])
            union += bool(prediction[row, column] or target[row, column])
    return intersection, union


@given(samples, st.sampled_from([0.0, 1.0]))
def test_scores_match_their_definitions_pixel_by_pixel(batch: list, empty: float) -> None:
    totals = totals_of(batch)
    pairs = [count_pixels(*sample) for sample in batch]
    ious = [Fraction(i, u) if u else Fraction(empty) for i, u in pairs]

    assert list(zip(totals.intersection.tolist(), totals.union.tolist(), strict=True)) == pairs
    assert totals.intersection.dtype == totals.union.dtype == np.int64
    assert totals.num_samples == len(batch)
    assert totals.mean_iou(empty=empty) == pytest.approx(float(sum(ious) / len(ious)), abs=1e-15)
    union = sum(u for _, u in pairs)
    expected = sum(i for i, _ in pairs) / union if union else empty
    assert totals.overall_iou(empty=empty) == expected
    for x in (0.25, 0.5, 0.6, 0.9):  # the share is inclusive: 3/5 reaches 0.6
        reached = sum(iou >= Fraction(str(x)) for iou in ious)
        assert totals.precision_at(x, empty=empty) == reached / len(ious)


@given(samples, st.randoms(use_true_random=False), st.integers(0, 8))
def test_neither_order_nor_sharding_changes_a_score(batch: list, random, cut: int) -> None:
    whole = totals_of(batch)
    shards = totals_of(batch[:cut]).merge(totals_of(batch[cut:]))
    shuffled = totals_of(random.sample(batch, len(batch)))

    np.testing.assert_array_equal(shards.intersection, whole.intersection)
    np.testing.assert_array_equal(shards.union, whole.union)
    for other in (shards, shuffled):
        assert other.mean_iou() == whole.mean_iou()
        assert other.overall_iou() == whole.overall_iou()
        assert other.precision_at(0.5) == whole.precision_at(0.5)


@given(samples)
def test_scores_do_not_change_when_prediction_and_target_are_exchanged(batch: list) -> None:
    exchanged = totals_of([(target, prediction, ignore) for prediction, target, ignore in batch])
    assert exchanged.mean_iou() == totals_of(batch).mean_iou()
    assert exchanged.overall_iou() == totals_of(batch).overall_iou()


@given(planes, planes, planes)
def test_what_is_predicted_on_ignored_pixels_does_not_count(
    prediction: np.ndarray, target: np.ndarray, ignore: np.ndarray
) -> None:
    changed = totals_of([(prediction ^ ignore, target ^ ignore, ignore)])
    assert changed.mean_iou() == totals_of([(prediction, target, ignore)]).mean_iou()


@given(planes, planes, planes)
def test_tensors_count_as_arrays_do(prediction: np.ndarray, target: np.ndarray, ignore: np.ndarray) -> None:
    tensors = IoUTotals()
    tensors.add(torch.from_numpy(prediction), torch.from_numpy(target), torch.from_numpy(ignore))
    arrays_ = totals_of([(prediction, target, ignore)])
    assert tensors.intersection.tolist() == arrays_.intersection.tolist()
    assert tensors.union.tolist() == arrays_.union.tolist()


@given(planes)
def test_a_perfect_prediction_scores_one_and_its_complement_zero(target: np.ndarray) -> None:
    perfect, wrong = totals_of([(target, target, None)]), totals_of([(~target, target, None)])
    assert perfect.mean_iou() == perfect.overall_iou() == perfect.precision_at(1.0) == 1.0
    assert wrong.mean_iou() == wrong.overall_iou() == wrong.precision_at(0.01) == 0.0


def test_the_empty_rule() -> None:
    nothing, something = np.zeros(SIZE, bool), np.ones(SIZE, bool)
    both = totals_of([(nothing, nothing, None)])
    assert (both.mean_iou(), both.mean_iou(empty=0.0), both.overall_iou(), both.overall_iou(empty=0.0)) == (
        1.0, 0.0, 1.0, 0.0,
    )  # fmt: skip
    for pair in ((nothing, something), (something, nothing)):
        assert totals_of([(*pair, None)]).mean_iou() == 0.0
    everything_ignored = totals_of([(something, nothing, something)])
    assert everything_ignored.mean_iou() == 1.0


def test_empty_answers_are_told_apart_by_target() -> None:
    nothing, something = np.zeros(SIZE, bool), np.ones(SIZE, bool)
    totals = totals_of(
        [(nothing, nothing, None)] * 3
        + [(something, nothing, None)]
        + [(something, something, None)] * 2
        + [(nothing, something, None)] * 3
    )
    assert totals.no_target_accuracy() == 3 / 4
    assert totals.target_accuracy() == 2 / 5


@pytest.mark.parametrize(
    ("prediction", "target", "ignore", "message"),
    [
        (np.ones((2, 2), bool), np.ones((2, 3), bool), None, r"prediction \(2, 2\), target \(2, 3\)"),
        (np.ones((2, 2), bool), np.ones((2, 2), bool), np.ones((1, 2), bool), r"ignore \(1, 2\)"),
        (np.ones((2, 2), np.uint8), np.ones((2, 2), bool), None, "prediction .* uint8, expected .* bool"),
        (torch.rand(2, 2), np.ones((2, 2), bool), None, "prediction .* float32, expected .* bool"),
        (np.ones((2, 2), bool), np.ones((1, 2, 2), bool), None, r"target \(1, 2, 2\)"),
    ],
)
def test_masks_that_do_not_fit_are_refused_and_not_counted(prediction, target, ignore, message: str) -> None:
    totals = IoUTotals()
    with pytest.raises(ValueError, match=message):
        totals.add(prediction, target, ignore)
    assert totals.num_samples == 0


@pytest.mark.parametrize(
    "score",
    [
        IoUTotals.mean_iou,
        IoUTotals.overall_iou,
        lambda totals: totals.precision_at(0.5),
        IoUTotals.no_target_accuracy,
        IoUTotals.target_accuracy,
    ],
)
def test_no_sample_has_no_score(score) -> None:
    with pytest.raises(ValueError, match="Got no sample"):
        score(IoUTotals())
