"""The denoiser against diffusers' own Wan transformer, and the laws of its mask, precision and blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from diffusers.models.attention_dispatch import attention_backend
from peft import LoraConfig
from torch import Tensor

from genmask.denoiser import PAPER_CONFIG, GenMaskBlock, GenMaskTransformer, attend_by_products
from tests.toy import toy_transformer

FLOAT32_PARTS = {"time_embedder", "time_proj", "scale_shift_table", "norm2", "norm_q", "norm_k"}


def toy_inputs(batch: int = 2, frames: int = 2, tokens: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Latents of 4 x 3 patches, a timestep for every frame, and a text."""
    generator = torch.Generator().manual_seed(batch + frames)
    hidden_states = torch.randn(batch, 16, frames, 8, 6, generator=generator)
    timestep = torch.rand(batch, frames, generator=generator) * 1000
    return hidden_states, timestep, torch.randn(batch, tokens, 32, generator=generator)


def gradients(model: GenMaskTransformer, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    model.zero_grad()
    model(*inputs).sample.float().square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.fixture(scope="module")
def wan() -> WanTransformer3DModel:
    model = WanTransformer3DModel.from_config(toy_transformer().config).eval()
    for block in model.blocks:  # at their initial ones and zeros some of these could be swapped unnoticed
        for parameter in (
            block.norm2.weight,
            block.norm2.bias,
            block.attn1.norm_q.weight,
            block.attn2.norm_k.weight,
        ):
            torch.nn.init.normal_(parameter, 0.5)
    return model


@pytest.fixture(scope="module")
def transformer(wan: WanTransformer3DModel) -> GenMaskTransformer:
    model = toy_transformer()
    model.load_state_dict(wan.state_dict(), strict=True)
    return model


# Wan's function and Wan's parameters


@pytest.mark.parametrize("frames", [1, 2])
@torch.no_grad()
def test_time_per_frame_equals_time_per_token(wan: Any, transformer: Any, frames: int) -> None:
    hidden_states, timestep, text = toy_inputs(frames=frames)
    expected = wan(hidden_states, timestep.repeat_interleave(4 * 3, dim=1), text).sample
    torch.testing.assert_close(transformer(hidden_states, timestep, text).sample, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_one_timestep_for_all_frames_is_wans_own_call(wan: Any, transformer: Any) -> None:
    hidden_states, timestep, text = toy_inputs()
    expected = wan(hidden_states, timestep[:, 0], text).sample
    (sample,) = transformer(hidden_states, timestep[:, 0], text, return_dict=False)
    torch.testing.assert_close(sample, expected, rtol=0, atol=1e-5)


def test_a_wan_folder_loads_strictly_and_to_the_bit(wan: Any, tmp_path: Path) -> None:
    wan.save_pretrained(tmp_path)
    loaded, info = GenMaskTransformer.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert loaded.config.num_layers == 2
    assert list(loaded.state_dict()) == list(wan.state_dict())
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in wan.state_dict().items())


def test_the_paper_size_has_its_number_of_parameters() -> None:
    with torch.device("meta"):
        model = GenMaskTransformer(**PAPER_CONFIG)
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_418_210_368


def test_blocks_are_of_the_class_that_sharding_and_compilation_look_for() -> None:
    names = {type(block).__name__ for block in toy_transformer().blocks}
    assert names == {GenMaskBlock.__name__} == set(GenMaskTransformer._no_split_modules)
    assert names == set(GenMaskTransformer._repeated_blocks)


# The text mask


@pytest.mark.parametrize("mode", ["float32", "bfloat16"])
@torch.no_grad()
def test_neither_padding_nor_batch_changes_a_sample(mode: str) -> None:
    model = toy_transformer().to(getattr(torch, mode))
    hidden_states, timestep, text = toy_inputs(batch=3, tokens=7)
    lengths = [3, 7, 1]
    mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    text[~mask] = 1e4  # what stands in the padding must not matter
    together = model(hidden_states, timestep, text, mask).sample
    for i, length in enumerate(lengths):
        alone = model(hidden_states[i : i + 1], timestep[i : i + 1], text[i : i + 1, :length]).sample
        torch.testing.assert_close(
            together[i : i + 1], alone, rtol=0, atol=1e-5 if mode == "float32" else 0.02
        )


@torch.no_grad()
def test_a_backend_takes_the_mask_or_is_refused_by_name(transformer: Any) -> None:
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    expected = transformer(*toy_inputs(), mask).sample
    with attention_backend("_native_math"):
        torch.testing.assert_close(transformer(*toy_inputs(), mask).sample, expected, rtol=0, atol=1e-5)
    with (
        attention_backend("_native_flash"),
        pytest.raises(ValueError, match=r"'_native_flash'.*expected one of native"),
    ):
        transformer(*toy_inputs(), mask)


def test_attention_by_products_is_scaled_dot_product_attention() -> None:
    query, key, value = torch.randn(2, 6, 3, 8), torch.randn(2, 4, 3, 8), torch.randn(2, 4, 3, 8)
    mask = torch.tensor([[True, False, True, True], [True, False, False, False]])[:, None, None]
    heads_first = [x.transpose(1, 2) for x in (query, key, value)]
    expected = F.scaled_dot_product_attention(*heads_first, attn_mask=mask).transpose(1, 2)
    torch.testing.assert_close(attend_by_products(query, key, value, mask), expected)


# Precision


def record(model: GenMaskTransformer) -> dict[str, list[Tensor]]:
    """Fills, at the next call, with the tensors that enter and leave every part that must run in float32."""
    seen: dict[str, list[Tensor]] = {}

    def hook(name: str) -> Any:
        def keep(module: Any, args: Any, output: Any) -> None:
            tensors = [*args, *(output if isinstance(output, tuple) else (output,))]
            seen[name] = [x.detach().clone() for x in tensors if isinstance(x, Tensor)]

        return keep

    embedder, block = model.condition_embedder, model.blocks[1]
    embedder.register_forward_hook(
        lambda module, args, output: seen.update(modulation=[output[0], output[1]])
    )
    block.register_forward_pre_hook(lambda module, args: seen.update(block=[args[2], *args[3]]))
    model.rope.register_forward_hook(lambda module, args, output: seen.update(rope=list(output)))
    parts = {
        "timesteps_proj": embedder.timesteps_proj, "time_embedder": embedder.time_embedder,
        "time_embedder.linear_2": embedder.time_embedder.linear_2, "time_proj": embedder.time_proj,
        "norm1": block.norm1, "norm2": block.norm2, "norm3": block.norm3, "norm_out": model.norm_out,
        "norm_q": block.attn1.norm_q, "norm_k": block.attn2.norm_k,
    }  # fmt: skip
    for name, part in parts.items():
        part.register_forward_hook(hook(name))
    return seen


@pytest.mark.parametrize("mode", ["autocast", "to", "bfloat16", "half"])
@torch.no_grad()
def test_time_norms_and_rope_run_in_float32(mode: str) -> None:
    hidden_states, _, text = toy_inputs()
    timestep = torch.tensor([[0.0, 999.4], [0.0, 3.3]])
    reference, model = toy_transformer(), toy_transformer()
    expected, seen = record(reference), record(model)
    reference(hidden_states, timestep, text)
    if mode == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            sample = model(hidden_states, timestep, text).sample
    else:
        model = model.to(torch.bfloat16) if mode == "to" else getattr(model, mode)()
        assert model.dtype == (torch.float16 if mode == "half" else torch.bfloat16)
        sample = model(hidden_states, timestep, text).sample
    assert sample.dtype == hidden_states.dtype
    assert seen.keys() == expected.keys()
    lower = [name for name, tensors in seen.items() if any(x.dtype != torch.float32 for x in tensors)]
    assert lower == []
    assert seen["timesteps_proj"][0].tolist() == timestep.flatten().tolist()  # 999.4, not bf16's 1000
    for name in ("timesteps_proj", "time_embedder", "time_proj", "modulation", "block", "rope"):
        assert all(torch.equal(x, y) for x, y in zip(seen[name], expected[name], strict=True)), name


@pytest.mark.parametrize("cast", [lambda m: m.to(torch.bfloat16), lambda m: m.to("cpu", torch.float16)])
def test_a_cast_rounds_all_but_what_stays_float32(cast: Any) -> None:
    model, original = toy_transformer(), toy_transformer().state_dict()
    gradients(model, toy_inputs())
    cast(model)
    for name, parameter in model.named_parameters():
        kept = not FLOAT32_PARTS.isdisjoint(name.split("."))
        assert (parameter.dtype == torch.float32) == kept, name
        assert parameter.grad.dtype == parameter.dtype
        assert torch.equal(parameter, original[name]) or not kept
    assert torch.equal(model.rope.freqs_cos, toy_transformer().rope.freqs_cos)
    assert {parameter.device.type for parameter in model.to("meta").parameters()} == {"meta"}


def test_loading_in_bfloat16_keeps_the_same_in_float32(tmp_path: Path) -> None:
    original = toy_transformer()
    original.save_pretrained(tmp_path)
    loaded = GenMaskTransformer.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    for (name, value), cast in zip(
        loaded.state_dict().items(), original.bfloat16().state_dict().values(), strict=True
    ):
        assert value.dtype == cast.dtype, name
        assert torch.equal(value, cast), name


def test_gradients_in_bfloat16_at_full_width_are_close_to_float32() -> None:
    """Conv3d, in place of the matrix product, gives NaN here."""
    torch.manual_seed(0)
    config = {**PAPER_CONFIG, "num_layers": 1, "text_dim": 32, "ffn_dim": 64, "rope_max_seq_len": 32}
    model, inputs = GenMaskTransformer(**config), toy_inputs()
    exact = gradients(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = gradients(model, inputs)
    for name in exact:
        assert rounded[name].isfinite().all(), name
    error = sum((rounded[name] - exact[name]).square().sum() for name in exact).sqrt()
    assert error <= 0.01 * sum(gradient.square().sum() for gradient in exact.values()).sqrt()
    name = "patch_embedding.weight"
    assert (rounded[name] - exact[name]).norm() <= 0.02 * exact[name].norm()


# Diffusers' machinery


def test_gradient_checkpointing_changes_no_gradient(transformer: Any) -> None:
    expected = gradients(transformer, toy_inputs())
    transformer.enable_gradient_checkpointing()
    runs = []
    handle = transformer.blocks[0].register_forward_pre_hook(lambda *_: runs.append(1))
    actual = gradients(transformer.train(), toy_inputs())
    handle.remove()
    transformer.eval().disable_gradient_checkpointing()
    assert len(runs) == 2  # forward, and again in the backward
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@torch.no_grad()
def test_attention_kwargs_scale_a_lora() -> None:
    model, inputs = toy_transformer(), toy_inputs()
    plain = model(*inputs).sample
    torch.manual_seed(1)
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v", "ffn.net.2"], init_lora_weights=False))
    adapted = model(*inputs).sample
    assert (adapted - plain).abs().max() > 1e-2
    torch.testing.assert_close(model(*inputs, attention_kwargs={"scale": 0.0}).sample, plain)
    half = model(*inputs, attention_kwargs={"scale": 0.5}).sample
    assert 1e-3 < (half - plain).abs().max() < (adapted - plain).abs().max()
    torch.testing.assert_close(model(*inputs).sample, adapted)  # a scale lasts for one call


@pytest.mark.slow
def test_compiled_blocks_compute_the_same() -> None:
    model, mask = toy_transformer(), torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    expected = gradients(model, (*toy_inputs(), mask))
    model.compile_repeated_blocks(fullgraph=True)
    actual = gradients(model, (*toy_inputs(), mask))
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-5)


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_states": torch.zeros(2, 4, 2, 8, 6)}, "Got 4 latent channels, expected 16"),
        ({"hidden_states": torch.zeros(2, 16, 2, 7, 6)}, "Got latents of 7 x 6, expected multiples of 2 x 2"),
        ({"hidden_states": torch.zeros(2, 16, 2, 8, 80)}, "4 x 40 patches, expected at most 32"),
        ({"timestep": torch.zeros(2, 2, dtype=torch.bfloat16)}, "bfloat16 timestep, expected float32"),
        ({"timestep": torch.zeros(2, 24)}, r"Got timestep \(2, 24\), expected \(2, 2\)"),
        ({"encoder_hidden_states": torch.zeros(2, 5, 8)}, r"\(2, 5, 8\), expected \(2, N, 32\)"),
        ({"encoder_attention_mask": torch.ones(2, 5)}, r"float32, expected \(2, 5\) torch.bool"),
        (
            {"encoder_attention_mask": torch.ones(2, 4, dtype=torch.bool)},
            r"Got encoder_attention_mask \(2, 4\)",
        ),
    ],
)
def test_wrong_inputs_are_refused(transformer: Any, change: dict[str, Tensor], message: str) -> None:
    inputs = dict(zip(("hidden_states", "timestep", "encoder_hidden_states"), toy_inputs(), strict=True))
    with pytest.raises(ValueError, match=message):
        transformer(**{**inputs, **change})


@pytest.mark.parametrize(
    ("config", "message"),
    [({"image_dim": 8}, "image_dim=8.*text-to-video"), ({"patch_size": (2, 2, 2)}, r"expected \(1, h, w\)")],
)
def test_wrong_configurations_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy_transformer(**config)
