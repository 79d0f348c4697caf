"""The stages of an answer: the pipeline marks them as it works, and whoever wants to measure listens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Literal, TypeVar

import torch

Answer = TypeVar("Answer")

Stage = Literal["decode and resize", "VLM", "VAE encode", "DiT", "decode", "resize back"]
"""In the order of `segment`: picture to processing size; condition; picture's latents; velocity; latents to pixels or
to a mask, by the VAE or linearly; mask to the picture's own size. `generate` has the second, fourth and fifth."""

Listener = Callable[[Stage], AbstractContextManager[None]]
"""Of a stage's name, what is entered when it begins and left when it ends. Stages come again and never overlap."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def stage(name: Stage) -> AbstractContextManager[None]:
    """Mark what is done within as a stage; nearly free while nobody listens."""
    listener = _listener.get()
    return nullcontext() if listener is None else listener(name)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have `listener` told of every stage of what runs within, in this thread."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def synchronise(device: torch.device) -> None:
    """Wait until everything is done that was asked of the device."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def timed(call: Callable[[], Answer], device: torch.device) -> tuple[Answer, float]:
    """What a call returns, and the seconds until the device is done."""
    synchronise(device)
    began = time.perf_counter()
    answer = call()
    synchronise(device)
    return answer, time.perf_counter() - began
