"""Many processes: which part of a step is whose, FSDP2 without a change of precision, sums over all of them.

A step is a fixed set of samples. Its parts, one for each process and micro-batch, are sliced from it by number, so the
number of processes changes who computes a sample, and nothing else.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True, kw_only=True)
class Share:
    """The parts of every step that are one process's: one for each micro-batch."""

    rank: int = 0
    world_size: int = 1
    accumulation: int = 1
    """Micro-batches of a step, one after the other, in each process."""

    @property
    def parts(self) -> int:
        """In all processes together."""
        return self.world_size * self.accumulation

    def locate(self, turn: int) -> tuple[int, int]:
        """Of a process's `turn`-th micro-batch, the step and the place in it."""
        return divmod(turn, self.accumulation)

    def samples(self, step: int, size: int, micro: int) -> range:
        """Global indices of this part of a step of `size` samples: they key whatever is random."""
        part = micro * self.world_size + self.rank
        return range(step * size + size * part // self.parts, step * size + size * (part + 1) // self.parts)

    def require(self, **sizes: int | None) -> None:
        """Raise ValueError if a step has fewer samples of a kind than there are parts; None is no such kind."""
        for what, size in sizes.items():
            if size is not None and size < self.parts:
                raise ValueError(
                    f"Got {size} {what} a step for {self.world_size} processes with {self.accumulation} micro-batches "
                    "each, expected at least one in each: make the batch larger or accumulation smaller."
                )


def parallelise(network: nn.Module, device: torch.device, *, shard: bool) -> nn.Module:
    """The network on its device, and where there are several processes, wrapped by DDP or sharded by FSDP2.

    FSDP2 is applied here and not by accelerate, whose policy casts the timestep and the modulation with everything
    else, and which does not shard on CPUs. Here nothing is cast: weights are gathered in float32 and autocast decides,
    operator by operator, as it does in one process. Optimizers must be built afterwards.

    Args:
        network: whose modules of a class named in its models' `_no_split_modules` become units of FSDP2.
        device: of this process.
        shard: FSDP2 in place of DDP.
    """
    network.to(device)
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return network
    if not shard:
        return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    units = {
        name for module in network.modules() for name in getattr(module, "_no_split_modules", None) or ()
    }
    for module in network.modules():
        if type(module).__name__ in units:
            fully_shard(module, mesh=mesh)
    fully_shard(network, mesh=mesh)  # in place
    return network


def launcher_shards() -> bool:
    """Whether an accelerate config with FSDP started this process.

    Raises:
        ValueError: its version is 1.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() not in ("1", "true"):
        return False
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError("Got FSDP of version 1, expected fsdp_version: 2 in the accelerate config.")
    return True


def free(network: nn.Module) -> None:
    """Before a process ends: FSDP2 over gloo aborts now and then if its group goes before its buffers."""
    if is_sharded(network):
        barrier()
        for parameter in network.parameters():
            parameter.grad = None
        gc.collect()


def sum_over_processes(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Of each number; all processes give the same names in the same order. In float64."""
    if not dist.is_initialized():
        return dict(values)
    device = torch.device("cpu") if dist.get_backend() == "gloo" else device
    sums = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return dict(zip(values, sums.tolist(), strict=True))


def gather_lists(items: Iterable[Any]) -> list[Any]:
    """The items of all processes, in the order of their ranks."""
    items = list(items)
    if not dist.is_initialized():
        return items
    gathered: list[list[Any]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, items)
    return [item for part in gathered for item in part]


def is_main_process() -> bool:
    """Before there is a group, by what the launcher says."""
    return (dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", 0))) == 0


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def is_sharded(module: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def full_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor in whole, on every process; every other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
