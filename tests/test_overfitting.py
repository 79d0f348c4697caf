"""A small transformer on the bundled VAE and VLM learns eight samples by heart, under each supervision."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from genmask.data.example import Example
from genmask.evaluation.metrics import IoUTotals
from genmask.pipeline import GenMaskPipeline
from genmask.timesteps import PowerLaw
from genmask.training.loop import LoopConfig, train
from genmask.training.mask_config import SUPERVISIONS, MaskConfig
from genmask.training.masks import MaskTask
from genmask.training.new_transformer import TransformerShape, build_transformer


class Eight:
    """Eight pictures of a coloured disc on grey, over and over; the VAE's own bound on their masks is above 0.97."""

    def __init__(self) -> None:
        rows, columns = np.mgrid[:64, :64]
        self.examples = []
        for number, (row, column) in enumerate(itertools.product((20, 28, 36, 44), (22, 42))):
            mask = (rows - row) ** 2 + (columns - column) ** 2 < 18**2
            image = np.full((64, 64, 3), 110, dtype=np.uint8)
            image[mask] = np.roll((220, 60, 30), number)
            name = ("red", "green", "blue")[number % 3]
            self.examples.append(Example(image=image, text=f"the {name} circle", mask=mask, id=str(number)))

    def segmentation(self, index: int, height: int, width: int) -> Example:
        return self.examples[index % 8]


def digest(module: nn.Module) -> str:
    return hashlib.sha256(
        b"".join(x.cpu().numpy().tobytes() for x in module.state_dict().values())
    ).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("supervision", SUPERVISIONS)
def test_eight_samples_are_learnt_by_heart(supervision: str, tmp_path: Path) -> None:
    bundled = GenMaskPipeline.from_pretrained("tiny")
    source = Eight()
    config = MaskConfig(
        resolution=64,
        sizes=((64, 64),),
        segmentation_sources=(("eight", 1.0),),
        segmentation_batch=8,
        generation_batch=0,
        segmentation_density=PowerLaw(0.0),
        supervision=supervision,
        vlm_precision="float32",
    )
    shape = TransformerShape(num_layers=4, num_attention_heads=2, attention_head_dim=64, ffn_dim=384)
    before = digest(bundled.vae), digest(bundled.vlm)
    task = MaskTask(
        config,
        build_transformer(shape, bundled.transformer.config.text_dim),
        segmentation_sources={"eight": source},
        generation_sources={},
        validation={},
        vae=bundled.vae,
        vlm=bundled.vlm,
        processor=bundled.processor,
    )
    loop = LoopConfig(
        steps=400, learning_rate=2e-3, final_learning_rate=1e-4, warmup_steps=20, num_workers=0,
        checkpoint_every=400, evaluate_every=0, log_every=50,
    )  # fmt: skip
    train(task, loop, tmp_path)
    pipeline = GenMaskPipeline.from_pretrained(tmp_path / "model")
    totals = IoUTotals()
    for example in source.examples:
        assert example.mask is not None
        answer = pipeline.segment(
            example.image, example.text, decoder="linear" if supervision == "bce-linear" else "vae"
        )
        totals.add(answer.mask, example.mask)
    assert totals.overall_iou() >= 0.95
    assert (digest(bundled.vae.float()), digest(bundled.vlm.float())) == before
