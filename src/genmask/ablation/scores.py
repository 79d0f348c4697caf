"""Scores of a row: how well what one sentence names is found, and how often an answer is empty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from genmask.data.example import Example
from genmask.data.expressions import SHARES, SINGULAR
from genmask.evaluation.metrics import IoUTotals
from genmask.evaluation.oracle import round_trip
from genmask.pipeline import GenMaskPipeline

BATCH = 50
CONSTANTS = 64
"""Areas of constant answers that are tried, from one pixel to the whole picture."""


def score(masks: Sequence[np.ndarray], examples: Sequence[Example]) -> dict[str, Any]:
    """Of answers (H, W) bool, one for each example.

    Returns:
        "oIoU" and "mIoU" over the sentences that name one object; "kinds": oIoU by kind; "absent_empty" and
        "present_empty": share of sentences about nothing, and about something, that are answered by an empty mask;
        "samples". All in [0, 1]; None where there is no such sentence.
    """
    one = _totals(masks, examples, SINGULAR)
    absent = _totals(masks, examples, ("absent",))
    present = _totals(masks, examples, (*SINGULAR, "plural"))
    kinds = {kind: _totals(masks, examples, (kind,)) for kind in SHARES if kind != "absent"}
    return {
        "samples": len(examples),
        "oIoU": one.overall_iou() if one.num_samples else None,
        "mIoU": one.mean_iou() if one.num_samples else None,
        "kinds": {kind: totals.overall_iou() for kind, totals in kinds.items() if totals.num_samples},
        "absent_empty": absent.empty_answers() / absent.num_samples if absent.num_samples else None,
        "present_empty": present.empty_answers() / present.num_samples if present.num_samples else None,
    }


def answers(
    pipeline: GenMaskPipeline, examples: Sequence[Example], texts: Sequence[str], **options: Any
) -> list[np.ndarray]:
    """The model's mask for each picture and text; `options` are of `segment`."""
    masks: list[np.ndarray] = []
    for start in range(0, len(examples), BATCH):
        rows = slice(start, start + BATCH)
        found = pipeline.segment(
            [example.image for example in examples[rows]], list(texts[rows]), batch_size=BATCH, **options
        )
        assert isinstance(found, list)
        masks += [answer.mask for answer in found]
    return masks


def exchanged(examples: Sequence[Example]) -> list[str]:
    """For each example the sentence of another picture, far away in the list."""
    texts = [example.text for example in examples]
    half = len(texts) // 2
    return texts[half:] + texts[:half]


def oracle_masks(pipeline: GenMaskPipeline, examples: Sequence[Example]) -> list[np.ndarray]:
    """The right masks, through the VAE."""
    masks: list[np.ndarray] = []
    for start in range(0, len(examples), BATCH):
        right = [example.mask for example in examples[start : start + BATCH] if example.mask is not None]
        masks += list(round_trip(pipeline, right) > 0.5)
    return masks


def best_constant(masks: np.ndarray) -> np.ndarray:
    """The mask (H, W) bool of highest oIoU with (N, H, W) training masks, of those that the mean mask cuts out."""
    targets = masks[masks.any(axis=(1, 2))].reshape(-1, masks[0].size)
    order = np.argsort(-targets.mean(axis=0), kind="stable")
    inside = np.cumsum(targets.sum(axis=0)[order])  # pixels of all targets in the first n pixels of the order
    areas = np.unique(np.linspace(1, len(order), CONSTANTS).astype(int))
    intersection = inside[areas - 1]
    union = int(targets.sum()) + len(targets) * areas - intersection
    constant = np.zeros(len(order), dtype=bool)
    constant[order[: areas[np.argmax(intersection / union)]]] = True
    return constant.reshape(masks.shape[1:])


def _totals(masks: Sequence[np.ndarray], examples: Sequence[Example], kinds: Sequence[str]) -> IoUTotals:
    totals = IoUTotals()
    for mask, example in zip(masks, examples, strict=True):
        if example.kind in kinds:
            assert example.mask is not None
            totals.add(mask, example.mask, example.ignore)
    return totals
