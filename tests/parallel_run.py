"""A toy run as one process of a launch; `tests/test_parallel.py` starts it under torchrun."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from genmask.training.loop import train
from tests.toy_training import LOOP, mask_task

seen: set[str] = set()


def watch(name: str) -> Any:
    """Note the dtypes of the time inside the model."""

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        values = output if isinstance(output, tuple) else (output,)
        seen.update(f"{name} {x.dtype}" for x in values[:2] if isinstance(x, torch.Tensor))

    return note


def watch_time(module: nn.Module, args: tuple[torch.Tensor]) -> None:
    """Note dtype and value in training: a random time, times 1000, is hardly ever a number of bfloat16."""
    (time,) = args
    if module.training:
        seen.add(
            f"timestep {time.dtype} {'rounded' if torch.equal(time, time.bfloat16().float()) else 'exact'}"
        )


def main(output: str, loop: str, model: str) -> None:
    torch.set_num_threads(1)
    config = json.loads(model)
    task = mask_task(segmentation_batch=12, generation_batch=6, sizes=((32, 32), (32, 48)), **config)
    embedder = task.transformer.condition_embedder
    embedder.register_forward_hook(watch("time and modulation"))
    task.transformer.blocks[0].norm1.register_forward_hook(watch("norm"))
    embedder.timesteps_proj.register_forward_pre_hook(watch_time)
    defaults = replace(LOOP, steps=20, checkpoint_every=10, evaluate_every=0, log_every=1, keep_checkpoints=2)
    finished = train(task, replace(defaults, **json.loads(loop)), Path(output))
    if not dist.is_initialized() or dist.get_rank() == 0:
        print(json.dumps({"finished": finished, "seen": sorted(seen)}))
    if dist.is_initialized():
        dist.barrier()
        del task
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
