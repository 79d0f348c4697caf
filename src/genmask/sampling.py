"""From noise along the velocity to a sample: seeded noise, and steps of any flow-matching scheduler of diffusers."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import SchedulerMixin
from torch import Tensor

SCHEDULERS = (
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "UniPCMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DEISMultistepScheduler",
)
"""Those of diffusers that integrate a velocity from t = 1 to t = 0."""


def seeded_noise(seed: int, shape: Sequence[int], count: int = 1) -> Tensor:
    """(count, *shape) float32 ~ N(0, I); the first ones do not depend on `count`.

    Drawn on the CPU, so that a seed means the same noise on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(tuple(shape), generator=generator) for _ in range(count)])


def make_scheduler(name: str, shift: float = 1.0) -> SchedulerMixin:
    """One of `SCHEDULERS`, set to flow matching.

    Args:
        name: of its class.
        shift: bends the steps towards noise (above 1) or towards the sample (below).

    Raises:
        ValueError: another name.
    """
    scheduler = _scheduler_class(name)
    if name.startswith("FlowMatch"):
        return scheduler(shift=shift)
    return scheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def load_scheduler(config: dict[str, Any]) -> SchedulerMixin:
    """From its saved configuration.

    Raises:
        ValueError: it is none of `SCHEDULERS`, or not set to flow matching.
    """
    scheduler = _scheduler_class(str(config.get("_class_name"))).from_config(config)
    check_scheduler(scheduler)
    return scheduler


def check_scheduler(scheduler: Any) -> None:
    """ValueError, unless it is set to flow matching: another reads a velocity as noise, and draws only that."""
    config = getattr(scheduler, "config", {})
    flows = config.get("use_flow_sigmas") and config.get("prediction_type") == "flow_prediction"
    if not flows and not _is_flow_match(scheduler):
        raise ValueError(
            f"Got scheduler {type(scheduler).__name__}, which is not set to flow matching, expected "
            f"genmask.sampling.make_scheduler(NAME) with NAME one of {', '.join(SCHEDULERS)}."
        )


def count_calls(scheduler: SchedulerMixin, num_steps: int) -> int:
    """Calls of the velocity that `integrate` makes: as many as steps, or twice as many less one (Heun)."""
    return len(_steps(scheduler, num_steps, torch.device("cpu"))[1])


def velocity_to(x0_hat: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """v = (x_t - x0_hat) / t, the inverse of `objectives.predict_x0`; t > 0."""
    return (x_t - x0_hat) / t.view(-1, *[1] * (x_t.ndim - 1))


def integrate(
    scheduler: SchedulerMixin,
    noise: Tensor,
    velocity: Callable[[Tensor, Tensor], Tensor],
    num_steps: int,
    *,
    generators: list[torch.Generator] | None = None,
    on_step_end: Callable[[int, Tensor, Tensor], Tensor | None] | None = None,
) -> Tensor:
    """Steps along the path from t = 1 to t = 0; a single one is Eq. 8, x0_hat = eps - f(eps, t = 1).

    Args:
        scheduler: set to flow matching; its shift bends the otherwise equal steps. A single step needs none.
        noise: eps, (B, C, h, w).
        velocity: (x_t, timestep) -> v like x_t; timestep is a scalar tensor in [0, 1000].
        num_steps: calls of `velocity`, but see `count_calls`.
        generators: of each sample, for schedulers that add noise on the way.
        on_step_end: (number of the call, timestep, x_t) -> what to go on with; None to stop here.

    Returns:
        x0_hat, or what there was when `on_step_end` stopped.
    """
    step, timesteps = _steps(scheduler, num_steps, noise.device, generators)
    x_t = noise
    for index, timestep in enumerate(timesteps):
        x_t = step(velocity(x_t, timestep), timestep, x_t)
        if on_step_end is not None:
            changed = on_step_end(index, timestep, x_t)
            if changed is None:
                break
            x_t = changed
    return x_t


def _steps(
    scheduler: SchedulerMixin,
    num_steps: int,
    device: torch.device,
    generators: list[torch.Generator] | None = None,
) -> tuple[Callable[[Tensor, Tensor, Tensor], Tensor], Tensor]:
    """(velocity, timestep, x_t) -> the next x_t, and the timesteps, in [0, 1000]."""
    if num_steps == 1:
        # Schedulers of higher order begin just below t = 1, from where a step of 1 would not end at 0.
        return lambda v, timestep, x_t: x_t - v, torch.tensor([1000.0], device=device)
    own: Any = copy.copy(scheduler)  # it counts its steps: calls in two threads must not share the count
    if "sigmas" in inspect.signature(own.set_timesteps).parameters and _is_flow_match(own):
        # Equal steps that end at 0: the scheduler's own choice would spend its last step on the last thousandth.
        own.set_timesteps(sigmas=np.linspace(1, 1 / num_steps, num_steps), device=device)
    else:
        own.set_timesteps(num_steps, device=device)
    draws = generators is not None and "generator" in inspect.signature(own.step).parameters
    options = {"generator": generators} if draws else {}

    def step(v: Tensor, timestep: Tensor, x_t: Tensor) -> Tensor:
        return own.step(v, timestep, x_t, return_dict=False, **options)[0]

    return step, own.timesteps


def _scheduler_class(name: str) -> Any:
    if name not in SCHEDULERS:
        raise ValueError(f"Got scheduler {name!r}, expected one of {', '.join(SCHEDULERS)}.")
    return getattr(diffusers, name)


def _is_flow_match(scheduler: Any) -> bool:
    return type(scheduler).__name__.startswith("FlowMatch")
