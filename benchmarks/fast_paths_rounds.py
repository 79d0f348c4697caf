"""Two ways to one answer, in rounds that take turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genmask.stages import timed


@dataclass(frozen=True, kw_only=True)
class Row:
    """A fast path beside the plain one."""

    path: str
    against: str
    seconds: list[float]
    """Of the fast path, in each round."""
    plain_seconds: list[float]
    difference: str
    """The largest between the answers, and in what; "-" where they are not meant to be equal."""

    @property
    def times_as_fast(self) -> float:
        return statistics.median(self.plain_seconds) / statistics.median(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "times_as_fast": self.times_as_fast}


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Where and how often rows are measured."""

    device: torch.device
    count: int

    def compare(
        self,
        path: str,
        against: str,
        fast: Callable[[], Any],
        plain: Callable[[], Any],
        difference: Callable[[Any, Any], str] = lambda ours, theirs: "-",
    ) -> Row:
        """Call both once, for their answers and to warm up, and then by turns."""
        found = difference(fast(), plain())
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(self.count):
            for own, call in zip(seconds, (fast, plain), strict=True):
                own.append(timed(call, self.device)[1])
        return Row(path=path, against=against, seconds=seconds[0], plain_seconds=seconds[1], difference=found)


def largest(ours: Tensor, theirs: Tensor) -> str:
    """Of the differences, beside the largest value."""
    apart = (ours.float() - theirs.float()).abs().max()
    return f"{apart:.0e} of {theirs.abs().max():.2g}"
