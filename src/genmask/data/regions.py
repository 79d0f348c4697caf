"""Which part of a picture is what: all that is known of it at once, where a mask answers one sentence."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

IS, IS_NOT, UNKNOWN = 1, 0, -1


@dataclass(frozen=True, kw_only=True)
class Regions:
    """A label for each pixel, and what it says of each concept of a data source."""

    labels: np.ndarray
    """(H, W) uint8: row of `table`."""
    table: np.ndarray
    """(R, K) int8: `IS` where a region is the concept, `IS_NOT`, or `UNKNOWN`."""

    def crop(self, window: tuple[slice, slice]) -> Regions:
        return replace(self, labels=self.labels[window])

    def resize(self, height: int, width: int) -> Regions:
        """By the nearest pixel."""
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(int)
            for new, old in zip((height, width), self.labels.shape, strict=True)
        )
        return replace(self, labels=self.labels[rows[:, None], columns])

    def horizontal_flip(self) -> Regions:
        return replace(self, labels=self.labels[:, ::-1])

    def coverage(self, cell: int) -> np.ndarray:
        """(H / cell, W / cell, R) float32: the share of each square of `cell` pixels that each region covers."""
        height, width = self.labels.shape
        cells = self.labels.reshape(height // cell, cell, width // cell, cell, 1) == np.arange(
            len(self.table)
        )
        return cells.mean(axis=(1, 3), dtype=np.float32)
