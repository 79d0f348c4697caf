"""How the cost grows: of an answer, of a training step on several processes, and of one on hundreds of GPUs.

    python benchmarks/scaling.py inference [--model tiny]     # resolution, prompts, pictures, threads and processes
    python benchmarks/scaling.py training [--processes 2]     # measured here, beside what is predicted for this machine
    python benchmarks/scaling.py predict                      # the paper's recipe on 1, 8, 64, 512 GPUs; runs nothing

`--size paper` takes random weights of that size in place of a model: speed does not depend on them. What is measured
takes turns in every round, and ratios are of medians. On CPUs every training process has a thread, and they talk over
gloo; with as many GPUs as processes they talk over NCCL. Tables are Markdown.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, NoReturn

import torch
import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from scaling_inference import InferenceOptions, inference
from scaling_training import TrainingOptions, training

from genmask.recipe_cost import workload
from genmask.recipe_tasks import Parts
from genmask.recipes import paper
from genmask.training.estimate import Workload
from genmask.training.mask_config import MaskConfig
from genmask.training.scaling import DGX_H100, Cluster, Prediction, predict, share_out

MICRO_BATCH = 8
"""Masks, and pictures, that a GPU takes at a time."""


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """The paper's recipe on many GPUs, by genmask.training.scaling: a model, nothing of it is measured."""

    gpus: tuple[int, ...] = (1, 8, 64, 512)
    cluster: Cluster = field(default_factory=lambda: DGX_H100)


def main() -> None:
    options = tyro.cli(
        Annotated[InferenceOptions, tyro.conf.subcommand("inference")]
        | Annotated[TrainingOptions, tyro.conf.subcommand("training")]
        | Annotated[PredictOptions, tyro.conf.subcommand("predict")],
        description=__doc__,
    )
    if isinstance(options, InferenceOptions):
        found = inference(options)
    elif isinstance(options, PredictOptions):
        found = prediction(options)
    elif "RANK" in os.environ:
        found = training(options)
    else:
        launch(options.processes)
    console = Console(width=200, highlight=False)  # a table that is folded is no Markdown
    for part in found:
        console.print(part)


def launch(processes: int) -> NoReturn:
    """This script again, on so many processes."""
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *launcher, __file__, *sys.argv[1:]]
    raise SystemExit(subprocess.run(command, env=environment).returncode)


def prediction(options: PredictOptions) -> Iterator[Table | str]:
    step = paper_step()
    plans: dict[str, Callable[[int], Workload]] = {
        "The same step of 1,024 samples:": partial(share_out, step),
        f"{2 * MICRO_BATCH} samples on each GPU:": lambda gpus: replace(step, accumulation=1, processes=gpus),
    }
    for title, plan in plans.items():
        table = Table(
            "GPUs", "", "micro-batches", "s/step", "samples/s", "of the ideal", "MFU", "GB sent",
            "communication, s", "of it exposed, s", "memory, GiB", box=box.MARKDOWN,
        )  # fmt: skip
        base = predict(plan(1), options.cluster)
        for sharded in (False, True):
            for gpus in options.gpus:
                if gpus > 1 or not sharded:
                    work = replace(plan(gpus), sharded=sharded)
                    table.add_row(*cells(work, predict(work, options.cluster), base))
        yield title
        yield table
    yield assumed(options.cluster)


def assumed(cluster: Cluster) -> str:
    links = (
        f"{link.bandwidth / 1e9:g} GB/s each way and {1e6 * link.latency:g} µs {where}"
        for link, where in (
            (cluster.node, f"within nodes of {cluster.per_node}"),
            (cluster.network, "between"),
        )
    )
    return (
        f"Predicted from data sheets and assumptions, not measured: {cluster.products / 1e12:g} TFLOP/s of products "
        f"and {cluster.convolutions / 1e12:g} of convolutions, of which {cluster.efficiency:.0%} are reached; memory "
        f"{cluster.memory_bandwidth / 1e12:g} TB/s; {', '.join(links)}; {cluster.overlap:.0%} of the window hides "
        "communication."
    )


def paper_step() -> Workload:
    """The paper's, on one GPU."""
    recipe = paper()
    assert isinstance(recipe.model, MaskConfig)
    micro_batches = recipe.model.segmentation_batch // MICRO_BATCH
    return workload(replace(recipe, loop=replace(recipe.loop, accumulation=micro_batches)), Parts())


def cells(work: Workload, found: Prediction, base: Prediction) -> tuple[str, ...]:
    return (
        f"{found.processes}",
        "FSDP2" if work.sharded else "DDP" if found.processes > 1 else "",
        f"{work.accumulation} of {work.segmentation_samples} + {work.generation_samples}",
        f"{found.seconds:.3g}",
        f"{found.samples_per_second:,.0f}",
        f"{found.efficiency(base):.0%}",
        f"{found.mfu:.0%}",
        f"{found.sent / 1e9:.3g}",
        f"{found.communication:.2g}",
        f"{found.exposed:.2g}",
        f"{found.memory.total / 2**30:.1f}",
    )


if __name__ == "__main__":
    main()
