"""How long a training step of the transformer takes: plain, from a cache, checkpointing, with compiled blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import TritonMissing

from genmask.benchmark.latency import Case, Listener, Timing, measure
from genmask.benchmark.machine import Machine
from genmask.benchmark.work import WorkCounter
from genmask.pipeline import GenMaskPipeline
from genmask.training.cache import CacheWriter, EncodingCache
from genmask.training.mask_config import MaskConfig
from genmask.training.masks import MaskTask
from genmask.training.optimizer import build_optimizers
from genmask.training.parallel import Share
from genmask.training.sources import SceneSource, Size

Variant = Literal["plain", "cache", "checkpointing", "compiled", "cache-compiled"]
PATCH = 16
"""Sides of the pictures are multiples of so many pixels."""
UPDATE_BYTES = 4 * 7
"""Of a weight's update by AdamW: it, its gradient and two moments are read, and all but the gradient written."""


@dataclass(frozen=True, kw_only=True)
class StepTiming(Timing):
    """Of a training step; from a cache, peak memory leaves out VAE and VLM, which wait on the CPU then."""

    mfu: float
    """Forward and backward of the transformer, against bfloat16 products."""
    loader: float
    """Seconds that one process draws a step's samples: beside the step, and no part of it."""

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "mfu": self.mfu, "loader_seconds": self.loader}


class Steps:
    """A variant's steps, one after the other, as the training loop does them; samples are drawn beforehand.

    Args:
        variant: what is done otherwise than plainly.
        task: with the cache, if the variant has one.
        optimizer: of the task's network.
    """

    def __init__(self, variant: Variant, task: MaskTask, optimizer: torch.optim.Optimizer) -> None:
        self.variant, self.task, self.optimizer = variant, task, optimizer
        self.device = next(task.network.parameters()).device
        batches = task.batches(Share())
        began = time.perf_counter()
        self.batches = [batches[step] for step in range(task.config.epoch_steps)]
        self.loader = (time.perf_counter() - began) / len(self.batches)
        self.number, self.flop = 0, 0.0

    def run(self, listener: Listener | None) -> None:
        """The next step, which tells of its parts."""
        part: Listener = listener or (lambda name: nullcontext())
        batch = self.batches[self.number % len(self.batches)]
        # Operators within compiled blocks cannot be counted.
        compiled = "compiled" in self.variant and not isinstance(listener, WorkCounter)
        with (
            torch.compiler.set_stance("default" if compiled else "force_eager"),
            _checkpointing(self.task.transformer, self.variant == "checkpointing"),
            torch.autocast(self.device.type, torch.bfloat16),
        ):
            with part("encode"):
                (prepared,) = self.task.prepare([batch.to(self.device)])
            for which in self.task.passes:
                with part("forward"):
                    losses = self.task.losses(self.task.network, prepared, self.number, which, Share(), 0)
                    total = torch.stack([loss.mean() for loss in losses.values()]).sum()
                with part("backward"):
                    total.backward()
        with part("optimizer"):
            torch.nn.utils.clip_grad_norm_(self.task.network.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.flop = self.task.flop(prepared)
        self.number += 1


def measure_training(
    pipeline: GenMaskPipeline,
    machine: Machine,
    folder: Path,
    *,
    variants: Sequence[Variant],
    segmentation_batch: int,
    generation_batch: int,
    rounds: int,
    advance: Callable[[int], None],
) -> list[StepTiming]:
    """Time a step of every variant, by turns, on the same networks and drawn scenes.

    Weights are float32 and products bfloat16 (autocast); VAE and VLM stay as they are. It trains the pipeline's
    transformer, which is of no use afterwards.

    Args:
        pipeline: on the machine's device.
        machine: where it is.
        folder: for a cache.
        variants: what is timed.
        segmentation_batch: masks of a step.
        generation_batch: pictures of a step, drawn from their captions.
        rounds: as in `measure`.
        advance: as in `measure`.

    Raises:
        ValueError: blocks that cannot be compiled here.
    """
    transformer = nn.Module.to(pipeline.transformer, torch.float32).train().requires_grad_(True)
    if any("compiled" in variant for variant in variants):
        transformer.compile_repeated_blocks(dynamic=True)
    config = training_config(pipeline, segmentation_batch, generation_batch)
    tasks = {False: _task(pipeline, config, None)}
    if any("cache" in variant for variant in variants):
        tasks[True] = _task(pipeline, config, _fill(tasks[False], folder, machine.device))
    (optimizer,) = build_optimizers(
        tasks[False].network, "adamw", learning_rate=1e-5, betas=(0.9, 0.95), weight_decay=0.01
    )
    steps = [Steps(variant, tasks["cache" in variant], optimizer) for variant in variants]
    cases = [
        Case(
            settings={
                "variant": step.variant,
                "resolution": config.resolution,
                "segmentation_batch": segmentation_batch,
                "generation_batch": generation_batch,
            },
            counts={"samples": segmentation_batch + generation_batch},
            run=step.run,
            bytes={"optimizer": UPDATE_BYTES * sum(x.numel() for x in transformer.parameters())},
        )
        for step in steps
    ]
    try:
        timings = measure(pipeline, cases, machine, rounds=rounds, advance=advance)
    except (BackendCompilerFailed, TritonMissing) as error:
        raise ValueError(
            f"Got variant compiled, but no working compiler ({str(error).strip().splitlines()[0]}), expected g++, and "
            "on a GPU Triton: install it, or name the other variants alone."
        ) from error
    frozen = sum(x.nbytes for part in (pipeline.vae, pipeline.vlm) for x in part.parameters())
    found = []
    for step, timing in zip(steps, timings, strict=True):
        if (
            timing.peak_memory is not None
            and step.task.encoder.cache is not None
            and machine.device.type == "cuda"
        ):
            timing = replace(timing, peak_memory=timing.peak_memory - frozen)
        mfu = step.flop / timing.median / machine.ceiling("bfloat16")
        found.append(StepTiming(**vars(timing), mfu=mfu, loader=step.loader))
    return found


def training_config(pipeline: GenMaskPipeline, segmentation_batch: int, generation_batch: int) -> MaskConfig:
    """Steps by turns of square pictures and of lying ones, both of about the pipeline's resolution squared."""
    side = pipeline.config.resolution
    sizes: list[Size] = []
    for aspect in (1, 9 / 7):
        height, width = (max(1, round(x / PATCH)) * PATCH for x in (side / aspect**0.5, side * aspect**0.5))
        sizes.append((height, width))
    sizes = list(dict.fromkeys(sizes))
    return MaskConfig(
        resolution=side,
        sizes=tuple(sizes),
        segmentation_sources=(("scenes", 1.0),),
        generation_sources=(("scenes", 1.0),),
        segmentation_batch=segmentation_batch,
        generation_batch=generation_batch,
        shortcut=pipeline.config.shortcut,
        epoch_steps=len(sizes),
    )


def _task(pipeline: GenMaskPipeline, config: MaskConfig, cache: EncodingCache | None) -> MaskTask:
    source = {"scenes": SceneSource(config.sizes)}
    return MaskTask(
        config,
        pipeline.transformer,
        segmentation_sources=source,
        generation_sources=source,
        validation={},
        vae=pipeline.vae,
        vlm=pipeline.vlm,
        processor=pipeline.processor,
        cache=cache,
        identity="benchmark",
    )


def _fill(task: MaskTask, folder: Path, device: torch.device) -> EncodingCache:
    """Of all samples of the task."""
    with CacheWriter(folder, "benchmark") as writer:
        task.fill(writer, range(task.config.epoch_steps), "bf16", lambda count: None, device)
    return EncodingCache(folder, "benchmark")


@contextmanager
def _checkpointing(transformer: Any, wanted: bool) -> Iterator[None]:
    if wanted:
        transformer.enable_gradient_checkpointing()
    try:
        yield
    finally:
        if wanted:
            transformer.disable_gradient_checkpointing()
