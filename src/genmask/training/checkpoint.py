"""The state of a run on disk, by torch.distributed.checkpoint: weights, moving average, optimizers, step.

Every process writes its own part, as safetensors, under another name; the first renames the folder when all are done,
and deletes the oldest only after that. A kill at any moment leaves whole checkpoints only. Any number of processes can
read each.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_state_dict,
)

from genmask.training.optimizer import joined_tensors, plain_tensors
from genmask.training.parallel import barrier, is_main_process

OPTIONS = StateDictOptions(flatten_optimizer_state_dict=True, ignore_frozen_params=True, strict=False)
"""What is missing or too much is found, and named, before anything is loaded."""


def latest(root: Path) -> Path | None:
    """The newest whole checkpoint under `root`, if any."""
    return max(root.glob("step-" + "[0-9]" * 9), default=None)


def save(
    root: Path,
    network: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    ema: EMAModel | None,
    step: int,
    losses: Mapping[str, list[float]],
    keep: int = 1,
) -> None:
    """Write the state after `step` steps to `root`, of which the newest `keep` stay; `losses` are those not yet logged.

    Every process must take part.
    """
    folder, partial = root / f"step-{step:09d}", root / f"partial-{step:09d}"
    if is_main_process():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / "state.json").write_text(json.dumps({"step": step, "losses": losses}))
    barrier()
    tensors, _ = _state(network, optimizers, ema)
    dcp.save(tensors, storage_writer=dcp.HuggingFaceStorageWriter(str(partial), save_distributed=True))
    barrier()
    if is_main_process():
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
        whole = sorted(root.glob("step-" + "[0-9]" * 9))
        for old in (*whole[: -max(1, keep)], *root.glob("partial-*")):
            shutil.rmtree(old)
    barrier()


def load(
    folder: Path, network: nn.Module, optimizers: Sequence[torch.optim.Optimizer], ema: EMAModel | None
) -> tuple[int, dict[str, list[float]]]:
    """Restore everything in place; the number of steps done, and the losses not yet logged.

    Raises:
        ValueError: the checkpoint is of another recipe: other weights, optimizers, or a moving average in one only.
    """
    state = json.loads((folder / "state.json").read_text())
    tensors, rest = _state(network, optimizers, ema)
    reader = dcp.HuggingFaceStorageReader(str(folder))
    entries: Mapping[str, Any] = reader.read_metadata().state_dict_metadata
    saved = {name: tuple(entry.size) for name, entry in entries.items()}
    wanted = {name: tuple(x.shape) for name, x in tensors.items()}
    if saved != wanted:
        name = min(saved.items() ^ wanted.items())[0]
        raise ValueError(
            f"Got a checkpoint of another recipe at {folder} ({name} is {saved.get(name, 'missing')} there, "
            f"{wanted.get(name, 'unknown')} here): resume with the recipe it was made with, or choose another output "
            "folder."
        )
    dcp.load(tensors, storage_reader=reader)
    groups: dict[str, dict[str, Any]] = {"network": {}, "optimizer": dict(rest), "ema": {}}
    for name, x in joined_tensors(tensors).items():
        group, _, key = name.partition("/")
        groups[group][key] = x
    set_state_dict(
        network, list(optimizers),
        model_state_dict=groups["network"], optim_state_dict=groups["optimizer"], options=OPTIONS,
    )  # fmt: skip
    if ema is not None:
        for parameter, name in zip(ema.shadow_params, _trained(network), strict=True):
            parameter.copy_(groups["ema"][name])
        ema.optimization_step = state["step"]
    return state["step"], state["losses"]


def initialise(network: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Give every trained parameter its optimizer state at once, as if nothing had happened yet: a checkpoint then holds
    the same entries whenever it is written.
    """
    get_optimizer_state_dict(
        network, list(optimizers)
    )  # makes what is missing, by a step without gradient or rate
    for optimizer in optimizers:
        for state in optimizer.state.values():
            if "step" in state:
                state["step"].zero_()


def _state(
    network: nn.Module, optimizers: Sequence[torch.optim.Optimizer], ema: EMAModel | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors by name, and the options of the optimizers, which the recipe knows."""
    states: tuple[Any, Any] = get_state_dict(network, list(optimizers), options=OPTIONS)
    weights, moments = states
    tied = (
        dict(network.named_parameters(remove_duplicate=False)).keys()
        - dict(network.named_parameters()).keys()
    )
    tensors = {f"network/{name}": x for name, x in weights.items() if name not in tied}
    for name, x in moments.items():
        if isinstance(x, Tensor):
            tensors |= plain_tensors(f"optimizer/{name}", x)
    if ema is not None:
        names = _trained(network)
        tensors |= {f"ema/{name}": x for name, x in zip(names, ema.shadow_params, strict=True)}
    return tensors, {name: x for name, x in moments.items() if not isinstance(x, Tensor)}


def _trained(network: nn.Module) -> list[str]:
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]
