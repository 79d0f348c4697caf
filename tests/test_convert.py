"""The paper-size assembly, on toy folders of the genuine layouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from genmask.convert import TEXT_LAYER, TEXT_LAYER_STD, convert
from genmask.loading import ModelFolderError
from genmask.pipeline import GenMaskPipeline
from tests.conftest import random_picture
from tests.toy import toy_vae, toy_vlm


@pytest.fixture(scope="session")
def converted(published_folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(*published_folders, tmp_path_factory.mktemp("converted") / "model", resolution=64)


def stored_weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        key: value for file in sorted(folder.glob("*.safetensors")) for key, value in load_file(file).items()
    }


def test_only_the_text_layer_is_new(published_folders: tuple[Path, Path], converted: Path) -> None:
    wan = stored_weights(published_folders[0] / "transformer")
    ours = stored_weights(converted / "transformer")
    assert ours.keys() == wan.keys()
    new = {key for key in ours if ours[key].shape != wan[key].shape or not torch.equal(ours[key], wan[key])}
    assert new == {f"{TEXT_LAYER}.weight", f"{TEXT_LAYER}.bias"}
    weight = torch.empty(24, 32).normal_(std=TEXT_LAYER_STD, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours[f"{TEXT_LAYER}.weight"], weight)
    assert not ours[f"{TEXT_LAYER}.bias"].any()


def test_vae_and_vlm_are_the_published_ones(published_folders: tuple[Path, Path], converted: Path) -> None:
    pipeline = GenMaskPipeline.from_pretrained(converted)
    for ours, theirs in ((pipeline.vae, toy_vae()), (pipeline.vlm, toy_vlm())):
        expected = theirs.state_dict()
        assert ours.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in ours.state_dict().items())
    assert pipeline.scheduler.config.shift == 3.0
    assert pipeline.config.resolution == 64


def test_the_result_segments(converted: Path) -> None:
    result = GenMaskPipeline.from_pretrained(converted).segment(random_picture(), "the red mug")
    assert result.soft_mask.shape == (60, 80)


def test_a_renamed_key_is_named(published_folders: tuple[Path, Path], tmp_path: Path) -> None:
    wan = Path(shutil.copytree(published_folders[0], tmp_path / "wan"))
    index = wan / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    shard = wan / "transformer" / json.loads(index.read_text())["weight_map"]["scale_shift_table"]
    weights = load_file(shard)
    weights["scale_shift_tabel"] = weights.pop("scale_shift_table")
    save_file(weights, shard)
    with pytest.raises(ModelFolderError, match="scale_shift_tabel"):
        convert(wan, published_folders[1], tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_left_out_layer_must_be_there(published_folders: tuple[Path, Path], tmp_path: Path) -> None:
    wan = Path(shutil.copytree(published_folders[0], tmp_path / "wan"))
    for shard in (wan / "transformer").glob("*.safetensors"):
        save_file({k: v for k, v in load_file(shard).items() if k != f"{TEXT_LAYER}.bias"}, shard)
    with pytest.raises(ModelFolderError, match=TEXT_LAYER):
        convert(wan, published_folders[1], tmp_path / "model")


def test_folders_the_wrong_way_round(
    published_folders: tuple[Path, Path], converted: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelFolderError, match=r"model_index\.json"):
        convert(published_folders[1], published_folders[0], tmp_path / "model")
    with pytest.raises(ModelFolderError, match="of a GenMaskPipeline, expected a WanPipeline"):
        convert(converted, published_folders[1], tmp_path / "model")


def test_a_full_output_folder_is_left_alone(published_folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="there already"):
        convert(*published_folders, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
