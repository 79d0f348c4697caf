"""Saving and loading: to the bit, every key accounted for, and one clear line where a folder is not whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from genmask.loading import ModelFolderError
from genmask.model_folder import bundled_models
from genmask.pipeline import GenMaskPipeline
from tests.conftest import toy_pipeline

NETWORKS = ("transformer", "vae", "vlm")


@pytest.fixture
def folder(toy_pipeline_folder: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(toy_pipeline_folder, tmp_path / "model"))


def weights_file(folder: Path, network: str) -> Path:
    (file,) = (folder / network).glob("*.safetensors")
    return file


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refusal(folder: str | Path) -> str:
    with pytest.raises(ModelFolderError) as caught:
        GenMaskPipeline.from_pretrained(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_save_and_load_to_the_bit(
    pipeline: GenMaskPipeline, toy_pipeline_folder: Path, tmp_path: Path
) -> None:
    loaded = GenMaskPipeline.from_pretrained(toy_pipeline_folder)
    for name in NETWORKS:
        expected = getattr(pipeline, name).state_dict()
        state = getattr(loaded, name).state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in state)
        assert not getattr(loaded, name).training
    assert loaded.config.resolution == 64
    loaded.save_pretrained(tmp_path)
    assert files(tmp_path) == files(toy_pipeline_folder)


def test_bfloat16_is_kept_or_widened(folder: Path, tmp_path: Path) -> None:
    toy_pipeline().to(torch.bfloat16).save_pretrained(tmp_path / "low")
    kept = GenMaskPipeline.from_pretrained(tmp_path / "low", torch_dtype=None)
    wide = GenMaskPipeline.from_pretrained(tmp_path / "low")
    low = GenMaskPipeline.from_pretrained(tmp_path / "low", torch_dtype=torch.bfloat16)
    assert (kept.transformer.dtype, kept.vlm.dtype, kept.vae.dtype) == (torch.bfloat16,) * 3
    assert {parameter.dtype for parameter in wide.transformer.parameters()} == {torch.float32}
    assert (wide.vlm.dtype, wide.vae.dtype) == (torch.float32,) * 2
    assert (low.transformer.dtype, low.vlm.dtype, low.vae.dtype) == (
        torch.bfloat16,
        torch.bfloat16,
        torch.float32,
    )
    assert low.transformer.scale_shift_table.dtype == torch.float32


def test_a_fresh_process_and_a_hub_cache_give_the_same_mask(
    pipeline: GenMaskPipeline, toy_pipeline_folder: Path, picture: Image.Image, tmp_path: Path
) -> None:
    repository = tmp_path / "cache" / "models--somebody--toy"
    shutil.copytree(toy_pipeline_folder, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    picture.save(tmp_path / "picture.png")
    program = f"""
import hashlib
from genmask import GenMaskPipeline
pipeline = GenMaskPipeline.from_pretrained("somebody/toy", cache_dir={str(tmp_path / "cache")!r})
result = pipeline.segment({str(tmp_path / "picture.png")!r}, "the red mug")
print(hashlib.sha256(result.soft_mask.tobytes()).hexdigest())
"""
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, env={**os.environ, **threads, "HF_HUB_OFFLINE": "1"}, check=False,
    )  # fmt: skip
    expected = hashlib.sha256(pipeline.segment(picture, "the red mug").soft_mask.tobytes()).hexdigest()
    assert answer.stdout.strip() == expected, answer.stderr


@pytest.mark.parametrize("network", NETWORKS)
def test_a_renamed_key_is_named(folder: Path, network: str) -> None:
    file = weights_file(folder, network)
    weights = load_file(file)
    key = sorted(weights)[len(weights) // 2]
    weights[f"{key}_"] = weights.pop(key)
    save_file(weights, file)
    message = refusal(folder)
    assert f"{key}_" in message
    assert "missing" in message


@pytest.mark.parametrize("network", NETWORKS)
def test_truncated_weights(folder: Path, network: str) -> None:
    file = weights_file(folder, network)
    file.write_bytes(file.read_bytes()[:-100])
    assert file.name in refusal(folder)


@pytest.mark.parametrize(
    "missing",
    [
        "transformer", "vae/config.json", "vlm/model.safetensors", "scheduler/scheduler_config.json",
        "processor", "processor/tokenizer.json", "processor/processor_config.json", "model_index.json",
    ],
)  # fmt: skip
def test_a_missing_part_is_named(folder: Path, missing: str) -> None:
    path = folder / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert missing.split("/")[0] in refusal(folder)


def test_broken_tokenizer(folder: Path) -> None:
    (folder / "processor" / "tokenizer.json").write_text('{"half": ')
    assert "processor" in refusal(folder)


def test_an_interrupted_save_leaves_no_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = toy_pipeline()
    monkeypatch.setattr(
        type(pipeline.vlm), "save_pretrained", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        pipeline.save_pretrained(folder)
    assert "half-written" in refusal(folder)


def test_the_folder_of_another_pipeline(folder: Path) -> None:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    assert "genmask convert" in refusal(folder)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    message = refusal(folder)
    assert "FluxPipeline" in message
    assert "convert" not in message


def test_unknown_names_list_the_bundled_models(tmp_path: Path) -> None:
    for name in ("tinny", "./nothing", str(tmp_path / "nothing")):
        message = refusal(name)
        assert repr(name) in message
        assert all(model in message for model in bundled_models())
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    assert "a file" in refusal(file)


def test_a_hub_id_without_network(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"somebody/nothing.*the hub did not") as caught:
        GenMaskPipeline.from_pretrained("somebody/nothing", cache_dir=tmp_path, local_files_only=True)
    assert "\n" not in str(caught.value)
