"""Telling what each patch of a picture shows: the pretraining that a small transformer has not had.

The paper starts from a Wan that has seen a world of pictures. A transformer that starts from nothing learns from masks
alone very slowly what a star is: one sentence tells it one thing about one picture, and only once it understands the
sentence. So its middle is asked, of each patch, which concepts it shows; no sentence is needed for that. The head that
answers is thrown away after training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genmask.data.regions import IS, UNKNOWN, Regions
from genmask.denoiser import GenMaskTransformer
from genmask.objectives import WeightedSum

PRIOR = 0.02
"""Probability of each concept in a patch, before anything is learned."""


class RecognitionHead(nn.Module):
    """A norm and a linear map from tokens to concepts.

    Args:
        dim: of a token.
        concepts: of each source, by its name.
    """

    def __init__(self, dim: int, concepts: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        ends = np.cumsum([len(names) for names in concepts.values()]).tolist()
        self.columns = {
            source: slice(end - len(names), end)
            for (source, names), end in zip(concepts.items(), ends, strict=True)
        }
        """Which concepts are those of a source."""
        self.count = ends[-1]
        self.norm = nn.LayerNorm(dim)
        self.logits = nn.Linear(dim, self.count)
        nn.init.zeros_(self.logits.weight)
        nn.init.constant_(self.logits.bias, math.log(PRIOR / (1 - PRIOR)))

    @classmethod
    def for_sources(cls, transformer: GenMaskTransformer, sources: Mapping[str, Any]) -> RecognitionHead:
        """A head for the concepts of sources that name them.

        Raises:
            ValueError: a source does not.
        """
        for name, source in sources.items():
            if not hasattr(source, "concepts"):
                raise ValueError(
                    f"Got source {name!r} with recognition_weight, expected sources that say what is where, such as "
                    "'scenes': leave it out, or set recognition_weight to 0."
                )
        dim = transformer.config.num_attention_heads * transformer.config.attention_head_dim
        return cls(dim, {name: source.concepts for name, source in sources.items()})

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, S, dim) -> (B, S, K)."""
        return self.logits(self.norm(tokens.float()))


def label_patches(
    regions: Sequence[Regions | None], columns: Sequence[slice], *, concepts: int, patch: int
) -> tuple[Tensor, Tensor]:
    """What every patch of equal-sized pictures shows, as `recognition_loss` takes it.

    Args:
        regions: of each picture.
        columns: which of all `concepts` the picture's own table is about; of the others nothing is known.
        patch: its side in pixels.

    Returns:
        Coverage (B, S, R) and concepts (B, R, K).
    """
    known = [r for r in regions if r is not None]
    count = max(len(r.table) for r in known)
    tables = np.full((len(known), count, concepts), UNKNOWN, dtype=np.int8)
    coverage = []
    for row, (region, own) in enumerate(zip(known, columns, strict=True)):
        shares = region.coverage(patch).reshape(-1, len(region.table))
        coverage.append(np.pad(shares, ((0, 0), (0, count - shares.shape[1]))))
        tables[row, : len(region.table), own] = region.table
    return torch.from_numpy(np.stack(coverage)), torch.from_numpy(tables)


def recognition_loss(logits: Tensor, coverage: Tensor, concepts: Tensor) -> WeightedSum:
    """Binary cross-entropy of the share of each patch that shows each concept, summed over concepts.

    Args:
        logits: (B, S, K), of S patches.
        coverage: (B, S, R), the share of each patch that each region covers.
        concepts: (B, R, K) int8, what each region is (see `data.regions`).
    """
    present = coverage @ (concepts == IS).float()
    known = coverage @ (concepts != UNKNOWN).float()
    error = F.binary_cross_entropy_with_logits(
        logits.float(), present / known.clamp_min(1e-6), reduction="none"
    )
    total = (known * error).flatten(1).sum(dim=1)
    return WeightedSum(total, torch.full_like(total, float(logits.shape[1])))
