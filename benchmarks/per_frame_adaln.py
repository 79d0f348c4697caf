"""Time a training step: diffusers' time per token, ours per frame, ours with compiled blocks.

    python benchmarks/per_frame_adaln.py [--batch 32] [--steps 3] [--rounds 5]

A transformer of 8 layers and width 256 on 2 frames of 64 tokens, bf16 autocast, forward and backward. The
three take turns in every round and the fastest round of each counts: other load hits all alike.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from genmask.denoiser import GenMaskTransformer

CONFIG = {
    "num_attention_heads": 4, "attention_head_dim": 64, "text_dim": 256, "ffn_dim": 1024, "num_layers": 8,
    "rope_max_seq_len": 64,
}  # fmt: skip
FRAMES, SIDE, TEXT_TOKENS = 2, 16, 48  # 16 x 16 latents: 64 tokens a frame


def training_step(model: torch.nn.Module, timestep: Tensor, batch: int) -> Callable[[], None]:
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
    parser.add_argument("--batch", type=int, default=32, help="samples a step")
    parser.add_argument("--steps", type=int, default=3, help="steps a round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the fastest counts")
    args = parser.parse_args()

    torch.manual_seed(0)
    reference = WanTransformer3DModel(**CONFIG)
    per_frame, compiled = GenMaskTransformer(**CONFIG), GenMaskTransformer(**CONFIG)
    per_frame.load_state_dict(reference.state_dict())
    compiled.load_state_dict(reference.state_dict())
    compiled.compile_repeated_blocks()

    timestep = torch.rand(args.batch, FRAMES) * 1000
    per_token = timestep.repeat_interleave(SIDE * SIDE // 4, dim=1)
    steps = {
        "per token (diffusers)": training_step(reference, per_token, args.batch),
        "per frame": training_step(per_frame, timestep, args.batch),
        "per frame, compiled": training_step(compiled, timestep, args.batch),
    }
    fastest = dict.fromkeys(steps, float("inf"))
    for step in steps.values():
        step()  # warm up and compile
    for _ in range(args.rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(args.steps):
                step()
            fastest[name] = min(fastest[name], (time.perf_counter() - start) / args.steps)

    baseline = fastest["per token (diffusers)"]
    for name, seconds in fastest.items():
        print(f"{name:24} {args.batch / seconds:7.1f} images/s  {baseline / seconds:5.2f}x")


if __name__ == "__main__":
    main()
