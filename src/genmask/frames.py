"""The transformer's frames: the picture at t = 0 and the noised mask at t, in either order, or one frame alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Frames(NamedTuple):
    """What the transformer takes, and where to find what."""

    latents: Tensor
    """(B, C, F, h, w)"""
    times: Tensor
    """(B, F), in the unit of t."""
    answer: int
    """The frame whose output is the answer."""
    picture: int
    """The picture's frame; that of the answer where there is no picture."""


def arrange_frames(
    picture: Tensor | None, x_t: Tensor | None, t: Tensor, *, picture_first: bool = True
) -> Frames:
    """Put together what there is.

    Args:
        picture: (B, C, h, w), latents of the picture; None where the VLM alone sees it, or in generation.
        x_t: (B, C, h, w), the noised mask or picture; None where there is no diffusion.
        t: (B,), the noise level of x_t, in [0, 1] or in thousandths.
        picture_first: whether the picture is the first of two frames, or the second.

    Raises:
        ValueError: there is neither.
    """
    if picture is None and x_t is None:
        raise ValueError("Got neither a picture nor a noised frame, expected one of them.")
    clean = torch.zeros_like(t)
    if picture is None or x_t is None:
        latents, times = (x_t, t) if x_t is not None else (picture, clean)
        assert latents is not None
        return Frames(latents.unsqueeze(2), times.unsqueeze(1), answer=0, picture=0)
    if picture_first:
        return Frames(torch.stack([picture, x_t], dim=2), torch.stack([clean, t], dim=1), answer=1, picture=0)
    return Frames(torch.stack([x_t, picture], dim=2), torch.stack([t, clean], dim=1), answer=0, picture=1)
