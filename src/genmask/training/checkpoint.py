"""The state of a run on disk: weights and moving average as safetensors, the optimizer, the step.

A checkpoint is written under another name and then renamed, and older ones are deleted only after that: a kill at any
moment leaves a whole one.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import nn


def latest(root: Path) -> Path | None:
    """The newest whole checkpoint under `root`, if any."""
    return max(root.glob("step-" + "[0-9]" * 9), default=None)


def save(root: Path, modules: nn.Module, optimizer: torch.optim.Optimizer, ema: EMAModel | None, step: int) -> None:
    """Write the state after `step` steps to `root` and delete the older ones."""
    folder = root / f"step-{step:09d}"
    partial = root / f"partial-{step:09d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in modules.state_dict().items()}, partial / "modules.safetensors")
    torch.save(optimizer.state_dict(), partial / "optimizer.pt")
    if ema is not None:
        save_file({f"{i:05d}": p.contiguous() for i, p in enumerate(ema.shadow_params)}, partial / "ema.safetensors")
    (partial / "state.json").write_text(json.dumps({"step": step, "ema": ema is not None}))
    if folder.exists():  # the same step again: a run resumed and stopped at once
        shutil.rmtree(folder)
    os.replace(partial, folder)
    for old in root.iterdir():
        if old != folder:
            shutil.rmtree(old)


def load(folder: Path, modules: nn.Module, optimizer: torch.optim.Optimizer, ema: EMAModel | None) -> int:
    """Restore everything in place and return the number of steps done."""
    state = json.loads((folder / "state.json").read_text())
    if state["ema"] != (ema is not None):
        raise ValueError(
            f"Got a checkpoint {'with' if state['ema'] else 'without'} a moving average at {folder}, but the recipe says "
            "otherwise: resume with the recipe it was made with, or choose another output folder."
        )
    modules.load_state_dict(load_file(folder / "modules.safetensors"), strict=True)
    optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
    if ema is not None:
        shadow = load_file(folder / "ema.safetensors")
        for parameter, key in zip(ema.shadow_params, sorted(shadow), strict=True):
            parameter.copy_(shadow[key])
        ema.optimization_step = state["step"]
    return int(state["step"])
