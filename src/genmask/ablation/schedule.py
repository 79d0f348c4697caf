"""The runs of an ablation, one by one or side by side; seed by seed, so that an early end leaves whole tables."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from genmask.ablation.rows import ROWS, Row
from genmask.ablation.runs import (
    CACHE,
    SAMPLES,
    build_task,
    check_output,
    is_done,
    pretrain,
    run,
    run_folder,
    score_controls,
)
from genmask.ablation.samples import Progress, draw_samples, encode_samples
from genmask.ablation.scale import Scale

STOPPED = 3
"""Exit code of a run that ended early, with a checkpoint."""


@dataclass(frozen=True)
class Run:
    """A trained row from one seed."""

    row: Row
    seed: int

    def __str__(self) -> str:
        return f"{self.row.name}, seed {self.seed}"


def missing_runs(scale: Scale, rows: Sequence[Row], seeds: int, output: Path) -> list[Run]:
    """What is left to train, or to score, for these rows; all rows of the first seed come first."""
    names = {row.weights or row.name for row in rows}
    trained = [row for row in ROWS.values() if row.is_trained and row.name in names]
    return [
        Run(row, seed) for seed in range(seeds) for row in trained if not is_done(output, scale, row, seed)
    ]


def ablate(
    scale: Scale,
    rows: Sequence[Row],
    output: Path,
    *,
    seeds: int,
    jobs: int = 1,
    max_seconds: float | None = None,
    progress: Progress,
    say: Callable[[str], None],
) -> bool:
    """Do what is missing.

    Args:
        scale: what all runs have in common.
        rows: those that are wanted; a row that is answered by another's weights has that one trained.
        output: folder of everything.
        seeds: 0 to `seeds` - 1 of each row.
        jobs: runs side by side, in processes that share out the threads.
        max_seconds: stop with checkpoints after so long; 0 begins nothing.
        progress: of the samples.
        say: told a line for every finished run.

    Returns:
        False if something is still missing.

    Raises:
        ValueError: the output folder holds results of other settings; a run failed.
    """
    check_output(output, scale)
    ends = None if max_seconds is None else time.monotonic() + max_seconds
    pending = missing_runs(scale, rows, seeds, output)
    if max_seconds == 0:
        return not pending
    if pending or any(row.answer in ("oracle", "constant") for row in rows):
        draw_samples(scale, output / SAMPLES, progress)
        score_controls(scale, output)
    if pending:
        encode_samples(
            scale, build_task(scale, ROWS["base"], 0, output, trains=False), output / CACHE, progress
        )
        if not pretrain(scale, output, _left(ends)):
            return False
    work = _side_by_side if jobs > 1 else _one_by_one
    done, began = 0, time.monotonic()
    for finished in work(scale, pending, output, jobs, ends):
        done += 1
        hours = (time.monotonic() - began) / done * (len(pending) - done) / 3600
        say(f"{finished}: done, {done} of {len(pending)}; about {hours:.1f} h left")
    return done == len(pending)


def _left(ends: float | None) -> float | None:
    return None if ends is None else max(0.0, ends - time.monotonic())


def _one_by_one(
    scale: Scale, pending: Sequence[Run], output: Path, jobs: int, ends: float | None
) -> Iterator[Run]:
    for each in pending:
        left = _left(ends)
        if left == 0 or not run(scale, each.row, each.seed, output, left):
            return
        yield each


def _side_by_side(
    scale: Scale, pending: Iterable[Run], output: Path, jobs: int, ends: float | None
) -> Iterator[Run]:
    """Each in a process of its own, whose output goes to a file in its folder."""
    context = get_context("spawn")  # a forked process cannot use what torch has started
    threads = max(1, torch.get_num_threads() // jobs)
    waiting = deque(pending)
    running: dict[Any, tuple[BaseProcess, Run]] = {}
    with _forwarded(running) as stopped:
        while running or (waiting and not stopped):
            while waiting and len(running) < jobs and not stopped and _left(ends) != 0:
                each = waiting.popleft()
                process: BaseProcess = context.Process(
                    target=_work, args=(scale, each.row.name, each.seed, output, _left(ends), threads)
                )
                process.start()
                running[process.sentinel] = (process, each)
            if not running:
                return
            for sentinel in wait(list(running)):
                process, each = running.pop(sentinel)
                process.join()
                if process.exitcode == 0:
                    yield each
                    continue
                stopped.append(True)
                if process.exitcode not in (STOPPED, -signal.SIGTERM):
                    _terminate(running)
                    log = run_folder(output, each.row, each.seed) / "output.txt"
                    raise ValueError(
                        f"Got a failed run ({each}); its message is above, and in {log}: mend it, and the same command "
                        "goes on."
                    )


def _work(scale: Scale, name: str, seed: int, output: Path, max_seconds: float | None, threads: int) -> None:
    """A run in a process of its own."""
    torch.set_num_threads(threads)
    folder = run_folder(output, ROWS[name], seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / "output.txt").open("a", encoding="utf-8") as file,
        redirect_stdout(file),
        redirect_stderr(file),
    ):
        finished = run(scale, ROWS[name], seed, output, max_seconds)
    raise SystemExit(0 if finished else STOPPED)


def _terminate(running: dict[Any, tuple[BaseProcess, Run]]) -> None:
    """Each ends its sitting with a checkpoint."""
    for process, _ in running.values():
        process.terminate()
    for process, _ in running.values():
        process.join()


@contextmanager
def _forwarded(running: dict[Any, tuple[BaseProcess, Run]]) -> Iterator[list[bool]]:
    """SIGTERM goes on to the runs, which end with a checkpoint; a list that is then no longer empty."""
    stopped: list[bool] = []

    def forward(number: int, frame: FrameType | None) -> None:
        stopped.append(True)
        for process, _ in list(running.values()):
            process.terminate()

    before = signal.signal(signal.SIGTERM, forward)
    try:
        yield stopped
    finally:
        _terminate(running)
        signal.signal(signal.SIGTERM, before)
