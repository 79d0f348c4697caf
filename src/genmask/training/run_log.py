"""What a person follows while a run goes on: progress, the log on disk, trackers, pictures of held-out samples."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from genmask.atomic import replace_file, save_png
from genmask.training.estimate import matmul_ceiling

if TYPE_CHECKING:
    from genmask.training.loop import Evaluation


class RunLog:
    """Written by the first process; the others count along.

    `log.jsonl` has one JSON object per line. Lines of steps that a resume repeats, or cut short by a kill, are dropped.

    Args:
        output: folder of the run.
        accelerator: of the process; its trackers get every number and picture.
        start: steps done before this sitting.
        steps: of the whole run.
        samples_per_step: in all processes together.
        config: the loop's, for the trackers.
    """

    def __init__(
        self,
        output: Path,
        accelerator: Accelerator,
        *,
        start: int,
        steps: int,
        samples_per_step: int,
        config: Mapping[str, Any],
    ) -> None:
        self.output, self.accelerator, self.samples_per_step = output, accelerator, samples_per_step
        self.path = output / "log.jsonl"
        self.is_main = accelerator.is_main_process
        self._flop, self._step, self._since = 0.0, start, time.monotonic()
        self._ceiling: float | None = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            disable=not self.is_main,
        )
        self._bar = self._progress.add_task("train", total=steps, completed=start, note="")
        if self.is_main:
            output.mkdir(parents=True, exist_ok=True)
            lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= start]
            replace_file(self.path, "".join(kept))
        if accelerator.log_with:
            plain = {k: v if isinstance(v, int | float | str) else str(v) for k, v in config.items()}
            accelerator.init_trackers("genmask", config=plain)

    def __enter__(self) -> RunLog:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def count(self, flop: float) -> None:
        """A step begins, whose forward and backward take `flop` operations in this process; 0 if that is unknown."""
        if self._ceiling is None and flop:
            self._ceiling = matmul_ceiling(self.accelerator.device, torch.bfloat16)
            self._since = time.monotonic()
        self._flop += flop
        self._progress.advance(self._bar)

    def losses(self, step: int, averages: Mapping[str, float], learning_rate: float) -> None:
        """Mean losses since the last call, after `step` steps."""
        seconds = time.monotonic() - self._since
        steps_per_second = (step - self._step) / seconds
        record = {
            **averages,
            "learning_rate": learning_rate,
            "steps_per_second": steps_per_second,
            "samples_per_second": steps_per_second * self.samples_per_step,
        }
        if self._ceiling:
            record["mfu"] = self._flop / seconds / self._ceiling
        if self.accelerator.device.type == "cuda":
            record["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        self._flop, self._step, self._since = 0.0, step, time.monotonic()
        self._write(step, record)
        note = " ".join(f"{name} {value:.4f}" for name, value in averages.items())
        rates = f"{record['samples_per_second']:.1f} samples/s"
        if "mfu" in record:
            rates += f", MFU {record['mfu']:.0%}"
        if "memory_gib" in record:
            rates += f", {record['memory_gib']:.1f} GiB"
        self._progress.update(self._bar, note=f"{note} | {rates}")

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Held-out scores after `step` steps, and pictures under `pictures/`."""
        self._write(step, evaluation.scores)
        scores = " ".join(f"{name} {value:.4f}" for name, value in evaluation.scores.items())
        self._progress.console.print(f"step {step}: {scores}")
        for name, picture in evaluation.pictures.items():
            path = self.output / "pictures" / f"step-{step:09d}-{name}.png"
            path.parent.mkdir(exist_ok=True)
            save_png(picture, path)
            for tracker in self.accelerator.trackers:
                if tracker.name == "tensorboard":
                    tracker.log_images({name: np.asarray(picture)[None]}, step=step, dataformats="NHWC")
                elif tracker.name == "wandb":
                    tracker.log_images({name: [picture]}, step=step)
        self._since = time.monotonic()

    def _write(self, step: int, record: Mapping[str, float]) -> None:
        if not self.is_main:
            return
        rounded = {name: float(f"{value:.6g}") for name, value in record.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **rounded}) + "\n")
        if self.accelerator.log_with:
            self.accelerator.log(rounded, step=step)
