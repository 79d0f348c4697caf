"""Recipes: every name is a complete configuration; shrunken ones run from nothing to a model that segments."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from genmask.commands.train import find
from genmask.data.scenes import Scenes
from genmask.pipeline import GenMaskPipeline
from genmask.recipe_cost import cost
from genmask.recipe_runs import cache, run
from genmask.recipe_tasks import Parts, build_task, held_out, inherited
from genmask.recipes import RECIPES, Recipe
from genmask.timesteps import PowerLaw
from genmask.training.autoencoder import AutoencoderConfig
from genmask.training.language import DescriberConfig, LanguageConfig
from genmask.training.loop import LoopConfig
from genmask.training.mask_config import MaskConfig
from genmask.training.masks import MaskTask
from genmask.training.new_transformer import TransformerShape
from genmask.training.pretraining import PretrainingConfig
from genmask.training.sources import PhotographSource, SceneSource

SHAPE = TransformerShape(num_layers=1, num_attention_heads=2, attention_head_dim=12, ffn_dim=48, freq_dim=32)
SMALLER: dict[str, dict[str, Any]] = {
    "tiny-vae": {"base_dim": 4, "crop": 32, "batch_size": 4},
    "tiny-vae-decoder": {"crop": 32, "batch_size": 4},
    "tiny-vlm": {
        "hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 64,
        "vision_hidden_size": 16, "vision_depth": 2, "vision_num_heads": 2, "vision_intermediate_size": 32,
        "vocab_size": 320, "tokenizer_samples": 10, "batch_size": 2,
    },
    "tiny": {
        "shape": SHAPE, "sizes": ((64, 64), (48, 80)),
        "segmentation_batch": 4, "generation_batch": 2, "epoch_steps": 2,
        "resolution": 64, "compile": False, "recognition_block": 0,
    },
    "tiny-fine": {
        "sizes": ((96, 96), (80, 112)), "segmentation_batch": 4, "generation_batch": 2,
        "resolution": 96, "vlm_max_pixels": 64 * 64, "compile": False, "recognition_block": 0,
    },
    "tiny-recognition": {"shape": SHAPE, "sizes": ((64, 64), (48, 80)), "batch_size": 4, "block": 0},
    "finetune": {"segmentation_batch": 4},
}  # fmt: skip


def toy(name: str) -> Recipe:
    """Two steps of the named recipe, small enough for a test."""
    recipe = RECIPES[name]()
    loop = replace(recipe.loop, steps=2, checkpoint_every=1, evaluate_every=0, num_workers=0)
    return replace(recipe, model=replace(recipe.model, **SMALLER[name]), loop=loop, validation_samples=2)


def write_photographs(root: Path, sizes: list[tuple[int, int]]) -> None:
    """For each size a photograph to train on and one to validate on: a tiger, half of the picture, and an otter."""
    for folder in ("images", "labels"):
        (root / "animals" / folder).mkdir(parents=True)
    rows = []
    for number, (height, width) in enumerate(sizes):
        labels = np.zeros((height, width), dtype=np.uint8)
        labels[:, : width // 2] = 1
        labels[: height // 3, width // 2 :] = 2
        for split in ("train", "val"):
            names = {"image": f"images/{split}{number}.jpg", "labels": f"labels/{split}{number}.png"}
            Image.fromarray(np.stack([labels * 100] * 3, axis=-1)).save(root / "animals" / names["image"])
            Image.fromarray(labels).save(root / "animals" / names["labels"])
            rows.append({**names, "height": height, "width": width, "split": split, "present": [1, 2]})
    (root / "animals/index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "animals/classes.json").write_text(json.dumps({0: "background", 1: "tiger", 2: "otter"}))


@pytest.mark.parametrize("name", RECIPES)
def test_every_name_is_a_complete_configuration(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe == RECIPES[name]()
    assert isinstance(recipe.loop, LoopConfig)
    parts = AutoencoderConfig | LanguageConfig | DescriberConfig | PretrainingConfig
    assert isinstance(recipe.model, parts | MaskConfig)
    for line in (recipe.summary, recipe.expected):
        assert line.isascii()
        assert "\n" not in line
    assert recipe.loop.learning_rate > recipe.loop.final_learning_rate
    assert recipe.loop.warmup_steps < recipe.loop.steps


@pytest.mark.parametrize("name", ["tiny", "tiny-fine"])
def test_the_sizes_suit_the_model(name: str) -> None:
    tiny = RECIPES[name]().model
    assert isinstance(tiny, MaskConfig)
    for height, width in tiny.sizes:
        assert 0.8 <= height * width / tiny.resolution**2 <= 1.25
        assert height % 16 == width % 16 == 0


def test_an_unknown_name_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match="Got recipe 'tiny-vea', expected one of tiny-vae, tiny-vlm, tiny-vae-decoder, tiny-describer, tiny",
    ):
        run("tiny-vea", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        ("tiny", {}, "Got no --vae folder, expected the model/ folder of a finished tiny-vae run."),
        (
            "tiny",
            {"vae": Path("v")},
            "Got no --vlm folder, expected the model/ folder of a finished tiny-vlm run.",
        ),
        ("tiny-vae", {"vae": Path("v")}, "Got a --vae folder, expected none."),
        ("tiny", {"vae": Path("v"), "start": "tiny"}, "Got a --vae folder, expected none."),
        (
            "tiny-vae",
            {"start": "tiny"},
            "Got --start tiny, expected none: this recipe trains a part from scratch.",
        ),
        ("tiny-vlm", {"vlm": Path("v")}, "Got a --vlm folder, expected none."),
        (
            "paper",
            {},
            "Got no --start, expected a model to go on from, such as what genmask convert writes.",
        ),
    ],
)
def test_parts_that_are_missing_or_not_wanted_are_named(
    name: str, parts: dict[str, Path], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole message is compared)
        run(name, tmp_path / "run", Parts(**parts))
    assert str(error.value) == message
    assert not (tmp_path / "run").exists()


def test_a_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    parts = Parts(vae=tmp_path / "nowhere", vlm=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="nowhere"):
        run("tiny", tmp_path / "run", parts, recipe=toy("tiny"))


def test_a_training_goes_on_from_a_finished_model(toy_pipeline_folder: Path) -> None:
    config = json.loads((toy_pipeline_folder / "transformer/config.json").read_text())
    shape = TransformerShape(**{name: config[name] for name in asdict(SHAPE)})
    recipe = toy("tiny")
    recipe = replace(recipe, model=replace(recipe.model, shape=shape))
    start = Parts(start=toy_pipeline_folder)
    saved = load_file(toy_pipeline_folder / "transformer/diffusion_pytorch_model.safetensors")
    for variation in (recipe, replace(recipe, model=replace(recipe.model, shape=None))):
        task = build_task(variation, start)
        assert isinstance(task, MaskTask)
        weights = task.transformer.state_dict()
        assert saved.keys() == weights.keys()
        assert all(torch.equal(weights[name], value.float()) for name, value in saved.items())
        assert all(parameter.requires_grad for parameter in task.transformer.parameters())
    deeper = replace(
        recipe, model=replace(recipe.model, shape=replace(shape, num_layers=shape.num_layers + 1))
    )
    with pytest.raises(ValueError, match=r"num_layers 2, expected the recipe's 3: .*model.shape=None"):
        build_task(deeper, start)


@pytest.mark.parametrize("with_photographs", [False, True])
def test_the_three_recipes_make_a_model_that_segments(with_photographs: bool, tmp_path: Path) -> None:
    photos = None
    if with_photographs:
        photos = tmp_path / "photos"
        write_photographs(photos, [(64, 64), (48, 80)])
    vae, vlm = tmp_path / "vae", tmp_path / "vlm"
    data = Parts(data=photos)
    assert run("tiny-vae", vae, data, recipe=toy("tiny-vae"))
    assert run("tiny-vlm", vlm, data, recipe=toy("tiny-vlm"))
    alone = Parts(data=photos, vae=vae / "model", vlm=vlm / "model")
    assert run("tiny-recognition", tmp_path / "seeing", alone, recipe=toy("tiny-recognition"))
    output = tmp_path / "tiny"
    parts = replace(alone, transformer=tmp_path / "seeing" / "model")
    counts = cache("tiny", tmp_path / "cache", parts, progress=silent, recipe=toy("tiny"))
    assert (counts.encoded, counts.found) == (12, 0)
    parts = replace(parts, cache=tmp_path / "cache")
    assert not run("tiny", output, parts, recipe=toy("tiny"), max_minutes=0)
    assert not (output / "model").exists()
    assert run("tiny", output, parts, recipe=toy("tiny"))

    found = {path.name for path in output.iterdir()}
    assert found == {"checkpoints", "log.jsonl", "model", "pictures", "provenance.jsonl"}
    sittings = [json.loads(line) for line in (output / "provenance.jsonl").read_text().splitlines()]
    assert len(sittings) == 2
    assert "segmentation_density=PowerLaw(a=" in sittings[0]["config"]
    scores = json.loads((output / "log.jsonl").read_text().splitlines()[-1])
    assert ("photos_oiou" in scores) == with_photographs
    assert {"scenes_oiou", "scenes_miou", "scenes_present_empty", "scenes_absent_empty"} < scores.keys()
    pictures = {path.name.removeprefix("step-000000002-") for path in (output / "pictures").iterdir()}
    assert pictures == {"scenes.png", "generated.png"} | ({"photos.png"} if with_photographs else set())
    card = (output / "model" / "README.md").read_text()
    assert f"{scores['scenes_oiou']:.3f}" in card
    finished = Parts(data=photos, start=output / "model")
    assert run("tiny-vae-decoder", tmp_path / "decoder", finished, recipe=toy("tiny-vae-decoder"))
    drawn_only = replace(finished, data=None)  # one photograph is too little to compose others of
    assert run("tiny-fine", tmp_path / "fine", drawn_only, recipe=toy("tiny-fine"))
    example = Scenes("val", size=64)[0]
    for folder in (output, tmp_path / "fine"):
        pipeline = GenMaskPipeline.from_pretrained(folder / "model")
        assert pipeline.segment(example.image, example.text).mask.shape == (64, 64)
    assert pipeline.processor.vlm_max_pixels == 64 * 64
    assert not pipeline.config.noise
    assert pipeline.presence_head is not None
    again = build_task(toy("tiny-fine"), Parts(start=tmp_path / "fine" / "model"))
    assert isinstance(again, MaskTask)
    assert again.network.presence_head is not None
    assert torch.equal(again.network.presence_head.linear.weight, pipeline.presence_head.linear.weight)
    assert pipeline.presence_head.linear.weight.any()


def test_scenes_are_asked_about_twice_and_never_twice_the_same() -> None:
    source = SceneSource([(48, 64)], seed=0)
    first, second, third = (source.segmentation(index, 48, 64) for index in range(3))
    assert np.array_equal(first.image, second.image)
    assert (first.text, first.id) != (second.text, second.id)
    assert not np.array_equal(first.image, third.image)
    assert first.image.shape == (48, 64, 3)


def test_photographs_are_cropped_to_the_size_they_suit(tmp_path: Path) -> None:
    write_photographs(tmp_path, [(64, 64), (40, 80)])
    sizes = [(64, 64), (48, 80), (64, 64)]
    source = PhotographSource(tmp_path, sizes)
    for (height, width), own in (((64, 64), "train0"), ((48, 80), "train1")):
        for index in range(4):
            example = source.segmentation(index, height, width)
            assert example.image.shape == (height, width, 3)
            assert example.id.startswith(own)
            assert example.mask is not None
            assert source.generation(index, height, width).image.shape == (height, width, 3)
    again = PhotographSource(tmp_path, sizes).segmentation(3, 48, 80)
    assert np.array_equal(again.image, source.segmentation(3, 48, 80).image)


def test_sizes_of_another_stage_take_no_photograph_away(tmp_path: Path) -> None:
    write_photographs(tmp_path, [(64, 64), (40, 80)])
    sizes = [(64, 64), (48, 80), (32, 32), (24, 40)]
    source = PhotographSource(tmp_path, sizes)
    for height, width in sizes:
        own = "train0" if height == width else "train1"
        assert source.segmentation(0, height, width).id.startswith(own)


def test_a_size_that_no_photograph_suits_takes_all(tmp_path: Path) -> None:
    write_photographs(tmp_path, [(64, 64), (64, 72)])
    source = PhotographSource(tmp_path, [(64, 64), (48, 96)])
    found = [source.segmentation(index, 48, 96) for index in range(8)]
    assert {example.id.split("/")[0] for example in found} == {"train0", "train1"}
    assert all(example.image.shape == (48, 96, 3) for example in found)
    assert any(example.mask is not None and example.mask.any() for example in found)


def test_held_out_samples_are_spread_over_the_photographs(tmp_path: Path) -> None:
    write_photographs(tmp_path, [(64, 64), (40, 80)])
    samples = held_out(("scenes/val", "photos/val"), tmp_path, 2)
    assert {name: len(found) for name, found in samples.items()} == {"scenes": 2, "photos": 2}
    assert len({example.id.split("/")[0] for example in samples["photos"]}) == 2
    assert [*held_out(("scenes/val", "photos/val"), None, 2)] == ["scenes"]


def test_a_finished_model_is_tuned_to_a_folder(toy_pipeline_folder: Path, tmp_path: Path) -> None:
    """Without any other data; the held-out part is scored and never trained on."""
    rows = []
    for number in range(6):
        example = Scenes("train", size=64)[number * 4]
        assert example.mask is not None
        Image.fromarray(example.image).save(tmp_path / f"{number}.png")
        Image.fromarray(example.mask).save(tmp_path / f"{number}-mask.png")
        rows.append({"image": f"{number}.png", "text": example.text, "mask": f"{number}-mask.png"})
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = Parts(data=tmp_path, start=toy_pipeline_folder)
    recipe = toy("finetune")
    before = build_task(recipe, parts)
    assert isinstance(before, MaskTask)
    assert (before.config.resolution, before.config.noise) == (64, True)
    assert [*before.validation] == ["folder"]
    held_out = {example.id for example in before.validation["folder"]}
    seen = {sample.id.split("/", 1)[1] for step in range(20) for sample in before.samples.drawn(step)}
    assert held_out
    assert not held_out & seen
    assert run("finetune", tmp_path / "run", parts, recipe=recipe)
    tuned = load_file(tmp_path / "run/model/transformer/diffusion_pytorch_model.safetensors")
    start = load_file(toy_pipeline_folder / "transformer/diffusion_pytorch_model.safetensors")
    assert any(not torch.equal(tuned[name].float(), start[name].float()) for name in tuned)


def test_what_is_tuned_stays_what_it_is_but_for_what_the_user_changes(
    toy_pipeline_folder: Path, tmp_path: Path
) -> None:
    index = toy_pipeline_folder / "model_index.json"
    start = tmp_path / "from-zeros"
    shutil.copytree(toy_pipeline_folder, start)
    (start / index.name).write_text(json.dumps({**json.loads(index.read_text()), "noise": False}))
    tuned = inherited(find("finetune", []), start)
    assert isinstance(tuned.model, MaskConfig)
    assert not tuned.model.noise
    assert (tuned.model.resolution, tuned.model.sizes[:2]) == (64, ((64, 64), (48, 64)))
    assert inherited(tuned, start) == tuned
    larger = inherited(find("finetune", ["model.noise=True", "model.resolution=96"]), start).model
    assert isinstance(larger, MaskConfig)
    assert larger.noise
    assert (larger.resolution, larger.sizes[0]) == (96, (96, 96))
    rival = {**json.loads(index.read_text()), "prediction": "mask"}
    (start / index.name).write_text(json.dumps(rival))
    discriminative = inherited(find("finetune", []), start).model
    assert isinstance(discriminative, MaskConfig)
    assert (discriminative.prediction, discriminative.supervision) == ("mask", "bce-linear")


def test_a_cache_needs_an_end(toy_pipeline_folder: Path, tmp_path: Path) -> None:
    recipe = toy("tiny")
    recipe = replace(recipe, model=replace(recipe.model, shape=None, epoch_steps=0))
    with pytest.raises(ValueError, match=r"--override model\.epoch_steps=1000"):
        cache("tiny", tmp_path, Parts(start=toy_pipeline_folder), progress=silent, recipe=recipe)


def test_the_paper_is_the_paper() -> None:
    recipe = RECIPES["paper"]()
    assert isinstance(recipe.model, MaskConfig)
    loop = recipe.loop
    assert (loop.steps, loop.learning_rate, loop.final_learning_rate) == (8000, 5e-5, 1e-5)
    assert recipe.model.segmentation_batch == recipe.model.generation_batch == 512
    assert recipe.model.segmentation_density == PowerLaw(0.05)
    changed = {
        "paper-a-0.1": {"segmentation_density": PowerLaw(0.1)},
        "paper-a-0.5": {"segmentation_density": PowerLaw(0.5)},
        "paper-bce-pixels": {"supervision": "bce-pixels"},
        "paper-bce-linear": {"supervision": "bce-linear"},
        "paper-no-generation": {"generation_batch": 0},
        "paper-no-shortcut": {"shortcut": False},
        "paper-t-1": {"segmentation_density": PowerLaw(0.0)},
        "paper-zero-noise": {"segmentation_density": PowerLaw(0.0), "noise": False},
        "paper-x0": {"prediction": "x0"},
        "paper-picture-second": {"picture_first": False},
        "paper-discriminative": {"prediction": "mask", "supervision": "bce-linear", "generation_batch": 0},
    }
    assert {name for name in RECIPES if name.startswith("paper-")} == changed.keys()
    for name, change in changed.items():
        ablation = RECIPES[name]()
        assert ablation.model == replace(recipe.model, **change)
        assert ablation.loop == loop


@pytest.mark.parametrize("name", [name for name in RECIPES if "tiny" not in name and name != "finetune"])
def test_what_a_run_of_the_papers_size_costs(name: str) -> None:
    small = name in ("lora", "low-memory")
    found = dict(cost(RECIPES[name](), Parts(), processes=1 if small else 8))
    assert found["parameters"] == "1.42 B"
    assert float(found["memory per GPU"].removesuffix(" GiB")) < (24 if small else 80)
    assert (found["trainable parameters"] == "1.42 B") == (name != "lora")


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(ValueError, match="Got 32 masks a step for 8 processes with 16 micro-batches each"):
        cost(RECIPES["lora"](), Parts(), processes=8)


@contextmanager
def silent(total: int) -> Iterator[Callable[[int], None]]:
    yield lambda done: None
