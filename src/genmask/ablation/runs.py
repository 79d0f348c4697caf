"""One run: a row trained from one seed, and scored; its folder tells what is done.

OUTPUT/ROW/seed-S/result.json     scores, settings, circumstances: all that the tables need
OUTPUT/ROW/seed-S/model/          of seed 0; of the others until they are scored
OUTPUT/ROW/seed-S/checkpoints/    until the run is finished
OUTPUT/start/model/               the transformer that all runs start from
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from pprint import pformat
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from transformers import Qwen2_5_VLForConditionalGeneration

from genmask.ablation.rows import ROWS, Row, scored_with
from genmask.ablation.samples import ShuffledScenes, read_held_out
from genmask.ablation.scale import Scale
from genmask.ablation.scores import answers, best_constant, exchanged, oracle_masks, score
from genmask.atomic import save_json
from genmask.denoiser import GenMaskTransformer
from genmask.loading import load_model
from genmask.mask_head import LinearMaskHead
from genmask.model_folder import MODEL_INDEX, load_processor, resolve_model
from genmask.pipeline import GenMaskPipeline
from genmask.training.cache import EncodingCache, model_identity
from genmask.training.loop import train
from genmask.training.masks import MaskTask
from genmask.training.new_transformer import build_transformer
from genmask.training.pretraining import build_pretraining_task
from genmask.training.provenance import provenance, write_provenance
from genmask.training.sources import SceneSource

SAMPLES, CACHE, START = "samples", "cache", "start"
"""Folders of what all runs share, below the output."""
SETTINGS = "settings.json"
KEPT_SEED = 0
"""Whose models stay."""


def run_folder(output: Path, row: Row, seed: int) -> Path:
    return output / row.name / f"seed-{seed}"


def read_result(output: Path, scale: Scale, row: Row, seed: int) -> dict[str, Any] | None:
    """What a run came to; None if it is not finished.

    Raises:
        ValueError: it was made with other settings, or the file is damaged.
    """
    path = run_folder(output, row, seed) / "result.json"
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        _check_settings(path, result["settings"], scale.settings(row))
        return result
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"Got {path}, which is no result ({type(error).__name__}), expected what genmask ablate writes: delete it."
        ) from error


def check_output(output: Path, scale: Scale) -> None:
    """Raise ValueError if the folder holds a run, finished or begun, that was made with other settings."""
    if (begun := output / START / SETTINGS).exists():
        _check_settings(begun, json.loads(begun.read_text(encoding="utf-8")), scale.numbers())
    for row in ROWS.values():
        for folder in sorted((output / row.name).glob("seed-*")):
            read_result(output, scale, row, int(folder.name.removeprefix("seed-")))
            if (begun := folder / SETTINGS).exists():
                _check_settings(begun, json.loads(begun.read_text(encoding="utf-8")), scale.settings(row))


def is_done(output: Path, scale: Scale, trained: Row, seed: int) -> bool:
    """Whether a trained row has its result, and so have the rows that are answered by its weights."""
    return all(read_result(output, scale, row, seed) is not None for row in scored_with(trained))


def pretrain(scale: Scale, output: Path, max_seconds: float | None = None) -> bool:
    """Train what all runs start from, or go on from its checkpoint; nothing to do where it is there, or not wanted.

    Returns:
        False if it stopped early, after `max_seconds`.
    """
    folder, config = output / START, scale.pretraining()
    is_trained = (folder / "model").exists() and not (folder / "checkpoints").exists()  # which go last
    if is_trained or not scale.pretraining_steps:
        return True
    folder.mkdir(parents=True, exist_ok=True)
    save_json(scale.numbers(), folder / SETTINGS)
    model, source = resolve_model(scale.model), {"scenes": SceneSource(config.sizes, layout=scale.layout)}
    parts = (model / "vae", model / "vlm", model / "processor")
    task = build_pretraining_task(config, source, *parts)
    write_provenance(folder, pformat(config))
    if not train(task, scale.loop(scale.pretraining_steps), folder, max_seconds):
        return False
    shutil.rmtree(folder / "checkpoints")
    return True


def build_task(scale: Scale, row: Row, seed: int, output: Path, *, trains: bool = True) -> MaskTask:
    """What a row trains: the samples and starting weights of a seed are the same for every row.

    `trains`: from the common start and the cache; False for a task of which VAE and VLM alone are asked.
    """
    folder, config = resolve_model(scale.model), scale.config(row, seed)
    vlm = load_model(Qwen2_5_VLForConditionalGeneration, folder / "vlm", dtype=torch.float32)
    vae = load_model(AutoencoderKLWan, folder / "vae", dtype=torch.float32)
    parts = (folder / "vae", folder / "vlm", folder / "processor")
    identity = f"{model_identity(*parts)}-float32-{scale.mixed_precision}"
    if trains and scale.pretraining_steps:
        start = output / START / "model"
        transformer = load_model(GenMaskTransformer, start, dtype=torch.float32).requires_grad_(True)
    else:
        transformer = build_transformer(scale.shape, vlm.config.get_text_config().hidden_size, seed)
    source = {"scenes": ShuffledScenes(output / SAMPLES, seed)}
    torch.manual_seed(seed)
    return MaskTask(
        config,
        transformer,
        segmentation_sources=source,
        generation_sources=source if config.generation_batch else {},
        validation={},
        vae=vae,
        vlm=vlm,
        processor=load_processor(folder / "processor"),
        mask_head=LinearMaskHead(vae.config.z_dim) if config.supervision == "bce-linear" else None,
        cache=EncodingCache(output / CACHE, identity) if trains else None,
        identity=identity,
    )


def run(scale: Scale, row: Row, seed: int, output: Path, max_seconds: float | None = None) -> bool:
    """Train a row, or go on from its checkpoint; score it, and the rows that are answered by its weights.

    Args:
        scale: what all runs have in common.
        row: a trained one.
        seed: of starting weights, noise and the order of the samples.
        output: of the whole ablation; it holds the samples and their encodings, and no run with other settings
            (`check_output`).
        max_seconds: stop with a checkpoint after so long.

    Returns:
        False if the run stopped early.

    Raises:
        NonFiniteError: a loss or gradient is not a finite number.
    """
    folder = run_folder(output, row, seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_json(scale.settings(row), folder / SETTINGS)
    if not (folder / "model" / MODEL_INDEX).exists():
        task = build_task(scale, row, seed, output)
        write_provenance(folder, pformat(task.config))
        if not train(task, scale.loop(), folder, max_seconds):
            return False
    _score_weights(scale, row, seed, output)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    if seed != KEPT_SEED:
        shutil.rmtree(folder / "model")
    return True


def _score_weights(scale: Scale, trained: Row, seed: int, output: Path) -> None:
    """Every missing result of the weights of a row."""
    folder = run_folder(output, trained, seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = GenMaskPipeline.from_pretrained(folder / "model", device=device)
    examples = read_held_out(output / SAMPLES)
    parameters = {
        name: sum(parameter.numel() for parameter in part.parameters())
        for name, part in (("transformer", pipeline.transformer), ("mask_head", pipeline.mask_head))
        if part is not None
    }
    config = scale.config(trained, seed)
    for row in scored_with(trained):
        if read_result(output, scale, row, seed) is not None:
            continue
        texts = exchanged(examples) if row.answer == "exchanged" else [example.text for example in examples]
        masks = answers(pipeline, examples, texts, **row.options)
        _save(
            output, scale, row, seed, score(masks, examples),
            steps=scale.steps,
            samples=scale.steps * (config.segmentation_batch + config.generation_batch),
            training_seconds=_training_seconds(folder / "log.jsonl"),
            parameters=parameters,
            config=pformat(config),
        )  # fmt: skip


def score_controls(scale: Scale, output: Path) -> None:
    """The rows that need no transformer, unless they are there."""
    missing = [
        row
        for row in ROWS.values()
        if row.weights is None and not row.is_trained and read_result(output, scale, row, KEPT_SEED) is None
    ]
    if not missing:
        return
    examples = read_held_out(output / SAMPLES)
    for row in missing:
        if row.answer == "oracle":
            masks: Sequence[np.ndarray] = oracle_masks(
                build_task(scale, ROWS["base"], KEPT_SEED, output, trains=False).pipeline(), examples
            )
        else:
            masks = [best_constant(np.load(output / SAMPLES / "masks.npy"))] * len(examples)
        _save(output, scale, row, KEPT_SEED, score(masks, examples))


def _save(output: Path, scale: Scale, row: Row, seed: int, scores: dict[str, Any], **facts: Any) -> None:
    folder = run_folder(output, row, seed)
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "row": row.name,
        "seed": seed,
        "scores": scores,
        **facts,
        "settings": scale.settings(row),
        "provenance": provenance(),
    }
    save_json(result, folder / "result.json")


def _check_settings(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """What is recorded must be what is asked for; a setting that is newer than the record is not in it."""
    for name, value in found.items():
        if wanted.get(name) != value:
            raise ValueError(
                f"Got {path} made with {name} {value}, expected {wanted.get(name)}: ask for what it was made with, or "
                "name another --output."
            )


def _training_seconds(log: Path) -> float:
    """Of all sittings, by the rates in the log."""
    seconds, step = 0.0, 0
    for line in log.read_text().splitlines():
        record = json.loads(line)
        if rate := record.get("steps_per_second"):
            seconds, step = seconds + (record["step"] - step) / rate, record["step"]
    return seconds
