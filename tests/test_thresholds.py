"""Laws of the threshold that maximises the expected IoU."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from genmask.evaluation.calibration import expected_area
from genmask.thresholds import FAINT, LEVELS, best_threshold, expected_iou

SOFT = arrays(
    np.float32, (6, 7), elements=st.integers(0, LEVELS - 1).map(lambda level: np.float32(level / LEVELS))
)


@settings(max_examples=60, deadline=None)
@given(soft=SOFT)
def test_no_other_threshold_promises_more(soft):
    best = expected_iou(soft, soft > best_threshold(soft, presence=1.0))
    for level in np.unique(soft[soft > FAINT]):
        assert best >= expected_iou(soft, soft >= level) - 1e-6


def test_the_promise_is_kept_on_average():
    """Targets drawn from the probabilities themselves: the chosen mask scores better than the one at 0.5."""
    rng = np.random.default_rng(0)
    rows = np.linspace(0, 1, 40, dtype=np.float32)[:, None].repeat(40, axis=1) ** 3
    targets = rng.random((300, 40, 40)) < rows

    def iou(mask: np.ndarray) -> float:
        return float(np.mean((targets & mask).sum((1, 2)) / (targets | mask).sum((1, 2))))

    threshold = best_threshold(rows, presence=1.0)
    assert 0.1 < threshold < 0.5
    assert iou(rows > threshold) > iou(rows > 0.5) + 0.02


@given(soft=SOFT)
def test_what_is_absent_has_an_empty_mask_and_what_is_there_has_none(soft):
    assert not (soft > best_threshold(soft, presence=0.0)).any()
    assert (soft > best_threshold(soft, presence=1.0)).any() == (soft > FAINT).any()


def test_a_haze_is_no_mask_however_much_of_it_there_is():
    soft = np.full((40, 40), FAINT * 0.9, np.float32)
    soft[:2, :2] = 3 * FAINT
    assert np.array_equal(soft > best_threshold(soft, presence=1.0), soft > FAINT)


def test_the_expected_area_leaves_out_what_is_faint():
    soft = np.full((4, 5), FAINT / 2, np.float32)
    soft[0, :2] = 0.5
    assert expected_area(soft) == pytest.approx(1 / 20)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_plane_of_one_value(value):
    soft = np.full((5, 5), value, np.float32)
    threshold = best_threshold(soft, presence=1.0)
    assert 0 <= threshold < 1
    assert (soft > threshold).all() == (value > 0)


@given(soft=SOFT)
def test_by_default_it_is_empty_where_a_half_would_be(soft):
    assert (soft > best_threshold(soft)).any() == (soft > 0.5).any()


def test_a_certain_mask_is_returned_as_it_is():
    soft = np.zeros((8, 8), np.float32)
    soft[2:5, 3:6] = 1
    assert np.array_equal(soft > best_threshold(soft), soft == 1)
    assert np.array_equal(soft > best_threshold(soft, presence=0.0), soft == 1)  # beyond doubt
