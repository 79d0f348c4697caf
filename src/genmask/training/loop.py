"""The training loop, one for every recipe and any number of processes: what differs between them is a `TrainingTask`.

Randomness is keyed by (seed, sample number) inside the tasks, so the whole state of a run is the weights, the
optimizer, the moving average and the step: an interrupted run, resumed, equals the uninterrupted one.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from genmask.objectives import WeightedSum
from genmask.training import checkpoint
from genmask.training.optimizer import OPTIMIZERS, build_optimizers
from genmask.training.parallel import (
    Share,
    barrier,
    free,
    full_tensor,
    gather_lists,
    launcher_shards,
    parallelise,
    sum_over_processes,
)
from genmask.training.run_log import RunLog

TRACKERS = ("tensorboard", "wandb")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What held-out samples say of the modules as they stand."""

    scores: dict[str, float]
    pictures: dict[str, Image.Image] = field(default_factory=dict)
    """For people to look at; on the first process alone."""


class TrainingTask(Protocol):
    """What a recipe trains: the network, the batches of a step, its losses, its held-out scores, its result."""

    @property
    def network(self) -> nn.Module:
        """What is trained, and what a checkpoint holds."""

    @property
    def frozen(self) -> nn.Module:
        """What is only used."""

    @property
    def passes(self) -> tuple[str, ...]:
        """Forward and backward passes of a micro-batch, in order; the last one uses every parameter."""

    @property
    def samples_per_step(self) -> int:
        """In all processes together."""

    def batches(self, share: Share) -> Dataset:
        """Map from the turn of a process to its micro-batch (made in worker processes); it moves by `.to(device)`."""

    def prepare(self, batches: Sequence[Any]) -> Sequence[Any]:
        """The micro-batches of a step, after the frozen half of the work."""

    def weights(self, batch: Any) -> dict[str, float]:
        """Of each loss of a prepared micro-batch, what its samples weigh in the mean over the step."""

    def losses(
        self, network: nn.Module, batch: Any, step: int, which: str, share: Share, micro: int
    ) -> dict[str, WeightedSum]:
        """The losses of a pass; the optimised loss is the sum of the means."""

    def names(self, batch: Any, which: str) -> Sequence[str]:
        """Of the samples of a pass, for messages."""

    def flop(self, batch: Any) -> float:
        """Floating-point operations of forward and backward on a prepared micro-batch; 0 if unknown."""

    def evaluate(self, share: Share) -> Evaluation:
        """Held-out scores of the network as it stands."""

    def save(self, folder: Path) -> None:
        """Write the finished model; every process of a sharded run takes part, and the first one writes."""


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
    """"adamw"; "adamw-8bit", with its moments in 8 bits; "muon" for the matrices of hidden layers, with AdamW."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    """Of weights of two and more dimensions; biases and gains do not decay."""
    max_grad_norm: float = 1.0
    ema_decay: float | None = None
    """Decay of a moving average of the weights, smaller at first (1 - n ** (-2/3) after n steps); evaluation and the
    result use the average."""
    sharded: bool = False
    """Share out the weights among the processes by FSDP2, as an accelerate config with FSDP says too; else DDP."""
    mixed_precision: str = "bf16"
    """"bf16" or "no"; the weights themselves stay float32."""
    accumulation: int = 1
    """Micro-batches of a step in each process: less memory, the same step."""
    num_workers: int = 1
    """Processes that prepare batches; 0 prepares them in between the steps."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep_checkpoints: int = 1
    """The newest so many stay."""
    evaluate_every: int = 1000
    """Steps between held-out evaluations; 0 for the end alone."""
    log_every: int = 20
    """Steps between lines of the log; a line holds the mean losses since the one before."""
    trackers: tuple[str, ...] = ()
    """"tensorboard", "wandb", besides the log; with WANDB_MODE=offline nothing leaves the machine."""

    def __post_init__(self) -> None:
        counts = (self.steps, self.checkpoint_every, self.log_every, self.accumulation, self.keep_checkpoints)
        if min(counts) <= 0:
            raise ValueError(
                "Got a loop of no steps: steps, checkpoint_every, keep_checkpoints, log_every and accumulation must be "
                "positive."
            )
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"Got optimizer {self.optimizer!r}, expected one of {', '.join(OPTIMIZERS)}.")
        if self.mixed_precision not in ("bf16", "no"):
            raise ValueError(f"Got mixed_precision={self.mixed_precision!r}, expected 'bf16' or 'no'.")
        if unknown := set(self.trackers) - set(TRACKERS):
            raise ValueError(f"Got tracker {min(unknown)!r}, expected one of {', '.join(TRACKERS)}.")

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine from `learning_rate` to `final_learning_rate`."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        cosine = (1 + math.cos(math.pi * min(1.0, progress))) / 2
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * cosine


class NonFiniteError(ArithmeticError, ValueError):
    """A loss or gradient is not a finite number; raised before the update, so the last checkpoint is sound."""


def train(task: TrainingTask, config: LoopConfig, output: Path, max_seconds: float | None = None) -> bool:
    """Run `task` into `output`, or go on from the checkpoint there; in every process of a launch alike.

    SIGTERM, as clusters send it before they take a machine away, ends the sitting with a checkpoint.

    Args:
        task: what is trained.
        config: how long and how fast.
        output: holds `checkpoints/`, `log.jsonl`, `pictures/` and, in the end, `model/`.
        max_seconds: stop with a checkpoint after so long (and at least one step).

    Returns:
        True when finished, False when the sitting ended early.

    Raises:
        NonFiniteError: a loss or gradient is not a finite number.
        ValueError: the checkpoint is of another recipe; more processes than this task or optimizer can use.
    """
    accelerator = Accelerator(log_with=list(config.trackers) or None, project_dir=str(output))
    share = Share(
        rank=accelerator.process_index, world_size=accelerator.num_processes, accumulation=config.accumulation
    )
    run = _Run(task, config, output, accelerator, share)
    with _termination() as terminated:
        try:
            return run.train(terminated, max_seconds)
        finally:
            if config.trackers:
                accelerator.end_training()
            free(task.network)


class _Run:
    """The state of a run in one process."""

    def __init__(
        self, task: TrainingTask, config: LoopConfig, output: Path, accelerator: Accelerator, share: Share
    ) -> None:
        self.task, self.config, self.output = task, config, output
        self.accelerator, self.share = accelerator, share
        sharded = config.sharded or launcher_shards()
        if sharded and config.optimizer != "adamw":
            raise ValueError(f"Got optimizer {config.optimizer!r} with FSDP2, expected 'adamw'.")
        task.frozen.to(accelerator.device)
        self.network = parallelise(task.network, accelerator.device, shard=sharded)
        self.optimizers = build_optimizers(
            task.network,
            config.optimizer,
            learning_rate=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        self.parameters = [p for p in task.network.parameters() if p.requires_grad]
        self.ema = (
            EMAModel(self.parameters, decay=config.ema_decay, use_ema_warmup=True)
            if config.ema_decay
            else None
        )
        self.checkpoints = output / "checkpoints"
        checkpoint.initialise(task.network, self.optimizers)
        newest = checkpoint.latest(self.checkpoints)
        self.start = 0
        self.seen: dict[str, list[float]] = {}
        """The losses of each step since the log's last line."""
        if newest is not None:
            self.start, self.seen = checkpoint.load(newest, task.network, self.optimizers, self.ema)

    def train(self, terminated: _Flag, max_seconds: float | None) -> bool:
        config, task = self.config, self.task
        batches = iter(self._loader())
        self.network.train()
        began = time.monotonic()
        log = RunLog(
            self.output,
            self.accelerator,
            start=self.start,
            steps=config.steps,
            samples_per_step=task.samples_per_step,
            config=asdict(config),
        )
        with log:
            for step in range(self.start, config.steps):
                for group in chain.from_iterable(optimizer.param_groups for optimizer in self.optimizers):
                    group["lr"] = config.learning_rate_at(step)
                with self._autocast():
                    parts = task.prepare(
                        [b.to(self.accelerator.device) for b in islice(batches, config.accumulation)]
                    )
                log.count(sum(task.flop(part) for part in parts))
                late = max_seconds is not None and time.monotonic() - began > max_seconds
                ended = self._step(parts, step, stop=late or terminated.is_set)

                done = step + 1
                last = done == config.steps
                if last or done % config.log_every == 0:
                    averages = {name: sum(values) / len(values) for name, values in self.seen.items()}
                    self.seen.clear()
                    log.losses(done, averages, config.learning_rate_at(step))
                if last or (config.evaluate_every and done % config.evaluate_every == 0):
                    log.evaluation(done, self._evaluate())
                # After the log, so that a resume writes no line twice and leaves none out.
                if last or ended or done % config.checkpoint_every == 0:
                    self._save(done)
                if ended and not last:
                    return False
        if self.ema is not None:
            self.ema.copy_to(self.parameters)
        self.network.eval()
        task.save(self.output / "model")
        barrier()
        return True

    def _loader(self) -> DataLoader:
        turns = range(self.start * self.config.accumulation, self.config.steps * self.config.accumulation)
        return DataLoader(
            self.task.batches(self.share),
            batch_size=None,
            sampler=turns,
            num_workers=self.config.num_workers,
            prefetch_factor=4 if self.config.num_workers else None,
            worker_init_fn=_outlive_termination,
        )

    def _step(self, parts: Sequence[Any], step: int, *, stop: bool) -> bool:
        """Losses, gradients and update of a step; whether any process wants to stop after it."""
        weights = [self.task.weights(part) for part in parts]
        names = list(weights[0])
        sums = sum_over_processes(
            {name: sum(w[name] for w in weights) for name in names}, self.accelerator.device
        )
        seen: list[tuple[str, Tensor, Sequence[str]]] = []  # name, total by sample, the samples' names
        for micro, part in enumerate(parts):
            for which in self.task.passes:
                closing = micro == len(parts) - 1 and which == self.task.passes[-1]
                with self._unsynchronised() if not closing else nullcontext():
                    with self._autocast():
                        losses = self.task.losses(self.network, part, step, which, self.share, micro)
                    if not losses:
                        continue
                    samples = self.task.names(part, which)
                    seen.extend((name, loss.total.detach(), samples) for name, loss in losses.items())
                    means = [loss.total.sum() / max(sums[name], 1e-8) for name, loss in losses.items()]
                    # Processes' gradients are averaged, and are to be summed.
                    (torch.stack(means).sum() * self.share.world_size).backward()
        norm = float(full_tensor(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)))
        totals = {name: sum(float(total.sum()) for loss, total, _ in seen if loss == name) for name in names}
        agreed = sum_over_processes({**totals, "": float(stop)}, self.accelerator.device)
        averages = {name: agreed[name] / max(sums[name], 1e-8) for name in names}
        if not all(map(math.isfinite, (norm, *averages.values()))):
            self._refuse(step, averages, norm, seen)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.step(self.parameters)
        for name, mean in averages.items():
            self.seen.setdefault(name, []).append(mean)
        return agreed[""] > 0

    def _refuse(
        self,
        step: int,
        means: Mapping[str, float],
        norm: float,
        seen: Sequence[tuple[str, Tensor, Sequence[str]]],
    ) -> NoReturn:
        """Name what is not finite, in every process."""
        bad = [name for name, mean in means.items() if not math.isfinite(mean)]
        found = gather_lists(
            f"{loss} of {sample}"
            for loss, total, samples in seen
            for sample, is_fine in zip(samples, total.isfinite().tolist(), strict=True)
            if not is_fine
        )
        what = f"Loss {bad[0]!r} is {means[bad[0]]}" if bad else f"The gradient norm is {norm}"
        raise NonFiniteError(
            f"{what} at step {step}{': ' * bool(found)}{', '.join(found[:8])}; the last good state is in "
            f"{self.checkpoints}: look at these samples, or go on with a lower learning rate."
        )

    def _unsynchronised(self) -> AbstractContextManager:
        """DDP reduces gradients once, in the last pass; FSDP2 in every pass, so that none is held in whole."""
        network = self.network
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()

    def _autocast(self) -> AbstractContextManager:
        enabled = self.config.mixed_precision == "bf16"
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=enabled)

    def _evaluate(self) -> Evaluation:
        """Of the averaged weights where there are any; leaves the network as it was."""
        if self.ema is not None:
            self.ema.store(self.parameters)
            self.ema.copy_to(self.parameters)
        self.network.eval()
        with torch.no_grad():
            evaluation = self.task.evaluate(self.share)
        self.network.train()
        if self.ema is not None:
            self.ema.restore(self.parameters)
        return evaluation

    def _save(self, done: int) -> None:
        checkpoint.save(
            self.checkpoints,
            self.task.network,
            self.optimizers,
            self.ema,
            done,
            self.seen,
            keep=self.config.keep_checkpoints,
        )


def _outlive_termination(worker: int) -> None:
    """A SIGTERM to the whole group is the process's to answer: a loader that died of it would take it along."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Flag:
    is_set = False


@contextmanager
def _termination() -> Iterator[_Flag]:
    """Set when SIGTERM comes, which ends nothing by itself meanwhile."""
    flag = _Flag()

    def note(number: int, frame: FrameType | None) -> None:
        flag.is_set = True

    try:
        before = signal.signal(signal.SIGTERM, note)
    except ValueError:  # not in the main thread, where signals are not ours to take
        yield flag
        return
    try:
        yield flag
    finally:
        signal.signal(signal.SIGTERM, before)
