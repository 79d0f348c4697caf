"""Every training run is a named function that returns its complete, frozen configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from genmask.images import processing_size
from genmask.timesteps import PowerLaw
from genmask.training.autoencoder import AutoencoderConfig
from genmask.training.language import (
    DescriberConfig,
    LanguageConfig,
)
from genmask.training.loop import LoopConfig
from genmask.training.mask_config import MaskConfig
from genmask.training.new_transformer import TransformerShape
from genmask.training.pretraining import PretrainingConfig

RESOLUTION = 128
"""Pictures of the bundled model have about this side, squared, in pixels, and so do held-out scores."""
FINE_RESOLUTION = 192
"""The same of its last training."""
PAPER_SIZES = ((448, 592), (592, 448), (448, 592), (512, 512), (448, 592), (416, 624))
"""Of the paper's, about 512 x 512: most of COCO's pictures are 4 : 3 and lie."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run: what is trained, and how long."""

    summary: str
    """One line: what comes out, and what it needs."""
    expected: str
    """One line: the score to expect, and the cost."""
    model: AutoencoderConfig | LanguageConfig | DescriberConfig | PretrainingConfig | MaskConfig
    loop: LoopConfig
    start: str | None = None
    """A finished model to go on from, where the user names none."""
    inherits: tuple[str, ...] = ()
    """Fields of `model` that are the starting model's, but for those that the user changes."""
    benchmarks: tuple[str, ...] = ()
    """Held-out samples, by the names of `evaluation.benchmarks`; "folder" is the held-out part of the user's own."""
    validation_samples: int = 160
    """Held-out samples of each, evenly spread, that an evaluation scores."""


def sizes_at(resolution: int) -> tuple[tuple[int, int], ...]:
    """(height, width) of the pictures of a step, in turn: square, lying, square, standing, as photographs are."""
    shapes = ((1, 1), (3, 4), (1, 1), (4, 3))
    unit = 4 * resolution  # large enough to tell the shapes apart
    return tuple(processing_size(unit * height, unit * width, resolution**2) for height, width in shapes)


def tiny_vae() -> Recipe:
    """The bundled model's VAE."""
    return Recipe(
        summary="the bundled VAE, from scratch",
        expected="mask round trip at oIoU 0.97 or better; 20 minutes on 2 cores",
        model=AutoencoderConfig(),
        loop=LoopConfig(
            steps=3400,
            learning_rate=2e-3,
            final_learning_rate=5e-5,
            warmup_steps=100,
            weight_decay=0.0,
            ema_decay=0.995,
            checkpoint_every=250,
            evaluate_every=500,
        ),
        validation_samples=80,
    )


def tiny_vae_decoder() -> Recipe:
    """The bundled model's VAE: its decoder alone, after all else is trained."""
    return Recipe(
        summary="the decoder of a model's VAE, trained further for truer colours; its latents stay as they are",
        expected="mask round trip at oIoU 0.97 or better; 15 minutes on 2 cores",
        model=AutoencoderConfig(decoder_only=True, colour_weight=2.0),
        loop=LoopConfig(
            steps=1500,
            learning_rate=1e-3,
            final_learning_rate=3e-5,
            warmup_steps=50,
            weight_decay=0.0,
            ema_decay=0.99,
            checkpoint_every=250,
            evaluate_every=500,
        ),
        start="tiny",
        validation_samples=80,
    )


def tiny_vlm() -> Recipe:
    """The bundled model's vision-language model."""
    return Recipe(
        summary="the bundled vision-language model and tokenizer, from scratch",
        expected="recall 1.00 (benchmarks/condition_probe.py); 5 minutes on 2 cores",
        model=LanguageConfig(),
        loop=LoopConfig(
            steps=420,
            learning_rate=1.5e-3,
            final_learning_rate=1e-4,
            warmup_steps=100,
            checkpoint_every=200,
            evaluate_every=400,
        ),
        validation_samples=32,
    )


def tiny_describer() -> Recipe:
    """The bundled model's describer: its vision-language model, which stays as it is, in a copy that can answer."""
    return Recipe(
        summary="the bundled describer (reasoning's first stage), from a model's vision-language model (--start)",
        expected="three held-out questions in four answered to the letter; 20 minutes on 2 cores",
        model=DescriberConfig(),
        loop=LoopConfig(
            steps=1000,
            learning_rate=1e-3,
            final_learning_rate=5e-5,
            warmup_steps=30,
            checkpoint_every=100,
            evaluate_every=200,
        ),
        start="tiny",
        validation_samples=64,
    )


def tiny_recognition() -> Recipe:
    """The bundled transformer, before it learns to draw masks."""
    return Recipe(
        summary="the bundled transformer, taught to tell what each patch of a picture shows, on tiny-vae and tiny-vlm",
        expected="recognition 1.1 nats per patch; 15 minutes on 2 cores",
        model=PretrainingConfig(
            shape=TransformerShape(),
            sizes=sizes_at(RESOLUTION),
            sources=(("scenes", 0.7), ("photographs", 0.3)),
        ),
        loop=LoopConfig(
            steps=1500,
            learning_rate=2e-3,
            final_learning_rate=2e-4,
            warmup_steps=60,
            optimizer="muon",
            checkpoint_every=200,
            evaluate_every=500,
        ),
    )


def tiny() -> Recipe:
    """The bundled model: its transformer, on the parts above."""
    shares = (("scenes", 0.5), ("photographs", 0.5))
    return Recipe(
        summary="the bundled transformer, on tiny-vae, tiny-vlm and tiny-recognition",
        expected="see src/genmask/models/tiny/README.md; 90 minutes on 2 cores",
        model=MaskConfig(
            shape=TransformerShape(),
            resolution=RESOLUTION,
            sizes=sizes_at(RESOLUTION),
            segmentation_sources=shares,
            generation_sources=shares,
            segmentation_batch=26,
            generation_batch=6,
            segmentation_density=PowerLaw(0.0),
            recognition_weight=0.3,
            vlm_precision="float32",
            compile=True,
        ),
        loop=LoopConfig(
            steps=5500,
            learning_rate=1.2e-3,
            final_learning_rate=3e-5,
            warmup_steps=100,
            optimizer="muon",
            ema_decay=0.998,
            checkpoint_every=250,
            evaluate_every=1000,
        ),
        benchmarks=("scenes/val", "photos/val"),
    )


def tiny_fine() -> Recipe:
    """The bundled model's last training: finer pictures for the VAE, while the VLM sees them as it has learnt to; no
    noise, which the ablation found to cost more than it brings; and a presence head.
    """
    base = tiny()
    assert isinstance(base.model, MaskConfig)
    return replace(
        base,
        summary="the bundled transformer, trained on at 192 x 192 pixels and without noise; with compositions",
        expected="see src/genmask/models/tiny/README.md; 80 minutes on 2 cores",
        model=replace(
            base.model,
            shape=None,
            resolution=FINE_RESOLUTION,
            sizes=sizes_at(FINE_RESOLUTION),
            segmentation_sources=(("scenes", 0.35), ("photographs", 0.33), ("compositions", 0.32)),
            segmentation_batch=24,
            generation_batch=4,
            noise=False,
            presence_weight=0.2,
            vlm_max_pixels=18432,
            seed=11,
        ),
        loop=replace(
            base.loop,
            steps=1250,
            learning_rate=7e-4,
            final_learning_rate=2e-5,
            warmup_steps=60,
            checkpoint_every=150,
            evaluate_every=0,
        ),
        start="tiny",
    )


def tiny_open() -> Recipe:
    """The bundled model's recipe without photographs of restricted terms (`datasets.OPEN_PHOTOGRAPHS`)."""
    base = tiny()
    assert isinstance(base.model, MaskConfig)
    return replace(
        base,
        summary="tiny on drawn scenes and photographs of open terms alone; its parts from runs without --data",
        expected="not trained yet; 90 minutes on 2 cores",
        model=replace(
            base.model,
            segmentation_sources=(
                ("scenes", 0.5),
                ("open-photographs", 0.4),
                ("open-compositions", 0.1),
            ),
            generation_sources=(("scenes", 0.5), ("open-photographs", 0.5)),
        ),
    )


def finetune() -> Recipe:
    """A finished model on a folder of one's own."""
    return Recipe(
        summary="a finished model (--start, or the bundled one) on your own folder of pictures and masks (--data)",
        expected="better on held-out pictures of the folder than before; 4 minutes on 2 cores from the bundled model",
        model=MaskConfig(
            segmentation_sources=(("folder", 1.0),),
            segmentation_batch=16,
            generation_batch=0,
            segmentation_density=PowerLaw(0.0),
            vlm_precision="float32",
        ),
        loop=LoopConfig(
            steps=150,
            learning_rate=3e-4,
            final_learning_rate=3e-5,
            warmup_steps=15,
            checkpoint_every=50,
            evaluate_every=0,
            log_every=10,
        ),
        start="tiny",
        inherits=("resolution", "sizes", "noise", "prediction", "shortcut", "picture_first"),
        benchmarks=("folder",),
    )


def paper() -> Recipe:
    """Section 3: Wan-2.1-T2V-1.3B on the hidden states of Qwen2.5-VL-7B, fine-tuned end to end.

    The paper names the data sets and not their shares: semantic and referring sets are taken alike, as are the two of
    captions. `--start` is what `genmask convert` makes of the two public models.
    """
    return Recipe(
        summary="the paper's model; --start a converted Wan-2.1-T2V-1.3B and Qwen2.5-VL-7B, --data all sets' folder",
        expected="oIoU 83.3 / 79.4 on RefCOCO testA / testB (Table 1); 8,000 steps of 1,024 samples",
        model=MaskConfig(
            resolution=512,
            sizes=PAPER_SIZES,
            segmentation_sources=(
                ("coco-stuff", 0.2),
                ("ade20k", 0.15),
                ("pascal-part", 0.15),
                ("refcoco", 0.17),
                ("refcoco+", 0.17),
                ("refcocog", 0.16),
            ),
            generation_sources=(("diffusiondb", 0.5), ("blip3o", 0.5)),
            segmentation_density=PowerLaw(0.05),
            gradient_checkpointing=True,
            compile=True,
        ),
        loop=LoopConfig(steps=8000, accumulation=8, num_workers=8, keep_checkpoints=2, evaluate_every=1000),
        benchmarks=("refcoco/val", "refcoco+/val", "refcocog/val"),
        validation_samples=512,
    )


def _ablation(summary: str, scores: str | None = None, **changes: Any) -> Callable[[], Recipe]:
    """The paper's recipe with one thing changed; scores are mIoU / oIoU on RefCOCO, RefCOCO+ and RefCOCOg, None for
    what the paper has not measured.
    """

    def recipe() -> Recipe:
        base = paper()
        return replace(
            base,
            summary=f"the paper's model, {summary}",
            expected=f"{scores} mIoU / oIoU on RefCOCO, +, g" if scores else "the paper has no such row",
            model=replace(base.model, **changes),
        )

    return recipe


def lora() -> Recipe:
    """Low-rank adapters on the paper's transformer, for one GPU of 24 GB."""
    base = paper()
    assert isinstance(base.model, MaskConfig)
    return replace(
        base,
        summary="adapters of rank 64 on the paper's model; one GPU of 24 GB",
        expected="the paper has no such row; --dry-run says what it costs",
        model=replace(
            base.model, lora_rank=64, vlm_precision="int8", segmentation_batch=32, generation_batch=32
        ),
        loop=replace(base.loop, learning_rate=2e-4, final_learning_rate=2e-5, accumulation=16),
    )


def low_memory() -> Recipe:
    """The paper's transformer end to end, for one GPU of 24 GB."""
    base = paper()
    assert isinstance(base.model, MaskConfig)
    return replace(
        base,
        summary="the paper's model end to end: 8-bit optimizer, quantised VLM on the CPU; one GPU of 24 GB",
        expected="the paper has no such row; --dry-run says what it costs",
        model=replace(
            base.model,
            vlm_precision="int8",
            offload=True,
            segmentation_batch=32,
            generation_batch=32,
        ),
        loop=replace(base.loop, optimizer="adamw-8bit", accumulation=32),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "tiny-vae": tiny_vae,
    "tiny-vlm": tiny_vlm,
    "tiny-vae-decoder": tiny_vae_decoder,
    "tiny-describer": tiny_describer,
    "tiny-recognition": tiny_recognition,
    "tiny": tiny,
    "tiny-fine": tiny_fine,
    "tiny-open": tiny_open,
    "finetune": finetune,
    "paper": paper,
    "paper-a-0.1": _ablation(
        "a = 0.1 (Table 3)", "78.1 / 77.6, 69.3 / 68.1, 73.7 / 72.3", segmentation_density=PowerLaw(0.1)
    ),
    "paper-a-0.5": _ablation(
        "a = 0.5 (Table 3)", "66.0 / 66.0, 52.7 / 53.3, 57.5 / 56.6", segmentation_density=PowerLaw(0.5)
    ),
    "paper-bce-pixels": _ablation(
        "BCE through the VAE decoder (Table 4)",
        "78.1 / 77.6, 73.1 / 70.3, 75.0 / 72.2",
        supervision="bce-pixels",
    ),
    "paper-bce-linear": _ablation(
        "BCE after a linear map (Table 4)",
        "81.3 / 80.4, 74.8 / 72.4, 76.9 / 75.0",
        supervision="bce-linear",
    ),
    "paper-no-generation": _ablation(
        "without generation data (Table 5)", "81.0 / 80.6, 74.2 / 72.4, 76.7 / 75.0", generation_batch=0
    ),
    "paper-no-shortcut": _ablation(
        "without the VAE shortcut (Table 6)", "74.1 / 73.2, 68.8 / 67.6, 72.4 / 71.1", shortcut=False
    ),
    "paper-t-1": _ablation("t = 1 always: regression from noise", segmentation_density=PowerLaw(0.0)),
    "paper-zero-noise": _ablation(
        "t = 1 always, from zeros: regression", segmentation_density=PowerLaw(0.0), noise=False
    ),
    "paper-x0": _ablation("predicting x0 in place of the velocity", prediction="x0"),
    "paper-picture-second": _ablation("with the picture as the second frame", picture_first=False),
    "paper-discriminative": _ablation(
        "without diffusion: a linear mask head on the picture's frame",
        prediction="mask",
        supervision="bce-linear",
        generation_batch=0,
    ),
    "lora": lora,
    "low-memory": low_memory,
}


def find_recipe(name: str) -> Recipe:
    """By name; ValueError lists the known ones."""
    if name not in RECIPES:
        raise ValueError(f"Got recipe {name!r}, expected one of {', '.join(RECIPES)}.")
    return RECIPES[name]()
