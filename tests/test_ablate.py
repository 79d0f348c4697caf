"""`genmask ablate` at toy size: rows that differ in one thing, runs that go on, tables that carry."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from genmask.ablation import schedule
from genmask.ablation.rows import ROWS, TABLES, Row, scored_with
from genmask.ablation.runs import build_task, pretrain, read_result, run, run_folder
from genmask.ablation.samples import ShuffledScenes, draw_samples, encode_samples, read_held_out
from genmask.ablation.scale import SCALES, Scale
from genmask.ablation.schedule import ablate, missing_runs
from genmask.ablation.scores import best_constant, exchanged, score
from genmask.ablation.tables import read_results, tables
from genmask.cli import main
from genmask.commands.terminal import progress
from genmask.data.example import Example
from genmask.data.scenes import Scenes
from genmask.evaluation.metrics import IoUTotals
from genmask.pipeline import GenMaskPipeline
from genmask.recipes import RECIPES, paper
from genmask.training.mask_config import MaskConfig
from genmask.training.new_transformer import TransformerShape
from genmask.training.sources import SceneSource

SHAPE = TransformerShape(num_layers=1, num_attention_heads=2, attention_head_dim=12, ffn_dim=48, freq_dim=32)
TRAINED = [row for row in ROWS.values() if row.is_trained]


@pytest.fixture
def scale(toy_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Scale:
    """A toy, which the command takes for its own."""
    toy = Scale(
        model=str(toy_pipeline_folder), size=32, shape=SHAPE, steps=2, segmentation_batch=3, generation_batch=2,
        sentences=5, pictures=3, held_out=12, checkpoint_every=1,
        pretraining_steps=1, pretraining_batch=2,
    )  # fmt: skip
    monkeypatch.setitem(SCALES, "tiny", toy)
    return toy


def do(scale: Scale, output: Path, *names: str, **options: Any) -> bool:
    rows = [ROWS[name] for name in names]
    said: list[str] = []
    return ablate(scale, rows, output, **{"seeds": 1, "progress": progress, "say": said.append, **options})


def scores(output: Path, scale: Scale, name: str, seed: int = 0) -> Any:
    result = read_result(output, scale, ROWS[name], seed)
    assert result is not None
    return result["scores"]


def test_rows_are_those_of_the_papers_recipes() -> None:
    base = paper().model
    for row in ROWS.values():
        if row.recipe:
            recipe = RECIPES[row.recipe]()
            assert recipe.model == replace(base, **row.changes), row.name
            assert row.paper in recipe.expected or row.recipe == "paper"
    named = {row.recipe for row in ROWS.values()}
    assert {name for name in RECIPES if name == "paper" or name.startswith("paper-")} <= named


def test_every_row_is_in_a_table_and_is_answered_by_weights_that_are_trained() -> None:
    shown = {name for members in TABLES.values() for name in members}
    assert shown | {"oracle"} == ROWS.keys()
    for row in ROWS.values():
        assert row.weights is None or ROWS[row.weights].is_trained
    assert [row.name for row in scored_with(ROWS["logit-normal"])] == [
        "logit-normal", "logit-normal-2-steps", "logit-normal-5-steps", "logit-normal-20-steps",
    ]  # fmt: skip


@pytest.mark.parametrize("row", TRAINED, ids=lambda row: row.name)
def test_a_row_changes_what_it_names_and_nothing_else(row: Row) -> None:
    base = SCALES["tiny"].config(ROWS["base"], 0)
    config = SCALES["tiny"].config(row, 0)
    changed = {
        name for name in MaskConfig.__dataclass_fields__ if getattr(config, name) != getattr(base, name)
    }
    assert changed == row.changes.keys()
    assert config.seed == 0
    assert SCALES["tiny"].config(row, 1) == replace(config, seed=1)


def test_rows_of_a_seed_start_alike_and_see_the_same(scale: Scale, tmp_path: Path) -> None:
    draw_samples(scale, tmp_path / "samples", progress)
    encode_samples(
        scale, build_task(scale, ROWS["base"], 0, tmp_path, trains=False), tmp_path / "cache", progress
    )
    assert pretrain(scale, tmp_path)

    def build(scale: Scale) -> list[Any]:
        runs = (("base", 0), ("discriminative", 0), ("base", 1))
        return [build_task(scale, ROWS[name], seed, tmp_path) for name, seed in runs]

    def differ(one: Any, other: Any) -> bool:
        weights = one.transformer.state_dict()
        return any(not torch.equal(x, weights[name]) for name, x in other.transformer.state_dict().items())

    base, rival, other = build(scale)
    assert not differ(base, rival)
    assert not differ(base, other)
    assert all(parameter.requires_grad for parameter in base.transformer.parameters())
    new, new_rival, new_other = build(replace(scale, pretraining_steps=0))
    assert not differ(new, new_rival)
    assert differ(new, new_other)
    assert differ(new, base)

    def seen(task: Any, steps: int) -> list[str]:
        return [
            sample.id
            for step in range(steps)
            for sample in task.samples.drawn(step)
            if sample.mask is not None
        ]

    assert seen(base, 3) == seen(rival, 3) != seen(other, 3)
    assert sorted(seen(base, 5)[:5]) == sorted(seen(other, 5)[:5]) == [f"scenes/{i}" for i in range(5)]


def test_samples_are_drawn_once_and_hold_the_scenes(scale: Scale, tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    draw_samples(scale, folder, progress)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    draw_samples(scale, folder, progress)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    source = ShuffledScenes(folder, seed=0)
    drawn = SceneSource(((32, 32),), shares=scale.shares, layout=scale.layout)
    for index in range(7):
        found = source.segmentation(index, 32, 32)
        expected = drawn.segmentation(int(found.id), 32, 32)
        assert found.text == expected.text
        assert np.array_equal(found.image, expected.image)
        assert expected.mask is not None
        assert np.array_equal(found.mask, expected.mask)
        picture = source.generation(index, 32, 32)
        assert picture.text == drawn.generation(int(picture.id.split("/")[0]), 32, 32).text
    held_out = Scenes("val", size=32, length=scale.held_out, shares=scale.shares, layout=scale.layout)
    for index, example in enumerate(read_held_out(folder)):
        assert (example.text, example.kind) == (held_out[index].text, held_out[index].kind)
        assert np.array_equal(example.image, held_out[index].image)
        assert np.array_equal(example.mask, held_out[index].mask)
    with pytest.raises(ValueError, match=r"Got samples in .*'size': 32.*name another --output"):
        draw_samples(replace(scale, size=48), folder, progress)


def test_the_cache_holds_every_sample_of_every_seed(scale: Scale, tmp_path: Path) -> None:
    scale = replace(scale, pretraining_steps=0)
    draw_samples(scale, tmp_path / "samples", progress)
    task = build_task(scale, ROWS["base"], 0, tmp_path, trains=False)
    encode_samples(scale, task, tmp_path / "cache", progress)
    for seed in (0, 7):
        cached = build_task(scale, ROWS["base"], seed, tmp_path)
        for step in range(4):
            assert cached.encoder.cache is not None
            keys = [cached.encoder.key(sample) for sample in cached.samples.drawn(step)]
            assert all(key in cached.encoder.cache for key in keys)


def test_the_command_trains_scores_and_shows(
    scale: Scale, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, numbers, page = tmp_path / "runs", tmp_path / "t.json", tmp_path / "t.md"

    def command(output: Path, *more: str) -> int:
        options = ["--json", str(numbers), "--markdown", str(page), "--seeds", "1", *more]
        return main(["ablate", "--rows", "base", "discriminative", "--output", str(output), *options])

    assert command(output) == 0
    assert "1 of 1" in capsys.readouterr().out
    rows = json.loads(numbers.read_text())["rows"]
    for name in (
        "base",
        "base-20-steps",
        "base-4-noises",
        "exchanged",
        "discriminative",
        "oracle",
        "constant",
    ):
        assert [result["scores"]["samples"] for result in rows[name]["results"]] == [scale.held_out]
    (base,), (rival,) = rows["base"]["results"], rows["discriminative"]["results"]
    assert base["parameters"]["transformer"] == rival["parameters"]["transformer"]
    assert rival["parameters"]["mask_head"] == 16 * 64 + 64
    assert [(result["steps"], result["samples"]) for result in (base, rival)] == [(2, 10), (2, 6)]
    assert base["training_seconds"] > 0
    text = page.read_text()
    assert "| a = 0.05, MSE, generation data, shortcut |" in text
    assert "82.2 / 81.3" in text

    # Again: what is done stays; what is missing and has its weights is only scored.
    lost = output / "base-2-steps" / "seed-0" / "result.json"
    before = json.loads(lost.read_text())["scores"]
    lost.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("genmask.ablation.runs.train", lambda *arguments: pytest.fail("trained again"))
        assert command(output) == 0
    assert json.loads(lost.read_text())["scores"] == before
    assert json.loads(numbers.read_text())["rows"]["base"] == rows["base"]

    # Elsewhere: the results alone make the same tables.
    carried = tmp_path / "carried"
    for path in output.rglob("result.json"):
        (carried / path.relative_to(output)).parent.mkdir(parents=True)
        shutil.copy(path, carried / path.relative_to(output))
    assert command(carried) == 0
    assert page.read_text() == text
    assert not any(carried.rglob("model"))

    # Other settings: nothing is begun there.
    capsys.readouterr()
    assert command(carried, "--steps", "3") == 2
    error = capsys.readouterr().err
    assert (
        "result.json made with steps 2, expected 3: ask for what it was made with, or name another" in error
    )
    assert error.count("\n") == 1
    assert not (carried / "samples").exists()


def test_models_of_the_first_seed_stay(scale: Scale, tmp_path: Path) -> None:
    assert do(scale, tmp_path, "discriminative", seeds=2)
    first, second = (run_folder(tmp_path, ROWS["discriminative"], seed) for seed in (0, 1))
    assert not (first / "checkpoints").exists()
    assert not (second / "checkpoints").exists()
    assert not (second / "model").exists()
    assert GenMaskPipeline.from_pretrained(first / "model").config.prediction == "mask"
    assert scores(tmp_path, scale, "discriminative", 0) != scores(tmp_path, scale, "discriminative", 1)


def test_an_interrupted_run_goes_on_to_the_same_end(scale: Scale, tmp_path: Path) -> None:
    whole, parts, row = tmp_path / "whole", tmp_path / "parts", ROWS["discriminative"]
    assert do(scale, whole, row.name)
    assert not do(scale, parts, row.name, max_seconds=0)
    assert not parts.exists()
    for shared in ("samples", "cache", "start"):
        shutil.copytree(whole / shared, parts / shared)
    assert not run(scale, row, 0, parts, max_seconds=0)  # a step, and a checkpoint
    assert missing_runs(scale, [row], 1, parts) == [schedule.Run(row, 0)]
    assert do(scale, parts, row.name)
    assert missing_runs(scale, [row], 1, parts) == []
    weights = [
        load_file(folder / "discriminative/seed-0/model/transformer/diffusion_pytorch_model.safetensors")
        for folder in (whole, parts)
    ]
    assert all(torch.equal(x, weights[1][name]) for name, x in weights[0].items())
    assert scores(whole, scale, "discriminative") == scores(parts, scale, "discriminative")


def test_a_run_with_other_settings_is_not_gone_on_with(scale: Scale, tmp_path: Path) -> None:
    assert do(scale, tmp_path, "discriminative")
    (run_folder(tmp_path, ROWS["discriminative"], 0) / "result.json").unlink()
    for control in ("oracle", "constant"):
        shutil.rmtree(tmp_path / control)
    with pytest.raises(ValueError, match=r"settings.json made with learning_rate 0.003, expected 0.1"):
        do(replace(scale, learning_rate=0.1), tmp_path, "base")
    assert not (tmp_path / "oracle").exists()
    assert do(replace(scale, checkpoint_every=7), tmp_path, "discriminative")  # which changes no result


def test_a_start_of_other_settings_is_not_used(scale: Scale, tmp_path: Path) -> None:
    assert pretrain(scale, tmp_path)
    before = (tmp_path / "start/model/config.json").stat().st_mtime_ns
    assert pretrain(scale, tmp_path)
    assert (tmp_path / "start/model/config.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"start/settings.json made with pretraining_steps 1, expected 2"):
        do(replace(scale, pretraining_steps=2), tmp_path, "base")


def test_a_damaged_result_is_named(scale: Scale, tmp_path: Path) -> None:
    path = run_folder(tmp_path, ROWS["base"], 0) / "result.json"
    path.parent.mkdir(parents=True)
    for content in ("{", "{}", "[]"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"Got .*result.json, which is no result .*delete it"):
            read_result(tmp_path, scale, ROWS["base"], 0)


def test_the_first_seed_comes_first_and_answers_bring_their_weights(scale: Scale, tmp_path: Path) -> None:
    everything = missing_runs(scale, list(ROWS.values()), 3, tmp_path)
    assert [each.seed for each in everything] == sorted(each.seed for each in everything)
    assert len(everything) == 3 * len(TRAINED)
    found = missing_runs(scale, [ROWS["exchanged"], ROWS["oracle"]], 2, tmp_path)
    assert [str(each) for each in found] == ["base, seed 0", "base, seed 1"]


@pytest.mark.slow
def test_runs_side_by_side_come_to_the_same(scale: Scale, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, jobs in (("one", 1), ("two", 2)):
            assert do(scale, tmp_path / name, "no-generation", "discriminative", jobs=jobs)
    finally:
        torch.set_num_threads(threads)
    for row in ("no-generation", "discriminative"):
        assert scores(tmp_path / "one", scale, row) == scores(tmp_path / "two", scale, row)
    assert "train" in (tmp_path / "two/discriminative/seed-0/output.txt").read_text()


@pytest.mark.slow
def test_a_run_that_fails_in_its_process_is_named(scale: Scale, tmp_path: Path) -> None:
    bad = replace(scale, learning_rate=float("inf"), final_learning_rate=1.0)
    with pytest.raises(ValueError, match=r"Got a failed run \(no-generation, seed 0\); its message is above"):
        do(bad, tmp_path, "no-generation", "discriminative", jobs=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "a-0.2"], "Got row 'a-0.2', expected one of base, a-0.01"),
        (["--rows", "discriminativ"], "did you mean discriminative?"),
        (
            ["--scale", "paper"],
            "Got --scale paper, expected one of tiny; at the paper's size the rows are recipes",
        ),
        (["--seeds", "0"], "Got --seeds 0, expected at least 1."),
        (["--jobs", "0"], "Got --jobs 0, expected at least 1."),
        (["--steps", "0"], "Got --steps 0, expected at least 1."),
        (["--max-minutes", "-1"], "Got --max-minutes -1.0, expected at least 0."),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ablate", "--output", str(tmp_path / "runs"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_the_list_names_every_row(scale: Scale, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", "--list", "--output", str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ROWS)
    assert not (tmp_path / "runs").exists()


def test_one_ablation_at_a_time(scale: Scale, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FileLock(tmp_path / "lock"):
        assert main(["ablate", "--output", str(tmp_path), "--rows", "base"]) == 2
    assert "in which another process is at work" in capsys.readouterr().err


def test_tables_show_mean_and_spread_and_what_is_missing() -> None:
    def result(oiou: float) -> dict[str, Any]:
        return {"scores": {"oIoU": oiou, "mIoU": 0.5, "absent_empty": None, "present_empty": 0.0}}

    results: dict[str, Any] = {name: {} for name in ROWS}
    results["base"] = {0: result(0.40), 1: result(0.44), 2: result(0.42)}
    results["a-0.1"] = {0: result(0.3)}
    found = {rows[0][0]: {row[0]: row[1:] for row in rows} for rows in tables(results, 3)}
    assert list(found) == list(TABLES)
    three = found["Table 3: density of the noise level"]
    assert three["a = 0.05, MSE, generation data, shortcut"] == [
        "42.0 ± 2.0", "50.0 ± 0.0", "-", "0.0 ± 0.0", "3 of 3", "82.2 / 81.3", "75.8 / 73.5", "77.7 / 76.0",
    ]  # fmt: skip
    assert three["a = 0.1"][:5] == ["30.0", "50.0", "-", "0.0", "1 of 3"]
    assert three["a = 0.5"][:5] == ["-", "-", "-", "-", "0 of 3"]
    assert three["oracle: the right mask through the VAE"][:5] == ["-", "-", "-", "-", "missing"]
    for rows in tables(results, 3):
        assert {len(row) for row in rows} == {len(rows[0])}
    assert [rows[0][0] for rows in tables(results, 3, ["bce-linear"])] == ["Table 4: supervision"]


def example(mask: np.ndarray, kind: str, text: str = "it") -> Example:
    return Example(image=np.zeros((*mask.shape, 3), np.uint8), text=text, mask=mask, kind=kind)


def test_scores_are_of_sentences_about_one_object() -> None:
    nothing, left, whole = (np.zeros((4, 4), bool) for _ in range(3))
    left[:, :2], whole[:] = True, True
    asked = [
        example(left, "colour"),
        example(whole, "plural"),
        example(nothing, "absent"),
        example(left, "size"),
    ]
    found = score([whole, nothing, nothing, nothing], asked)
    assert found == {
        "samples": 4,
        "oIoU": 8 / (16 + 8),
        "mIoU": (0.5 + 0) / 2,
        "kinds": {"colour": 0.5, "size": 0.0, "plural": 0.0},
        "absent_empty": 1.0,
        "present_empty": 2 / 3,
    }


def test_no_sentence_is_exchanged_for_one_of_its_own_scene() -> None:
    asked = [example(np.ones((2, 2), bool), "colour", str(index // 4)) for index in range(16)]
    texts = exchanged(asked)
    assert sorted(texts) == sorted(one.text for one in asked)
    assert all(text != one.text for text, one in zip(texts, asked, strict=True))


def test_the_constant_answer_is_the_best_that_the_mean_mask_cuts_out() -> None:
    rng = np.random.default_rng(0)
    density = np.linspace(0.05, 0.9, 36).reshape(6, 6)
    masks = rng.random((50, 6, 6)) < density
    masks[::7] = False  # sentences about nothing, which do not count

    def overall(constant: np.ndarray) -> float:
        totals = IoUTotals()
        for mask in masks[masks.any(axis=(1, 2))]:
            totals.add(constant, mask)
        return totals.overall_iou()

    levels = np.unique(masks.mean(axis=0))
    best = max(overall(masks.mean(axis=0) >= level) for level in levels)
    assert overall(best_constant(masks)) >= best - 1e-12


def test_read_results_leaves_out_what_is_not_there(scale: Scale, tmp_path: Path) -> None:
    found = read_results(tmp_path, scale, 3)
    assert found.keys() == ROWS.keys()
    assert not any(found.values())
