"""What the commands that run a model share: its options, and loading it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from genmask.pipeline import GenMaskPipeline

BFLOAT16_UNITS = ("avx512_bf16", "amx_bf16")
"""Of a processor that multiplies in bfloat16, as `torch.cpu.get_capabilities` names them."""

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True, kw_only=True)
class Inference:
    """What segmenting and generating share."""

    model: str = "tiny"
    """A model folder, a bundled model ("tiny") or a hub id (organisation/name): only that needs a network."""
    output: Path = Path("output")
    """Folder for the files; made if need be."""
    seed: int = 0
    """Of the noise; the same seed gives the same result."""
    batch_size: int = 8
    """Items in a forward pass; lower it if memory runs out."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto takes an accelerator if there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the networks; auto is bfloat16 on CUDA and on processors that multiply in it, else float32."""
    vlm_precision: Literal["int8"] | None = None
    """int8: the language model's weights in eight bits, half the memory of bfloat16; pip install 'genmask[train]'."""
    json: Flag = False
    """Print one JSON document on stdout, and nothing else there."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector away from all that exists when this ends, now and later.

    Imports and weights make hundreds of thousands of objects that stay. The collector would search them again and
    again while they are made, and once more before the process may end.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


@uncollected()
def load(command: Inference) -> GenMaskPipeline:
    """The model, where and in the precision that the command asks for."""
    import diffusers
    import torch
    import transformers

    from genmask.pipeline import GenMaskPipeline

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
    device, dtype = place(command.device, command.dtype)
    return GenMaskPipeline.from_pretrained(
        command.model, torch_dtype=getattr(torch, dtype), vlm_precision=command.vlm_precision, device=device
    )


def place(device: str, dtype: str) -> tuple[str, str]:
    """A device and a dtype, with what "auto" stands for on this machine.

    Raises:
        ValueError: a device that PyTorch does not see here.
    """
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    here = ["cpu", *([accelerator.type] if accelerator else [])]
    device = here[-1] if device == "auto" else device
    if device.partition(":")[0] not in here:
        raise ValueError(
            f"Got device {device!r}, expected auto or one that PyTorch sees here: {', '.join(here)}."
        )
    if dtype == "float32":
        return device, dtype
    if device == "cpu":
        # An older PyTorch does not say what its processor has.
        found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        has_units = any(found.get(name) for name in BFLOAT16_UNITS)
        if dtype == "bfloat16" and not has_units:
            print("genmask: this processor is slow in bfloat16: going on in float32", file=sys.stderr)
        return device, "bfloat16" if has_units else "float32"
    return device, "bfloat16" if dtype == "bfloat16" or device.startswith("cuda") else "float32"
