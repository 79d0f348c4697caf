"""What the commands that run a model share: its options, and loading it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from genmask.pipeline import GenMaskPipeline

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
    """Of the networks; auto is bfloat16 on CUDA, else float32."""
    json: Flag = False
    """Print one JSON document on stdout, and nothing else there."""


def load(command: Inference) -> GenMaskPipeline:
    """The model, where and in the precision that the command asks for."""
    import diffusers
    import torch
    import transformers

    from genmask.pipeline import GenMaskPipeline

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    here = ["cpu", *([accelerator.type] if accelerator else [])]
    device = here[-1] if command.device == "auto" else command.device
    if device.partition(":")[0] not in here:
        raise ValueError(
            f"Got device {device!r}, expected auto or one that PyTorch sees here: {', '.join(here)}."
        )
    dtype = command.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    return GenMaskPipeline.from_pretrained(command.model, torch_dtype=getattr(torch, dtype), device=device)
