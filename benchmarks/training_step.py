"""What a training step takes: with and without the cache, with checkpointing, with compiled blocks; side by side.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --paper --segmentation 8 --generation 8      # random weights, on a GPU

The parts are the bundled model's, or of the paper's size with random weights: speed does not depend on them. The rounds
of all variants alternate, and ratios are of medians, so that whatever else the machine does touches all alike.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from diffusers import AutoencoderKLWan
from rich.console import Console
from rich.table import Table
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from genmask.denoiser import PAPER_CONFIG, GenMaskTransformer
from genmask.loading import load_model
from genmask.model_folder import load_processor, resolve_model
from genmask.processor import GenMaskProcessor
from genmask.recipes import PAPER_SIZES, SIZES
from genmask.timesteps import PowerLaw
from genmask.training.cache import CacheWriter, EncodingCache
from genmask.training.estimate import matmul_ceiling
from genmask.training.masks import MaskConfig, MaskTask
from genmask.training.optimizer import build_optimizers
from genmask.training.parallel import Share
from genmask.training.sources import SceneSource

VARIANTS = ("plain", "cache", "checkpointing", "compiled", "cache, compiled")


@dataclass(frozen=True, kw_only=True)
class Options:
    paper: bool = False
    """The paper's size with random weights, in place of the bundled model's."""
    segmentation: int = 26
    """Masks in a step."""
    generation: int = 6
    """Pictures in a step."""
    rounds: int = 5


def main(options: Options) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        tasks = {name: build(name, options, device, Path(folder)) for name in VARIANTS}
        steps = {name: Steps(task, device) for name, task in tasks.items()}
        for name in VARIANTS:
            print(f"warming up: {name}")
            steps[name].run(0)
        seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
        for number in range(options.rounds):
            for name in VARIANTS:
                seconds[name].append(steps[name].run(number))
    ceiling = matmul_ceiling(device, torch.bfloat16)
    base = statistics.median(seconds["plain"])
    table = Table("a step", "seconds", "times as fast", "MFU", "peak memory")
    for name, values in seconds.items():
        median = statistics.median(values)
        memory = f"{steps[name].peak / 2**30:.1f} GiB" if steps[name].peak else "-"
        table.add_row(
            name,
            f"{median:.3f}",
            f"{base / median:.2f}",
            f"{steps[name].flop / median / ceiling:.0%}",
            memory,
        )
    Console().print(table)
    print(
        f"{options.segmentation} masks, {options.generation} pictures; {device.type}, {torch.get_num_threads()} threads"
    )
    print(f"bfloat16 products alone: {ceiling / 1e12:.2f} TFLOP/s")


class Steps:
    """Runs the steps of a task, batches drawn beforehand: drawing is the work of other processes."""

    def __init__(self, task: MaskTask, device: torch.device) -> None:
        self.task, self.device = task, device
        task.network.to(device)
        task.frozen.to(device)
        (self.optimizer,) = build_optimizers(
            task.network, "adamw", learning_rate=1e-5, betas=(0.9, 0.95), weight_decay=0.01
        )
        batches = task.batches(Share())
        self.batches = [batches[step] for step in range(len(task.config.sizes))]
        self.flop, self.peak = 0.0, 0

    def run(self, number: int) -> float:
        """Seconds of one step."""
        batch = self.batches[number % len(self.batches)].to(self.device)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        with torch.autocast(self.device.type, torch.bfloat16):
            (prepared,) = self.task.prepare([batch])
            for which in self.task.passes:
                losses = self.task.losses(self.task.network, prepared, number, which, Share(), 0)
                torch.stack([loss.mean() for loss in losses.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.task.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            self.peak = max(self.peak, torch.cuda.max_memory_allocated())
        self.flop = self.task.flop(prepared)
        return time.perf_counter() - began


def build(variant: str, options: Options, device: torch.device, folder: Path) -> MaskTask:
    sizes = tuple(dict.fromkeys(PAPER_SIZES if options.paper else SIZES))[:2]
    shares = (("scenes", 1.0),)
    config = MaskConfig(
        resolution=512 if options.paper else 128,
        sizes=sizes,
        segmentation_sources=shares,
        generation_sources=shares,
        segmentation_batch=options.segmentation,
        generation_batch=options.generation,
        segmentation_density=PowerLaw(0.05),
        vlm_precision="bf16" if options.paper else "float32",
        epoch_steps=len(sizes),
        gradient_checkpointing="checkpointing" in variant,
        compile="compiled" in variant,
    )
    task = assemble(config, options.paper, device, None)
    if "cache" not in variant:
        return task
    place = folder / variant
    task.frozen.to(device)
    autocast = torch.autocast(device.type, torch.bfloat16)
    with CacheWriter(place, "benchmark") as writer, autocast, torch.no_grad():
        for step in range(config.epoch_steps):
            drawn = task.drawn(step)
            for sample, encoded in zip(drawn, task.encode(drawn), strict=True):
                writer.add(task.key(sample), encoded)
    return assemble(config, options.paper, device, EncodingCache(place, "benchmark"))


def assemble(config: MaskConfig, paper: bool, device: torch.device, cache: EncodingCache | None) -> MaskTask:
    folder = resolve_model("tiny")
    processor = load_processor(folder / "processor")
    if paper:
        processor = GenMaskProcessor(Qwen2VLImageProcessorPil(), processor.tokenizer)
        with device:
            vlm = Qwen2_5_VLForConditionalGeneration._from_config(qwen(processor), dtype=torch.bfloat16)
            transformer, vae = GenMaskTransformer(**PAPER_CONFIG), AutoencoderKLWan()
    else:
        vlm = load_model(Qwen2_5_VLForConditionalGeneration, folder / "vlm", dtype=torch.float32)
        transformer = load_model(GenMaskTransformer, folder / "transformer", dtype=torch.float32)
        vae = load_model(AutoencoderKLWan, folder / "vae", dtype=torch.float32)
    source = {"scenes": SceneSource(config.sizes)}
    return MaskTask(
        replace(config),
        transformer.requires_grad_(True),
        segmentation_sources=source,
        generation_sources=source,
        validation={},
        vae=vae,
        vlm=vlm,
        processor=processor,
        cache=cache,
        identity="benchmark",
    )


def qwen(processor: GenMaskProcessor) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL-7B, with the special tokens of another tokenizer."""
    ids = {f"{name}_token_id": getattr(processor, f"{name}_token_id") for name in ("image",)}
    return Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
            "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 128000,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        vision_config={"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584},
        **ids,
    )  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
