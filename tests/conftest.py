"""A toy pipeline, in memory and as a folder, shared by all tests of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from hypothesis import HealthCheck, settings
from PIL import Image

from genmask.pipeline import GenMaskPipeline
from genmask.presence_head import PresenceHead
from tests.toy import toy_processor, toy_transformer, toy_vae, toy_vlm

# The same examples on every run, and a busy machine is no failure.
settings.register_profile(
    "genmask", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("genmask")


def toy_pipeline(**components: object) -> GenMaskPipeline:
    """Real classes with seeded random weights; pictures are processed at 64 x 64 pixels."""
    parts: dict = {
        "transformer": toy_transformer(),
        "vae": toy_vae(),
        "vlm": toy_vlm(),
        "processor": toy_processor(),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "resolution": 64,
    }
    pipeline = GenMaskPipeline(**{**parts, **components})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def toy_presence_head(bias: float = 0.0) -> PresenceHead:
    """For the toy transformer, with seeded random weights."""
    torch.manual_seed(0)
    config = toy_transformer().config
    head = PresenceHead(2 * config.num_attention_heads * config.attention_head_dim).eval()
    with torch.no_grad():
        head.linear.bias.fill_(bias)
    return head


@pytest.fixture(scope="session")
def pipeline() -> GenMaskPipeline:
    """Not to be changed by a test: make one with `toy_pipeline()` for that."""
    return toy_pipeline()


@pytest.fixture(scope="session")
def toy_pipeline_folder(pipeline: GenMaskPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy pipeline as `save_pretrained` writes it. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("toy") / "pipeline"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def published_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Wan folder as diffusers writes it and a Qwen folder as transformers does, both in shards."""
    root = tmp_path_factory.mktemp("published")
    wan, qwen = root / "wan", root / "qwen"
    torch.manual_seed(1)
    config = {key: value for key, value in toy_transformer().config.items() if not key.startswith("_")}
    WanPipeline(
        transformer=WanTransformer3DModel.from_config({**config, "text_dim": 48}),
        vae=toy_vae(),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        text_encoder=None,
        tokenizer=None,
    ).save_pretrained(wan, max_shard_size="40KB")
    toy_vlm().save_pretrained(qwen, max_shard_size="100KB")
    toy_processor().save_pretrained(qwen)
    assert len(list((wan / "transformer").glob("*.safetensors"))) > 1
    assert len(list(qwen.glob("*.safetensors"))) > 1
    return wan, qwen


def random_picture(seed: int = 0, width: int = 80, height: int = 60) -> Image.Image:
    """Noise of low frequency, so that resizing leaves something to see."""
    levels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def picture() -> Image.Image:
    return random_picture()
