"""Every flow-matching scheduler of diffusers follows the same velocity to the same end."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, UniPCMultistepScheduler
from torch import Tensor

from genmask.sampling import (
    SCHEDULERS,
    check_scheduler,
    count_calls,
    integrate,
    load_scheduler,
    make_scheduler,
    seeded_noise,
)

MEAN, SPREAD = 0.5, 0.3
"""Of the data, a Gaussian: the path of every noise is known exactly."""


def velocity(x_t: Tensor, timestep: Tensor) -> Tensor:
    """E[eps - x0 | x_t] for Gaussian data."""
    t = timestep.float() / 1000
    residual = (x_t - (1 - t) * MEAN) / ((1 - t) ** 2 * SPREAD**2 + t**2)
    return t * residual - (MEAN + (1 - t) * SPREAD**2 * residual)


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "FlowMatchLCMScheduler"])
def test_all_schedulers_end_where_the_path_ends(name: str) -> None:
    noise = seeded_noise(0, (4, 8, 8), 3)
    scheduler = make_scheduler(name)
    error = [
        float((integrate(scheduler, noise, velocity, steps) - (MEAN + SPREAD * noise)).abs().max())
        for steps in (5, 80)
    ]
    assert error[1] < min(0.04, error[0] / 4)


def test_one_step_is_equation_8_whatever_the_scheduler() -> None:
    noise = seeded_noise(0, (16, 2, 2), 2)
    expected = noise - velocity(noise, torch.tensor(1000.0))
    for name in SCHEDULERS:
        assert torch.equal(integrate(make_scheduler(name, 3.0), noise, velocity, 1), expected)


def test_noise_on_the_way_comes_from_the_generator_of_each_sample() -> None:
    noise, scheduler = seeded_noise(0, (4, 2, 2), 2), make_scheduler("FlowMatchLCMScheduler")

    def draw(rows: slice, seeds: list[int]) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return integrate(scheduler, noise[rows], velocity, 4, generators=generators)

    together = draw(slice(0, 2), [1, 2])
    assert torch.equal(draw(slice(1, 2), [2])[0], together[1])
    assert not torch.equal(draw(slice(1, 2), [3])[0], together[1])


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_calls_are_counted_before_they_are_made(name: str, steps: int) -> None:
    calls = []
    scheduler = make_scheduler(name)
    integrate(
        scheduler,
        torch.zeros(1, 4, 2, 2),
        lambda x_t, timestep: calls.append(timestep) or x_t,  # type: ignore[func-returns-value]
        steps,
        generators=[torch.Generator()],
    )
    assert len(calls) == count_calls(scheduler, steps) == (2 * steps - 1 if "Heun" in name else steps)


def test_a_callback_may_change_the_sample_and_stop() -> None:
    seen = []

    def on_step_end(step: int, timestep: Tensor, x_t: Tensor) -> Tensor | None:
        seen.append((step, float(timestep)))
        return None if step == 2 else torch.full_like(x_t, 7.0)

    result = integrate(
        make_scheduler(SCHEDULERS[0]),
        torch.zeros(1, 4, 2, 2),
        lambda x_t, _: torch.zeros_like(x_t),
        10,
        on_step_end=on_step_end,
    )
    assert seen == [(0, 1000.0), (1, 900.0), (2, 800.0)]
    assert (result == 7).all()


def test_a_saved_scheduler_comes_back() -> None:
    for name in SCHEDULERS:
        loaded = load_scheduler({"_class_name": name, **make_scheduler(name, 3.0).config})
        assert type(loaded).__name__ == name
        assert loaded.config.get("shift", loaded.config.get("flow_shift")) == 3.0


def test_schedulers_that_do_not_integrate_a_velocity_are_refused() -> None:
    with pytest.raises(ValueError, match="'DDIMScheduler', expected one of FlowMatchEuler"):
        make_scheduler("DDIMScheduler")
    for scheduler in (DDIMScheduler(), UniPCMultistepScheduler()):
        with pytest.raises(ValueError, match="not set to flow matching"):
            check_scheduler(scheduler)
    with pytest.raises(ValueError, match="not set to flow matching"):
        load_scheduler({"_class_name": "UniPCMultistepScheduler"})
