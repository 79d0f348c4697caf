"""The demo script on a made-up example and a toy model."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from genmask.evaluation.metrics import IoUTotals
from genmask.pipeline import GenMaskPipeline
from tests.conftest import random_picture

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", EXAMPLES / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    folder = tmp_path / "examples"
    folder.mkdir()
    listed = []
    for i, sentence in enumerate(("the red mug", "the green star")):
        random_picture(i, 80 + 40 * i, 60).save(folder / f"{i}.jpg")
        target = np.zeros((60, 80 + 40 * i), dtype=np.uint8)
        target[20:40, 10:30] = 255 * (1 - i)  # the second is absent
        Image.fromarray(target).save(folder / f"{i}.mask.png")
        listed.append(
            {"image": f"{i}.jpg", "text": sentence, "mask": f"{i}.mask.png", "attribution": "noise"}
        )
    (folder / "examples.json").write_text(json.dumps(listed))
    return folder


def test_table_files_and_montage(
    demo: ModuleType,
    examples: Path,
    toy_pipeline_folder: Path,
    pipeline: GenMaskPipeline,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    output = examples.parent / "out"
    arguments = ["--model", str(toy_pipeline_folder), "--examples", str(examples), "--output", str(output)]
    assert demo.main(arguments) == 0
    said = capsys.readouterr().out
    totals = IoUTotals()
    for i, sentence in enumerate(("the red mug", "the green star")):
        with Image.open(examples / f"{i}.mask.png") as mask:
            totals.add(pipeline.segment(examples / f"{i}.jpg", sentence).mask, np.asarray(mask) > 0)
        (line,) = (line for line in said.splitlines() if sentence in line)
        assert f" {totals.ious()[i]:.2f} " in line
        assert f"{i}.overlay.png" in line
    assert f"Mean IoU {totals.mean_iou():.2f}" in said
    with Image.open(output / "montage.png") as montage:
        assert montage.size == (6 * demo.TILE, demo.TILE)
    assert len(list(output.glob("*.mask.png"))) == 2


def test_mistakes_are_one_line(demo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--examples", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "examples.json" in said


def test_the_shipped_examples_are_whole() -> None:
    listed = json.loads((EXAMPLES / "examples.json").read_text())
    assert len(listed) >= 6
    for example in listed:
        with (
            Image.open(EXAMPLES / example["image"]) as picture,
            Image.open(EXAMPLES / example["mask"]) as mask,
        ):
            assert picture.size == mask.size
            assert set(np.unique(np.asarray(mask))) <= {0, 255}
        assert example["text"].strip()
        assert example["attribution"].strip()
