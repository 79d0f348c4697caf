"""AdamW, and Muon for those who have few steps to spend."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

OPTIMIZERS = ("adamw", "muon")
HIDDEN_LAYERS = (".blocks.", ".layers.")
"""Muon is meant for the matrices of hidden layers; embeddings and the first and last layers keep AdamW."""


def build_optimizers(
    modules: nn.Module, name: str, *, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> list[torch.optim.Optimizer]:
    """One optimizer for all trainable parameters, or Muon and AdamW side by side.

    Weights of two and more dimensions decay, biases and gains do not. Muon's updates are scaled to AdamW's usual
    size, so that both share a learning rate.
    """
    trainable = [(path, p) for path, p in modules.named_parameters() if p.requires_grad]
    hidden = [
        p
        for path, p in trainable
        if name == "muon" and p.ndim == 2 and any(mark in f".{path}" for mark in HIDDEN_LAYERS)
    ]
    chosen = {id(p) for p in hidden}
    rest = [p for _, p in trainable if id(p) not in chosen]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim >= 2]},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True)
    ]
    if hidden:
        muon = torch.optim.Muon(
            hidden, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        optimizers.append(muon)
    return optimizers
