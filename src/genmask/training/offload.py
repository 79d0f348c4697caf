"""Frozen weights that wait on the CPU, and are on the device of the training only while they are used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def lent(module: nn.Module, device: torch.device) -> Iterator[None]:
    """`module` on `device` for a while.

    Its weights never change, so that those on the CPU stay where they are, and nothing is copied back.
    """
    for child in module.modules():
        for name, buffer in child._buffers.items():  # a few kilobytes: they may stay
            child._buffers[name] = None if buffer is None else buffer.to(device)
    home = [
        (child, name, parameter)
        for child in module.modules()
        for name, parameter in child._parameters.items()
        if parameter is not None
    ]
    away = {
        id(parameter): nn.Parameter(parameter.to(device, non_blocking=True), requires_grad=False)
        for _, _, parameter in home
    }
    for child, name, parameter in home:
        child._parameters[name] = away[id(parameter)]  # by identity, so that tied weights stay tied
    try:
        yield
    finally:
        for child, name, parameter in home:
            child._parameters[name] = parameter
