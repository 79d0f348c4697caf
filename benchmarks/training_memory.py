"""Bytes that a training step of the transformer keeps: measured, and as `genmask.training.estimate` has them.

    python benchmarks/training_memory.py [--size 256 256] [--samples 2] [--layers 4] [--paper] [--device cpu]

A forward and backward in bf16 over float32 weights, for a pass of segmentation and one of generation, with and without
gradient checkpointing. "kept" is what autograd saves in the forward, each storage once; "peak" is the most that is
alive at any moment, beyond weights and gradients. `--paper` takes the paper's width, and its 30 layers by default.
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import logging
from torch import Tensor, nn
from torch._decomp import decomposition_table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from genmask.denoiser import PAPER_CONFIG, GenMaskTransformer
from genmask.training.estimate import Workload, estimate

TOY_CONFIG: dict[str, Any] = {
    **PAPER_CONFIG, "num_attention_heads": 2, "attention_head_dim": 64, "text_dim": 96, "ffn_dim": 512, "num_layers": 4,
}  # fmt: skip


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operators have made and nobody has freed: `now`, and at most, `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given = {id_of(x) for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)}
        result = func(*args, **(kwargs or {}))
        for x in tree_iter(result):
            if isinstance(x, Tensor) and id_of(x) not in given | self._alive:
                storage = x.untyped_storage()
                self._alive.add(id_of(x))
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, id_of(x), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _free(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def id_of(x: Tensor) -> int:
    return x.untyped_storage()._cdata


@contextmanager
def fused_norms() -> Iterator[None]:
    """Have the CPU save for RMSNorm's backward what CUDA's fused kernel does; its own way saves a tensor more."""

    def forward(x: Tensor, shape: list[int], weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        scale = (x.square().mean(-1, keepdim=True) + eps).rsqrt()
        return x * scale * weight, scale

    backward = decomposition_table[torch.ops.aten._fused_rms_norm_backward.default]
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_fused_rms_norm", forward, "CPU")
        library.impl("_fused_rms_norm_backward", backward, "CPU")
        yield


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Bytes."""

    kept: int
    peak: int


def measure(workload: Workload, device: str = "cpu") -> Measured:
    """Of the segmentation pass of a workload; of its generation pass where it has no segmentation samples."""
    model = GenMaskTransformer(**workload.transformer).to(device).train()
    model.set_attention_backend("native")  # the CPU too: by itself it would not take the fused kernel in bf16
    if workload.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    inputs = _inputs(workload, model.config, device)

    def loss() -> Tensor:
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=workload.compute_bytes == 2):
            velocity = model(**inputs).sample
        return velocity.float().square().mean()

    with fused_norms():
        loss().backward()  # from here on there are gradients to add to
        with torch.autograd.graph.saved_tensors_hooks(keep := _Kept(model), lambda x: x):
            loss()
        with LiveBytes() as live:
            loss().backward()
    return Measured(kept=sum(keep.sizes.values()), peak=live.peak)


class _Kept:
    """Bytes of what autograd saves, by storage; those of the weights left out."""

    def __init__(self, model: nn.Module) -> None:
        self.own = {id_of(parameter) for parameter in model.parameters()}
        self.sizes: dict[int, int] = {}

    def __call__(self, x: Tensor) -> Tensor:
        if id_of(x) not in self.own:
            self.sizes[id_of(x)] = x.untyped_storage().nbytes()
        return x


def _inputs(workload: Workload, config: Mapping[str, Any], device: str) -> dict[str, Tensor]:
    """Latents, a time for each frame, and prompts of which all but the first are padded."""
    samples, frames, text = (
        workload.segmentation_samples,
        workload.segmentation_frames,
        workload.prompt_tokens,
    )
    if not samples:
        samples, frames, text = workload.generation_samples, 1, workload.caption_tokens
    height, width = (side // 8 for side in workload.size)
    mask = torch.ones(samples, text, dtype=torch.bool, device=device)
    mask[1:, text // 2 :] = False
    return {
        "hidden_states": torch.randn(samples, config["in_channels"], frames, height, width, device=device),
        "timestep": torch.rand(samples, frames, device=device) * 1000,
        "encoder_hidden_states": torch.randn(samples, text, config["text_dim"], device=device),
        "encoder_attention_mask": mask,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", type=int, nargs=2, default=(256, 256), help="height and width of the pictures"
    )
    parser.add_argument("--samples", type=int, default=2, help="samples of a pass")
    parser.add_argument("--layers", type=int, help="transformer blocks")
    parser.add_argument("--paper", action="store_true", help="the paper's width in place of 128")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args()
    logging.set_verbosity_error()

    config = dict(PAPER_CONFIG if args.paper else TOY_CONFIG)
    if args.layers:
        config["num_layers"] = args.layers
    print(f"{'pass':14}{'checkpointing':15}{'estimate':>12}{'kept':>12}{'peak':>12}   MiB")
    for name, samples in (("segmentation", (args.samples, 0)), ("generation", (0, args.samples))):
        for checkpointing in (False, True):
            workload = Workload(
                transformer=config,
                size=tuple(args.size),
                segmentation_samples=samples[0],
                generation_samples=samples[1],
                prompt_tokens=80,
                caption_tokens=40,
                gradient_checkpointing=checkpointing,
            )
            memory, measured = estimate(workload).memory, measure(workload, args.device)
            numbers = (
                f"{n / 2**20:12.1f}"
                for n in (memory.activations + memory.compute_weights, measured.kept, measured.peak)
            )
            print(f"{name:14}{'yes' if checkpointing else 'no':15}" + "".join(numbers))


if __name__ == "__main__":
    main()
