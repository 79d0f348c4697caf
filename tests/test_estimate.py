"""What a step is said to cost, against what the real transformer and VAE take."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from benchmarks.training_memory import TOY_CONFIG, LiveBytes, id_of, measure
from diffusers import AutoencoderKLWan
from peft import LoraConfig
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from genmask.denoiser import PAPER_CONFIG, GenMaskTransformer
from genmask.latents import LatentCodec
from genmask.training.estimate import (
    Estimate,
    Pass,
    Workload,
    estimate,
    matmul_ceiling,
    segmentation_prompt_tokens,
    training_flop,
)

TOY_VAE = {"base_dim": 16, "num_res_blocks": 1}
SEGMENTATION = Workload(
    transformer=TOY_CONFIG,
    size=(128, 192),
    segmentation_samples=2,
    generation_samples=0,
    prompt_tokens=40,
    caption_tokens=24,
    vae=TOY_VAE,
)
GENERATION = replace(SEGMENTATION, segmentation_samples=0, generation_samples=3)
PASSES = {
    "segmentation": (SEGMENTATION, Pass(samples=2, frames=2, patches=96, text=40)),
    "generation": (GENERATION, Pass(samples=3, frames=1, patches=96, text=24)),
}


def counted_flop(model: GenMaskTransformer, batch: Pass) -> int:
    """Of a real forward and backward on pictures of 128 x 192."""
    model.set_attention_backend("_native_math")  # in products, which the counter knows on every device
    inputs = (
        torch.randn(batch.samples, 16, batch.frames, 16, 24),
        torch.rand(batch.samples, batch.frames) * 1000,
        torch.randn(batch.samples, batch.text, TOY_CONFIG["text_dim"]),
        torch.ones(batch.samples, batch.text, dtype=torch.bool),
    )
    with FlopCounterMode(display=False) as counter:
        model(*inputs).sample.square().mean().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", PASSES)
def test_flop_are_those_of_a_real_step(name: str) -> None:
    workload, batch = PASSES[name]
    model = GenMaskTransformer(**TOY_CONFIG).train()
    plain = counted_flop(model, batch)
    assert training_flop(model.config, batch) == plain

    model.enable_gradient_checkpointing()
    found = estimate(replace(workload, gradient_checkpointing=True, accumulation=3, processes=2))
    assert found.transformer_flop == 6 * plain
    assert found.recomputed_flop == 6 * (counted_flop(model, batch) - plain)


def test_flop_of_adapters_spare_the_gradients_of_frozen_weights() -> None:
    _, batch = PASSES["segmentation"]
    model = GenMaskTransformer(**TOY_CONFIG).train().requires_grad_(False)
    model.add_adapter(LoraConfig(r=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    adapters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    measured = counted_flop(model, batch)
    assert training_flop(model.config, batch, adapters) == pytest.approx(measured, rel=0.05)
    assert measured < 0.8 * training_flop(model.config, batch)


@pytest.mark.parametrize("compute_bytes", [2, 4])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", PASSES)
def test_activations_are_those_of_a_real_step(name: str, checkpointing: bool, compute_bytes: int) -> None:
    workload = replace(
        PASSES[name][0], size=(256, 256), gradient_checkpointing=checkpointing, compute_bytes=compute_bytes
    )
    memory, measured = estimate(workload).memory, measure(workload)
    estimated = memory.activations + memory.compute_weights
    if not checkpointing:
        assert estimated == pytest.approx(measured.kept, rel=0.02)
    assert estimated == pytest.approx(measured.peak, rel=0.05)


def test_without_a_norm_before_cross_attention_a_block_keeps_less() -> None:
    config = {**TOY_CONFIG, "cross_attn_norm": False}
    workload = replace(SEGMENTATION, transformer=config)
    memory = estimate(workload).memory
    assert memory.activations + memory.compute_weights == pytest.approx(measure(workload).kept, rel=0.05)
    assert memory.activations < estimate(SEGMENTATION).memory.activations


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_the_vae_at_work_is_a_real_one(blocks: int) -> None:
    vae = {**TOY_VAE, "num_res_blocks": blocks}
    codec = LatentCodec(AutoencoderKLWan(**vae).requires_grad_(False))
    found = estimate(replace(SEGMENTATION, vae=vae))
    pixels = torch.randn(4, 3, 128, 192)  # two pictures and two masks
    with (
        sdpa_kernel(SDPBackend.MATH),  # in products, which the counter knows on every device
        FlopCounterMode(display=False) as counter,
        LiveBytes() as live,
        torch.no_grad(),
    ):
        codec.encode(pixels)
    assert found.vae_flop == counter.get_total_flops()
    assert found.memory.encoding == pytest.approx(live.peak, rel=0.05)


def test_supervision_in_pixels_keeps_the_decoder() -> None:
    vae = AutoencoderKLWan(**TOY_VAE).requires_grad_(False)
    own = {id_of(parameter) for parameter in vae.parameters()}
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if id_of(x) not in own:
            kept[id_of(x)] = x.untyped_storage().nbytes()
        return x

    latents = torch.randn(2, 16, 16, 24, requires_grad=True)
    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
    ):
        LatentCodec(vae).decode(latents, clamp=False)
    plain, supervised = estimate(SEGMENTATION), estimate(replace(SEGMENTATION, pixel_supervision=True))
    difference = supervised.memory.activations - plain.memory.activations
    assert difference == pytest.approx(sum(kept.values()), rel=0.15)
    assert supervised.vae_flop > 2 * plain.vae_flop


def test_a_cache_stands_in_for_the_frozen_parts() -> None:
    frozen = replace(SEGMENTATION, vlm_parameters=10**9, vlm_bytes=0.5)
    found, cached = estimate(frozen), estimate(replace(frozen, cached=True))
    assert found.vlm_flop == 2 * 10**9 * 2 * 40
    assert (cached.vae_flop, cached.vlm_flop, cached.memory.frozen, cached.memory.encoding) == (0, 0, 0, 0)
    assert cached.transformer_flop == found.transformer_flop
    assert found.memory.frozen > 5 * 10**8
    # While the VAE works there are no gradients and activations; and if the two wait on the CPU meanwhile, the reverse.
    for workload, meanwhile in ((frozen, found.memory.frozen), (replace(frozen, offloaded=True), 0)):
        memory = estimate(workload).memory
        training = memory.compute_weights + memory.gradients + memory.activations
        fullest = max(memory.frozen + memory.encoding, meanwhile + training)
        assert memory.total == memory.weights + memory.optimizer + fullest


def test_processes_share_what_is_sharded_and_copy_what_is_not() -> None:
    one, eight = (
        estimate(replace(SEGMENTATION, ema=True, processes=n, sharded=n > 1)).memory for n in (1, 8)
    )
    copied = estimate(replace(SEGMENTATION, ema=True, processes=8)).memory
    parameters = estimate(SEGMENTATION).parameters
    assert (one.weights, one.gradients, one.optimizer, one.ema) == tuple(n * parameters for n in (4, 4, 8, 4))
    assert (eight.optimizer, eight.ema) == (parameters, parameters // 2)
    assert parameters // 2 < eight.weights < one.weights
    assert eight.activations == copied.activations == one.activations
    assert (copied.weights, copied.gradients) == (one.weights, 2 * one.gradients)  # DDP's buckets


def paper(**changes: object) -> Estimate:
    workload = Workload(
        transformer=PAPER_CONFIG,
        size=(512, 512),
        segmentation_samples=8,
        generation_samples=8,
        prompt_tokens=segmentation_prompt_tokens(512, 512),
        caption_tokens=100,
        accumulation=8,
        processes=8,
        vae=TOY_VAE,
    )
    return estimate(replace(workload, **changes))


def test_the_paper_in_numbers() -> None:
    found = paper(gradient_checkpointing=True)
    assert found.parameters == found.trainable == 1_418_210_368
    assert found.picture_tokens == 512 * (2 * 1024 + 1024)
    assert found.text_tokens == 512 * (334 + 40 + 100)
    # Six for each parameter and token, and attention.
    assert 1 < found.transformer_flop / (6 * found.parameters * found.picture_tokens) < 1.1
    assert found.transformer_flop / 3 == pytest.approx(found.recomputed_flop, rel=0.01)
    assert found.memory.activations < paper().memory.activations / 10
    without_picture = paper(segmentation_frames=1)
    assert without_picture.picture_tokens == 512 * 2 * 1024

    rows = dict(found.table())
    assert rows["parameters"] == "1.42 B"
    assert rows["picture and mask tokens per step"] == "1.57 M"
    assert rows["transformer, forward and backward, per step"] == "13.7 PFLOP"
    assert rows["  optimizer"] == "10.6 GiB"
    assert "  moving average" not in rows


def test_adapters_need_gradients_and_moments_of_their_own_alone() -> None:
    full, adapters = paper().memory, paper(trainable=10_000_000, optimizer_bytes=2).memory
    assert (adapters.gradients, adapters.optimizer) == (8 * 10**7, 2 * 10**7)
    assert adapters.weights == full.weights + 4 * 10**7
    assert paper(trainable=10_000_000).transformer_flop < 0.75 * paper().transformer_flop


def test_what_cannot_be_run_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16 x 16"):
        estimate(replace(SEGMENTATION, size=(128, 200)))
    with pytest.raises(ValueError, match="at least one"):
        replace(SEGMENTATION, segmentation_samples=0)
    with pytest.raises(ValueError, match="accumulation=0"):
        replace(SEGMENTATION, accumulation=0)


def test_the_ceiling_is_measured_at_once_and_not_below_a_product() -> None:
    start = time.process_time()
    ceiling = matmul_ceiling("cpu", torch.float32)
    assert time.process_time() - start < 2
    a = torch.randn(256, 256)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    assert ceiling > 2 * 256**3 / max(seconds) / 20
