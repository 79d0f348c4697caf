"""A training step on one process and on several, measured, beside what `genmask.training.scaling` predicts for them.

`benchmarks/scaling.py training` runs this in every process. Weak scaling: each process takes as many samples as the one
did. Strong scaling: together they take as many. "Apart" they work at the same time and exchange nothing, which tells
processes that are in each other's way (for cores, caches, memory) from communication.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from rich import box
from rich.table import Table
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from genmask.benchmark.models import Size, random_pipeline
from genmask.pipeline import GenMaskPipeline
from genmask.stages import synchronise, timed
from genmask.timesteps import PowerLaw
from genmask.training.estimate import Workload
from genmask.training.mask_config import MaskConfig
from genmask.training.masks import MaskTask
from genmask.training.optimizer import build_optimizers
from genmask.training.parallel import Share, barrier, gather_lists, parallelise, sum_over_processes
from genmask.training.samples import Encoding, MicroBatch
from genmask.training.scaling import Link, calibrate, predict
from genmask.training.sources import SceneSource


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """A training step on one process and on several, by DDP: equal share of each, and equal total."""

    model: str = "tiny"
    """A model folder, a bundled model or a hub id."""
    size: Size | None = None
    """Random weights of this size, in place of a model."""
    processes: int = 2
    segmentation: int = 8
    """Masks of a process in a step; a multiple of the processes."""
    generation: int = 4
    """Pictures likewise."""
    checkpointing: bool = False
    """Compute every block's forward twice, and keep only its input in memory."""
    rounds: int = 7

    def __post_init__(self) -> None:
        if self.processes < 2:
            raise ValueError(
                f"Got {self.processes} processes, expected 2 or more: one is always measured too."
            )
        for samples in (self.segmentation, self.generation):
            if samples < 1 or samples % self.processes:
                raise ValueError(
                    f"Got {samples} samples for {self.processes} processes, expected a multiple."
                )


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Of a step; of several processes, the slowest's."""

    total: float
    update: float
    """Clipping and the optimizer, within the total."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kind of step."""

    name: str
    share: Share
    """A process's samples."""
    processes: int
    """How many take part."""
    exchanges: bool
    """Whether they exchange gradients."""


def training(options: TrainingOptions) -> Iterator[Table | str]:
    """What this process has to say: the first one everything, the others nothing."""
    accelerator = Accelerator()
    rank, count, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    trainer = Trainer(build(options, device), device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    weak, strong = Share(rank=rank, world_size=count), Share(rank=rank, world_size=count, accumulation=count)
    rows = [
        Row(name="1 process", share=weak, processes=1, exchanges=False),
        Row(name=f"{count} apart, as many samples each", share=weak, processes=count, exchanges=False),
        Row(name=f"{count} by DDP, as many samples each", share=weak, processes=count, exchanges=True),
        Row(name=f"{count} apart, as many together", share=strong, processes=count, exchanges=False),
        Row(name=f"{count} by DDP, as many together", share=strong, processes=count, exchanges=True),
    ]
    gradients = torch.zeros(sum(p.numel() for p in trainer.parameters), device=device)
    steps: list[list[Seconds]] = [[] for _ in rows]
    reductions: list[list[float]] = [[], []]  # of one number, and of all gradients
    for _ in range(options.rounds + 1):
        for own, row in zip(steps, rows, strict=True):
            barrier()
            taken = [trainer.step(row)] if rank < row.processes else []
            own.append(max(gather_lists(taken), key=lambda each: each.total))
        for times, tensor in zip(reductions, (gradients[:1], gradients), strict=True):
            barrier()
            times.append(timed(partial(dist.all_reduce, tensor), device)[1])
    if rank == 0:  # first rounds do not count: in them kernels are chosen and buckets laid out
        medians = [
            Seconds(
                total=statistics.median(each.total for each in own[1:]),
                update=statistics.median(each.update for each in own[1:]),
            )
            for own in steps
        ]
        one_number, all_gradients = (statistics.median(own[1:]) for own in reductions)
        yield measured_table(rows, medians)
        yield from compared(trainer, medians, one_number, all_gradients)
        samples = f"{options.segmentation} masks and {options.generation} pictures on one process"
        yield f"{options.size or options.model}, {samples}, {device.type}, {options.rounds} rounds"
    barrier()
    dist.destroy_process_group()


class Trainer:
    """Takes steps as the training loop does, on batches drawn beforehand; the weights stay as they are."""

    def __init__(self, task: MaskTask, device: torch.device) -> None:
        self.task, self.device = task, device
        task.frozen.to(device)
        self.wrapped = parallelise(task.network, device, shard=False)
        self.parameters = [p for p in task.network.parameters() if p.requires_grad]
        (self.optimizer,) = build_optimizers(
            task.network, "adamw", learning_rate=0.0, betas=(0.9, 0.95), weight_decay=0.01
        )
        self.batches: dict[Share, MicroBatch] = {}

    def prepared(self, share: Share) -> MicroBatch:
        """A micro-batch as the transformer takes it."""
        if share not in self.batches:
            self.batches[share] = self.task.batches(share)[0].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            (part,) = self.task.prepare([self.batches[share]])
        return part

    def step(self, row: Row) -> Seconds:
        synchronise(self.device)
        began = time.perf_counter()
        part = self.prepared(row.share)
        network: nn.Module = self.wrapped if row.exchanges else self.task.network
        if row.exchanges:
            sum_over_processes({"weight": 1.0}, self.device)
        for which in self.task.passes:
            with self.unsynchronised(network, which):
                with torch.autocast(self.device.type, torch.bfloat16):
                    losses = self.task.losses(network, part, 0, which, row.share, 0)
                torch.stack([loss.mean() for loss in losses.values()]).sum().backward()
        synchronise(self.device)
        computed = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if row.exchanges:
            sum_over_processes({"loss": 1.0}, self.device)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        synchronise(self.device)
        ended = time.perf_counter()
        return Seconds(total=ended - began, update=ended - computed)

    def unsynchronised(self, network: nn.Module, which: str) -> AbstractContextManager[None]:
        """DDP reduces gradients in the last pass."""
        if isinstance(network, DistributedDataParallel) and which != self.task.passes[-1]:
            return network.no_sync()
        return nullcontext()

    def workload(self, share: Share) -> Workload:
        """Of a step with one micro-batch of `share` in each process."""
        part = self.prepared(share)
        assert isinstance(part.segmentation, Encoding)
        assert isinstance(part.generation, Encoding)
        return Workload(
            transformer=arguments(self.task.transformer.config),
            size=self.task.config.sizes[0],
            segmentation_samples=len(part.segmentation.x0),
            generation_samples=len(part.generation.x0),
            segmentation_frames=2 if self.task.config.shortcut else 1,
            prompt_tokens=part.segmentation.condition.attention_mask.shape[1],
            caption_tokens=part.generation.condition.attention_mask.shape[1],
            processes=share.world_size,
            gradient_checkpointing=self.task.config.gradient_checkpointing,
            vae=arguments(self.task.encoder.vae.config),
            vlm_parameters=sum(p.numel() for p in self.task.encoder.vlm.parameters()),
        )


def build(options: TrainingOptions, device: torch.device) -> MaskTask:
    """The training of a model on drawn scenes, as many for each process as the options say."""
    if options.size is None:
        pipe = GenMaskPipeline.from_pretrained(options.model)
    else:
        pipe = random_pipeline(options.size, device, torch.float32)
    shares = (("scenes", 1.0),)
    config = MaskConfig(
        resolution=pipe.config.resolution,
        sizes=((pipe.config.resolution, pipe.config.resolution),),
        segmentation_sources=shares,
        generation_sources=shares,
        segmentation_batch=options.processes * options.segmentation,
        generation_batch=options.processes * options.generation,
        segmentation_density=PowerLaw(0.05),
        shortcut=pipe.config.shortcut,
        gradient_checkpointing=options.checkpointing,
    )
    source = {"scenes": SceneSource(config.sizes)}
    return MaskTask(
        config,
        pipe.transformer.train().requires_grad_(True),
        segmentation_sources=source,
        generation_sources=source,
        validation={},
        vae=pipe.vae,
        vlm=pipe.vlm.to(torch.bfloat16) if device.type == "cuda" else pipe.vlm,
        processor=pipe.processor,
    )


def arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if not name.startswith("_")}


def measured_table(rows: Sequence[Row], medians: Sequence[Seconds]) -> Table:
    found = Table(
        "a step",
        "ms",
        "of it the update",
        "samples per second, times one process",
        "of the ideal",
        box=box.MARKDOWN,
    )
    for row, own in zip(rows, medians, strict=True):
        samples = row.processes / row.share.accumulation  # times those of one process
        rate = samples * medians[0].total / own.total
        found.add_row(
            row.name,
            f"{1000 * own.total:.0f}",
            f"{1000 * own.update:.0f}",
            f"{rate:.2f}",
            f"{rate / row.processes:.0%}",
        )
    return found


def compared(
    trainer: Trainer, medians: Sequence[Seconds], one_number: float, all_gradients: float
) -> Iterator[Table | str]:
    """Prediction, from one process's time and an all-reduce's, beside the time of several processes."""
    count = dist.get_world_size()
    alone, apart_weak, weak, apart_strong, strong = medians
    size, steps = sum(p.nbytes for p in trainer.parameters), 2 * (count - 1)
    node = Link(
        bandwidth=size * steps / count / max(all_gradients - one_number, 1e-9), latency=one_number / steps
    )
    yield (
        f"All-reduce alone: {size / 1e6:.1f} MB of gradients in {1000 * all_gradients:.1f} ms "
        f"({node.bandwidth / 1e9:.2f} GB/s each way), one number in {1e6 * one_number:.0f} µs.\n"
    )
    each = trainer.workload(Share(world_size=count))
    part = trainer.workload(Share(world_size=count, accumulation=count))
    machine = calibrate(each, compute=alone.total - alone.update, update=alone.update, node=node)
    found = Table(
        "a step", "predicted, ms", "if all is hidden, ms", "measured, ms", "measured / predicted",
        "the same without communication", "communication as measured, ms", box=box.MARKDOWN,
    )  # fmt: skip
    for name, work, own, apart in (
        ("each", each, weak, apart_weak),
        ("together", part, strong, apart_strong),
    ):
        exposed, hidden = (predict(work, replace(machine, overlap=share)) for share in (0.0, 1.0))
        found.add_row(
            f"{count} by DDP, as many samples {name}",
            f"{1000 * exposed.seconds:.0f}",
            f"{1000 * hidden.seconds:.0f}",
            f"{1000 * own.total:.0f}",
            f"{own.total / exposed.seconds:.2f}",
            f"{apart.total / (exposed.compute + exposed.update):.2f}",
            f"{1000 * (own.total - apart.total):.0f}",
        )
    yield found
    if trainer.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() - size  # of what was reduced alone
        expected = predict(each, machine).memory.total
        yield f"Peak memory: {peak / 2**30:.1f} GiB, and {expected / 2**30:.1f} GiB by the estimate.\n"
