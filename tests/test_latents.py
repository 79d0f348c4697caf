import pytest
import torch
from diffusers import AutoencoderKLWan

from genmask.latents import LatentCodec, mask_to_pixels, pixels_to_soft_mask
from tests.toy import toy_vae


def pictures(count=2, height=32, width=48, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def latents_by_the_vae(vae, pixels):
    z = vae.encode(pixels.unsqueeze(2)).latent_dist.mode().squeeze(2)
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1)
    return (z - mean) / std, z


def assert_equals_the_vae(vae, pixels, tolerance):
    codec = LatentCodec(vae)
    with torch.no_grad():
        expected, z = latents_by_the_vae(vae, pixels)
        torch.testing.assert_close(codec.encode(pixels), expected, rtol=0, atol=tolerance)
        decoded = vae.decode(z.unsqueeze(2)).sample.squeeze(2)
        torch.testing.assert_close(codec.decode(expected), decoded, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "options", [{}, {"num_res_blocks": 2}, {"dim_mult": [1, 1, 2, 2], "decoder_base_dim": 8}]
)
def test_the_2d_view_equals_the_vae(options):
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**{"base_dim": 4, "num_res_blocks": 1, **options}).eval()
    assert_equals_the_vae(vae, pictures(), 1e-4)


def test_the_2d_view_equals_the_vae_at_the_paper_size():
    torch.manual_seed(0)
    vae = AutoencoderKLWan().eval()
    assert vae.config.base_dim == 96
    assert_equals_the_vae(vae, pictures(1, 32, 32), 1e-4)


def test_the_view_follows_its_parameters():
    vae = toy_vae()
    codec, pixels = LatentCodec(vae), pictures()
    with torch.no_grad():
        before = codec.encode(pixels)
        vae.encoder.conv_in.weight.data.mul_(1.5)  # as a moving average writes: no version counter moves
        after = codec.encode(pixels)
        assert not torch.equal(before, after)
        torch.testing.assert_close(after, latents_by_the_vae(vae, pixels)[0], rtol=0, atol=1e-4)


def test_gradients_pass_through_the_view_into_the_living_taps_alone():
    vae = toy_vae()
    codec = LatentCodec(vae)
    mean, log_variance = codec.encode_moments(pictures())
    (codec.decode_raw(mean).square().mean() + log_variance.mean()).backward()
    grad = vae.decoder.conv_in.weight.grad
    assert grad[:, :, -1].abs().sum() > 0
    assert grad[:, :, :-1].abs().sum() == 0
    time_convs = [p for name, p in vae.named_parameters() if "time_conv" in name]
    assert time_convs
    assert all(p.grad is None for p in time_convs)


def test_decoding_in_bfloat16_stays_near_and_encoding_stays_float32():
    vae = toy_vae()
    pixels = pictures()
    reference = LatentCodec(vae)
    codec = LatentCodec(vae, decode_dtype=torch.bfloat16)
    with torch.no_grad():
        latents = codec.encode(pixels)
        assert torch.equal(latents, reference.encode(pixels))
        torch.testing.assert_close(codec.decode(latents), reference.decode(latents), rtol=0, atol=0.05)
    half = toy_vae().to(torch.bfloat16)
    assert LatentCodec(half).encode(pixels).dtype == torch.float32


def test_only_the_unclamped_decoder_lets_every_gradient_through():
    vae = toy_vae()
    with torch.no_grad():
        vae.decoder.conv_out.bias.fill_(3.0)  # every pixel too bright
    codec, latents = LatentCodec(vae), torch.zeros(1, 16, 4, 4)
    slopes = {}
    for clamp in (True, False):
        z = latents.clone().requires_grad_()
        pixels = codec.decode(z, clamp=clamp)
        assert bool((pixels == 1).all()) == clamp
        pixels.sum().backward()
        slopes[clamp] = z.grad.abs().sum()
    assert slopes[True] == 0
    assert slopes[False] > 0


def test_mask_to_rgb_to_mask_is_the_identity():
    mask = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(0)) > 0.5
    pixels = mask_to_pixels(mask)
    assert pixels.shape == (3, 3, 16, 24)
    assert set(pixels.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(pixels_to_soft_mask(pixels), mask.float())
    soft = torch.rand(5, 8, 8)
    torch.testing.assert_close(pixels_to_soft_mask(mask_to_pixels(soft)), soft)


def test_pictures_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="multiple of 8"):
        LatentCodec(toy_vae()).encode(pictures(1, 30, 32))


def test_a_wan_2_2_vae_is_refused_by_name():
    vae = AutoencoderKLWan(base_dim=4, num_res_blocks=1, is_residual=True)
    with pytest.raises(ValueError, match=r"Wan-2\.2"):
        LatentCodec(vae)
