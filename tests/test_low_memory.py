"""What makes training fit on a small GPU: adapters, an 8-bit optimizer, an int8 VLM; each against what it replaces."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from genmask import GenMaskPipeline
from genmask.conditioning import InstructionEncoder
from genmask.data.scenes import Scenes
from genmask.denoiser import GenMaskTransformer
from genmask.loading import load_model
from genmask.quantise import quantise
from genmask.training.adapters import add_lora, merge_lora
from genmask.training.offload import lent
from genmask.training.optimizer import build_optimizers, joined_tensors, plain_tensors
from tests.toy import toy_processor, toy_transformer, toy_vlm

TRAINED = "condition_embedder.text_embedder."
PROJECTIONS = [f"attn{n}.{layer}" for n in (1, 2) for layer in ("to_q", "to_k", "to_v", "to_out.0")]


def toy_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Latents of two frames, their times, a text."""
    generator = torch.Generator().manual_seed(0)
    timestep = torch.tensor([[0.0, 999.4], [0.0, 3.3]])
    return (
        torch.randn(2, 16, 2, 8, 6, generator=generator),
        timestep,
        torch.randn(2, 5, 32, generator=generator),
    )


def adapted(dtype: torch.dtype = torch.float32, size: float = 0.1) -> GenMaskTransformer:
    """A toy transformer with adapters of rank 4 that have learned something."""
    model = toy_transformer().to(dtype)
    add_lora(model, 4)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return model


def bf16() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


# Adapters


@torch.no_grad()
def test_adapters_begin_as_no_change_beside_every_projection() -> None:
    model, before = toy_transformer(), torch.random.get_rng_state()
    plain = model(*toy_inputs()).sample
    add_lora(model, 4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(model(*toy_inputs()).sample, plain)
    layers = {
        f"blocks.{n}.{layer}" for n in range(2) for layer in [*PROJECTIONS, "ffn.net.0.proj", "ffn.net.2"]
    }
    expected = {f"{layer}.lora_{side}.default.weight" for layer in layers for side in "AB"}
    expected |= {f"{TRAINED}linear_{n}.{part}" for n in (1, 2) for part in ("weight", "bias")}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == expected

    other = toy_transformer()
    torch.rand(7)  # another process may have drawn something
    add_lora(other, 4)
    assert all(torch.equal(x, other.state_dict()[name]) for name, x in model.state_dict().items())


def test_only_what_is_trained_is_float32_over_bfloat16_weights_and_only_it_has_gradients() -> None:
    model, kept = adapted(torch.bfloat16), set(GenMaskTransformer._keep_in_fp32_modules)
    with bf16():
        model.train()(*toy_inputs()).sample.square().mean().backward()
    for name, parameter in model.named_parameters():
        is_float32 = parameter.requires_grad or not kept.isdisjoint(name.split("."))
        assert parameter.dtype == (torch.float32 if is_float32 else torch.bfloat16), name
        assert (parameter.grad is not None and bool(parameter.grad.any())) == parameter.requires_grad, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_time_and_modulation_are_float32_beside_adapters(dtype: torch.dtype) -> None:
    def seen(model: GenMaskTransformer) -> list[Tensor]:
        found: list[Tensor] = []
        embedder = model.condition_embedder
        hooks = [
            embedder.timesteps_proj.register_forward_hook(
                lambda _, args, output: found.extend([*args, output])
            ),
            embedder.time_proj.register_forward_hook(lambda _, args, output: found.extend([*args, output])),
            model.blocks[1].register_forward_pre_hook(lambda _, args: found.append(args[2])),
        ]
        with bf16():
            model.train()(*toy_inputs())
        for hook in hooks:
            hook.remove()
        return found

    inside, expected = seen(adapted(dtype)), seen(toy_transformer())
    assert {x.dtype for x in inside} == {torch.float32}
    assert inside[0].tolist() == toy_inputs()[1].flatten().tolist()  # 999.4, not bfloat16's 1000
    assert all(torch.equal(x, y) for x, y in zip(inside, expected, strict=True))


@torch.no_grad()
def test_merged_adapters_are_a_plain_transformer_of_the_same_function(tmp_path: Path) -> None:
    model, plain = adapted(), toy_transformer()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    expected = model(*toy_inputs()).sample
    merged = merge_lora(model)
    assert (expected - plain(*toy_inputs()).sample).abs().max() > 0.1
    torch.testing.assert_close(merged(*toy_inputs()).sample, expected, rtol=0, atol=1e-5)
    assert list(merged.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    merged.save_pretrained(tmp_path)
    loaded = load_model(GenMaskTransformer, tmp_path)  # strict
    assert all(torch.equal(x, merged.state_dict()[name]) for name, x in loaded.state_dict().items())


@torch.no_grad()
def test_merging_into_bfloat16_weights_loses_nothing() -> None:
    model = adapted(torch.bfloat16, size=0.01)
    with bf16():
        expected = model(*toy_inputs()).sample
        torch.testing.assert_close(merge_lora(model)(*toy_inputs()).sample, expected, rtol=0, atol=0.03)
    layer = model.blocks[0].attn1.to_q
    change = merge_lora(model).blocks[0].attn1.to_q.weight - layer.base_layer.weight.float()
    learned = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(change, learned, rtol=1e-3, atol=1e-6)


# The int8 VLM


def stored_bytes(module: nn.Module) -> int:
    """What the parameters take, each counted once, int8 ones with their scales."""
    tensors = []
    for parameter in module.parameters():
        is_whole = not hasattr(parameter, "__tensor_flatten__")
        tensors += (
            [parameter] if is_whole else [getattr(parameter, n) for n in parameter.__tensor_flatten__()[0]]
        )
    return sum(x.numel() * x.element_size() for x in tensors)


def test_linear_layers_become_int8_and_nothing_else(picture: Any) -> None:
    vlm, plain = toy_vlm().bfloat16(), toy_vlm().bfloat16()
    quantise(vlm)
    changed = {
        name
        for name, module in vlm.named_modules()
        if type(getattr(module, "weight", None)).__name__ == "Int8Tensor"
    }
    linear = {name for name, module in plain.named_modules() if isinstance(module, nn.Linear)}
    assert changed == linear - {"lm_head"}
    for name, parameter in plain.named_parameters():
        if name.removesuffix(".weight") not in changed:
            assert torch.equal(vlm.get_parameter(name), parameter), name
    texts = ["the red mug", "a star"]
    encode = [
        InstructionEncoder(x, toy_processor()).encode_segmentation([picture] * 2, texts) for x in (vlm, plain)
    ]
    states, expected = (condition.hidden_states.float() for condition in encode)
    assert 0 < (states - expected).norm() < 0.05 * expected.norm()


def test_the_bundled_model_answers_alike_with_an_int8_vlm_of_half_the_size() -> None:
    pipeline = GenMaskPipeline.from_pretrained("tiny")
    pipeline.set_progress_bar_config(disable=True)
    scenes = Scenes("val", size=128)
    examples = [scenes[index] for index in range(8)]
    images, texts = [e.image for e in examples], [e.text for e in examples]

    def answer() -> tuple[Tensor, Tensor]:
        encoder = InstructionEncoder(pipeline.vlm, pipeline.processor)
        masks = [torch.from_numpy(result.mask) for result in pipeline.segment(images, texts, batch_size=8)]
        return encoder.encode_segmentation(images, texts).hidden_states, torch.stack(masks)

    layers = [module for module in pipeline.vlm.model.modules() if isinstance(module, nn.Linear)]
    states, masks = answer()
    in_bf16 = sum(map(stored_bytes, layers)) / 2
    quantise(pipeline.vlm)
    rounded_states, rounded_masks = answer()
    assert sum(map(stored_bytes, layers)) < 0.52 * in_bf16
    assert (rounded_states - states).norm() < 0.005 * states.norm()
    assert (masks & rounded_masks).sum() > 0.95 * (masks | rounded_masks).sum()


# The 8-bit optimizer


def toy_problem() -> tuple[nn.Module, Callable[[], Tensor]]:
    """A network of which each matrix has 8-bit moments, and its loss."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64))
    x = torch.randn(256, 64)
    y = torch.tanh(x @ torch.randn(64, 64) / 8)
    return network, lambda: (network(x) - y).square().mean()


def optimizer_of(network: nn.Module, name: str = "adamw-8bit", rate: float = 3e-3) -> torch.optim.Optimizer:
    (optimizer,) = build_optimizers(network, name, learning_rate=rate, betas=(0.9, 0.95), weight_decay=0.01)
    return optimizer


def descend(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor], steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


def test_8_bit_moments_learn_as_well_as_float32_ones_in_a_quarter_of_the_memory() -> None:
    final, size = {}, {}
    for name in ("adamw", "adamw-8bit"):
        network, loss = toy_problem()
        optimizer = optimizer_of(network, name)
        start = loss().item()
        descend(optimizer, loss, 150)
        final[name] = loss().item()
        state = optimizer.state[network[0].weight]
        parts = plain_tensors("", state["exp_avg"]) | plain_tensors("_sq", state["exp_avg_sq"])
        size[name] = sum(x.nbytes for key, x in parts.items() if not key.endswith("qmap"))
    assert final["adamw"] < 0.05 * start
    assert final["adamw-8bit"] == pytest.approx(final["adamw"], rel=0.1)
    assert size["adamw-8bit"] < 0.26 * size["adamw"]


def test_the_rate_is_a_number_that_holds_from_the_next_step_and_only_matrices_decay() -> None:
    network, _ = toy_problem()
    optimizer = optimizer_of(network)
    for rate in (0.0, 0.5):
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        for group in optimizer.param_groups:
            group["lr"] = rate
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        assert [group["lr"] for group in optimizer.param_groups] == [rate, rate]
        for name, parameter in network.named_parameters():
            kept = 1 - rate * 0.01 * (parameter.ndim > 1)
            torch.testing.assert_close(parameter.detach(), kept * before[name])


def test_8_bit_moments_come_back_from_a_checkpoint_to_the_bit(tmp_path: Path) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=True)

    def state(
        network: nn.Module, optimizer: Any
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        weights, moments = get_state_dict(network, optimizer, options=options)
        tensors: dict[str, Tensor] = {}
        for name, x in moments.items():
            if isinstance(x, Tensor):
                tensors |= plain_tensors(name, x)
        return weights, tensors, {name: x for name, x in moments.items() if not isinstance(x, Tensor)}

    network, loss = toy_problem()
    optimizer = optimizer_of(network)
    descend(optimizer, loss, 3)
    weights, tensors, _ = state(network, optimizer)
    assert {type(x) for x in tensors.values()} == {Tensor}
    assert sum(x.dtype == torch.uint8 for x in tensors.values()) == 4  # two moments of two matrices
    dcp.save(
        {**weights, **tensors},
        storage_writer=dcp.HuggingFaceStorageWriter(str(tmp_path), save_distributed=True),
    )

    other, other_loss = toy_problem()
    other_optimizer = optimizer_of(other)
    descend(other_optimizer, other_loss, 1)  # something else, to be overwritten
    weights, tensors, rest = state(other, other_optimizer)
    loaded = {**weights, **tensors}
    dcp.load(loaded, storage_reader=dcp.HuggingFaceStorageReader(str(tmp_path)))
    set_state_dict(
        other,
        other_optimizer,
        model_state_dict={name: loaded[name] for name in weights},
        optim_state_dict={**rest, **joined_tensors({name: loaded[name] for name in tensors})},
        options=options,
    )
    for _ in range(2):
        assert all(map(torch.equal, network.parameters(), other.parameters()))
        for mine, theirs in zip(network.parameters(), other.parameters(), strict=True):
            for key, x in optimizer.state[mine].items():
                y = other_optimizer.state[theirs][key]
                assert type(x) is type(y)
                parts = zip(plain_tensors("", x).values(), plain_tensors("", y).values(), strict=True)
                assert all(torch.equal(a, b) for a, b in parts), key
        descend(optimizer, loss, 1)
        descend(other_optimizer, other_loss, 1)


# Without the packages


@pytest.mark.parametrize(
    ("package", "action"),
    [
        ("peft", lambda: add_lora(toy_transformer(), 4)),
        ("torchao.quantization", lambda: quantise(toy_vlm())),
        ("torchao.optim", lambda: optimizer_of(nn.Linear(2, 2))),
    ],
)
def test_a_missing_package_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, package: str, action: Callable[[], object]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ValueError, match=r"^Got .* without \w+, expected it: pip install 'genmask\[train\]'\.$"
    ):
        action()


def test_lent_weights_come_back_untouched_and_tied() -> None:
    """To the meta device, which every machine has: while lent, all of the module is there, and then none."""
    vlm = toy_vlm()
    before = dict(vlm.named_parameters(remove_duplicate=False))
    states = {name: x.clone() for name, x in before.items()}
    with lent(vlm, torch.device("meta")):
        assert {x.device.type for x in vlm.parameters()} == {"meta"}
        assert vlm.lm_head.weight is vlm.get_input_embeddings().weight
    after = dict(vlm.named_parameters(remove_duplicate=False))
    assert all(after[name] is x and torch.equal(x, states[name]) for name, x in before.items())
