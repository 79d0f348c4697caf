"""Fast paths of a training step."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from fast_paths_rounds import Rounds, Row, largest
from torch import Tensor, nn

from genmask.benchmark.machine import Machine
from genmask.benchmark.training import measure_training
from genmask.denoiser import GenMaskTransformer
from genmask.model_folder import resolve_model
from genmask.pipeline import GenMaskPipeline

SAMPLES, FRAMES, SIDE, TEXT_TOKENS = 16, 2, 16, 96
"""Of a step: latents of 16 x 16 are pictures of 128 x 128 pixels, 64 tokens; 64 more in the VLM's prompt, and words."""


def adaln(rounds: Rounds) -> Iterator[Row]:
    """One modulation for each frame, against diffusers' own transformer, which takes one for each token."""
    device = rounds.device
    config = GenMaskTransformer.load_config(resolve_model("tiny") / "transformer")
    per_token = WanTransformer3DModel.from_config(config).to(device)
    timestep = torch.rand(SAMPLES, FRAMES, device=device) * 1000
    plain = _step(per_token, timestep.repeat_interleave(SIDE * SIDE // 4, dim=1))
    for name in ("", ", compiled blocks"):
        per_frame = GenMaskTransformer.from_config(config).to(device)
        per_frame.load_state_dict(per_token.state_dict())
        if name:
            per_frame.compile_repeated_blocks(dynamic=True)
        yield rounds.compare(
            f"AdaLN per frame{name}", "per token (diffusers)", _step(per_frame, timestep), plain, largest
        )


def cache(rounds: Rounds) -> Iterator[Row]:
    """What VAE and VLM make of the samples, read back; of equality the tests see to it."""
    with tempfile.TemporaryDirectory() as folder:
        cached, plain = measure_training(
            GenMaskPipeline.from_pretrained("tiny", device=rounds.device),
            Machine(device=rounds.device),
            Path(folder),
            variants=("cache", "plain"),
            segmentation_batch=13,
            generation_batch=3,
            rounds=rounds.count,
            advance=lambda calls: None,
        )
    yield Row(
        path="cached training step",
        against="VAE and VLM in every step",
        seconds=cached.seconds,
        plain_seconds=plain.seconds,
        difference="-",
    )


def _step(model: nn.Module, timestep: Tensor) -> Callable[[], Tensor]:
    """Forward and backward with bfloat16 products; the velocity in float32, of the masks' frames."""
    device, generator = timestep.device, torch.Generator().manual_seed(0)
    text_dim: Any = model.config.text_dim
    latents = torch.randn(SAMPLES, 16, FRAMES, SIDE, SIDE, generator=generator).to(device)
    text = torch.randn(SAMPLES, TEXT_TOKENS, text_dim, generator=generator).to(device)

    def step() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            sample = model(latents, timestep, text).sample
        sample.float().square().mean().backward()
        model.zero_grad()
        return sample.detach()

    return step


TRAINING: dict[str, Callable[[Rounds], Iterator[Row]]] = {"adaln": adaln, "cache": cache}
