"""From a function of the step to a data set that workers can share out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.data import Dataset


class StepBatches(Dataset):
    """Map from step to batch: `make(step)`, a pure function of the step, so no worker or resume changes the data."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __getitem__(self, step: int) -> Any:
        return self.make(step)
