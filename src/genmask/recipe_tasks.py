"""A recipe, and the parts that it starts from, as a training task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKLWan
from transformers import Qwen2_5_VLForConditionalGeneration

from genmask.data.example import Dialogue, Example
from genmask.data.photographs import Photographs
from genmask.data.questions import PhotographQuestions, SceneQuestions
from genmask.data.scenes import Scenes
from genmask.denoiser import GenMaskTransformer
from genmask.evaluation.benchmarks import load_benchmark
from genmask.loading import load_model
from genmask.mask_head import LinearMaskHead
from genmask.model_folder import load_processor, read_model_index, resolve_model
from genmask.pipeline import GenMaskPipeline
from genmask.presence_head import PresenceHead
from genmask.recipes import RESOLUTION, Recipe, sizes_at
from genmask.training.autoencoder import AutoencoderConfig, AutoencoderTask
from genmask.training.cache import EncodingCache, model_identity
from genmask.training.datasets import TRAINING_SETS, open_source
from genmask.training.language import (
    DescriberConfig,
    DescriberTask,
    DialogueSource,
    LanguageConfig,
    LanguageTask,
    build_processor,
    draw_dialogue,
)
from genmask.training.loop import TrainingTask
from genmask.training.mask_config import MaskConfig
from genmask.training.masks import MaskTask
from genmask.training.new_transformer import build_transformer
from genmask.training.own_folder import folder_split
from genmask.training.pretraining import PretrainingConfig, build_pretraining_task
from genmask.training.sources import SceneSource

_Head = TypeVar("_Head", LinearMaskHead, PresenceHead)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Where a run finds what it does not make itself."""

    data: Path | None = None
    """Folder that holds the data sets; None leaves out those that need one, if any are left."""
    vae: Path | None = None
    """`model/` folder of a finished VAE, for a transformer from scratch."""
    vlm: Path | None = None
    """The same of the vision-language model and its processor."""
    start: str | Path | None = None
    """In place of both, a finished model: its VAE, its VLM, and its transformer's weights."""
    transformer: Path | None = None
    """`model/` folder of a transformer to go on from: in place of the starting model's, or of a new one."""
    cache: Path | None = None
    """What `genmask cache` made of the samples."""


def completed(recipe: Recipe, parts: Parts) -> Parts:
    """With the recipe's own start; ValueError for what is missing or not wanted."""
    config = recipe.model
    if parts.start is None and parts.vae is None and parts.vlm is None:
        parts = replace(parts, start=recipe.start)
    from_nothing = isinstance(config, LanguageConfig) or (
        isinstance(config, AutoencoderConfig) and not config.decoder_only
    )
    if parts.start is not None and from_nothing:
        raise ValueError(f"Got --start {parts.start}, expected none: this recipe trains a part from scratch.")
    if isinstance(config, MaskConfig) and config.shape is None and parts.start is None:
        raise ValueError(
            "Got no --start, expected a model to go on from, such as what genmask convert writes."
        )
    if parts.transformer is not None and not isinstance(config, MaskConfig):
        raise ValueError(
            f"Got --transformer {parts.transformer}, expected none: this recipe takes no transformer."
        )
    needs_parts = isinstance(config, PretrainingConfig | MaskConfig) and parts.start is None
    for option, folder in (("vae", parts.vae), ("vlm", parts.vlm)):
        if (folder is not None) != needs_parts:
            raise ValueError(
                f"Got {'no' if folder is None else 'a'} --{option} folder, "
                f"expected {'the model/ folder of a finished tiny-' + option + ' run' if needs_parts else 'none'}."
            )
    return parts


def inherited(recipe: Recipe, start: str | Path | None) -> Recipe:
    """With what `Recipe.inherits` names as the starting model has it."""
    config = recipe.model
    if not recipe.inherits or start is None or not isinstance(config, MaskConfig):
        return recipe
    index = read_model_index(resolve_model(start), GenMaskPipeline.__name__)
    found: dict[str, Any] = {name: index[name] for name in recipe.inherits if name in index}
    if "sizes" in recipe.inherits:
        found["sizes"] = sizes_at(found.get("resolution", config.resolution))
    if found.get("prediction") == "mask":
        found["supervision"] = "bce-linear"  # the one that a model without diffusion can have
    return replace(recipe, model=replace(config, **found), inherits=())


def build_task(recipe: Recipe, parts: Parts) -> TrainingTask:
    """What the loop trains; `parts` as `completed` gives them back."""
    recipe = inherited(recipe, parts.start)
    config = recipe.model
    if isinstance(config, MaskConfig):
        return _mask_task(recipe, config, parts)
    if isinstance(config, PretrainingConfig):
        sources = _sources(config, config.sources, "recognition", parts.data)
        return build_pretraining_task(config, sources, *_folders(parts))
    if isinstance(config, DescriberConfig):
        return _describer_task(config, parts, recipe.validation_samples)
    validation = held_out(("scenes/val", "photos/val"), parts.data, recipe.validation_samples)
    if isinstance(config, AutoencoderConfig):
        return _autoencoder_task(config, parts, validation)
    return _language_task(config, parts.data, recipe.validation_samples)


def _autoencoder_task(
    config: AutoencoderConfig, parts: Parts, validation: dict[str, Sequence[Example]]
) -> AutoencoderTask:
    sources: list[Scenes | Photographs] = [Scenes("train", size=RESOLUTION, seed=config.seed)]
    if parts.data is not None:
        sources.append(Photographs(parts.data, "train", area=RESOLUTION**2, seed=config.seed))
    vae = None
    if parts.start is not None:
        vae = load_model(AutoencoderKLWan, resolve_model(parts.start) / "vae", dtype=torch.float32)
    return AutoencoderTask(config, sources, validation, vae)


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


def _describer_task(config: DescriberConfig, parts: Parts, count: int) -> DescriberTask:
    """Held out: riddles and the like, half of them in words that are never trained on; and plain expressions."""
    _, vlm, processor = _folders(parts)
    sources: list[DialogueSource] = [SceneQuestions("train", RESOLUTION, seed=config.seed)]
    held_out: dict[str, DialogueSource] = {"scenes": SceneQuestions("val", RESOLUTION)}
    if parts.data is not None:
        area = RESOLUTION**2
        sources.append(PhotographQuestions(parts.data, "train", seed=config.seed, area=area))
        held_out["photos"] = PhotographQuestions(parts.data, "val", area=area)
    validation: dict[str, Sequence[Dialogue]] = {
        name: [source.dialogues(index)[0] for index in range(count)] for name, source in held_out.items()
    }
    validation["plain"] = [held_out["scenes"].dialogues(index)[-1] for index in range(count)]
    return DescriberTask(
        config,
        sources,
        validation,
        load_model(Qwen2_5_VLForConditionalGeneration, vlm, dtype=torch.float32),
        load_processor(processor),
    )


def _folders(parts: Parts) -> tuple[Path, Path, Path]:
    """Of VAE, VLM and processor."""
    if parts.start is not None:
        model = resolve_model(parts.start)
        return model / "vae", model / "vlm", model / "processor"
    assert parts.vae is not None
    assert parts.vlm is not None
    return parts.vae, parts.vlm, parts.vlm


def _mask_task(recipe: Recipe, config: MaskConfig, parts: Parts) -> MaskTask:
    vae, vlm, processor = _folders(parts)
    dtype = torch.float32 if config.vlm_precision == "float32" else torch.bfloat16
    load_language = partial(load_model, Qwen2_5_VLForConditionalGeneration, vlm, dtype=dtype)
    language = load_language()
    identity = f"{model_identity(vae, vlm, processor)}-{config.vlm_precision}-{recipe.loop.mixed_precision}"
    if config.vlm_max_pixels is not None:  # of which the processor's folder does not know
        identity += f"-{config.vlm_max_pixels}"
    return MaskTask(
        config,
        _transformer(config, parts, language.config.get_text_config().hidden_size),
        segmentation_sources=_sources(config, config.segmentation_sources, "segmentation", parts.data),
        generation_sources=_sources(config, config.generation_sources, "generation", parts.data)
        if config.generation_batch
        else {},
        validation=held_out(recipe.benchmarks, parts.data, recipe.validation_samples),
        vae=load_model(AutoencoderKLWan, vae, dtype=torch.float32),
        vlm=language,
        processor=load_processor(processor),
        describer=_describer(parts.start, dtype),
        mask_head=_head(LinearMaskHead, "mask_head", parts.start)
        if config.supervision == "bce-linear"
        else None,
        presence_head=_head(PresenceHead, "presence_head", parts.start) if config.presence_weight else None,
        cache=None if parts.cache is None else EncodingCache(parts.cache, identity),
        identity=identity,
        original_vlm=load_language,
    )


def _transformer(config: MaskConfig, parts: Parts, text_dim: int) -> GenMaskTransformer:
    """In float32: new, or with the weights that the run starts from."""
    if parts.transformer is not None:
        folder = parts.transformer
    elif parts.start is not None:
        folder = resolve_model(parts.start) / "transformer"
    else:
        assert config.shape is not None
        return build_transformer(config.shape, text_dim, config.seed)
    transformer = load_model(GenMaskTransformer, folder, dtype=torch.float32)
    wanted = {} if config.shape is None else asdict(config.shape)
    for option, value in wanted.items():
        if transformer.config[option] != value:
            raise ValueError(
                f"Got {folder} with {option} {transformer.config[option]}, expected the recipe's {value}: start from a "
                "model that the recipe made, or give --override model.shape=None."
            )
    return transformer.requires_grad_(True)


def _head(kind: type[_Head], name: str, start: str | Path | None) -> _Head | None:
    """The starting model's, if it has one, for a run that goes on training it."""
    folder = None if start is None else resolve_model(start) / name
    return load_model(kind, folder, dtype=torch.float32) if folder is not None and folder.is_dir() else None


def _describer(start: str | Path | None, dtype: torch.dtype) -> Qwen2_5_VLForConditionalGeneration | None:
    """The starting model's, if it has one."""
    folder = None if start is None else resolve_model(start) / "describer"
    if folder is None or not folder.is_dir():
        return None
    return load_model(Qwen2_5_VLForConditionalGeneration, folder, dtype=dtype)


def _sources(
    config: MaskConfig | PretrainingConfig, shares: Sequence[tuple[str, float]], task: str, data: Path | None
) -> dict[str, Any]:
    """By name; without a data folder, those that need none."""
    names = [name for name, _ in shares]
    if data is None:
        names = [name for name in names if name in TRAINING_SETS and not TRAINING_SETS[name].layout] or names
    sources = {name: open_source(name, data, config.sizes, config.seed) for name in names}
    for name, source in sources.items():
        if not hasattr(source, task):
            raise ValueError(
                f"Got {name} for {task}, which it has no samples for: leave it out of {task}_sources."
            )
    return sources


def held_out(benchmarks: Sequence[str], data: Path | None, count: int) -> dict[str, Sequence[Example]]:
    """`count` samples of each benchmark, evenly spread; by its name up to the slash."""
    samples: dict[str, Sequence[Example]] = {}
    for name in benchmarks:
        if name == "folder":
            assert data is not None
            examples: Any = folder_split(data)[1]
        elif name == "scenes/val":
            examples = Scenes("val", size=RESOLUTION, length=5 * count)
        elif data is None:
            continue
        elif name == "photos/val":
            examples = Photographs(data, "val", area=RESOLUTION**2)
        else:
            examples = load_benchmark(name, data)[1]
        chosen = (
            [i * len(examples) // count for i in range(count)]
            if len(examples) > count
            else range(len(examples))
        )
        samples[name.split("/")[0]] = [examples[i] for i in chosen]
    return samples
