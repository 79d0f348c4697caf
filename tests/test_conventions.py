"""Scores as LISA and LAVT compute them, stated here once more, in their own terms, from their descriptions."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from genmask.data.example import Example
from genmask.evaluation.evaluate import _record
from genmask.evaluation.metrics import IoUTotals

IGNORED = 255


def random_case(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Prediction (H, W) of 0 and 1; target of 0, 1 and, at times, 255. Either may be empty or full."""
    size = tuple(rng.integers(1, 40, 2))
    prediction, target = ((rng.random(size) < rng.choice([0, 0.02, 0.5, 1])).astype(int) for _ in range(2))
    if rng.random() < 0.5:
        target[rng.random(size) < rng.choice([0.1, 0.9, 1])] = IGNORED
    return prediction, target


def histogram(values: np.ndarray) -> np.ndarray:
    """Of the classes 0 and 1; whatever else there is drops out."""
    return np.array([(values == label).sum() for label in (0, 1)], dtype=np.float64)


def lisa(cases: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """gIoU and cIoU."""
    intersections, unions, ious = np.zeros(2), np.zeros(2), []
    for prediction, target in cases:
        output = np.where(target == IGNORED, IGNORED, prediction)
        intersection = histogram(output[output == target])
        union = histogram(output) + histogram(target) - intersection
        iou = intersection / (union + 1e-5)
        iou[union == 0] += 1.0
        ious.append(iou)
        intersections += intersection
        unions += union
    return float(np.mean(ious, axis=0)[1]), float((intersections / (unions + 1e-10))[1])


def lavt(cases: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float, list[float]]:
    """mIoU, oIoU and Pr@0.5 to 0.9; it knows no ignored pixels."""
    total_intersection = total_union = 0
    ious = []
    for prediction, target in cases:
        intersection = np.sum(np.logical_and(prediction == 1, target == 1))
        union = np.sum(np.logical_or(prediction == 1, target == 1))
        ious.append(0.0 if union == 0 else intersection / union)
        total_intersection += intersection
        total_union += union
    precisions = [float(np.mean([iou >= x for iou in ious])) for x in (0.5, 0.6, 0.7, 0.8, 0.9)]
    return float(np.mean(ious)), float(total_intersection / total_union), precisions


def totals(cases: list[tuple[np.ndarray, np.ndarray]]) -> IoUTotals:
    counted = IoUTotals()
    for prediction, target in cases:
        counted.add(prediction == 1, target == 1, target == IGNORED)
    return counted


def test_scores_agree_with_lisa_on_empty_and_ignored_masks_too() -> None:
    rng = np.random.default_rng(0)
    cases = [random_case(rng) for _ in range(200)]
    assert sum(not (p == 1)[t != IGNORED].any() and not (t == 1).any() for p, t in cases) > 20
    for shown in (cases, *([case] for case in cases)):
        giou, ciou = lisa(shown)
        counted = totals(shown)
        assert counted.mean_iou(empty=1.0) == pytest.approx(giou, abs=2e-5)
        if counted.union.sum():
            assert counted.overall_iou() == pytest.approx(ciou, abs=1e-9)


def test_scores_agree_with_lavt_on_empty_masks_too() -> None:
    rng = np.random.default_rng(1)
    cases = [(p, np.where(t == IGNORED, 0, t)) for p, t in (random_case(rng) for _ in range(200))]
    miou, oiou, precisions = lavt(cases)
    counted = totals(cases)
    assert counted.mean_iou(empty=0.0) == pytest.approx(miou, abs=1e-12)
    assert counted.overall_iou(empty=0.0) == pytest.approx(oiou, abs=1e-12)
    assert [counted.precision_at(x, empty=0.0) for x in (0.5, 0.6, 0.7, 0.8, 0.9)] == precisions


def test_a_precision_includes_its_bound() -> None:
    counted = IoUTotals()
    counted.add(np.array([[True, False]]), np.array([[True, True]]))
    assert counted.precision_at(0.5) == 1.0


def test_the_480_grid_squares_every_picture() -> None:
    """A wide picture and a small one weigh alike there, as in LAVT; the target is resized to the nearest pixel."""
    rng = np.random.default_rng(2)
    for size in ((20, 60), (200, 90), (480, 480)):
        mask = rng.random(size) < 0.3
        mask[: size[0] // 2] = True
        example = Example(
            image=np.zeros((*size, 3), np.uint8), text="x", mask=mask, ignore=np.zeros_like(mask)
        )
        counts = _record(0, example, mask, None, 0.5).answer
        nearest = Image.fromarray(mask.astype(np.uint8)).resize((480, 480), Image.Resampling.NEAREST)
        assert counts["480"].target == counts["480"].intersection == int(np.asarray(nearest).sum())
        assert counts["native"].target == int(mask.sum())
    assert counts["480"] == counts["native"]


def test_a_bootstrap_interval_is_that_of_a_coin() -> None:
    hit, missed = np.ones((1, 2), bool), np.zeros((1, 2), bool)
    for score in ("mean_iou", "overall_iou"):
        widths = []
        for count in (100, 400):
            counted = IoUTotals()
            for index in range(count):
                counted.add(hit if index % 2 else missed, hit)
            low, high = getattr(counted, f"{score}_interval")(resamples=2000)
            assert (low, high) == getattr(counted, f"{score}_interval")(resamples=2000)
            assert (low + high) / 2 == pytest.approx(0.5, abs=0.02)
            widths.append(high - low)
            assert high - low == pytest.approx(2 * 1.96 * 0.5 / count**0.5, rel=0.1)
        assert widths[0] == pytest.approx(2 * widths[1], rel=0.1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        counted.mean_iou_interval(95)
    with pytest.raises(ValueError, match="Got no sample"):
        IoUTotals().overall_iou_interval()
