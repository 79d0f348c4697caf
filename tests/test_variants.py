"""Variants of the method that the ablation compares: each is trained as it is used, and a model like any other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from genmask.conditioning import Condition
from genmask.frames import arrange_frames
from genmask.mask_head import LinearMaskHead
from genmask.objectives import predict_x0
from genmask.pipeline import GenMaskPipeline, Prediction
from genmask.sampling import integrate, velocity_to
from genmask.timesteps import PowerLaw
from genmask.training.loop import train
from genmask.training.mask_config import MaskConfig
from genmask.training.network import MaskNetwork
from genmask.training.parallel import Share
from genmask.training.samples import Encoding
from tests.conftest import toy_pipeline
from tests.toy import toy_transformer
from tests.toy_training import LOOP, Rectangles, mask_task

DISCRIMINATIVE: dict[str, Any] = {"prediction": "mask", "supervision": "bce-linear", "generation_batch": 0}
VARIANTS: dict[str, dict[str, Any]] = {
    "x0": {"prediction": "x0"},
    "x0-bce-pixels": {"prediction": "x0", "supervision": "bce-pixels"},
    "x0-bce-linear": {"prediction": "x0", "supervision": "bce-linear"},
    "zero-noise": {"noise": False, "segmentation_density": PowerLaw(0.0)},
    "picture-second": {"picture_first": False},
    "discriminative": DISCRIMINATIVE,
}


def condition(batch: int = 2, text: int = 5) -> Condition:
    torch.manual_seed(1)
    return Condition(
        hidden_states=torch.randn(batch, text, 32), attention_mask=torch.ones(batch, text, dtype=torch.bool)
    )


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(Rectangles().segmentation(3, 64, 64).image)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_gradient_reaches_what_is_trained_and_nothing_else(name: str) -> None:
    task = mask_task(**VARIANTS[name])
    nn.init.normal_(task.transformer.proj_out.weight, std=0.02)  # it starts at zero, and lets nothing past
    (part,) = task.prepare([task.batches(Share())[0]])
    for which in task.passes:
        for loss in task.losses(task.network, part, 0, which, Share(), 0).values():
            loss.mean().backward()
    reached = {n for n, p in task.network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"transformer.proj_out.weight", "transformer.patch_embedding.weight"} <= reached
    assert any("attn2" in parameter for parameter in reached)
    assert ("mask_head.linear.weight" in reached) == (task.config.supervision == "bce-linear")
    assert all(p.grad is None for part in (task.encoder.vae, task.encoder.vlm) for p in part.parameters())


@pytest.mark.parametrize("name", VARIANTS)
def test_inference_is_what_was_trained(name: str) -> None:
    """At t = 1, where masks are asked for, network and pipeline make the same of the same."""
    task = mask_task(**VARIANTS[name])
    nn.init.normal_(task.transformer.proj_out.weight, std=0.02)
    (part,) = task.prepare([task.batches(Share())[0]])
    found = part.segmentation
    assert isinstance(found, Encoding)
    assert found.picture is not None
    noise = torch.randn(1, *found.x0.shape[1:])
    eps = (noise if task.config.noise else torch.zeros_like(noise)).expand_as(found.x0)
    with torch.no_grad():
        x_t = None if task.config.prediction == "mask" else eps
        expected = task.network(x_t, torch.ones(len(found.x0)), found.condition, found.picture).x0_hat
        answer = task.pipeline().predict_mask(found.picture, found.condition, noise, 1).sample
    assert expected.std() > 0
    torch.testing.assert_close(answer, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_trained_variant_is_a_model_like_any_other(name: str, picture: Image.Image, tmp_path: Path) -> None:
    task = mask_task(**VARIANTS[name])
    assert train(task, replace(LOOP, steps=2), tmp_path)
    loaded = GenMaskPipeline.from_pretrained(tmp_path / "model")
    for option in ("prediction", "noise", "picture_first"):
        assert loaded.config[option] == getattr(task.config, option)
    again = task.pipeline()
    again.transformer.float()  # saved in bfloat16, and loaded from there
    before, after = again.segment(picture, "the red mug"), loaded.segment(picture, "the red mug")
    np.testing.assert_allclose(before.soft_mask, after.soft_mask, atol=2e-3)


def test_a_model_folder_from_before_is_read_as_it_was(
    toy_pipeline_folder: Path, pipeline: GenMaskPipeline, picture: Image.Image, tmp_path: Path
) -> None:
    old = shutil.copytree(toy_pipeline_folder, tmp_path / "old")
    index = json.loads((old / "model_index.json").read_text())
    for option in ("prediction", "noise", "picture_first"):
        del index[option]
    (old / "model_index.json").write_text(json.dumps(index))
    loaded = GenMaskPipeline.from_pretrained(old)
    expected = pipeline.segment(picture, "the red mug").soft_mask
    assert np.array_equal(loaded.segment(picture, "the red mug").soft_mask, expected)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_true_x0_gives_the_target_in_any_number_of_steps(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = toy_pipeline(prediction="x0")
    x0 = torch.randn(2, 16, 4, 4)
    output = Prediction(x0, torch.zeros(2, 5))
    monkeypatch.setattr(pipe, "_output", lambda frames, condition: output)
    found = pipe.predict_mask(torch.randn_like(x0), condition(), torch.randn(3, 16, 4, 4), steps).sample
    torch.testing.assert_close(found, x0, atol=1e-5, rtol=1e-5)
    wrong = toy_pipeline()  # the same output, taken for a velocity
    monkeypatch.setattr(wrong, "_output", lambda frames, condition: output)
    assert not torch.allclose(
        wrong.predict_mask(x0, condition(), torch.randn(1, 16, 4, 4), steps).sample, x0, atol=0.1
    )


def test_velocity_and_x0_are_two_names_of_one_prediction() -> None:
    torch.manual_seed(0)
    x_t, v, t = torch.randn(3, 16, 4, 4), torch.randn(3, 16, 4, 4), torch.tensor([0.1, 0.5, 1.0])
    torch.testing.assert_close(velocity_to(predict_x0(x_t, v, t), x_t, t), v, atol=1e-5, rtol=1e-5)


def test_pictures_are_generated_by_predicting_x0(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample is what was predicted, whatever the number of steps and the guidance."""
    pipe = toy_pipeline(prediction="x0")
    x0 = torch.randn(1, 16, 8, 8)
    output = Prediction(x0, torch.zeros(2, 5))
    monkeypatch.setattr(pipe, "_output", lambda frames, condition: output)
    few, many = (
        pipe.generate("a red mug", num_inference_steps=n, guidance_scale=g) for n, g in ((1, 1.0), (5, 3.0))
    )
    assert np.abs(np.asarray(few[0], dtype=int) - np.asarray(many[0], dtype=int)).max() <= 1


def test_without_noise_no_seed_matters(picture: Image.Image) -> None:
    with_noise, without = toy_pipeline(), toy_pipeline(noise=False)
    masks = [
        without.segment(picture, "the red mug", seed=seed, num_noises=1 + seed).soft_mask for seed in (0, 1)
    ]
    assert np.array_equal(*masks)
    assert not np.array_equal(with_noise.segment(picture, "the red mug").soft_mask, masks[0])
    drawn = [without.generate("a red mug", num_inference_steps=1, seed=seed)[0] for seed in (0, 1)]
    assert drawn[0].tobytes() != drawn[1].tobytes()


def test_masks_are_trained_without_noise_and_pictures_with_it() -> None:
    task = mask_task(noise=False, segmentation_density=PowerLaw(0.0))
    (part,) = task.prepare([task.batches(Share())[0]])
    seen: list[Tensor] = []

    def network(x_t: Tensor, *rest: Any) -> Any:
        seen.append(x_t)
        return task.network(x_t, *rest)

    for which in task.passes:
        task.losses(network, part, 0, which, Share(), 0)  # type: ignore[arg-type]
    pictures, masks = seen
    assert pictures.std() > 0.1
    assert not masks.any()


def test_the_order_of_the_frames_is_that_of_the_transformer() -> None:
    torch.manual_seed(0)
    transformer, picture, x_t = toy_transformer(), torch.randn(2, 16, 4, 4), torch.randn(2, 16, 4, 4)
    t, words = torch.tensor([0.9, 1.0]), condition()
    outputs = {}
    for first in (True, False):
        network = MaskNetwork(transformer, picture_first=first)
        with torch.no_grad():
            outputs[first] = network(x_t, t, words, picture).output
            frames = [picture, x_t] if first else [x_t, picture]
            times = [torch.zeros(2), t] if first else [t, torch.zeros(2)]
            expected = transformer(
                hidden_states=torch.stack(frames, dim=2),
                timestep=1000 * torch.stack(times, dim=1),
                encoder_hidden_states=words.hidden_states,
                encoder_attention_mask=words.attention_mask,
            ).sample[:, :, 1 if first else 0]
        assert torch.equal(outputs[first], expected)
    assert not torch.allclose(outputs[True], outputs[False], atol=1e-3)


@pytest.mark.parametrize("first", [True, False])
def test_recognition_reads_the_picture_wherever_it_stands(first: bool) -> None:
    class Same(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return tokens

    transformer = toy_transformer()
    block = transformer.blocks[0]
    network = MaskNetwork(transformer, None, Same(), 0, picture_first=first)  # type: ignore[arg-type]
    whole: list[Tensor] = []
    block.register_forward_hook(lambda module, inputs, tokens: whole.append(tokens))
    x = torch.randn(2, 2, 16, 4, 4)
    found = network(x[0], torch.ones(2), condition(), x[1]).concept_logits
    half = whole[0].shape[1] // 2
    assert torch.equal(found, whole[0][:, :half] if first else whole[0][:, half:])


def test_frames_need_something() -> None:
    with pytest.raises(ValueError, match="Got neither a picture nor a noised frame"):
        arrange_frames(None, None, torch.ones(1))


def test_the_rival_has_the_trunk_of_the_baseline_and_a_head_of_a_thousand_parameters() -> None:
    rival, base = mask_task(**DISCRIMINATIVE), mask_task()
    weights = base.transformer.state_dict()
    assert all(torch.equal(x, weights[name]) for name, x in rival.transformer.state_dict().items())
    assert rival.network.mask_head is not None
    assert sum(parameter.numel() for parameter in rival.network.mask_head.parameters()) == 16 * 64 + 64
    (part,) = rival.prepare([rival.batches(Share())[0]])
    assert part.generation is None
    (other,) = base.prepare([base.batches(Share())[0]])
    assert rival.flop(part) < base.flop(other)  # one frame, in place of two


def test_the_rival_sees_no_noise(picture: Image.Image) -> None:
    pipe = toy_pipeline(prediction="mask", mask_head=LinearMaskHead())
    found = [pipe.segment(picture, "the red mug", seed=seed).soft_mask for seed in (0, 1)]
    assert np.array_equal(*found)
    linear = pipe.segment(picture, "the red mug", decoder="linear").soft_mask
    assert np.array_equal(found[0], linear)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"decoder": "vae"},
            "Got decoder 'vae' for this model, which is trained without diffusion, expected 'linear'",
        ),
        ({"num_inference_steps": 2}, "Got 2 steps for this model, which is trained without diffusion"),
    ],
)
def test_what_needs_diffusion_is_refused(options: dict[str, Any], message: str, picture: Image.Image) -> None:
    pipe = toy_pipeline(prediction="mask", mask_head=LinearMaskHead())
    with pytest.raises(ValueError, match=message):
        pipe.segment(picture, "the red mug", **options)
    with pytest.raises(ValueError, match="Got generate for a model trained without diffusion"):
        pipe.generate("a red mug")


def test_pipelines_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="Got prediction 'mask' without a mask_head"):
        toy_pipeline(prediction="mask")
    with pytest.raises(ValueError, match="Got prediction 'noise', expected one of velocity, x0, mask"):
        toy_pipeline(prediction="noise")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction": "eps"}, "Got prediction 'eps', expected one of velocity, x0, mask"),
        ({"shortcut": False, "picture_first": False}, "Got picture_first=False without a shortcut"),
        (
            {"noise": False},
            r"Got noise=False with segmentation_density PowerLaw\(a=0.05\).*take PowerLaw\(0.0\)",
        ),
        (
            {"prediction": "mask"},
            "Got prediction 'mask', without diffusion, with supervision='mse': take 'bce-linear'",
        ),
        ({**DISCRIMINATIVE, "generation_batch": 4}, "with generation_batch=4: take 0"),
        ({**DISCRIMINATIVE, "picture_first": False}, "with picture_first=False: take True"),
    ],
)
def test_mixtures_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskConfig(**options)


def test_euler_steps_of_x0_are_euler_steps_of_its_velocity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the network says at each step."""
    pipe = toy_pipeline(prediction="x0", shortcut=False)
    noise, words = torch.randn(1, 16, 4, 4), condition(1)

    def by_hand(x_t: Tensor, timestep: Tensor) -> Tensor:
        t = timestep.expand(1)
        x0_hat = pipe.transformer(
            hidden_states=x_t.unsqueeze(2),
            timestep=t.unsqueeze(1),
            encoder_hidden_states=words.hidden_states,
            encoder_attention_mask=words.attention_mask,
        ).sample[:, :, 0]
        return (x_t - x0_hat) / (t / 1000)

    with torch.no_grad():
        found = pipe.predict_mask(torch.zeros_like(noise), words, noise, 4).sample
        expected = integrate(pipe.scheduler, noise, by_hand, 4)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
