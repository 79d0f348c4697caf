"""Every training run is a named function that returns its complete, frozen configuration."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from pprint import pformat
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from transformers import Qwen2_5_VLForConditionalGeneration

from genmask.data.example import Dialogue, Example
from genmask.data.photographs import Photographs
from genmask.data.questions import PhotographQuestions, SceneQuestions
from genmask.data.scenes import Scenes
from genmask.denoiser import PAPER_CONFIG, GenMaskTransformer
from genmask.evaluation.benchmarks import load_benchmark
from genmask.loading import count_parameters, load_model, read_json
from genmask.mask_head import LinearMaskHead
from genmask.model_folder import load_processor, resolve_model
from genmask.timesteps import PowerLaw
from genmask.training.adapters import add_lora
from genmask.training.autoencoder import AutoencoderConfig, AutoencoderTask
from genmask.training.cache import CacheWriter, EncodingCache, FillCounts, model_identity
from genmask.training.datasets import TRAINING_SETS, open_source
from genmask.training.estimate import Workload, estimate, segmentation_prompt_tokens
from genmask.training.language import (
    DescriberConfig,
    DescriberTask,
    DialogueSource,
    LanguageConfig,
    LanguageTask,
    build_processor,
    draw_dialogue,
)
from genmask.training.loop import LoopConfig, TrainingTask, train
from genmask.training.mask_config import MaskConfig
from genmask.training.masks import MaskTask
from genmask.training.model_card import write_model_card
from genmask.training.new_transformer import TransformerShape, build_transformer
from genmask.training.own_folder import folder_split
from genmask.training.parallel import Share, is_main_process
from genmask.training.pretraining import PretrainingConfig, build_pretraining_task
from genmask.training.provenance import write_provenance
from genmask.training.scaling import DGX_H100, predict
from genmask.training.sources import SceneSource

RESOLUTION = 128
"""Pictures of the bundled model have about this side, squared, in pixels, and so do held-out scores."""
SIZES = ((128, 128), (112, 144), (128, 128), (144, 112))
"""(height, width) of its pictures, a step each, in turn: roughly the aspect ratios of the photographs."""
PAPER_SIZES = ((448, 592), (592, 448), (448, 592), (512, 512), (448, 592), (416, 624))
"""Of the paper's, about 512 x 512: most of COCO's pictures are 4 : 3 and lie."""


QWEN_PARAMETERS = 8_292_166_656
"""Of Qwen2.5-VL-7B, the vision tower included."""
QWEN_TOKEN_SIDE = 28
"""Pixels of its image tokens, along each side."""
CAPTION_TOKENS = 60
"""Of a caption in its chat template, about."""


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
    benchmarks: tuple[str, ...] = ()
    """Held-out samples, by the names of `evaluation.benchmarks`; "folder" is the held-out part of the user's own."""
    validation_samples: int = 160
    """Held-out samples of each, evenly spread, that an evaluation scores."""


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
            sizes=SIZES,
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
            sizes=SIZES,
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
        expected="better on held-out pictures of the folder than before; 2 minutes on 2 cores from the bundled model",
        model=MaskConfig(
            resolution=RESOLUTION,
            sizes=SIZES,
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


def run(
    name: str,
    output: Path,
    parts: Parts | None = None,
    *,
    max_minutes: float | None = None,
    recipe: Recipe | None = None,
) -> bool:
    """Train recipe `name` into `output`, or go on from the checkpoint there; alike in every process of a launch.

    Args:
        name: a key of `RECIPES`.
        output: folder for checkpoints, log, pictures, provenance and, in the end, `model/`.
        parts: data, and finished models to build on.
        max_minutes: stop with a checkpoint after so long; the same command goes on.
        recipe: a variation of the named recipe.

    Returns:
        True when the run is finished.

    Raises:
        ValueError: unknown name; parts that are missing or not wanted; a checkpoint of another recipe.
        NonFiniteError: a loss or gradient is not a finite number.
    """
    recipe = recipe or find_recipe(name)
    parts = _completed(recipe, parts or Parts())
    task = _build(recipe, parts)
    record: dict[str, Any] = {}
    if is_main_process():
        output.mkdir(parents=True, exist_ok=True)
        record = write_provenance(output, pformat(recipe))
    finished = train(task, recipe.loop, output, None if max_minutes is None else 60 * max_minutes)
    if finished and is_main_process() and isinstance(task, MaskTask):
        write_model_card(
            output / "model",
            recipe=name,
            summary=recipe.summary,
            config=pformat(recipe),
            scores=_last_scores(output / "log.jsonl"),
            steps=recipe.loop.steps,
            sources=[*task.samples.segmentation, *task.samples.generation],
            started_from=None if parts.start is None else str(parts.start),
            provenance=record,
        )
    return finished


def find_recipe(name: str) -> Recipe:
    """By name; ValueError lists the known ones."""
    if name not in RECIPES:
        raise ValueError(f"Got recipe {name!r}, expected one of {', '.join(RECIPES)}.")
    return RECIPES[name]()


def cache(
    name: str,
    output: Path,
    parts: Parts | None = None,
    *,
    samples: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    progress: Callable[[int], AbstractContextManager[Callable[[int], None]]],
    recipe: Recipe | None = None,
) -> FillCounts:
    """Encode the samples of a recipe that comes back to them (`epoch_steps`), for `Parts.cache`.

    Args:
        name, parts, recipe: as for `run`.
        output: folder for the shards.
        samples: only those of the first steps that hold so many.
        rank, world_size: which steps are this process's, and among how many.
        progress: from the number of samples to a context in which the number done is told.

    Raises:
        ValueError: as `run`; a recipe whose samples have no end, or that trains no transformer on them.
    """
    recipe = recipe or find_recipe(name)
    parts = _completed(recipe, parts or Parts())
    task = _build(recipe, parts)
    if not isinstance(task, MaskTask):
        raise ValueError(f"Got recipe {name!r}, expected one that trains on frozen parts, such as 'tiny'.")
    if not task.config.epoch_steps:
        raise ValueError(
            f"Got recipe {name!r}, whose samples never come again, expected an end to encode them up to: add "
            "--override model.epoch_steps=1000 here and in the training."
        )
    per_step = task.config.segmentation_batch + task.config.generation_batch
    steps = (
        task.config.epoch_steps if samples is None else min(-(-samples // per_step), task.config.epoch_steps)
    )
    mine = range(rank, steps, world_size)
    made_with = {
        "vae": str(parts.vae or parts.start),
        "vlm": str(parts.vlm or parts.start),
        "precision": f"{task.config.vlm_precision} weights, {recipe.loop.mixed_precision} products",
        "resolution": str(task.config.resolution),
    }
    with (
        CacheWriter(
            output, task.encoder.identity, rank=rank, world_size=world_size, made_with=made_with
        ) as writer,
        progress(per_step * len(mine)) as advance,
    ):
        return task.fill(writer, mine, recipe.loop.mixed_precision, advance)


def cost(recipe: Recipe, parts: Parts, processes: int = 1) -> list[tuple[str, str]]:
    """What a run is made of and what it needs, as labels and values, without starting it.

    Args:
        recipe: of a transformer.
        parts: as for `workload`.
        processes: GPUs to reckon with; several share the weights out (FSDP2).
    """
    work = workload(recipe, parts, processes)
    predicted = predict(work, DGX_H100)
    step, rate = f"{predicted.seconds:.3g} s", f"{predicted.samples_per_second:,.0f} samples per second"
    masks, pictures = work.segmentation_samples, work.generation_samples
    repeats = work.processes * work.accumulation
    return [
        ("steps", f"{recipe.loop.steps:,}"),
        ("samples per step", f"{repeats * masks} masks, {repeats * pictures} pictures"),
        ("processes x micro-batches", f"{processes} x {work.accumulation}"),
        *estimate(work).table(),
        ("a step on H100, predicted, not measured", f"{step}, {rate}"),
    ]


def workload(recipe: Recipe, parts: Parts, processes: int = 1) -> Workload:
    """A step of a run, in one of its processes.

    Args:
        recipe: of a transformer.
        parts: a model to start from says how large its parts are; without one they are Wan-2.1-T2V-1.3B's and
            Qwen2.5-VL-7B's.
        processes: several share the weights out (FSDP2).

    Raises:
        ValueError: a recipe of another part; samples that cannot be shared out evenly.
    """
    config, loop = recipe.model, recipe.loop
    if not isinstance(config, MaskConfig):
        raise ValueError(
            "Got a recipe of a small part, expected one of a transformer, such as 'tiny' or 'paper'."
        )
    start = parts.start or recipe.start
    vlm_parameters, vae, transformer, token_side = QWEN_PARAMETERS, {}, dict(PAPER_CONFIG), QWEN_TOKEN_SIDE
    if start is not None:
        folder = resolve_model(start)
        vlm = read_json(folder / "vlm" / "config.json")
        vlm_parameters = count_parameters(folder / "vlm")
        vae, transformer = (_arguments(folder / part) for part in ("vae", "transformer"))
        token_side = vlm["vision_config"]["patch_size"] * vlm["vision_config"]["spatial_merge_size"]
    if config.shape is not None:
        transformer |= asdict(config.shape)
    height, width = max(config.sizes, key=lambda size: size[0] * size[1])
    share = Share(world_size=processes, accumulation=loop.accumulation)
    share.require(masks=config.segmentation_batch, pictures=config.generation_batch or None)
    trainable = None
    if config.lora_rank:
        with torch.device("meta"):
            adapted = GenMaskTransformer(**transformer)
            add_lora(adapted, config.lora_rank)
        trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    return Workload(
        transformer=transformer,
        size=(height, width),
        segmentation_samples=len(share.samples(0, config.segmentation_batch, 0)),
        generation_samples=len(share.samples(0, config.generation_batch, 0)),
        segmentation_frames=config.segmentation_frames,
        prompt_tokens=segmentation_prompt_tokens(height, width, token_side),
        caption_tokens=CAPTION_TOKENS,
        accumulation=loop.accumulation,
        processes=processes,
        sharded=processes > 1,
        gradient_checkpointing=config.gradient_checkpointing,
        compute_bytes=2 if loop.mixed_precision == "bf16" else 4,
        trainable=trainable,
        ema=loop.ema_decay is not None,
        optimizer_bytes=2 if loop.optimizer == "adamw-8bit" else 8,
        vae=vae,
        vlm_parameters=vlm_parameters,
        vlm_bytes={"float32": 4, "bf16": 2, "int8": 1}[config.vlm_precision],
        cached=parts.cache is not None,
        offloaded=config.offload,
        pixel_supervision=config.supervision == "bce-pixels",
    )


def _completed(recipe: Recipe, parts: Parts) -> Parts:
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


def _build(recipe: Recipe, parts: Parts) -> TrainingTask:
    config = recipe.model
    if isinstance(config, MaskConfig):
        return _mask_task(recipe, config, parts)
    if isinstance(config, PretrainingConfig):
        sources = _sources(config, config.sources, "recognition", parts.data)
        return build_pretraining_task(config, sources, *_folders(parts))
    if isinstance(config, DescriberConfig):
        return _describer_task(config, parts, recipe.validation_samples)
    validation = _held_out(("scenes/val", "photos/val"), parts.data, recipe.validation_samples)
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
    return MaskTask(
        config,
        _transformer(config, parts, language.config.get_text_config().hidden_size),
        segmentation_sources=_sources(config, config.segmentation_sources, "segmentation", parts.data),
        generation_sources=_sources(config, config.generation_sources, "generation", parts.data)
        if config.generation_batch
        else {},
        validation=_held_out(recipe.benchmarks, parts.data, recipe.validation_samples),
        vae=load_model(AutoencoderKLWan, vae, dtype=torch.float32),
        vlm=language,
        processor=load_processor(processor),
        describer=_describer(parts.start, dtype),
        mask_head=_mask_head(config, parts.start),
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


def _mask_head(config: MaskConfig, start: str | Path | None) -> LinearMaskHead | None:
    """The starting model's, if the run goes on training one."""
    if start is None or config.supervision != "bce-linear":
        return None
    folder = resolve_model(start) / "mask_head"
    return load_model(LinearMaskHead, folder, dtype=torch.float32) if folder.is_dir() else None


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


def _held_out(benchmarks: Sequence[str], data: Path | None, count: int) -> dict[str, Sequence[Example]]:
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


def _arguments(folder: Path) -> dict[str, Any]:
    """Of a diffusers class, as its folder's configuration gives them."""
    return {
        name: value for name, value in read_json(folder / "config.json").items() if not name.startswith("_")
    }


def _last_scores(log: Path) -> dict[str, float]:
    """Of the last evaluation in a run's log."""
    for line in reversed(log.read_text().splitlines()):
        record = json.loads(line)
        if "learning_rate" not in record:
            return {name: value for name, value in record.items() if name != "step"}
    return {}
