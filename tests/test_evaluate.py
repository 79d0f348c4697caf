"""Evaluation: every sample once, the same scores however it was shared out or interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genmask.cli import main
from genmask.conditioning import Description, InstructionEncoder
from genmask.data.example import Example
from genmask.evaluation.benchmarks import BENCHMARKS, load_benchmark
from genmask.evaluation.evaluate import Record, collect, evaluate, read_predictions, subset
from genmask.evaluation.metrics import Counts
from genmask.evaluation.report import Evaluated, details, markdown, overview, report


class Squares:
    """Pictures of two sizes whose bright square is to be found; a third of them has none."""

    def __init__(self, count: int = 11) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        mask = np.zeros((20, 20 + index % 2 * 10), dtype=bool)
        if index % 3:
            mask[4 : 6 + index, 5:15] = True
        image = np.repeat((mask * 200)[..., None], 3, axis=2).astype(np.uint8)
        kind = "present" if index % 3 else "absent"
        return Example(image=image, text=f"the square {index}", mask=mask, id=f"s/{index:02d}", kind=kind)


def answer(examples: list[Example]) -> list[np.ndarray]:
    """Right on the upper half; depends on the batch, as a network does in its last bits."""
    softs = []
    for example in examples:
        soft = example.mask.astype(np.float32)
        soft[len(soft) // 2 :] *= 0.4
        softs.append(soft + 0.001 * len(examples))
    return softs


def run(output: Path, **options: Any) -> list[Any] | None:
    evaluate(Squares(), answer, output, settings={"system": "x"}, batch_size=3, **options)
    return collect(output, 11)


def test_the_number_of_processes_changes_nothing(tmp_path: Path) -> None:
    alone = run(tmp_path / "1")
    assert alone is not None
    assert [record.index for record in alone] == list(range(11))
    for processes in (2, 3, 7):
        output = tmp_path / str(processes)
        found = [run(output, rank=rank, world_size=processes) for rank in range(processes)]
        assert found[-1] == alone
        assert found[0] is None


def test_an_interrupted_evaluation_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    asked: list[int] = []

    def failing(examples: list[Example]) -> list[np.ndarray]:
        asked.append(len(examples))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return answer(examples)

    parts = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        evaluate(Squares(), failing, parts, settings={"system": "x"}, batch_size=3)
    assert collect(parts, 11) is None
    path = parts / "rank-0-of-1.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:-9])  # killed in the midst of a line
    done: list[int] = []
    assert run(parts, rank=1, world_size=2, advance=done.append) is None
    assert run(parts, advance=done.append) == whole
    assert sum(done[:2]) == 3  # what the other process had to do, of which it found nothing done
    before = path.read_text()
    assert run(parts) == whole
    assert path.read_text() == before


def test_counts_of_other_settings_are_not_gone_on_with(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ValueError, match=r"^Got system='y' for .*begun with 'x'.*another --output\.$"):
        evaluate(Squares(), answer, tmp_path, settings={"system": "y"}, batch_size=3)
    with pytest.raises(ValueError, match="batch_size=4"):
        evaluate(Squares(), answer, tmp_path, settings={"system": "x"}, batch_size=4)


def test_a_subset_is_spread_evenly() -> None:
    assert [subset(Squares(), 3)[i].id for i in range(3)] == ["s/00", "s/05", "s/10"]
    assert len(subset(Squares(), 99)) == len(subset(Squares(), None)) == 11
    with pytest.raises(ValueError, match="limit of 0"):
        subset(Squares(), 0)


def test_the_report_holds_both_rows_the_kinds_and_the_empty_answers(tmp_path: Path) -> None:
    records = run(tmp_path, oracle=lambda mask: mask.astype(np.float32))
    assert records is not None
    scores = report(Evaluated(name="squares", empty=1.0, records=records))
    assert scores["samples"] == 11
    assert scores["oracle"]["native"]["oIoU"] == 1.0
    assert scores["oracle"]["480"]["mIoU"] > 0.99  # resized, edges are drawn anew
    assert scores["answer"]["native"]["N-acc"] == scores["answer"]["native"]["T-acc"] == 1.0
    assert scores["answer"]["native"]["empty_answers"] == 4
    low, high = scores["answer"]["native"]["oIoU_95"]
    assert low < scores["answer"]["native"]["oIoU"] < high < 1
    assert scores["kinds"].keys() == {"absent", "present"}
    assert (
        scores["kinds"]["absent"]["answer"]["native"] | {"T-acc": None}
        == scores["kinds"]["absent"]["answer"]["native"]
    )
    lenient = report(Evaluated(name="squares", empty=0.0, records=records))
    assert lenient["answer"]["native"]["mIoU"] == pytest.approx(scores["answer"]["native"]["mIoU"] - 4 / 11)

    rows = overview([scores, scores], "toy")
    assert rows[0] == ["", "", "squares", "squares"]
    assert ["oracle (VAE round trip)", "oIoU", "100.0", "100.0"] in rows
    assert ["toy", "empty answers", "4 of 11", "4 of 11"] in rows
    lines = markdown(details(scores)).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[1].startswith("| --- | ---: |")


def test_saved_masks_are_read_by_id_and_must_fit(tmp_path: Path) -> None:
    squares = Squares()
    reader = read_predictions(tmp_path)
    with pytest.raises(ValueError, match=r"^Got no .*s/04\.png, expected a mask for each sample"):
        reader([squares[4]])
    (tmp_path / "s").mkdir()
    Image.fromarray(squares[4].mask.astype(np.uint8) * 255).save(tmp_path / "s/04.png")
    assert np.array_equal(reader([squares[4]])[0], squares[4].mask)
    Image.fromarray(squares[5].mask.astype(np.uint8) * 255).save(tmp_path / "s/04.png")
    with pytest.raises(ValueError, match=r"of \(20, 30\) \(height, width\), expected \(20, 20\)"):
        reader([squares[4]])
    with pytest.raises(ValueError, match="Got no folder"):
        read_predictions(tmp_path / "nowhere")


def test_every_benchmark_says_what_it_needs() -> None:
    assert {
        "refcoco/testA",
        "refcoco+/testB",
        "refcocog/test",
        "grefcoco/val",
        "reasonseg/test",
    } < BENCHMARKS.keys()
    for name, benchmark in BENCHMARKS.items():
        if benchmark.layout:
            with pytest.raises(
                ValueError, match=f"Got no --data for {name.replace('+', '.')}, expected the folder"
            ):
                load_benchmark(name, None)
            with pytest.raises(ValueError, match="nowhere"):
                load_benchmark(name, Path("nowhere"))
    with pytest.raises(ValueError, match=r"did you mean refcoco/testA\?"):
        load_benchmark("refcoco/testa", None)


def write_folder(root: Path) -> Path:
    squares = Squares(4)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    rows = []
    for index in range(4):
        example = squares[index]
        Image.fromarray(example.image).save(root / f"images/{index}.png")
        Image.fromarray(example.mask.astype(np.uint8) * 255).save(root / f"masks/{index}.png")
        rows.append({"image": f"images/{index}.png", "text": example.text, "mask": f"masks/{index}.png"})
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_the_command_scores_a_model_on_a_folder(
    toy_pipeline_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    folder, output = write_folder(tmp_path / "mine"), tmp_path / "scores"
    command = [
        "evaluate",
        "--model",
        str(toy_pipeline_folder),
        "--benchmark",
        str(folder),
        "--output",
        str(output),
        "--json",
    ]
    assert main([*command, "--batch-size", "3"]) == 0
    printed = json.loads(capsys.readouterr().out)
    (found,) = printed["benchmarks"]
    assert found["samples"] == 4
    assert {"answer", "oracle"} < found.keys()
    assert json.loads((output / "scores.json").read_text()) == printed
    assert "oIoU" in (output / "scores.md").read_text()
    (counted,) = (path for path in output.iterdir() if path.is_dir())
    for name in ("worst", "best"):
        assert Image.open(counted / f"{name}.png").width > 500

    assert main([*command, "--batch-size", "2"]) == 2
    assert "batch_size=2" in capsys.readouterr().err
    for option, value in (
        ("processes", 0),
        ("batch-size", 0),
        ("num-noises", -1),
        ("threshold", 1.0),
        ("limit", 0),
    ):
        refused = [*command[:-1], "--output", str(tmp_path / "x"), f"--{option}", str(value)]
        assert main(refused) == 2
        assert f"{value}" in capsys.readouterr().err
    assert main(["evaluate", "--benchmark", "scenes/vol", "--output", str(tmp_path / "x")]) == 2
    assert "did you mean scenes/val?" in capsys.readouterr().err


def test_the_command_scores_saved_masks_without_a_model(tmp_path: Path, capsys: Any) -> None:
    folder, masks = write_folder(tmp_path / "mine"), tmp_path / "masks"
    masks.mkdir()
    for index in range(4):
        (masks / f"{index:06d}.png").write_bytes((folder / f"masks/{index}.png").read_bytes())
    command = ["evaluate", "--benchmark", str(folder), "--predictions", str(masks), "--no-oracle", "--json"]
    assert main([*command, "--output", str(tmp_path / "scores")]) == 0
    (found,) = json.loads(capsys.readouterr().out)["benchmarks"]
    assert found["answer"]["native"]["mIoU"] == found["answer"]["480"]["oIoU"] == 1.0
    assert "oracle" not in found


def test_the_command_lets_the_model_reason_and_keeps_what_it_said(
    toy_pipeline_folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is described is what is found; a text without a description is counted."""

    def describe(self: InstructionEncoder, image: Any, instruction: str) -> Description:
        empty = instruction.endswith("3")
        return Description(
            target=instruction if empty else f"the mug {instruction[-1]}", answer="...", is_fallback=empty
        )

    monkeypatch.setattr(InstructionEncoder, "describe", describe)
    folder = write_folder(tmp_path / "mine")
    command = ["evaluate", "--model", str(toy_pipeline_folder), "--benchmark", str(folder), "--json"]
    command += ["--no-oracle", "--output"]
    assert main([*command, str(tmp_path / "reasoned"), "--reason"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["benchmarks"]
    assert found["undescribed"] == 1
    assert "1 of 4" in (tmp_path / "reasoned/scores.md").read_text()
    (lines,) = (tmp_path / "reasoned").glob("*/rank-*.jsonl")
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [record["target"] for record in records] == [
        "the mug 0", "the mug 1", "the mug 2", "the square 3",
    ]  # fmt: skip

    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    for row, record in zip(rows, records, strict=True):
        row["text"] = record["target"]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main([*command, str(tmp_path / "asked")]) == 0
    (asked,) = json.loads(capsys.readouterr().out)["benchmarks"]
    assert asked["answer"] == found["answer"]
    assert "undescribed" not in asked
    (lines,) = (tmp_path / "asked").glob("*/rank-*.jsonl")
    assert all(
        json.loads(line)["target"] == json.loads(line)["text"] for line in lines.read_text().splitlines()
    )

    assert main([*command, str(tmp_path / "reasoned")]) == 2  # counts of the other kind are not gone on with
    assert "reason=False" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "x"), "--reason", "--predictions", str(tmp_path)]) == 2
    assert "Got --reason with --predictions" in capsys.readouterr().err


def test_every_kind_of_question_has_its_interval() -> None:
    """As long as a table shows the kinds; and they are named in it."""
    counts = {grid: Counts(3, 4, 5) for grid in ("native", "480")}
    records = [
        Record(index=i, id="", kind=f"k{i % 3}", text="", target="", answer=counts, oracle={})
        for i in range(9)
    ]
    scores = report(Evaluated(name="q", empty=1.0, records=records))
    assert scores["kinds"]["k1"]["answer"]["native"]["mIoU_95"] == pytest.approx((0.5, 0.5))
    (row,) = (row for row in details(scores) if row[0] == "answer: k1")
    assert "50.0 [50.0, 50.0]" in row
