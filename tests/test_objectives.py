import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from genmask.latents import LatentCodec
from genmask.mask_head import LinearMaskHead
from genmask.objectives import (
    bce_linear_loss,
    bce_pixel_loss,
    interpolate,
    latent_weight,
    mse_loss,
    predict_x0,
    velocity,
)
from genmask.sampling import integrate
from tests.toy import toy_transformer, toy_vae


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X0, EPS = noise(3, 16, 4, 4, seed=1), noise(3, 16, 4, 4, seed=2)


def test_the_path_ends_at_data_and_at_noise():
    assert torch.equal(interpolate(X0, EPS, torch.zeros(3)), X0)
    assert torch.equal(interpolate(X0, EPS, torch.ones(3)), EPS)


def test_the_velocity_is_the_slope_of_the_path():
    t, h = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64), 1e-4
    slope = (
        interpolate(X0.double(), EPS.double(), t + h) - interpolate(X0.double(), EPS.double(), t - h)
    ) / (2 * h)
    torch.testing.assert_close(slope, velocity(X0, EPS).double())


def test_the_target_is_recovered_from_any_point_of_the_path():
    t = torch.tensor([0.1, 0.6, 1.0])
    torch.testing.assert_close(
        predict_x0(interpolate(X0, EPS, t), velocity(X0, EPS), t), X0, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_euler_with_the_true_velocity_gives_the_target(steps):
    scheduler = FlowMatchEulerDiscreteScheduler()
    result = integrate(scheduler, EPS, lambda x_t, timestep: velocity(X0, EPS), steps)
    torch.testing.assert_close(result, X0, rtol=0, atol=1e-5)


def test_the_loss_ignores_cells_that_touch_an_unknown_pixel():
    ignore = torch.zeros(3, 32, 32, dtype=torch.bool)
    ignore[0, 9, 17] = True  # cell (1, 2)
    weight = latent_weight(ignore)
    assert weight.shape == (3, 1, 4, 4)
    assert weight.sum() == 3 * 16 - 1
    assert weight[0, 0, 1, 2] == 0
    v_hat = velocity(X0, EPS).clone()
    v_hat[0, :, 1, 2] += 100
    loss = mse_loss(v_hat, velocity(X0, EPS), weight)
    assert loss.total.tolist() == [0, 0, 0]
    assert loss.weight.tolist() == [16 * 15, 16 * 16, 16 * 16]
    assert loss.mean() == 0
    assert [total > 0 for total in mse_loss(v_hat, velocity(X0, EPS)).total] == [True, False, False]


def test_weighted_sums_of_parts_are_that_of_the_whole():
    weight = latent_weight(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.99)
    whole = mse_loss(EPS, X0, weight)
    parts = [mse_loss(EPS[i : i + 1], X0[i : i + 1], weight[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(torch.cat([p.total for p in parts]), whole.total)
    assert torch.equal(torch.cat([p.weight for p in parts]), whole.weight)
    torch.testing.assert_close(whole.mean(), whole.total.sum() / whole.weight.sum())


def test_pixel_loss_is_small_for_the_right_picture_and_blind_to_ignored_pixels():
    mask = torch.zeros(2, 32, 32, dtype=torch.bool)
    mask[:, 8:20, 8:20] = True
    right = (mask.float() * 2 - 1).unsqueeze(1).expand(-1, 3, -1, -1)
    loss = bce_pixel_loss(X0, mask, lambda _: right)
    assert float(loss.mean()) == pytest.approx(math.log1p(math.exp(-5)), rel=1e-4)
    assert float(bce_pixel_loss(X0, mask, lambda _: right, ignore=torch.ones_like(mask)).mean()) == 0


def test_the_linear_head_is_one_matrix_and_a_pixel_shuffle():
    head = LinearMaskHead(16)
    with torch.no_grad():
        logits = head(X0)
        assert logits.shape == (3, 32, 32)
        expected = head.linear.weight @ X0[1, :, 2, 3] + head.linear.bias
    torch.testing.assert_close(logits[1, 16:24, 24:32].flatten(), expected)


@pytest.mark.parametrize("supervision", ["mse", "bce-pixels", "bce-linear"])
def test_each_supervision_reaches_the_transformer_and_its_own_head_alone(supervision):
    vae, transformer, head = toy_vae().requires_grad_(False), toy_transformer(), LinearMaskHead(16)
    with torch.no_grad():  # the last layer starts at zero in some initialisations
        transformer.proj_out.weight.normal_()
    condition = noise(3, 5, 32)
    mask = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.5
    t = torch.tensor([0.3, 0.9, 1.0])
    x_t = interpolate(X0, EPS, t)
    v_hat = transformer(x_t.unsqueeze(2), (1000 * t).unsqueeze(1), condition).sample.squeeze(2)
    if supervision == "mse":
        loss = mse_loss(v_hat, velocity(X0, EPS))
    elif supervision == "bce-pixels":
        loss = bce_pixel_loss(
            predict_x0(x_t, v_hat, t), mask, lambda z: LatentCodec(vae).decode(z, clamp=False)
        )
    else:
        loss = bce_linear_loss(head(predict_x0(x_t, v_hat, t)), mask)
    loss.mean().backward()
    assert transformer.patch_embedding.weight.grad.abs().sum() > 0
    assert transformer.blocks[0].attn1.to_q.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in vae.parameters())
    reached = [p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters()]
    assert all(reached) if supervision == "bce-linear" else not any(reached)
