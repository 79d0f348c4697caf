"""A frozen vision-language model with int8 weights: half the memory of bfloat16."""

from __future__ import annotations

from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration


def quantise(vlm: Qwen2_5_VLForConditionalGeneration) -> None:
    """Round the linear layers of language model and vision tower to int8, in place, with a scale for each output.

    Embedding and head, convolution, norms and biases stay as they are, and products are computed in the dtype of the
    activations. The result moves between devices, but can be neither trained nor saved.

    Raises:
        ValueError: torchao is missing.
    """
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise ValueError(
            "Got int8 weights without torchao, expected it: pip install 'genmask[train]'."
        ) from error
    # torchao would otherwise set the inductor's options and the precision of float32 products, for the whole process.
    config = Int8WeightOnlyConfig(set_inductor_config=False)
    quantize_(vlm.model, config, filter_fn=lambda module, name: isinstance(module, nn.Linear))


def is_quantised(module: nn.Module) -> bool:
    """Whether some of its weights are those of `quantise`."""
    return any(type(x.data).__module__.startswith("torchao.") for x in module.parameters())
