"""Shares the windows of a job out to workers on one machine or many, through Ray Data."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from genmask.jobs.pictures import Picture
from genmask.jobs.segment_job import Done, Failure, Window, Worker


def check_ray() -> None:
    """Raises ValueError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise ValueError("Got engine 'ray', which is not installed here: pip install 'genmask[ray]'.")


def run_on_ray(
    worker: Worker, windows: list[Window], *, num_workers: int | None = None, gpus: bool = True
) -> Iterator[Done]:
    """Answer windows on the cluster that RAY_ADDRESS names, or else on one that lives in this machine while they last.

    Every machine of the cluster must see pictures, model and output folder under the same paths. A worker that dies is
    started again and its window given out again; pictures of it that were done stay done.

    Args:
        worker: goes to every worker.
        windows: in any order they are answered.
        num_workers: None is one for each GPU of the cluster, or for each of its machines if there is none.
        gpus: whether each worker takes a GPU, where the cluster has any.

    Raises:
        ValueError: no cluster at RAY_ADDRESS, or one of fewer GPUs or CPUs than workers; what a worker raises.
    """
    if not windows:
        return
    with _cluster() as ray:
        machines = [
            node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")
        ]
        num_cpus = sum(int(machine["CPU"]) for machine in machines)
        num_gpus = sum(int(machine.get("GPU", 0)) for machine in machines) if gpus else 0
        count = num_workers or num_gpus or len(machines)
        if count > (num_gpus or num_cpus):
            room = f"{num_gpus} GPUs" if num_gpus else f"{num_cpus} CPUs"
            raise ValueError(
                f"Got {count} workers for a Ray cluster of {room}, expected at most one for each."
            )
        # Ray gives PyTorch as many threads as a worker has CPUs: all of a machine, shared among its workers.
        fewest = min(int(machine["CPU"]) for machine in machines)
        share = {"num_gpus": 1} if num_gpus else {"num_cpus": max(1, fewest // ceil(count / len(machines)))}
        rows = [{"window": json.dumps([_to_json(picture) for picture in window])} for window in windows]
        answers = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _RayWorker,
            # Without the pictures, of which a window brings its own.
            fn_constructor_args=(replace(worker, job=replace(worker.job, pictures=())),),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(count, len(rows))),
            **share,
        )
        for row in answers.iter_rows():
            done = json.loads(row["done"])
            if done["error"]:
                raise MemoryError if done["out_of_memory"] else ValueError(done["error"])
            yield Done(
                answered=done["answered"], failures=tuple(Failure(**failure) for failure in done["failures"])
            )


class _RayWorker:
    """A `Worker` as Ray Data calls it: a batch of one row in, a batch of one row out."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        window = [_from_json(row) for row in json.loads(batch["window"][0])]
        answer: dict[str, Any] = {"answered": 0, "failures": [], "error": "", "out_of_memory": False}
        try:
            answer |= asdict(self.worker(window))
        except (ValueError, OSError) as error:  # the user's to mend; not by trying again, as Ray would
            answer["error"] = str(error)
        except Exception as error:
            if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":
                raise
            answer |= {"error": "out of memory", "out_of_memory": True}
        return {"done": np.array([json.dumps(answer)])}


@contextlib.contextmanager
def _cluster() -> Iterator[Any]:
    """Ray, connected: to the caller's cluster if there is one, else for this job alone."""
    check_ray()
    address = os.environ.get("RAY_ADDRESS", "local")
    # Read when Ray is imported: it sends no statistics, and a cluster of one machine listens on localhost alone.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Else every job begins with an error that is none: that an actor could not be started again without this process.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if address == "local":
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise ValueError(
            f"Got RAY_ADDRESS {address!r}, where no Ray cluster answers: start one, `ray start --head`, or unset it."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _to_json(picture: Picture) -> dict[str, Any]:
    return asdict(picture) | {"path": str(picture.path)}


def _from_json(row: dict[str, Any]) -> Picture:
    return Picture(path=Path(row["path"]), name=row["name"], stem=row["stem"], texts=tuple(row["texts"]))
