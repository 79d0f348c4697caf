"""Calibration of soft masks and confidence: exact laws, and `genmask analyse --calibration`."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from genmask.analysis.calibration import every_other_picture, measure_calibration
from genmask.analysis.decoders import decode_examples, decoders_of
from genmask.analysis.material import drawn_examples
from genmask.cli import main
from genmask.data.example import Example
from genmask.evaluation.calibration import (
    PixelHistogram,
    auroc,
    largest_expected_iou,
    pearson,
    spearman,
    stability_score,
    with_temperature,
)
from genmask.mask_head import LinearMaskHead
from genmask.thresholds import expected_iou, mean_confidence
from tests.conftest import toy_pipeline, toy_presence_head

SEEDS = st.integers(0, 2**32 - 1)


def believable(seed: int, side: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Soft values of every size, and a truth drawn by them."""
    rng = np.random.default_rng(seed)
    soft = rng.beta(0.6, 0.9, (side, side))
    return soft, rng.random(soft.shape) < soft


def histogram(soft: np.ndarray, mask: np.ndarray, ignore: np.ndarray | None = None) -> PixelHistogram:
    pixels = PixelHistogram()
    pixels.add(soft, mask, ignore)
    return pixels


# -- pixels


@settings(max_examples=15)
@given(seed=SEEDS)
def test_values_that_can_be_believed_have_no_error(seed: int) -> None:
    soft, mask = believable(seed)
    pixels = histogram(soft, mask)
    bins = pixels.reliability()
    assert pixels.calibration_error() < 0.01
    assert bins.share.sum() == pytest.approx(1)
    np.testing.assert_allclose(bins.soft, bins.true, atol=0.03)
    assert pixels.brier() == pytest.approx(np.mean((soft - mask) ** 2), abs=3e-4)
    assert pixels.fit_temperature() == pytest.approx(1, abs=0.05)


@settings(max_examples=15)
@given(seed=SEEDS)
def test_values_turned_round_are_wrong_by_all_they_say(seed: int) -> None:
    """Of p, a share of 1 - p is true: each bin is off by |2p - 1|; no temperature makes that good."""
    soft, mask = believable(seed)
    pixels = histogram(soft, ~mask)
    assert pixels.calibration_error() == pytest.approx(np.abs(2 * soft - 1).mean(), abs=0.01)
    assert pixels.cross_entropy(pixels.fit_temperature()) >= np.log(2) - 1e-3


@settings(max_examples=15)
@given(seed=SEEDS, temperature=st.floats(0.5, 2.5))
def test_the_temperature_that_was_taken_away_is_found(seed: int, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    right = 1 / (1 + np.exp(-rng.uniform(-3, 3, (400, 400))))
    mask = rng.random(right.shape) < right
    pixels = histogram(with_temperature(right, 1 / temperature), mask)
    assert pixels.fit_temperature() == pytest.approx(temperature, rel=0.06)
    assert pixels.calibration_error(temperature) < 0.01
    assert pixels.cross_entropy(temperature) <= pixels.cross_entropy() + 1e-4
    np.testing.assert_allclose(
        with_temperature(with_temperature(right, temperature), 1 / temperature), right, atol=1e-6
    )


def test_ignored_pixels_and_sizes_of_samples_do_not_count() -> None:
    soft, mask = np.full((4, 6), 0.25), np.zeros((4, 6), dtype=bool)
    soft[:2], ignore = 1.0, np.zeros_like(mask)  # where nobody knows
    ignore[:2] = True
    pixels = histogram(soft, mask, ignore)
    assert pixels.calibration_error() == pytest.approx(0.25)
    pixels.add(soft, mask, np.ones_like(mask))  # nothing known at all
    assert pixels.brier() == pytest.approx(0.25**2)
    pixels.add(np.full((40, 60), 0.75), np.ones((40, 60), dtype=bool))  # a hundred times as large
    assert pixels.brier() == pytest.approx(0.25**2)
    assert pixels.reliability(bins=2).share.tolist() == pytest.approx([0.5, 0.5])


def test_sure_and_right_is_perfect() -> None:
    mask = believable(0)[1]
    pixels = histogram(mask.astype(np.float32), mask)
    assert (pixels.calibration_error(), pixels.brier()) == (0, 0)
    assert histogram((~mask).astype(np.float32), mask).calibration_error() == 1


def test_what_is_no_probability_is_refused() -> None:
    soft, mask = believable(0, 8)
    with pytest.raises(ValueError, match="expected one size"):
        histogram(soft[:4], mask)
    for wrong in (soft - 0.5, soft + 0.5, np.full_like(soft, np.nan)):
        with pytest.raises(ValueError, match="Got soft values"):
            histogram(wrong, mask)
    with pytest.raises(ValueError, match="Got no pixel"):
        PixelHistogram().brier()
    with pytest.raises(ValueError, match="Got temperature 0"):
        with_temperature(soft, 0)


# -- confidence and presence


@given(seed=SEEDS, positive=st.integers(1, 12), negative=st.integers(1, 12))
def test_auroc_counts_the_pairs_in_order(seed: int, positive: int, negative: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, positive + negative) / 5  # ties among them
    present = rng.permutation(positive + negative) < positive
    pairs = [(a > b) + (a == b) / 2 for a, b in product(scores[present], scores[~present])]
    assert auroc(scores, present) == pytest.approx(np.mean(pairs))
    assert auroc(-scores, present) == pytest.approx(1 - np.mean(pairs))


def test_what_is_not_defined_is_none() -> None:
    ones = np.ones(3)
    assert auroc(np.arange(3), ones > 0) is None
    assert auroc(np.arange(3), ones < 0) is None
    assert pearson(ones, np.arange(3.0)) is None
    assert spearman(np.arange(1.0), np.arange(1.0)) is None


@given(seed=SEEDS)
def test_ranks_alone_matter_to_spearman(seed: int) -> None:
    a, b = np.random.default_rng(seed).random((2, 30))
    assert spearman(a, b) == pytest.approx(spearman(np.exp(5 * a), b))
    assert spearman(a, a**3) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)
    assert pearson(a, 1 - 2 * a) == pytest.approx(-1)


def test_the_expected_iou_is_that_of_truths_drawn_by_the_soft_mask() -> None:
    rng = np.random.default_rng(0)
    soft = rng.beta(0.5, 0.5, (40, 40))
    mask = soft > 0.4
    truths = rng.random((300, 40, 40)) < soft
    ious = (truths & mask).sum((1, 2)) / (truths | mask).sum((1, 2))
    assert expected_iou(soft, mask) == pytest.approx(ious.mean(), abs=0.005)
    best = max(expected_iou(soft, soft >= level) for level in soft.ravel())
    assert largest_expected_iou(soft) == pytest.approx(best)
    assert mean_confidence(soft, mask) == pytest.approx(soft[mask].mean())
    nothing = np.zeros_like(mask)
    for confidence in (expected_iou, mean_confidence, stability_score):
        assert confidence(soft, nothing) == 1 - soft.max()
    assert largest_expected_iou(np.zeros((3, 3))) == 0
    assert expected_iou(mask.astype(float), mask) == largest_expected_iou(mask.astype(float)) == 1


def test_a_haze_beside_the_mask_may_be_left_out() -> None:
    soft = np.full((10, 10), 0.01)
    soft[:2, :2] = 0.9
    mask = soft > 0.5
    assert expected_iou(soft, mask) == pytest.approx(3.6 / (4 + 0.96))
    assert expected_iou(soft, mask, faint=0.01) == pytest.approx(0.9)
    soft[0, 2:5] = 0.3
    assert expected_iou(soft, mask, faint=0.01) == pytest.approx(3.6 / (4 + 0.9))
    assert stability_score(soft, mask) == pytest.approx(4 / 7)  # sigmoid(-1) is 0.269
    assert stability_score(np.where(mask, 0.6, 0), mask) == 0
    assert stability_score(np.full((2, 2), 0.2), np.ones((2, 2), dtype=bool)) == 0


# -- a model


def test_every_picture_is_on_one_side() -> None:
    pictures = [np.full((32, 32, 3), level, dtype=np.uint8) for level in (0, 0, 9, 9, 9, 7, 0)]
    examples = [Example(image=picture, text=str(n), task="generation") for n, picture in enumerate(pictures)]
    sides = [[example.text for example in every_other_picture(examples, side)] for side in (0, 1)]
    assert sides == [["0", "1", "5", "6"], ["2", "3", "4"]]


def test_the_temperature_is_fitted_on_one_half_and_all_else_measured_on_the_other() -> None:
    pipeline = toy_pipeline(mask_head=LinearMaskHead(16, 8).eval(), presence_head=toy_presence_head())
    scenes = [example for example, _ in zip(drawn_examples("val", 64, 0), range(12), strict=False)]
    options = {"batch_size": 4, "seed": 0, "advance": lambda count: None}
    reports = measure_calibration(pipeline, lambda: {"drawn": scenes}, **options)
    decoders = decoders_of(pipeline, pipeline.mask_head)
    for name, report in reports.items():
        fitted, measured = PixelHistogram(), PixelHistogram()
        for pixels, half in ((fitted, scenes[::2]), (measured, scenes[1::2])):
            for example, _, found in decode_examples(pipeline, decoders, half, **options):
                assert example.mask is not None
                pixels.add(found[name][0], example.mask)
        assert report["temperature"] == fitted.fit_temperature()
        scores = report["sources"]["drawn"]
        assert scores["samples"] == 6
        assert scores["present"] == sum(bool(scene.mask.any()) for scene in scenes[1::2])
        assert scores["soft_mask"]["before"]["calibration_error"] == measured.calibration_error()
        assert scores["soft_mask"]["after"]["brier"] == measured.brier(fitted.fit_temperature())
        assert sum(row["share"] for row in scores["soft_mask"]["after"]["reliability"]) == pytest.approx(1)
        assert "presence head" in {row["score"] for row in scores["presence"]}


def test_the_command_writes_figure_tables_and_numbers(
    toy_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["analyse", "--calibration", "--held-out", "8", "--device", "cpu"]
    assert main([*arguments, "--model", str(toy_pipeline_folder), "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "calibration error" in printed
    assert "expected IoU" in printed
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        f"calibration.{suffix}" for suffix in ("json", "md", "png", "svg")
    ]
    numbers = json.loads((tmp_path / "calibration.json").read_text())
    assert set(numbers) == {"vae"}
    assert (tmp_path / "calibration.md").read_text().count("| --- |") == 3
    with Image.open(tmp_path / "calibration.png") as figure:
        assert np.asarray(figure.convert("L")).std() > 5


def test_a_vae_alone_has_no_confidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", "--calibration", "--vae", "vae", "--output", str(tmp_path)]) == 2
    assert "Got --vae with --calibration, which needs a whole model" in capsys.readouterr().err


def test_one_picture_cannot_be_both_fitted_and_measured_on(
    toy_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--held-out", "1", "--model", str(toy_pipeline_folder), "--output", str(tmp_path)]
    assert main(["analyse", "--calibration", *arguments]) == 2
    assert "Got fewer than two pictures of drawn scenes" in capsys.readouterr().err
