"""Every training run is a named function that returns its complete, frozen configuration."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat

import torch
from diffusers import AutoencoderKLWan
from transformers import Qwen2_5_VLForConditionalGeneration

from genmask.data.example import Dialogue, Example
from genmask.data.photographs import Photographs
from genmask.data.scenes import Scenes
from genmask.denoiser import GenMaskTransformer
from genmask.loading import load_model
from genmask.model_folder import load_processor, resolve_model
from genmask.timesteps import PowerLaw
from genmask.training.autoencoder import AutoencoderConfig, AutoencoderTask
from genmask.training.encodings import EncodedSteps
from genmask.training.language import (
    DialogueSource,
    LanguageConfig,
    LanguageTask,
    build_processor,
    draw_dialogue,
)
from genmask.training.loop import LoopConfig, TrainingTask, train
from genmask.training.masks import ExampleSource, MaskConfig, MaskTask
from genmask.training.sources import PhotographSource, SceneSource

RESOLUTION = 128
"""The VAE and the VLM see pictures of about this side, squared, in pixels, and so do held-out scores."""
MASK_RESOLUTION = 96
"""The same of the bundled transformer."""
SIZES = ((96, 96), (80, 112), (96, 96), (112, 80))
"""(height, width) of its pictures, a step each, in turn: roughly the aspect ratios of the photographs."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run: what is trained, and how long."""

    summary: str
    """One line: what comes out, what it needs, what to expect."""
    model: AutoencoderConfig | LanguageConfig | MaskConfig
    loop: LoopConfig
    validation_samples: int = 160
    """Held-out samples of each source that an evaluation scores."""


def tiny_vae() -> Recipe:
    """The bundled model's VAE."""
    return Recipe(
        summary="the bundled VAE; 20 minutes on 2 cores; mask round trip at oIoU 0.97 or better",
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


def tiny_vlm() -> Recipe:
    """The bundled model's vision-language model."""
    return Recipe(
        summary="the bundled vision-language model and tokenizer; 5 minutes on 2 cores",
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


def tiny() -> Recipe:
    """The bundled model: its transformer, on the two parts above."""
    return Recipe(
        summary="the bundled transformer, on tiny-vae and tiny-vlm; 105 minutes on 2 cores",
        model=MaskConfig(
            resolution=MASK_RESOLUTION,
            sizes=SIZES,
            source_weights=(("scenes", 0.76), ("photographs", 0.24)),
            segmentation_batch=25,
            generation_batch=8,
            epoch_steps=2000,
            segmentation_density=PowerLaw(0.0),
            compile=True,
        ),
        loop=LoopConfig(
            steps=14_000,
            learning_rate=1e-3,
            final_learning_rate=3e-5,
            warmup_steps=200,
            ema_decay=0.999,
            checkpoint_every=250,
            evaluate_every=2000,
        ),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"tiny-vae": tiny_vae, "tiny-vlm": tiny_vlm, "tiny": tiny}


def run(
    name: str,
    output: Path,
    *,
    photos: Path | None = None,
    vae: Path | None = None,
    vlm: Path | None = None,
    start: str | Path | None = None,
    max_minutes: float | None = None,
    recipe: Recipe | None = None,
) -> bool:
    """Train recipe `name` into `output`, going on from the checkpoint there, if any.

    Args:
        name: a key of `RECIPES`.
        output: folder for the recipe as text, checkpoints, log and, in the end, `model/`.
        photos: photographs in the layout of `genmask.data.photographs`; None trains on drawn scenes alone.
        vae, vlm: `model/` folders of the earlier runs, for the recipe that builds on them.
        start: in place of both, a finished model to go on from: its VAE, its VLM, and its transformer's weights.
        max_minutes: stop with a checkpoint after so long; the same command goes on.
        recipe: a variation of the named recipe.

    Returns:
        True when the run is finished.

    Raises:
        ValueError: unknown name; parts that are missing or not wanted; a checkpoint of another recipe.
        NonFiniteError: a loss or gradient is not a finite number.
    """
    if name not in RECIPES:
        raise ValueError(f"Got recipe {name!r}, expected one of {', '.join(RECIPES)}.")
    recipe = recipe or RECIPES[name]()
    encodings = output / "encodings"
    task = _build(recipe, photos, vae, vlm, start, encodings)
    output.mkdir(parents=True, exist_ok=True)
    (output / "recipe.txt").write_text(pformat(recipe) + "\n")
    finished = train(task, recipe.loop, output, None if max_minutes is None else 60 * max_minutes)
    if finished:
        shutil.rmtree(encodings, ignore_errors=True)
    return finished


def _build(
    recipe: Recipe,
    photos: Path | None,
    vae: Path | None,
    vlm: Path | None,
    start: str | Path | None,
    encodings: Path,
) -> TrainingTask:
    config, count = recipe.model, recipe.validation_samples
    if start is not None and not isinstance(config, MaskConfig):
        raise ValueError(f"Got --start {start}, expected none: this recipe trains a part from scratch.")
    needs_parts = isinstance(config, MaskConfig) and start is None
    for option, folder in (("vae", vae), ("vlm", vlm)):
        if (folder is not None) != needs_parts:
            raise ValueError(
                f"Got {'no' if folder is None else 'a'} --{option} folder, "
                f"expected {'the model/ folder of a finished tiny-' + option + ' run' if needs_parts else 'none'}."
            )
    if isinstance(config, AutoencoderConfig):
        return _autoencoder_task(config, photos, count)
    if isinstance(config, LanguageConfig):
        return _language_task(config, photos, count)
    if start is not None:
        folder = resolve_model(start)
        task = _mask_task(
            config, photos, count, folder / "vae", folder / "vlm", folder / "processor", encodings
        )
        _take_weights(task, folder / "transformer")
        return task
    assert vae is not None
    assert vlm is not None
    return _mask_task(config, photos, count, vae, vlm, vlm, encodings)


def _autoencoder_task(config: AutoencoderConfig, photos: Path | None, count: int) -> AutoencoderTask:
    sources: list[Scenes | Photographs] = [Scenes("train", size=RESOLUTION, seed=config.seed)]
    if photos is not None:
        sources.append(Photographs(photos, "train", area=RESOLUTION**2, seed=config.seed))
    return AutoencoderTask(config, sources, _validation(photos, count))


def _language_task(config: LanguageConfig, photos: Path | None, count: int) -> LanguageTask:
    sources: list[DialogueSource] = [SceneSource(((RESOLUTION, RESOLUTION),), config.seed)]
    held_out: dict[str, DialogueSource] = {"scenes": Scenes("val", size=RESOLUTION)}
    if photos is not None:
        sources.append(Photographs(photos, "train", area=RESOLUTION**2, seed=config.seed))
        held_out["photos"] = Photographs(photos, "val", area=RESOLUTION**2)
    validation: dict[str, Sequence[Dialogue]] = {
        name: [draw_dialogue(source, index * 5, seed=0) for index in range(count)]
        for name, source in held_out.items()
    }
    return LanguageTask(config, sources, validation, build_processor(config, sources))


def _mask_task(
    config: MaskConfig,
    photos: Path | None,
    count: int,
    vae: Path,
    vlm: Path,
    processor: Path,
    encodings: Path,
) -> MaskTask:
    sources: dict[str, ExampleSource] = {"scenes": SceneSource(config.sizes, config.seed)}
    if photos is not None:
        sources["photographs"] = PhotographSource(photos, config.sizes, config.seed)
    return MaskTask(
        config,
        sources,
        _validation(photos, count),
        vae=load_model(AutoencoderKLWan, vae, dtype=torch.float32),
        vlm=load_model(Qwen2_5_VLForConditionalGeneration, vlm, dtype=torch.float32),
        processor=load_processor(processor),
        kept=EncodedSteps(encodings / _fingerprint(config, photos, vae, vlm, processor))
        if config.epoch_steps
        else None,
    )


def _take_weights(task: MaskTask, folder: Path) -> None:
    """Begin with the weights of a transformer that was trained before."""
    weights = load_model(GenMaskTransformer, folder, dtype=torch.float32).state_dict()
    try:
        task.transformer.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"Got {folder}, a transformer of another shape than the recipe's: start from one that the recipe made."
        ) from error


def _fingerprint(config: MaskConfig, photos: Path | None, *models: Path) -> str:
    """Of all that encodings depend on: those of another run are not taken for this one's."""
    digest = hashlib.sha256(f"{config} {photos}".encode())
    for path in sorted(path for model in models for path in model.iterdir() if path.is_file()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _validation(photos: Path | None, count: int) -> dict[str, Sequence[Example]]:
    """`count` held-out samples of each source, evenly spread."""
    scenes = Scenes("val", size=RESOLUTION)
    samples: dict[str, Sequence[Example]] = {"scenes": [scenes[i * 5] for i in range(count)]}
    if photos is not None:
        pairs = Photographs(photos, "val", area=RESOLUTION**2)
        samples["photos"] = [pairs[i * len(pairs) // count] for i in range(count)]
    return samples
