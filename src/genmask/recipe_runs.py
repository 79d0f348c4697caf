"""Runs of recipes: training, and filling a cache for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from pprint import pformat
from typing import Any

from genmask.recipe_tasks import Parts, build_task, completed, inherited
from genmask.recipes import Recipe, find_recipe
from genmask.training.cache import CacheWriter, FillCounts
from genmask.training.loop import train
from genmask.training.masks import MaskTask
from genmask.training.model_card import write_model_card
from genmask.training.parallel import is_main_process
from genmask.training.provenance import write_provenance


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
    parts = completed(recipe, parts or Parts())
    recipe = inherited(recipe, parts.start)
    task = build_task(recipe, parts)
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
    parts = completed(recipe, parts or Parts())
    task = build_task(recipe, parts)
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


def _last_scores(log: Path) -> dict[str, float]:
    """Of the last evaluation in a run's log."""
    for line in reversed(log.read_text().splitlines()):
        record = json.loads(line)
        if "learning_rate" not in record:
            return {name: value for name, value in record.items() if name != "step"}
    return {}
