"""Strict loading: what is stored comes back to the bit; whatever is wrong with a folder is said in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration

from genmask.denoiser import GenMaskTransformer
from genmask.loading import ModelFolderError, load_model, load_weights
from tests.toy import toy_transformer, toy_vae, toy_vlm

NETWORKS = [
    pytest.param(GenMaskTransformer, toy_transformer, id="transformer"),
    pytest.param(AutoencoderKLWan, toy_vae, id="vae"),
    pytest.param(Qwen2_5_VLForConditionalGeneration, toy_vlm, id="vlm"),
]


def weights_of(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(weights_of(folder))
    edit(tensors)
    save_file(tensors, weights_of(folder), metadata={"format": "pt"})


def assert_equal_tensors(loaded: torch.nn.Module, model: torch.nn.Module) -> None:
    """Parameters and buffers, the ones that are never stored included."""
    for kind in ("named_parameters", "named_buffers"):
        expected, found = dict(getattr(model, kind)()), dict(getattr(loaded, kind)())
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype, name
            assert torch.equal(found[name], tensor), name
            assert found[name].requires_grad == tensor.requires_grad, name


@pytest.mark.parametrize(("model_class", "make"), NETWORKS)
def test_a_saved_network_loads_to_the_bit(model_class: Any, make: Callable[[], Any], tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path)
    state = torch.get_rng_state()
    loaded = load_model(model_class, tmp_path)
    assert_equal_tensors(loaded, model)
    assert not loaded.training
    assert torch.equal(torch.get_rng_state(), state), "loading must not draw random numbers"


@pytest.mark.parametrize(("model_class", "make"), NETWORKS)
def test_shards_load_like_one_file(model_class: Any, make: Callable[[], Any], tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_equal_tensors(load_model(model_class, tmp_path), model)


@pytest.mark.parametrize(("model_class", "make"), NETWORKS)
def test_a_renamed_key_is_named(model_class: Any, make: Callable[[], Any], tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    key = min(load_file(weights_of(tmp_path)))
    edit_weights(tmp_path, lambda tensors: tensors.update({key + "_old": tensors.pop(key)}))
    with pytest.raises(ModelFolderError, match=r"1 missing .* and 1 unexpected") as caught:
        load_model(model_class, tmp_path)
    assert key + "_old" in str(caught.value)
    assert key.split(".", 1)[1] + ")" in str(caught.value)  # the missing key, by the module's own prefix
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("model_class", "make"), NETWORKS)
def test_a_wrong_shape_is_named(model_class: Any, make: Callable[[], Any], tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    key = max(load_file(weights_of(tmp_path)))
    edit_weights(tmp_path, lambda tensors: tensors.update({key: torch.zeros(7, 5)}))
    with pytest.raises(ModelFolderError, match=r"of shape \(7, 5\)") as caught:
        load_model(model_class, tmp_path)
    assert key in str(caught.value)


def test_dtype_is_obeyed_but_for_the_float32_modules(tmp_path: Path) -> None:
    toy_transformer().save_pretrained(tmp_path)
    model = load_model(GenMaskTransformer, tmp_path, dtype=torch.bfloat16)
    kept = set(GenMaskTransformer._keep_in_fp32_modules)
    for name, parameter in model.named_parameters():
        expected = torch.float32 if kept.intersection(name.split(".")) else torch.bfloat16
        assert parameter.dtype == expected, name
    model.save_pretrained(tmp_path / "mixed")
    assert_equal_tensors(load_model(GenMaskTransformer, tmp_path / "mixed"), model)


def test_both_layouts_of_the_vlm_keys_are_read(tmp_path: Path) -> None:
    model = toy_vlm()
    model.save_pretrained(tmp_path)
    assert any(key.startswith("visual.") for key in load_file(weights_of(tmp_path)))  # the published layout
    own = {key: value.clone() for key, value in model.state_dict().items()}  # with the tied head, too
    save_file(own, weights_of(tmp_path))
    assert_equal_tensors(load_model(Qwen2_5_VLForConditionalGeneration, tmp_path), model)


def test_a_key_in_both_layouts_is_refused(tmp_path: Path) -> None:
    toy_vlm().save_pretrained(tmp_path)
    key = "visual.patch_embed.proj.weight"
    edit_weights(tmp_path, lambda tensors: tensors.update({f"model.{key}": tensors[key].clone()}))
    with pytest.raises(ModelFolderError, match=f"Got model.{key} twice"):
        load_model(Qwen2_5_VLForConditionalGeneration, tmp_path)


def test_the_published_form_of_the_vlm_config_is_read(tmp_path: Path) -> None:
    """Qwen's own config.json is flat, and says `rope_scaling` and `in_chans`."""
    model = toy_vlm()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    text, vision = config.pop("text_config"), config["vision_config"]
    rope = text.pop("rope_parameters")
    vision["in_chans"] = vision.pop("in_channels")
    for modern in (text, vision):
        del modern["model_type"]
    del text["layer_types"], vision["rope_parameters"]
    config |= text
    config["rope_theta"] = rope["rope_theta"]
    config["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_model(Qwen2_5_VLForConditionalGeneration, tmp_path)
    assert_equal_tensors(loaded, model)  # rotary frequencies are among the buffers
    ids = torch.arange(9).view(1, 9)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_the_tied_head_stays_tied(tmp_path: Path) -> None:
    toy_vlm().save_pretrained(tmp_path)
    model = load_model(Qwen2_5_VLForConditionalGeneration, tmp_path, dtype=torch.bfloat16)
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight


def test_a_loaded_network_does_not_change_with_its_file(tmp_path: Path) -> None:
    toy_vae().save_pretrained(tmp_path)
    model = load_model(AutoencoderKLWan, tmp_path)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with weights_of(tmp_path).open("r+b") as file:
        file.seek(-4096, 2)
        file.write(bytes(4096))
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


def test_left_out_keys_keep_their_values(tmp_path: Path) -> None:
    toy_transformer(seed=1).save_pretrained(tmp_path)
    model, stored = toy_transformer(seed=2), load_file(weights_of(tmp_path))
    left_out = "condition_embedder.text_embedder.linear_1.weight"
    kept = model.get_parameter(left_out).clone()
    load_weights(model, tmp_path, leave_out={left_out})
    assert torch.equal(model.get_parameter(left_out), kept)
    assert all(torch.equal(model.get_parameter(key), stored[key]) for key in stored if key != left_out)
    with pytest.raises(ModelFolderError, match="no_such_key"):
        load_weights(model, tmp_path, leave_out={"no_such_key"})


def break_config_json(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text()[:40])


def break_index(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    weights_of(folder).unlink()
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def only_pickle(folder: Path) -> None:
    torch.save(load_file(weights_of(folder)), folder / "diffusion_pytorch_model.bin")
    weights_of(folder).unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), "without a readable config.json"),
        (break_config_json, "config.json that is not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "holds a list"),
        (lambda folder: (folder / "config.json").write_text('{"base_dim": "wide"}'), "cannot be built from"),
        (lambda folder: weights_of(folder).unlink(), "Got no weights in"),
        (only_pickle, "pickled weights"),
        (break_index, "without model-00001-of-00001.safetensors"),
        (
            lambda folder: weights_of(folder).write_bytes(weights_of(folder).read_bytes()[:-100]),
            "half-written",
        ),
        (lambda folder: weights_of(folder).write_bytes(b"\x00"), "half-written"),
        (lambda folder: weights_of(folder).write_bytes(b""), "half-written"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(
    damage: Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    toy_vae().save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelFolderError, match=says) as caught:
        load_model(AutoencoderKLWan, tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
