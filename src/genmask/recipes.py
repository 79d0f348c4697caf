"""Every training run is a named function that returns its complete, frozen configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genmask.timesteps import PowerLaw

if TYPE_CHECKING:
    from genmask.data.example import Example
    from genmask.training.loop import TrainingTask

from genmask.training.autoencoder import AutoencoderConfig
from genmask.training.language import LanguageConfig
from genmask.training.loop import LoopConfig
from genmask.training.masks import MaskConfig

SIZES = ((128, 128), (112, 144), (160, 112), (128, 128), (112, 144), (160, 112), (112, 160), (144, 112))
"""(height, width) of the pictures of a step, in turn: the aspect ratios of the photographs in about their shares."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run: what is trained, and how long."""

    summary: str
    """One line: what comes out, what it needs, what to expect."""
    model: AutoencoderConfig | LanguageConfig | MaskConfig
    loop: LoopConfig


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
    )


def tiny_vlm() -> Recipe:
    """The bundled model's vision-language model."""
    return Recipe(
        summary="the bundled vision-language model and tokenizer; 15 minutes on 2 cores",
        model=LanguageConfig(),
        loop=LoopConfig(
            steps=1800,
            learning_rate=1.5e-3,
            final_learning_rate=1e-4,
            warmup_steps=100,
            checkpoint_every=200,
            evaluate_every=400,
        ),
    )


def tiny() -> Recipe:
    """The bundled model: its transformer, on the two parts above."""
    return Recipe(
        summary="the bundled model from tiny-vae and tiny-vlm; 80 minutes on 2 cores",
        model=MaskConfig(sizes=SIZES, segmentation_density=PowerLaw(0.0), train_vlm=True),
        loop=LoopConfig(
            steps=3000,
            learning_rate=1e-3,
            final_learning_rate=5e-5,
            warmup_steps=200,
            ema_decay=0.998,
            checkpoint_every=100,
            evaluate_every=500,
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
    max_minutes: float | None = None,
    recipe: Recipe | None = None,
) -> bool:
    """Train recipe `name` into `output`, going on from the checkpoint there, if any.

    Args:
        name: a key of `RECIPES`.
        output: folder for checkpoints, log and, in the end, `model/`.
        photos: photographs in the layout of `genmask.data.photographs`; None trains on drawn scenes alone.
        vae, vlm: `model/` folders of the earlier runs, for the recipe that builds on them.
        max_minutes: stop with a checkpoint after so long; the same command goes on.
        recipe: a variation of the named recipe.

    Returns:
        True when the run is finished.

    Raises:
        ValueError: unknown name, or parts that are missing or not wanted.
    """
    from genmask.training.loop import train

    if name not in RECIPES:
        raise ValueError(f"Got recipe {name!r}, expected one of {', '.join(RECIPES)}.")
    recipe = recipe or RECIPES[name]()
    task = _build(recipe, photos, vae, vlm)
    return train(task, recipe.loop, output, None if max_minutes is None else 60 * max_minutes)


def _build(recipe: Recipe, photos: Path | None, vae: Path | None, vlm: Path | None) -> TrainingTask:
    from genmask.data.photographs import Photographs
    from genmask.data.scenes import Scenes
    from genmask.training import autoencoder, language, masks
    from genmask.training.sources import PhotographSource, SceneSource

    config = recipe.model
    needs_parts = isinstance(config, masks.MaskConfig)
    for option, folder in (("vae", vae), ("vlm", vlm)):
        if (folder is not None) != needs_parts:
            raise ValueError(
                f"Got {'no' if folder is None else 'a'} --{option} folder, "
                f"expected {'the model/ folder of a finished tiny-' + option + ' run' if needs_parts else 'none'}."
            )
    if isinstance(config, autoencoder.AutoencoderConfig):
        pictures: list[Any] = [Scenes("train", size=128, seed=config.seed)]
        if photos is not None:
            pictures.append(Photographs(photos, "train", area=128 * 128, seed=config.seed))
        return autoencoder.AutoencoderTask(config, pictures, _validation(photos, 80))

    sizes = config.sizes if isinstance(config, masks.MaskConfig) else ((128, 128),)
    sources: dict[str, Any] = {"scenes": SceneSource(sizes, recipe.loop.seed)}
    if photos is not None:
        sources["photographs"] = PhotographSource(photos, sizes, recipe.loop.seed)

    if isinstance(config, language.LanguageConfig):
        held_out: list[Any] = [Scenes("val", size=128)]
        if photos is not None:
            held_out.append(Photographs(photos, "val", area=128 * 128))
        processor = language.build_processor(config, list(sources.values()))
        return language.LanguageTask(config, list(sources.values()), held_out, processor)

    import torch
    from diffusers import AutoencoderKLWan
    from transformers import Qwen2_5_VLForConditionalGeneration

    from genmask.loading import load_model
    from genmask.model_folder import load_processor

    assert vae is not None
    assert vlm is not None
    return masks.MaskTask(
        config,
        sources,
        _validation(photos, 160),
        vae=load_model(AutoencoderKLWan, vae, dtype=torch.float32),
        vlm=load_model(Qwen2_5_VLForConditionalGeneration, vlm, dtype=torch.float32),
        processor=load_processor(vlm),
    )


def _validation(photos: Path | None, count: int) -> dict[str, Sequence[Example]]:
    """`count` held-out samples of each source, evenly spread."""
    from genmask.data.photographs import Photographs
    from genmask.data.scenes import Scenes

    scenes = Scenes("val", size=128)
    samples: dict[str, Sequence[Example]] = {"scenes": [scenes[i * 5] for i in range(count)]}
    if photos is not None:
        pairs = Photographs(photos, "val", area=128 * 128)
        samples["photos"] = [pairs[i * len(pairs) // count] for i in range(count)]
    return samples
