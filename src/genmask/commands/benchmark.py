"""genmask benchmark"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from genmask.commands.inference import Flag, Inference, load, place
from genmask.commands.terminal import only_json, progress

if TYPE_CHECKING:
    from genmask.benchmark.machine import Machine
    from genmask.pipeline import GenMaskPipeline

What = Literal["segment", "generate", "training"]
ROUNDS: dict[str, int] = {"segment": 20, "generate": 5, "training": 5}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Time segmenting, drawing pictures and training steps, by stage, each beside the least that it could take.

    genmask benchmark
    genmask benchmark segment --prompts 1 10 --resolution 128 256
    genmask benchmark segment training --size paper --random-weights --device cuda --markdown

    Of options that take several values every combination is timed. All of a device and dtype take turns in each round,
    so that other load on the machine touches them alike.
    """

    what: Annotated[tuple[What, ...], tyro.conf.Positional, tyro.conf.arg(metavar="WHAT...")]
    """segment, generate, training; by default all three."""
    model: str | None = None
    """A model folder, a bundled model or a hub id; by default "tiny"."""
    size: Literal["toy", "bundled", "paper"] | None = None
    """Instead of a model: networks of this size, with --random-weights."""
    random_weights: Flag = False
    """Goes with --size: the answers mean nothing, but take as long."""
    rounds: int | None = None
    """Times each is run, whole and again by stage; by default 20 of segment, 5 of generate and of training."""
    resolution: tuple[int, ...] = ()
    """Pictures are processed at so many pixels squared; by default the model's."""
    prompts: tuple[int, ...] = (1,)
    """Of segment: texts for each picture."""
    pictures: tuple[int, ...] = (1,)
    """Of segment and generate: pictures in a call, which share forward passes."""
    decoder: tuple[Literal["vae", "linear"], ...] = ("vae",)
    """Of segment: from latents to mask; linear needs a model with a mask head."""
    picture_size: int = 256
    """Of segment: sides of the pictures in their files, in pixels."""
    num_inference_steps: int = 30
    """Of generate."""
    variant: tuple[Literal["plain", "cache", "checkpointing", "compiled", "cache-compiled"], ...] = (
        "plain", "cache", "checkpointing", "compiled", "cache-compiled",
    )  # fmt: skip
    """Of training: how steps are done; the first is what the others are compared with."""
    segmentation_batch: int = 26
    """Of training: masks of a step."""
    generation_batch: int = 6
    """Of training: pictures of a step."""
    device: tuple[str, ...] = ("auto",)
    """cpu, cuda, cuda:1, mps, ...; auto takes an accelerator if there is one."""
    dtype: tuple[Literal["auto", "float32", "bfloat16"], ...] = ("auto",)
    """Of the networks; auto is bfloat16 on CUDA and on processors that multiply in it, else float32. Products of
    training are always bfloat16."""
    json: Flag = False
    """Print one JSON document on stdout, and nothing else there; times in seconds."""
    markdown: Flag = False
    """Print the tables as Markdown."""

    def run(self) -> None:
        self.check()
        import diffusers
        import torch
        import transformers

        from genmask.benchmark.machine import Machine

        for library in (diffusers, transformers):
            library.utils.logging.set_verbosity_error()
        places = list(dict.fromkeys(place(device, dtype) for device in self.device for dtype in self.dtype))
        machines = {device: Machine(device=torch.device(device)) for device, _ in places}
        document: dict[str, Any] = {
            "model": self.model or (f"size {self.size}, random weights" if self.size else "tiny"),
            "rounds": self.chosen,
            "picture_size": self.picture_size,
            "machines": [],
        }
        with only_json(self.json), progress("benchmark", len(places) * self.calls()) as advance:
            for device, dtype in places:
                pipeline = self.pipeline(device, dtype)
                for what, entry in self.measure(pipeline, machines[device], advance):
                    document.setdefault(what, []).append({"device": device, "dtype": dtype, **entry})
                del pipeline  # before the next is loaded
        document["machines"] = [machine.to_dict() for machine in machines.values()]
        self.show(document)

    def check(self) -> None:
        """What can be refused before anything is loaded."""
        if self.random_weights != (self.size is not None):
            given, missing = ("--size", "--random-weights") if self.size else ("--random-weights", "--size")
            raise ValueError(f"Got {given} without {missing}, expected both or neither.")
        if self.size is not None and self.model is not None:
            raise ValueError("Got --model with --size, expected one of them.")
        if self.json and self.markdown:
            raise ValueError("Got --json with --markdown, expected one of them.")
        for name, least in (
            ("rounds", 1), ("resolution", 1), ("prompts", 1), ("pictures", 1), ("picture_size", 32),
            ("num_inference_steps", 1), ("segmentation_batch", 1), ("generation_batch", 1),
        ):  # fmt: skip
            value = getattr(self, name)
            for one in value if isinstance(value, tuple) else (value,):
                if one is not None and one < least:
                    raise ValueError(
                        f"Got --{name.replace('_', '-')} {one}, expected a whole number of at least {least}."
                    )
        for name in ("prompts", "pictures", "decoder", "variant", "device", "dtype"):
            if not getattr(self, name):
                raise ValueError(f"Got --{name} without a value, expected at least one.")

    @property
    def chosen(self) -> dict[str, int]:
        """What is timed, and in how many rounds."""
        return {what: self.rounds or ROUNDS[what] for what in ROUNDS if what in (self.what or ROUNDS)}

    def calls(self) -> int:
        """Of all that is timed on a device and in a dtype."""
        from genmask.benchmark.latency import calls

        cases = {
            "segment": len(self.prompts) * len(self.pictures) * len(self.decoder),
            "generate": len(self.pictures),
            "training": len(self.variant),
        }
        sizes = max(1, len(self.resolution))
        return sizes * sum(cases[what] * calls(rounds) for what, rounds in self.chosen.items())

    def pipeline(self, device: str, dtype: Any) -> GenMaskPipeline:
        if self.size is None:
            return load(Inference(model=self.model or "tiny", device=device, dtype=dtype))
        import torch

        from genmask.benchmark.models import random_pipeline

        return random_pipeline(self.size, device, getattr(torch, dtype))

    def measure(
        self, pipeline: GenMaskPipeline, machine: Machine, advance: Callable[[int], None]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Entries of the document, each with what it is of."""
        from genmask.benchmark.inference import at_resolution, generate_cases, segment_cases
        from genmask.benchmark.latency import measure
        from genmask.benchmark.training import measure_training

        pipelines = [
            at_resolution(pipeline, side) for side in self.resolution or (pipeline.config.resolution,)
        ]
        with tempfile.TemporaryDirectory() as folder:
            cases: dict[str, Any] = {what: [] for what in self.chosen if what != "training"}
            for each in pipelines:
                if "segment" in self.chosen:
                    cases["segment"] += segment_cases(
                        each,
                        Path(folder),
                        picture_size=self.picture_size,
                        prompts=self.prompts,
                        pictures=self.pictures,
                        decoders=self.decoder,
                    )
                if "generate" in self.chosen:
                    cases["generate"] += generate_cases(
                        each, pictures=self.pictures, num_steps=self.num_inference_steps
                    )
            for what, found in cases.items():
                for timing in measure(pipeline, found, machine, rounds=self.chosen[what], advance=advance):
                    yield what, timing.to_dict()
            for each in pipelines if "training" in self.chosen else ():
                for step in measure_training(
                    each,
                    machine,
                    Path(folder) / f"cache-{each.config.resolution}",
                    variants=self.variant,
                    segmentation_batch=self.segmentation_batch,
                    generation_batch=self.generation_batch,
                    rounds=self.chosen["training"],
                    advance=advance,
                ):
                    yield "training", step.to_dict()

    def show(self, document: dict[str, Any]) -> None:
        if self.json:
            print(json.dumps(document, indent=2, ensure_ascii=False))
            return
        from genmask.benchmark.report import notes, tables
        from genmask.evaluation.report import markdown, table

        if self.markdown:
            print("\n".join([*(f"{line}\n" for line in notes(document)), *map(markdown, tables(document))]))
            return
        from rich.console import Console

        console = Console(width=max(160, Console().width))  # a narrow terminal breaks lines, not numbers
        for line in notes(document):
            print(line)
        for rows in tables(document):
            console.print(table(rows))
