"""How long calls of a pipeline take, whole and stage by stage: rounds in which all of them take turns."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from genmask.benchmark.machine import Machine
from genmask.benchmark.memory import PeakMemory
from genmask.benchmark.work import Work, WorkCounter
from genmask.pipeline import GenMaskPipeline
from genmask.stages import synchronise, timed

Listener = Callable[[str], AbstractContextManager[None]]
"""As in `genmask.stages`, for parts of any name."""
REST = "the rest"
"""What is done outside of every stage."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A call that is timed."""

    settings: dict[str, Any]
    """What tells it from the others."""
    counts: dict[str, int]
    """What one call does, by name: pictures, prompts."""
    run: Callable[[Listener | None], Any]
    """Does it; a listener is told of its parts."""
    bytes: dict[str, int] = field(default_factory=dict)
    """Of parts that do more than read weights: what they read and write."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A stage of a call."""

    name: str
    turns: int
    """How often it came."""
    seconds: float
    """Median over the rounds, all turns together."""
    work: Work
    limit: float
    """Seconds that the work takes at least (`Machine.limit`)."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "stage": self.name,
            "turns": self.turns,
            "seconds": self.seconds,
            "flop": self.work.total_flop,
            "weight_bytes": self.work.bytes,
            "limit_seconds": self.limit,
            "share_of_limit": self.limit / self.seconds if self.seconds else 0.0,
        }


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What became of a case."""

    case: Case
    first: float
    """Seconds of the first call, before which nothing had run at these shapes."""
    seconds: list[float]
    """Of each round, with nobody listening."""
    parts: list[Part]
    """Of further rounds, in order of appearance; the last is `REST`."""
    peak_memory: int | None
    """Bytes (`PeakMemory`)."""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.case.settings,
            "first_seconds": self.first,
            "p50_seconds": self.median,
            "p95_seconds": percentile(self.seconds, 95),
            "per_second": {name: count / self.median for name, count in self.case.counts.items()},
            "peak_memory_bytes": self.peak_memory,
            "seconds": self.seconds,
            "stages": [part.to_dict() for part in self.parts],
        }


@dataclass(kw_only=True)
class Stopwatch:
    """A `stages.Listener` that adds up the seconds of each stage; the device is waited for before and after."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    turns: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        synchronise(self.device)
        began = time.perf_counter()
        try:
            yield
            synchronise(self.device)
        finally:
            self.seconds[stage] += time.perf_counter() - began
            self.turns[stage] += 1


def percentile(values: Sequence[float], percent: int) -> float:
    """By linear interpolation, as numpy's default."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def measure(
    pipeline: GenMaskPipeline,
    cases: Sequence[Case],
    machine: Machine,
    *,
    rounds: int,
    advance: Callable[[int], None],
) -> list[Timing]:
    """Time every case.

    A first call, which is kept apart; one whose memory is watched and one whose work is counted; rounds without
    listeners; and rounds by stage.

    Args:
        pipeline: whose weights the cases use.
        cases: what is timed, by turns.
        machine: where the pipeline is.
        rounds: of each kind, at least 1.
        advance: told of every call, `calls(rounds)` for each case.
    """
    device = machine.device

    def seconds_of(case: Case, listener: Listener | None = None) -> float:
        return timed(partial(case.run, listener), device)[1]

    memory = PeakMemory(device)
    weights = [x for x in pipeline.components.values() if isinstance(x, torch.nn.Module)]
    firsts, peaks, works = [], [], []
    for case in cases:
        firsts.append(seconds_of(case))
        memory.reset()
        case.run(None)
        synchronise(device)
        peaks.append(memory.bytes())
        counter = WorkCounter(weights)
        case.run(counter)
        for name, size in case.bytes.items():
            counter.work[name].bytes = size
        works.append(counter.work)
        advance(3)

    seconds: list[list[float]] = [[] for _ in cases]
    for _ in range(rounds):
        for own, case in zip(seconds, cases, strict=True):
            own.append(seconds_of(case))
            advance(1)
    watched: list[list[Stopwatch]] = [[] for _ in cases]
    for _ in range(rounds):
        for watches, case in zip(watched, cases, strict=True):
            watch = Stopwatch(device=device)
            total = seconds_of(case, watch)
            watch.seconds[REST] = total - sum(watch.seconds.values())
            watches.append(watch)
            advance(1)
    return [
        Timing(
            case=case,
            first=first,
            seconds=own,
            parts=summarise(watches, work, machine),
            peak_memory=peak,
        )
        for case, first, own, watches, work, peak in zip(
            cases, firsts, seconds, watched, works, peaks, strict=True
        )
    ]


def calls(rounds: int) -> int:
    """How often `measure` calls a case."""
    return 3 + 2 * rounds


def summarise(watches: Sequence[Stopwatch], work: dict[str, Work], machine: Machine) -> list[Part]:
    """Rounds of one case, and what was counted of it."""
    names = list(watches[0].seconds)
    nothing = Work()
    return [
        Part(
            name=name,
            turns=watches[0].turns[name],
            seconds=statistics.median(watch.seconds[name] for watch in watches),
            work=work.get(name, nothing),
            limit=machine.limit(work.get(name, nothing)),
        )
        for name in names
    ]
