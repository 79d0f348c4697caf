"""The training loop, one for every recipe: what differs between them is a `TrainingTask`.

Randomness is keyed by (seed, step, sample index) inside the tasks, so the whole state of a run is the weights, the
optimizer, the moving average and the step: an interrupted run, resumed, equals the uninterrupted one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.training_utils import EMAModel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn
from torch.utils.data import DataLoader, Dataset

from genmask.objectives import WeightedSum
from genmask.training import checkpoint


class TrainingTask(Protocol):
    """What a recipe trains: the modules, the batch of a step, its losses, its held-out scores, its result."""

    modules: nn.ModuleDict

    def batches(self) -> Dataset:
        """Map from step to that step's batch (made in worker processes)."""

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
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    """Applied to matrices only."""
    max_grad_norm: float = 1.0
    ema_decay: float | None = None
    """Decay of a moving average of the weights; evaluation and the result use it."""
    mixed_precision: str = "bf16"
    """"bf16" or "no"; the weights themselves stay float32."""
    num_workers: int = 1
    """Processes that prepare batches."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    evaluate_every: int = 1000
    """Steps between held-out evaluations; 0 for the end alone."""
    log_every: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps <= 0 or self.checkpoint_every <= 0 or self.log_every <= 0:
            raise ValueError("Got a loop of no steps: steps, checkpoint_every and log_every must be positive.")
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
    """Run (or resume) `task` into `output`; True when finished, False when `max_seconds` ended the sitting early.

    `output` holds `checkpoints/`, `log.jsonl`, and in the end `model/`.
    """
    set_seed(config.seed)
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    modules = accelerator.prepare(task.modules)
    parameters = [p for p in modules.parameters() if p.requires_grad]
    optimizer = accelerator.prepare(
        torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim >= 2]},
                {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
    )
    ema = EMAModel(parameters, decay=config.ema_decay, use_ema_warmup=True) if config.ema_decay else None

    output.mkdir(parents=True, exist_ok=True)
    checkpoints = output / "checkpoints"
    newest = checkpoint.latest(checkpoints)
    start = checkpoint.load(newest, modules, optimizer, ema) if newest else 0
    log = _Log(output / "log.jsonl", start)
    loader = DataLoader(
        task.batches(),
        batch_size=None,
        sampler=range(start, config.steps),
        num_workers=config.num_workers,
        prefetch_factor=4 if config.num_workers else None,
        persistent_workers=False,
    )

    began = time.monotonic()
    seen: dict[str, list[float]] = {}
    with _progress() as progress:
        bar = progress.add_task("train", total=config.steps, completed=start, note="")
        for step, batch in enumerate(loader, start=start):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate_at(step)
            with accelerator.autocast():
                losses = task.losses(batch, step)
            means = {name: loss.total / loss.weight.clamp_min(1e-8) for name, loss in losses.items()}
            for name, mean in means.items():
                if not torch.isfinite(mean):
                    raise NonFiniteError(f"Loss {name!r} is {float(mean)} at step {step}; the last good state is in {checkpoints}.")
                seen.setdefault(name, []).append(float(mean.detach()))
            accelerator.backward(torch.stack(list(means.values())).sum())
            norm = accelerator.clip_grad_norm_(parameters, config.max_grad_norm)
            if not torch.isfinite(norm):
                raise NonFiniteError(f"The gradient norm is {float(norm)} at step {step}; the last good state is in {checkpoints}.")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if ema is not None:
                ema.step(parameters)

            done = step + 1
            stop = max_seconds is not None and time.monotonic() - began > max_seconds
            if done % config.log_every == 0:
                averages = {name: sum(values) / len(values) for name, values in seen.items()}
                seen.clear()
                rate = (done - start) / (time.monotonic() - began)
                log.write(step=done, **averages, learning_rate=config.learning_rate_at(step), steps_per_second=rate)
                note = " ".join(f"{name} {value:.4f}" for name, value in averages.items())
                progress.update(bar, completed=done, note=f"{note} | {rate:.2f} steps/s")
            last = done == config.steps
            if stop or last or done % config.checkpoint_every == 0:
                checkpoint.save(checkpoints, modules, optimizer, ema, done)
            if last or (config.evaluate_every and done % config.evaluate_every == 0):
                scores = _evaluate(task, modules, parameters, ema)
                log.write(step=done, **scores)
                progress.console.print(f"step {done}: " + " ".join(f"{k} {v:.4f}" for k, v in scores.items()))
            if stop and not last:
                return False

    if ema is not None:
        ema.copy_to(parameters)
    modules.eval()
    task.save(output / "model")
    (output / "config.json").write_text(json.dumps(asdict(config), indent=2) + "\n")
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
    """One JSON object per line; lines of a step that a resume repeats are dropped."""

    def __init__(self, path: Path, start: int) -> None:
        self.path = path
        kept = [line for line in self._lines() if json.loads(line)["step"] <= start]
        path.write_text("".join(kept))

    def _lines(self) -> Iterator[str]:
        if self.path.exists():
            yield from self.path.read_text().splitlines(keepends=True)

    def write(self, **record: float) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in record.items()}) + "\n")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
