"""The training loop, one for every recipe: what differs between them is a `TrainingTask`.

Randomness is keyed by (seed, step, sample index) inside the tasks, so the whole state of a run is the weights, the
optimizer, the moving average and the step: an interrupted run, resumed, equals the uninterrupted one.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import nn
from torch.utils.data import DataLoader, Dataset

from genmask.objectives import WeightedSum
from genmask.training import checkpoint
from genmask.training.optimizer import OPTIMIZERS, build_optimizers


class TrainingTask(Protocol):
    """What a recipe trains: the modules, the batch of a step, its losses, its held-out scores, its result."""

    modules: nn.ModuleDict
    """What is trained, and what a checkpoint holds."""
    frozen: nn.ModuleDict
    """What is only used."""

    def batches(self) -> Dataset:
        """Map from step to that step's batch (made in worker processes); a batch moves by `.to(device)`."""

    def losses(self, batch: Any, step: int) -> dict[str, WeightedSum]:
        """One loss per objective; the optimised loss is their sum, each divided by its weight."""

    def evaluate(self) -> dict[str, float]:
        """Held-out scores of the modules as they stand."""

    def save(self, folder: Path) -> None:
        """Write the finished model."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and how fast; defaults are the paper's where it states them."""

    steps: int
    """Optimizer steps."""
    learning_rate: float = 5e-5
    """Peak, reached after the warm-up."""
    final_learning_rate: float = 1e-5
    """End of the cosine."""
    warmup_steps: int = 500
    optimizer: str = "adamw"
    """"adamw", or "muon" for the matrices of hidden layers with AdamW for the rest."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    """Of weights of two and more dimensions; biases and gains do not decay."""
    max_grad_norm: float = 1.0
    ema_decay: float | None = None
    """Decay of a moving average of the weights, smaller at first (1 - n ** (-2/3) after n steps); evaluation and the
    result use the average."""
    mixed_precision: str = "bf16"
    """"bf16" or "no"; the weights themselves stay float32."""
    num_workers: int = 1
    """Processes that prepare batches; 0 prepares them in between the steps."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    evaluate_every: int = 1000
    """Steps between held-out evaluations; 0 for the end alone."""
    log_every: int = 20
    """Steps between lines of the log; a line holds the mean losses since the one before."""

    def __post_init__(self) -> None:
        if self.steps <= 0 or self.checkpoint_every <= 0 or self.log_every <= 0:
            raise ValueError(
                "Got a loop of no steps: steps, checkpoint_every and log_every must be positive."
            )
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"Got optimizer {self.optimizer!r}, expected one of {', '.join(OPTIMIZERS)}.")
        if self.mixed_precision not in ("bf16", "no"):
            raise ValueError(f"Got mixed_precision={self.mixed_precision!r}, expected 'bf16' or 'no'.")

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine from `learning_rate` to `final_learning_rate`."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        cosine = (1 + math.cos(math.pi * min(1.0, progress))) / 2
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * cosine


class NonFiniteError(RuntimeError):
    """A loss or gradient is not a finite number; raised before the update, so the last checkpoint is sound."""


def train(task: TrainingTask, config: LoopConfig, output: Path, max_seconds: float | None = None) -> bool:
    """Run `task` into `output`, or go on from the checkpoint there.

    Args:
        task: what is trained.
        config: how long and how fast.
        output: holds `checkpoints/`, `log.jsonl` and, in the end, `model/`.
        max_seconds: stop with a checkpoint after so long (and at least one step).

    Returns:
        True when finished, False when `max_seconds` ended the sitting early.

    Raises:
        NonFiniteError: a loss or gradient is not a finite number.
        ValueError: the checkpoint is of another recipe; started as more than one process.
    """
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    if accelerator.num_processes > 1:
        raise ValueError(
            f"Got {accelerator.num_processes} processes, expected one: start it without accelerate's launcher."
        )
    modules = accelerator.prepare(task.modules)
    task.frozen.to(accelerator.device)
    parameters = [p for p in modules.parameters() if p.requires_grad]
    optimizers = [
        accelerator.prepare(optimizer)
        for optimizer in build_optimizers(
            modules,
            config.optimizer,
            learning_rate=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
    ]
    ema = EMAModel(parameters, decay=config.ema_decay, use_ema_warmup=True) if config.ema_decay else None

    output.mkdir(parents=True, exist_ok=True)
    checkpoints = output / "checkpoints"
    newest = checkpoint.latest(checkpoints)
    # `seen` holds the losses of each step since the log's last line.
    start, seen = checkpoint.load(newest, modules, optimizers, ema) if newest else (0, {})
    log = _Log(output / "log.jsonl", start)
    loader = DataLoader(
        task.batches(),
        batch_size=None,
        sampler=range(start, config.steps),
        num_workers=config.num_workers,
        prefetch_factor=4 if config.num_workers else None,
    )

    modules.train()
    began = time.monotonic()
    with _progress() as progress:
        bar = progress.add_task("train", total=config.steps, completed=start, note="")
        for step, batch in enumerate(loader, start=start):
            for group in chain.from_iterable(optimizer.param_groups for optimizer in optimizers):
                group["lr"] = config.learning_rate_at(step)
            with accelerator.autocast():
                losses = task.losses(batch.to(accelerator.device), step)
            means = {name: loss.total / loss.weight.clamp_min(1e-8) for name, loss in losses.items()}
            for name, mean in means.items():
                value = mean.item()
                if not math.isfinite(value):
                    raise NonFiniteError(
                        f"Loss {name!r} is {value} at step {step}; the last good state is in {checkpoints}."
                    )
                seen.setdefault(name, []).append(value)
            accelerator.backward(torch.stack(list(means.values())).sum())
            norm = accelerator.clip_grad_norm_(parameters, config.max_grad_norm)
            if not torch.isfinite(norm):
                raise NonFiniteError(
                    f"The gradient norm is {float(norm)} at step {step}; the last good state is in {checkpoints}."
                )
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            if ema is not None:
                ema.step(parameters)

            done = step + 1
            last = done == config.steps
            stop = last or (max_seconds is not None and time.monotonic() - began > max_seconds)
            progress.advance(bar)
            if last or done % config.log_every == 0:
                averages = {name: sum(values) / len(values) for name, values in seen.items()}
                seen.clear()
                rate = (done - start) / (time.monotonic() - began)
                log.write(
                    step=done, **averages, learning_rate=config.learning_rate_at(step), steps_per_second=rate
                )
                note = " ".join(f"{name} {value:.4f}" for name, value in averages.items())
                progress.update(bar, note=f"{note} | {rate:.2f} steps/s")
            if last or (config.evaluate_every and done % config.evaluate_every == 0):
                scores = _evaluate(task, modules, parameters, ema)
                log.write(step=done, **scores)
                progress.console.print(f"step {done}: " + " ".join(f"{k} {v:.4f}" for k, v in scores.items()))
            # After the log, so that a resume writes no line twice and leaves none out.
            if stop or done % config.checkpoint_every == 0:
                checkpoint.save(checkpoints, modules, optimizers, ema, done, seen)
            if stop and not last:
                return False

    if ema is not None:
        ema.copy_to(parameters)
    modules.eval()
    task.save(output / "model")
    return True


def _evaluate(
    task: TrainingTask, modules: nn.Module, parameters: list[nn.Parameter], ema: EMAModel | None
) -> dict[str, float]:
    """Scores of the averaged weights where there are any; leaves the modules as they were."""
    if ema is not None:
        ema.store(parameters)
        ema.copy_to(parameters)
    modules.eval()
    with torch.no_grad():
        scores = task.evaluate()
    modules.train()
    if ema is not None:
        ema.restore(parameters)
    return scores


class _Log:
    """One JSON object per line; lines of steps that a resume repeats, or cut short by a kill, are dropped."""

    def __init__(self, path: Path, start: int) -> None:
        self.path = path
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= start]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(kept))
        partial.replace(path)

    def write(self, **record: float) -> None:
        rounded = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in record.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(rounded) + "\n")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
