"""The presence head beside the masks: what its loss counts."""

from __future__ import annotations

import math

import torch

from genmask.training.presence import presence_loss


def test_what_may_be_where_nothing_is_known_does_not_count() -> None:
    masks, ignore = torch.zeros(3, 4, 4, dtype=torch.bool), torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[0, 1, 2] = True
    ignore[0, 0, 0] = ignore[1, 0, 0] = True  # there, for certain; perhaps there; absent, for certain
    logits = torch.tensor([2.0, 50.0, -1.0])
    loss = presence_loss(logits, masks, ignore)
    assert loss.weight.tolist() == [1, 0, 1]
    expected = [math.log1p(math.exp(-2)), 0, math.log1p(math.exp(-1))]
    assert torch.allclose(loss.total, torch.tensor(expected))
