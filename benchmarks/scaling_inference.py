"""Cost of an answer: against resolution, prompts on a picture, pictures in a batch, threads and processes.

`benchmarks/scaling.py inference` runs this.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection

import numpy as np
import torch
from rich import box
from rich.table import Table

from genmask.benchmark.models import Size, random_pipeline
from genmask.pipeline import GenMaskPipeline
from genmask.stages import timed

TEXT = "the red mug"
ASKED = 4
"""Pictures that a process segments, one by one, when it is asked to."""


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """Cost of an answer: against resolution, prompts on a picture, pictures in a batch, threads and processes."""

    model: str = "tiny"
    """A model folder, a bundled model or a hub id."""
    size: Size | None = None
    """Random weights of this size, in place of a model."""
    rounds: int = 7
    most_prompts: int = 32
    """The longest list of prompts on a picture; the others are its halves."""
    most_pictures: int = 16
    """The largest batch of pictures; the others are its halves."""


def inference(options: InferenceOptions) -> Iterator[Table | str]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipe = load(options, device)
    picture = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    own, cell = pipe.config.resolution, pipe.cell
    resolutions = [round(share * own / cell) * cell for share in (0.5, 0.75, 1, 1.5, 2)]

    def segment_at(resolution: int) -> None:
        pipe.register_to_config(resolution=resolution)
        pipe.segment(picture, TEXT)
        pipe.register_to_config(resolution=own)

    seconds = take_turns([partial(segment_at, side) for side in resolutions], options.rounds, device)
    patches = [(side / cell) ** 2 for side in resolutions]
    yield table("resolution, pixels", resolutions, seconds, [1] * len(seconds), "pictures")
    yield (
        f"Time grows with the patches to the power of {power_law(patches, seconds):.2f}, and of "
        f"{power_law(patches[2:], seconds[2:]):.2f} from the model's own {own} pixels up.\n"
    )

    counts = halves(options.most_prompts)
    lists = [[f"{TEXT} number {index}" for index in range(count)] for count in counts]
    seconds = take_turns([partial(pipe.segment, picture, texts) for texts in lists], options.rounds, device)
    first, further = straight_line(counts, seconds)
    yield table("prompts on a picture", counts, seconds, counts, "prompts")
    yield f"Each further prompt takes {further / (first + further):.0%} of the first.\n"

    counts = halves(options.most_pictures)
    batches = [partial(pipe.segment, [picture] * count, TEXT, batch_size=count) for count in counts]
    seconds = take_turns(batches, options.rounds, device)
    yield table("pictures in a batch", counts, seconds, counts, "pictures")
    if device.type == "cpu":
        yield processes_and_threads(options)
    what = options.size or options.model
    yield f"{what}, {device.type}, threads: {torch.get_num_threads()} but in the last table, rounds: {options.rounds}"


def processes_and_threads(options: InferenceOptions) -> Table:
    """All cores, as processes of one thread and as threads of one process, beside one thread alone."""
    cores = os.cpu_count() or 1
    with workers(options, [1] * cores + [cores]) as connections:
        groups = {
            "1 process of 1 thread": connections[:1],
            f"{cores} processes of 1 thread": connections[:-1],
            f"1 process of {cores} threads": connections[-1:],
        }
        asked = [partial(ask, group) for group in groups.values()]
        seconds = take_turns(asked, options.rounds, torch.device("cpu"))
    return table("one by one", list(groups), seconds, [ASKED * len(g) for g in groups.values()], "pictures")


@contextmanager
def workers(options: InferenceOptions, threads: Sequence[int]) -> Iterator[list[Connection]]:
    """Processes with so many threads each."""
    context = multiprocessing.get_context("spawn")
    connections, processes = [], []
    for count in threads:
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=answer, args=(theirs, options, count), daemon=True))
        processes[-1].start()
        connections.append(ours)
    try:
        yield connections
    finally:
        for process in processes:
            process.terminate()


def ask(group: Sequence[Connection]) -> None:
    for connection in group:
        connection.send(None)
    for connection in group:
        connection.recv()


def answer(connection: Connection, options: InferenceOptions, threads: int) -> None:
    """A process that works whenever it is asked to."""
    torch.set_num_threads(threads)
    pipe = load(options, torch.device("cpu"))
    picture = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    while True:
        connection.recv()
        for _ in range(ASKED):
            pipe.segment(picture, TEXT)
        connection.send(None)


def load(options: InferenceOptions, device: torch.device) -> GenMaskPipeline:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if options.size is not None:
        return random_pipeline(options.size, device, dtype)
    return GenMaskPipeline.from_pretrained(options.model, torch_dtype=dtype, device=device)


def take_turns(calls: Sequence[Callable[[], object]], rounds: int, device: torch.device) -> list[float]:
    """Median seconds of each, after a first call that does not count."""
    seconds = [[timed(call, device)[1] for call in calls] for _ in range(rounds + 1)]
    return [statistics.median(own) for own in zip(*seconds[1:], strict=True)]


def halves(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`."""
    return [most >> shift for shift in reversed(range(most.bit_length()))]


def straight_line(counts: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """a and b of a + b n, by least squares of relative errors."""
    b, a = np.polyfit(counts, seconds, 1, w=1 / np.asarray(seconds))
    return float(a), float(b)


def power_law(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """k of c n^k, by least squares of logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def table(
    what: str, names: Sequence[object], seconds: Sequence[float], items: Sequence[int], unit: str
) -> Table:
    """Times, and items per second, relative to the first row."""
    found = Table(what, "ms", "times the first", f"{unit} per second, times the first", box=box.MARKDOWN)
    for name, own, count in zip(names, seconds, items, strict=True):
        rate = (count / own) / (items[0] / seconds[0])
        found.add_row(str(name), f"{1000 * own:.1f}", f"{own / seconds[0]:.2f}", f"{rate:.2f}")
    return found
