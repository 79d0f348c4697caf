"""From a function of a number to a data set that workers can share out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.data import Dataset


class StepBatches(Dataset):
    """Map from a step, or turn, to its batch: `make(number)`, a pure function, so nothing else changes the data."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __getitem__(self, number: int) -> Any:
        return self.make(number)
