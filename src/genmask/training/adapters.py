"""Low-rank adapters (LoRA) on the transformer: what is trained is small, and is merged into the weights in the end."""

from __future__ import annotations

import torch
from accelerate import init_empty_weights
from torch import Tensor

from genmask.denoiser import GenMaskTransformer

ADAPTED = r"blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0)|ffn\.net\.(0\.proj|2))"
"""The linear layers of a block. What makes the modulation out of the time is not among them: it stays float32."""


def add_lora(transformer: GenMaskTransformer, rank: int) -> None:
    """Freeze the weights, in place, and train adapters of this rank beside those of every block.

    The text embedder is trained in whole: beside a new language model its first layer starts untrained, and a low-rank
    change of random weights would stay one. Its parameters are simply left trainable, under their own names; PEFT's
    `modules_to_save` would keep an untrained copy of them as well.

    What is trained is float32, and equal in every process. The frozen weights keep their dtype: cast them first to have
    them in bfloat16. Such a transformer runs under autocast only; what `merge_lora` makes of it runs anywhere.

    Raises:
        ValueError: peft is missing, or the rank is not positive.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ValueError("Got adapters without peft, expected it: pip install 'genmask[train]'.") from error
    transformer.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=ADAPTED))
    transformer.condition_embedder.text_embedder.requires_grad_(True)
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


@torch.no_grad()
def merge_lora(transformer: GenMaskTransformer) -> GenMaskTransformer:
    """The same function without adapters, with Wan's own keys, in memory of its own.

    In float32, whatever the frozen weights are in: a bfloat16 weight would round most of what was learned away.
    """
    from peft.tuners.lora import LoraLayer

    weights: dict[str, Tensor] = {
        name.replace(".base_layer.", "."): x.to(torch.float32, copy=True)
        for name, x in transformer.state_dict().items()
        if ".lora_" not in name
    }
    for name, module in transformer.named_modules():
        if isinstance(module, LoraLayer):
            (adapter,) = module.active_adapters
            weights[f"{name}.weight"] += module.get_delta_weight(adapter)
    with init_empty_weights():
        merged = GenMaskTransformer.from_config(transformer.config)
    merged.load_state_dict(weights, assign=True)
    return merged.to(transformer.device)
