"""genmask evaluate"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from genmask.commands.inference import Flag, Inference, load
from genmask.commands.output import prepare_output
from genmask.commands.terminal import only_json, progress

if TYPE_CHECKING:
    import numpy as np

    from genmask.data.example import Example
    from genmask.evaluation.evaluate import Answer
    from genmask.pipeline import GenMaskPipeline
    from genmask.segmentation import Segmentation

EXTREMES = 12
"""Samples on each of the two contact sheets."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(Inference):
    """Score a model, or saved masks, on benchmarks, by the conventions of the field.

    genmask evaluate --model tiny --benchmark scenes/val
    genmask evaluate --benchmark refcoco/testA refcoco/testB --data refer_seg --output scores
    genmask evaluate --benchmark my-folder --predictions masks

    Writes, for each benchmark, a line per sample (rank-*.jsonl) and contact sheets of the best and the worst;
    and all scores as scores.json and scores.md. The same command goes on where an interrupted one stopped.
    """

    benchmark: tuple[str, ...]
    """Names such as refcoco/testA, reasonseg/val, scenes/val, photos/val (a wrong one lists all), or folders of
    your own with captions.jsonl."""
    data: Path | None = None
    """Folder that holds the data sets, in their own layout."""
    output: Path = Path("evaluation")
    """Folder for counts and scores."""
    predictions: Path | None = None
    """Score the masks in this folder, ID.png for each sample, in place of the model's (which draws the oracle's)."""
    limit: int | None = None
    """Only so many samples of each benchmark, evenly spread."""
    threshold: float | Literal["auto"] | None = None
    """A pixel is in the mask if its soft mask is greater; in [0, 1). auto is for each mask the one that promises the
    best IoU. By default the model's own, 0.5 for most."""
    decoder: Literal["vae", "linear"] | None = None
    """From latents to mask; linear needs a model with a mask head. By default the model's own, vae for most."""
    num_noises: int = 1
    """Average over this many noises."""
    reason: Flag = False
    """Let the model first describe what each text means, and find that; the lines per sample hold it as "target"."""
    zoom: Flag = False
    """Look again at what was found small, in a crop of the picture around it."""
    no_oracle: Flag = False
    """Leave out the right masks' round trip through the VAE, which bounds every score."""
    processes: int = 1
    """Share the samples out to so many processes here. Under torchrun each of its processes takes its share."""
    batch_size: int = 32
    """Samples in a forward pass; lower it if memory runs out."""

    def run(self) -> None:
        if not self.benchmark:
            raise ValueError("Got no --benchmark, expected at least one name, such as scenes/val.")
        for name in ("processes", "batch_size", "num_noises"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise ValueError(f"Got --{option} {getattr(self, name)}, expected at least 1.")
        if isinstance(self.threshold, float) and not 0 <= self.threshold < 1:
            raise ValueError(
                f"Got --threshold {self.threshold}, expected 0 or more and less than 1, or auto."
            )
        for name in ("reason", "zoom"):
            if getattr(self, name) and self.predictions is not None:
                raise ValueError(
                    f"Got --{name} with --predictions, expected one of them: saved masks are as they are."
                )
        from genmask.evaluation.benchmarks import load_benchmark
        from genmask.evaluation.evaluate import collect, subset
        from genmask.evaluation.extremes import draw_extremes
        from genmask.evaluation.report import Evaluated, details, overview, report, table

        found = []
        for name in self.benchmark:
            benchmark, examples = load_benchmark(name, self.data)
            found.append((name, benchmark, subset(examples, self.limit)))
        prepare_output(self.output)
        with only_json(self.json):
            pipeline = None
            if self.processes > 1:
                self.share_out()
            else:
                pipeline = self.pipeline()
                rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
                for name, _, examples in found:
                    self.count(pipeline, name, examples, rank, world_size)
            reports = []
            for name, benchmark, examples in found:
                records = collect(self.folder(name), len(examples))
                if records is None:
                    print(
                        f"{self.folder(name)}: this process is done; the scores follow when all others are."
                    )
                    return
                evaluated = Evaluated(name=name, empty=benchmark.empty, records=records, reason=self.reason)
                reports.append(report(evaluated))
                pipeline = pipeline or self.pipeline()
                draw_extremes(records, examples, self.answer(pipeline), self.folder(name), EXTREMES)
            rows = [overview(reports, self.system), *(details(report) for report in reports)]
            self.write(reports, rows)
        if self.json:
            print(json.dumps({"system": self.system, "benchmarks": reports}, indent=2))
            return
        from rich.console import Console

        console = Console(width=max(160, Console().width))  # a narrow terminal breaks lines, not numbers
        for part in rows:
            console.print(table(part))
        print(f"{self.output / 'scores.json'}, {self.output / 'scores.md'}")

    @property
    def system(self) -> str:
        return self.model if self.predictions is None else str(self.predictions)

    def folder(self, benchmark: str) -> Path:
        return self.output / benchmark.strip("./").replace("/", "-")

    def pipeline(self) -> GenMaskPipeline | None:
        """None where no network is needed."""
        return load(self) if not self.no_oracle or self.predictions is None else None

    def answer(self, pipeline: GenMaskPipeline | None) -> Answer:
        """The system under test."""
        if self.predictions is not None:
            from genmask.evaluation.evaluate import read_predictions

            return read_predictions(self.predictions)
        assert pipeline is not None

        def answer(examples: list[Example]) -> list[Segmentation]:
            results: Any = pipeline.segment(
                [example.image for example in examples],
                [example.text for example in examples],
                threshold=self.threshold,
                num_noises=self.num_noises,
                decoder=self.decoder,
                batch_size=self.batch_size,
                seed=self.seed,
                reason=self.reason,
                zoom=self.zoom,
            )
            return results

        return answer

    def count(
        self, pipeline: GenMaskPipeline | None, name: str, examples: Any, rank: int, world_size: int
    ) -> None:
        """A share of a benchmark."""
        from genmask.evaluation.evaluate import evaluate
        from genmask.evaluation.oracle import round_trip

        def oracle(mask: np.ndarray) -> np.ndarray:
            assert pipeline is not None
            return round_trip(pipeline, [mask])[0]

        started = time.monotonic()
        with progress(name, len(examples) // world_size, hidden=rank > 0) as advance:
            done = evaluate(
                examples,
                self.answer(pipeline),
                self.folder(name),
                settings={
                    "system": self.system,
                    "weights": self.fingerprint(pipeline),
                    "seed": self.seed,
                    "num_noises": self.num_noises,
                    "threshold": self.threshold,
                    "decoder": self.decoder,
                    "reason": self.reason,
                    "zoom": self.zoom,
                    "dtype": None if pipeline is None else str(pipeline.transformer.dtype),
                    "vlm_precision": self.vlm_precision,
                    "oracle": not self.no_oracle,
                },
                oracle=None if self.no_oracle else oracle,
                threshold=self.threshold if isinstance(self.threshold, float) else 0.5,
                batch_size=self.batch_size,
                rank=rank,
                world_size=world_size,
                advance=advance,
            )
        seconds = time.monotonic() - started
        if done:
            share = f", share {rank + 1} of {world_size}" if world_size > 1 else ""
            print(f"{name}{share}: {done} samples, {done / seconds:.1f} samples/s", file=sys.stderr)

    def fingerprint(self, pipeline: GenMaskPipeline | None) -> str:
        """Of all of a model that the counts depend on: those of another are not gone on with."""
        digest = hashlib.sha256()
        if pipeline is not None:
            parts = [pipeline.vae]
            if self.predictions is None:
                parts += filter(None, (pipeline.transformer, pipeline.mask_head, pipeline.presence_head))
                own = pipeline.config
                digest.update(repr((own.decoder, own.threshold)).encode())
            if self.reason:
                parts.append(pipeline.describer or pipeline.vlm)
            for part in parts:
                for name, value in part.state_dict().items():
                    sample = value.detach().flatten()[:: max(1, value.numel() // 64)].float().cpu().numpy()
                    digest.update(name.encode() + sample.tobytes())
        return digest.hexdigest()[:16]

    def share_out(self) -> None:
        """Count in so many processes; wait for all."""
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        with ProcessPoolExecutor(self.processes, mp_context=get_context("spawn")) as pool:
            for share in [pool.submit(_count_share, self, rank) for rank in range(self.processes)]:
                share.result()

    def write(self, reports: list[dict[str, Any]], rows: list[list[list[str]]]) -> None:
        from genmask.atomic import replace_file
        from genmask.evaluation.report import markdown

        text = {
            "scores.json": json.dumps({"system": self.system, "benchmarks": reports}, indent=2) + "\n",
            "scores.md": "\n".join(markdown(part) for part in rows),
        }
        for name, content in text.items():
            replace_file(self.output / name, content)


def _count_share(command: Evaluate, rank: int) -> None:
    """Every benchmark's share, in a process of its own."""
    import torch

    from genmask.evaluation.benchmarks import load_benchmark
    from genmask.evaluation.evaluate import subset

    torch.set_num_threads(max(1, torch.get_num_threads() // command.processes))
    if command.device == "auto" and torch.cuda.is_available():
        command = replace(command, device=f"cuda:{rank % torch.cuda.device_count()}")
    pipeline = command.pipeline()
    for name in command.benchmark:
        _, examples = load_benchmark(name, command.data)
        command.count(pipeline, name, subset(examples, command.limit), rank, command.processes)
