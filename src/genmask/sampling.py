"""From noise along the velocity to a sample: seeded noise, and Euler steps of which a single one is Eq. 8."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor


def seeded_noise(seed: int, shape: Sequence[int], count: int = 1) -> Tensor:
    """(count, *shape) float32 ~ N(0, I); the first ones do not depend on `count`.

    Drawn on the CPU, so that a seed means the same noise on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(tuple(shape), generator=generator) for _ in range(count)])


def integrate(
    scheduler: FlowMatchEulerDiscreteScheduler,
    noise: Tensor,
    velocity: Callable[[Tensor, Tensor], Tensor],
    num_steps: int,
) -> Tensor:
    """Euler steps along the path from t = 1 to t = 0; a single one is Eq. 8, x0_hat = eps - f(eps, t = 1).

    Args:
        scheduler: its `shift` bends the otherwise equal steps.
        noise: eps, (B, C, h, w).
        velocity: (x_t, timestep) -> v like x_t; timestep is a scalar tensor in [0, 1000].
        num_steps: calls of `velocity`.
    """
    scheduler = copy.copy(scheduler)  # it counts its steps: calls in two threads must not share the count
    # Equal steps that end at 0: the scheduler's own choice would spend its last step on the last thousandth.
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / num_steps, num_steps), device=noise.device)
    x_t = noise
    for timestep in scheduler.timesteps:
        x_t = scheduler.step(velocity(x_t, timestep), timestep, x_t, return_dict=False)[0]
    return x_t
