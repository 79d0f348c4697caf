"""The model of the paper's size, assembled from the published folders of Wan-2.1-T2V and Qwen2.5-VL."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration

from genmask.denoiser import GenMaskTransformer
from genmask.loading import ModelFolderError, load_model, load_weights, read_json
from genmask.model_folder import load_processor, read_model_index
from genmask.pipeline import GenMaskPipeline

TEXT_LAYER = "condition_embedder.text_embedder.linear_1"
"""The layer that reads the text: as wide as the text encoder, so Wan's own does not fit another encoder."""
TEXT_LAYER_STD = 0.02
"""As Wan initialised it."""


def convert(
    wan: str | Path, qwen: str | Path, output: str | Path, resolution: int = 512, seed: int = 0
) -> Path:
    """Write a pipeline folder whose networks are Wan's and Qwen's; only the layer that reads the text is new.

    Before it is trained it finds nothing and draws nothing sensible.

    Args:
        wan: a diffusers folder of Wan-2.1 text-to-video (model_index.json, transformer/, vae/, scheduler/).
        qwen: a transformers folder of Qwen2.5-VL.
        output: a new or empty folder.
        resolution: the model processes pictures at `resolution ** 2` pixels.
        seed: of the new layer: weights ~ N(0, 0.02^2) in float32 from a CPU generator, biases zero.

    Returns:
        The output folder.

    Raises:
        ModelFolderError: a half-written folder, another model's, a missing or an unexpected key.
        ValueError: the output folder is not empty.
    """
    wan, qwen, output = Path(wan), Path(qwen), Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"Got output {output}, which is there already, expected a new folder: name another.")
    read_model_index(wan, "WanPipeline")

    vlm = load_model(Qwen2_5_VLForConditionalGeneration, qwen)
    vae = load_model(AutoencoderKLWan, wan / "vae")
    shift = read_json(wan / "scheduler" / "scheduler_config.json").get("flow_shift", 1.0)
    pipeline = GenMaskPipeline(
        transformer=_transformer(wan / "transformer", vlm.config.get_text_config().hidden_size, seed),
        vae=vae,
        vlm=vlm,
        processor=load_processor(qwen),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        resolution=resolution,
    )
    pipeline.save_pretrained(output)
    return output


def _transformer(folder: Path, text_dim: int, seed: int) -> GenMaskTransformer:
    """Wan's transformer with a new `TEXT_LAYER`; every other key is loaded, and no other is left over."""
    config = read_json(folder / "config.json")
    if config.get("_class_name") != "WanTransformer3DModel":
        raise ModelFolderError(
            f"Got {folder} of a {config.get('_class_name')}, expected a WanTransformer3DModel: "
            "give the diffusers version of the Wan folder."
        )
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    transformer = GenMaskTransformer.from_config({**config, "text_dim": text_dim})
    load_weights(transformer, folder, leave_out=[f"{TEXT_LAYER}.weight", f"{TEXT_LAYER}.bias"])
    layer = transformer.get_submodule(TEXT_LAYER)
    assert isinstance(layer, nn.Linear)
    nn.init.normal_(layer.weight, std=TEXT_LAYER_STD, generator=torch.Generator().manual_seed(seed))
    nn.init.zeros_(layer.bias)
    layer.to(transformer.get_submodule("condition_embedder.text_embedder.linear_2").weight.dtype)
    return transformer.eval()
