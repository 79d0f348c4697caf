"""The describer: trained in the prompt it is later asked in, scored by what it writes, found again by a pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from genmask.conditioning import InstructionEncoder
from genmask.data.example import Dialogue
from genmask.loading import load_model
from genmask.model_folder import load_processor
from genmask.prompt_batch import IGNORED
from genmask.recipe_runs import run
from genmask.recipe_tasks import Parts
from genmask.recipes import RECIPES
from genmask.training.language import DescriberConfig, DescriberTask
from genmask.training.loop import LoopConfig, train
from genmask.training.parallel import Share
from tests.toy import toy_processor, toy_vlm

PICTURE = np.full((32, 32, 3), 200, dtype=np.uint8)
TURNS = (("what can I  drink from?", "the mug"), ("a star", "a star"))


class Questions:
    def dialogues(self, index: int) -> list[Dialogue]:
        return [Dialogue(image=PICTURE, question=question, answer=answer) for question, answer in TURNS]


def describer_task() -> DescriberTask:
    return DescriberTask(
        DescriberConfig(batch_size=2),
        [Questions()],
        {"held": Questions().dialogues(0)},
        toy_vlm(),
        toy_processor(),
    )


def test_the_prompt_of_training_is_that_of_describing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Token by token, up to the first word of the answer, and the picture's patches too."""
    task = describer_task()
    batch = task.batches(Share())[0]
    asked: dict[str, Any] = {}

    def generate(**inputs: Any) -> torch.Tensor:
        asked.update(inputs)
        return inputs["input_ids"]

    monkeypatch.setattr(task.network, "generate", generate)
    task.encoder.describe(PICTURE, TURNS[0][0])
    assert batch.labels is not None
    assert batch.pixel_values is not None
    begins = int((batch.labels[0] != IGNORED).nonzero()[0])
    assert asked["input_ids"][0].tolist() == batch.input_ids[0, :begins].tolist()
    assert torch.equal(asked["pixel_values"], batch.pixel_values[: len(asked["pixel_values"])])
    said = toy_processor().tokenizer.decode(batch.labels[0][batch.labels[0] != IGNORED])
    assert said == "the mug<|im_end|>"


def test_the_instruction_fills_the_models_own_prompt() -> None:
    processor = toy_processor()
    assert processor.describing_prompt("what \n rolls?") == processor.describe_prompt.format(
        instruction="what rolls?"
    )


def test_a_describer_learns_to_write_what_it_is_taught(tmp_path: Path) -> None:
    """The score is of greedy answers, through `describe` itself; before training none is right."""
    task = describer_task()
    with torch.no_grad():
        before = task.evaluate(Share()).scores
    assert before["held_exact"] == 0
    loop = LoopConfig(
        steps=60, learning_rate=1e-2, final_learning_rate=1e-3, warmup_steps=5, mixed_precision="no",
        num_workers=0, checkpoint_every=1000, evaluate_every=0,
    )  # fmt: skip
    assert train(task, loop, tmp_path / "run")
    folder = tmp_path / "run/model"
    vlm = load_model(Qwen2_5_VLForConditionalGeneration, folder, dtype=torch.float32)
    encoder = InstructionEncoder(vlm, load_processor(folder))
    for question, answer in TURNS:
        found = encoder.describe(PICTURE, question)
        assert (found.target, found.is_fallback) == (answer, False)


def test_the_recipe_starts_from_a_models_language_model_and_leaves_it_as_it_is(
    toy_pipeline_folder: Path, tmp_path: Path
) -> None:
    recipe = RECIPES["tiny-describer"]()
    loop = replace(recipe.loop, steps=1, warmup_steps=0, evaluate_every=0, num_workers=0)
    small = replace(recipe, model=DescriberConfig(batch_size=1), loop=loop, validation_samples=1)
    weights = toy_pipeline_folder / "vlm/model.safetensors"
    before = weights.read_bytes()
    assert run("tiny-describer", tmp_path / "run", Parts(start=toy_pipeline_folder), recipe=small)
    assert weights.read_bytes() == before
    trained = load_model(Qwen2_5_VLForConditionalGeneration, tmp_path / "run/model", dtype=torch.float32)
    start = toy_vlm().state_dict()
    after = trained.state_dict()
    assert start.keys() == after.keys()
    changed = [name for name in start if not torch.allclose(start[name], after[name], rtol=0.02, atol=1e-6)]
    assert changed
    assert all(
        (after[name] - start[name]).abs().max() < 0.02 for name in start
    )  # one step away, not made anew
    log = (tmp_path / "run/log.jsonl").read_text()
    assert "scenes_exact" in log
    assert "plain_exact" in log
    for parts in (Parts(vlm=tmp_path), Parts(start=toy_pipeline_folder, vlm=tmp_path)):
        with pytest.raises(ValueError, match="Got a --vlm folder, expected none"):
            run("tiny-describer", tmp_path / "other", parts, recipe=small)
