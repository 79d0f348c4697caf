"""AdamW, AdamW with its moments in 8 bits, and Muon for those who have few steps to spend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

OPTIMIZERS = ("adamw", "adamw-8bit", "muon")
HIDDEN_LAYERS = (".blocks.", ".layers.")
"""Muon is meant for the matrices of hidden layers; embeddings and the first and last layers keep AdamW."""
PARTS = ("codes", "scale", "qmap")
"""Of a moment in 8 bits: a byte for each element, the largest value of each block, and what the bytes mean."""


def build_optimizers(
    modules: nn.Module, name: str, *, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> list[torch.optim.Optimizer]:
    """One optimizer for all trainable parameters, or Muon and AdamW side by side.

    Weights of two and more dimensions decay, biases and gains do not. Muon's updates are scaled to AdamW's usual
    size, so that both share a learning rate. The 8-bit AdamW keeps the moments of small tensors in float32.

    Raises:
        ValueError: "adamw-8bit" without torchao.
    """
    trainable = [(path, p) for path, p in modules.named_parameters() if p.requires_grad]
    hidden = [
        p
        for path, p in trainable
        if name == "muon" and p.ndim == 2 and any(mark in f".{path}" for mark in HIDDEN_LAYERS)
    ]
    chosen = {id(p) for p in hidden}
    rest = [p for _, p in trainable if id(p) not in chosen]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim >= 2]},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    options: dict[str, Any] = {"lr": learning_rate, "betas": betas, "weight_decay": weight_decay}
    if name == "adamw-8bit":
        return [_adamw_8bit(groups, options)]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, fused=True, **options)]
    if hidden:
        muon = torch.optim.Muon(
            hidden, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        optimizers.append(muon)
    return optimizers


def plain_tensors(name: str, x: Tensor) -> dict[str, Tensor]:
    """A tensor of an optimizer's state as safetensors can hold it: as it is, or an 8-bit moment in `PARTS`.

    The parts share memory with `x`; `joined_tensors` is the inverse, to the bit.
    """
    return {f"{name}.{part}": getattr(x, part) for part in PARTS} if hasattr(x, PARTS[0]) else {name: x}


def joined_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state, each of which went through `plain_tensors`, as they were."""
    joined = dict(tensors)
    first = f".{PARTS[0]}"
    for name in [name.removesuffix(first) for name in tensors if name.endswith(first)]:
        from torchao.optim.subclass_8bit import OptimState8bit

        codes, scale, qmap = (joined.pop(f"{name}.{part}") for part in PARTS)
        joined[name] = OptimState8bit(codes, scale, qmap, signed=bool(qmap[0] < 0))
    return joined


def _adamw_8bit(groups: list[dict[str, Any]], options: dict[str, Any]) -> torch.optim.Optimizer:
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise ValueError(
            "Got optimizer 'adamw-8bit' without torchao, expected it: pip install 'genmask[train]'."
        ) from error

    class NumberedAdamW8bit(AdamW8bit):
        """torchao's own, whose learning rate is a number, as every other optimizer's, and not a tensor."""

        def add_param_group(self, param_group: dict[str, Any]) -> None:
            torch.optim.Optimizer.add_param_group(self, param_group)  # torchao's makes a tensor of the rate

        def step(self, closure: Callable[[], float] | None = None) -> Any:
            rates = [group["lr"] for group in self.param_groups]
            for group in self.param_groups:
                group["lr"] = torch.tensor(group["lr"])
            on_cpu = all(p.device.type == "cpu" for group in self.param_groups for p in group["params"])
            # torchao compiles the update, once for every shape of a weight: on a CPU that never pays.
            with torch.compiler.set_stance("force_eager") if on_cpu else nullcontext():
                loss = super().step(closure)
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate
            return loss

    optimizer: torch.optim.Optimizer = NumberedAdamW8bit(groups, **options)
    return optimizer
