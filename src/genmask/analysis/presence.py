"""Fits and scores the head that tells whether a target is there: a logistic regression on a model's features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

from genmask.evaluation.calibration import auroc
from genmask.presence_head import PresenceHead

RIDGE = 0.003
"""Times the squared weights of standardised features; of three factors ten apart the best on held-out scenes."""


def fit_presence_head(features: Tensor, present: Tensor) -> PresenceHead:
    """The head of least cross-entropy, its weights kept small by `RIDGE`.

    Args:
        features: (N, D) float, of `presence_head.frame_means`.
        present: (N,) bool, whether the target is there.

    Returns:
        A head in float32 on the CPU, in evaluation mode.

    Raises:
        ValueError: not one of either, present and absent.
    """
    if not 0 < int(present.sum()) < len(present):
        raise ValueError(
            f"Got {int(present.sum())} of {len(present)} targets that are there, expected some that are and some that "
            "are not: fit on other samples."
        )
    x, y = features.double(), present.double()
    mean, scale = x.mean(dim=0), x.std(dim=0).clamp_min(1e-6)
    x = (x - mean) / scale

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.from_numpy(flat).requires_grad_()
        logits = x @ weights[:-1] + weights[-1]
        loss = F.binary_cross_entropy_with_logits(logits, y) + RIDGE * weights[:-1].square().sum()
        loss.backward()
        assert weights.grad is not None
        return float(loss.detach()), weights.grad.numpy()

    start = np.zeros(x.shape[1] + 1)
    solution = torch.from_numpy(minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B").x)
    head = PresenceHead(features.shape[1]).eval()
    with torch.no_grad():
        head.linear.weight.copy_(solution[:-1] / scale)
        head.linear.bias.copy_(solution[-1] - (solution[:-1] * mean / scale).sum())
    return head


@torch.no_grad()
def score_presence(head: PresenceHead, features: Tensor, present: Tensor) -> dict[str, Any]:
    """How well the head tells targets that are there from absent ones, ready for JSON.

    Returns:
        "auroc"; "absent_empty" and "present_empty", the share of absent targets, and of those that are there, which it
        says are absent; None without one of either. "samples".
    """
    logits, there = head(features.float()).numpy(), present.numpy()
    empty = logits < 0
    return {
        "samples": len(there),
        "auroc": auroc(logits, there),
        "absent_empty": None if there.all() else float(empty[~there].mean()),
        "present_empty": float(empty[there].mean()) if there.any() else None,
    }


def presence_table(scores: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """What `score_presence` found, by source, as rows of cells; the first is the header."""
    names = ("auroc", "absent_empty", "present_empty")
    rows = [["presence", "samples", "AUROC", "absent: empty", "present: empty"]]
    for source, found in scores.items():
        cells = ["-" if found[name] is None else f"{100 * found[name]:.1f}" for name in names]
        rows.append([source, str(found["samples"]), *cells])
    return rows
