"""What `genmask segment` does not wait for: libraries it has no use for, and the garbage collector."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genmask.commands.inference import Inference, load
from genmask.pipeline import GenMaskPipeline
from genmask.segmentation import Segmentation
from tests.conftest import random_picture

LIBRARIES = (
    "IPython", "cv2", "gradio", "matplotlib", "onnx", "onnxruntime", "pandas", "pyarrow", "ray", "sklearn",
    "supervision", "tensorboard", "torchvision", "wandb", "webdataset",
)  # fmt: skip
OWN = ("convert", "data", "evaluation", "objectives", "recipes", "training", "web.page")
"""Of this package, what other commands need."""


def imported_by(*arguments: str) -> tuple[int, set[str]]:
    """Exit code, and every module there is at the end, of the command line in a process of its own."""
    program = "import sys; from genmask.cli import main; code = main(sys.argv[1:]); print(*sys.modules); sys.exit(code)"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 2), done.stderr
    return done.returncode, set(done.stdout.splitlines()[-1].split())


def test_segment_imports_nothing_that_it_does_not_need_and_finds_the_same(
    toy_pipeline_folder: Path, pipeline: GenMaskPipeline, tmp_path: Path
) -> None:
    random_picture().save(tmp_path / "photo.png")
    code, modules = imported_by(
        "segment", str(tmp_path / "photo.png"), "--text", "the mug",
        "--model", str(toy_pipeline_folder), "--device", "cpu", "--dtype", "float32", "--output", str(tmp_path),
    )  # fmt: skip
    assert code == 0
    assert "diffusers.models.transformers.transformer_wan" in modules  # the list is of what was at work
    assert not modules & {*LIBRARIES, *(f"genmask.{name}" for name in OWN)}

    expected = pipeline.segment(tmp_path / "photo.png", "the mug")
    assert isinstance(expected, Segmentation)
    written = np.asarray(Image.open(tmp_path / "photo.the-mug.mask.png"))
    assert np.array_equal(written, expected.mask * np.uint8(255))
    record = json.loads((tmp_path / "photo.the-mug.json").read_text())
    assert record["confidence"] == expected.confidence


def test_a_bad_picture_is_refused_without_torch(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"no picture")
    code, modules = imported_by(
        "segment", str(tmp_path / "photo.png"), "--text", "the mug", "--output", str(tmp_path)
    )
    assert code == 2
    assert "PIL" in modules
    assert not modules & {"torch", "diffusers", "transformers", "scipy"}


def test_answers_need_no_torch_before_the_model_is_loaded() -> None:
    program = "import sys, genmask.jobs.segment_job; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "diffusers", "transformers"}


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """The generation of every collection so far; what is frozen in the test is set free after it."""
    found: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            found.append(info["generation"])

    gc.callbacks.append(note)
    try:
        yield found
    finally:
        gc.callbacks.remove(note)
        gc.unfreeze()


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_is_collected_while_a_model_is_loaded(
    enabled: bool, toy_pipeline_folder: Path, collections: list[int]
) -> None:
    frozen = gc.get_freeze_count()
    if not enabled:
        gc.disable()
    try:
        collections.clear()
        pipeline = load(Inference(model=str(toy_pipeline_folder), device="cpu"))
        assert not collections
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
    assert gc.get_freeze_count() > frozen + sum(1 for _ in pipeline.vae.modules())


@pytest.mark.usefixtures("collections")
def test_the_collector_works_again_after_a_model_that_cannot_be_loaded() -> None:
    with pytest.raises(ValueError, match="no-such-model"):
        load(Inference(model="no-such-model", device="cpu"))
    assert gc.isenabled()
