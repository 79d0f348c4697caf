"""The state of a run on disk: weights and moving average as safetensors, the optimizers, step and unlogged losses.

A checkpoint is written under another name and then renamed, and older ones are deleted only after that: a kill at any
moment leaves a whole one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn


def latest(root: Path) -> Path | None:
    """The newest whole checkpoint under `root`, if any."""
    return max(root.glob("step-" + "[0-9]" * 9), default=None)


def save(
    root: Path,
    modules: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    ema: EMAModel | None,
    step: int,
    losses: dict[str, list[float]],
) -> None:
    """Write the state after `step` steps to `root` and delete the older ones; `losses` are those not yet logged."""
    folder = root / f"step-{step:09d}"
    partial = root / f"partial-{step:09d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_model(modules, str(partial / "modules.safetensors"))  # writes tied weights once
    torch.save([optimizer.state_dict() for optimizer in optimizers], partial / "optimizers.pt")
    if ema is not None:
        save_file(
            {f"{i:05d}": p.contiguous() for i, p in enumerate(ema.shadow_params)}, partial / "ema.safetensors"
        )
    (partial / "state.json").write_text(json.dumps({"step": step, "losses": losses}))
    os.replace(partial, folder)
    for old in (*root.glob("step-*"), *root.glob("partial-*")):
        if old != folder:
            shutil.rmtree(old)


def load(
    folder: Path, modules: nn.Module, optimizers: Sequence[torch.optim.Optimizer], ema: EMAModel | None
) -> tuple[int, dict[str, list[float]]]:
    """Restore everything in place; the number of steps done, and the losses not yet logged.

    Raises:
        ValueError: the checkpoint is of another recipe: other modules, optimizers, or a moving average in one only.
    """
    state = json.loads((folder / "state.json").read_text())
    try:
        load_model(modules, folder / "modules.safetensors", strict=True)
        states = torch.load(folder / "optimizers.pt", map_location="cpu", weights_only=True)
        for optimizer, optimizer_state in zip(optimizers, states, strict=True):
            optimizer.load_state_dict(optimizer_state)
        shadow = load_file(folder / "ema.safetensors") if (folder / "ema.safetensors").exists() else {}
        averages = [] if ema is None else ema.shadow_params
        for parameter, key in zip(averages, sorted(shadow), strict=True):
            parameter.copy_(shadow[key])
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"Got a checkpoint of another recipe at {folder} ({str(error).splitlines()[0]}): resume with the recipe it "
            "was made with, or choose another output folder."
        ) from error
    if ema is not None:
        ema.optimization_step = state["step"]
    return state["step"], state.get("losses", {})
