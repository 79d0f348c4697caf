"""Time a training step: diffusers' time per token, ours per frame, ours with compiled blocks.

    python benchmarks/per_frame_adaln.py [--batch 16] [--layers 8] [--rounds 5]

A transformer of width 256 on 2 frames of 64 tokens, bf16 autocast, forward and backward. Processor time of one
thread, the three taking turns in every round and the fastest round of each: other load on the machine hardly counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from genmask.denoiser import GenMaskTransformer

CONFIG = {
    "num_attention_heads": 4, "attention_head_dim": 64, "text_dim": 256, "ffn_dim": 1024, "rope_max_seq_len": 64,
}  # fmt: skip
FRAMES, SIDE, TEXT_TOKENS = 2, 16, 48  # 16 x 16 latents are 64 tokens


def training_step(model: nn.Module, timestep: Tensor) -> Callable[[], None]:
    batch = len(timestep)
    hidden_states = torch.randn(batch, 16, FRAMES, SIDE, SIDE)
    text = torch.randn(batch, TEXT_TOKENS, CONFIG["text_dim"])

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            sample = model(hidden_states, timestep, text).sample
        sample.float().square().mean().backward()
        model.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16, help="samples in a step")
    parser.add_argument("--layers", type=int, default=8, help="transformer blocks")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each; the fastest counts")
    args = parser.parse_args()
    torch.set_num_threads(1)

    reference = WanTransformer3DModel(**CONFIG, num_layers=args.layers)
    per_frame = GenMaskTransformer(**CONFIG, num_layers=args.layers)
    compiled = GenMaskTransformer(**CONFIG, num_layers=args.layers)
    compiled.compile_repeated_blocks()

    timestep = torch.rand(args.batch, FRAMES) * 1000
    steps = {
        "per token (diffusers)": training_step(
            reference, timestep.repeat_interleave(SIDE * SIDE // 4, dim=1)
        ),
        "per frame": training_step(per_frame, timestep),
        "per frame, compiled": training_step(compiled, timestep),
    }
    fastest = dict.fromkeys(steps, float("inf"))
    for step in steps.values():
        step()  # warm up and compile
    for _ in range(args.rounds):
        for name, step in steps.items():
            start = time.process_time()
            step()
            fastest[name] = min(fastest[name], time.process_time() - start)

    baseline = fastest["per token (diffusers)"]
    for name, seconds in fastest.items():
        print(f"{name:24} {args.batch / seconds:6.1f} images/s  {baseline / seconds:5.2f}x")


if __name__ == "__main__":
    main()
