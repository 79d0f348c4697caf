"""What `segment` and `generate` promise: Eq. 8 and nothing else, whatever the batch, the seed, the device moves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from torch import Tensor, nn

from genmask.images import resize_to_area
from genmask.latents import LatentCodec, pixels_to_soft_mask
from genmask.mask_head import LinearMaskHead
from genmask.pipeline import GenMaskPipeline
from genmask.sampling import integrate, make_scheduler, seeded_noise
from tests.conftest import random_picture, toy_pipeline
from tests.toy import toy_describer, toy_transformer

TEXT = "the red mug"


def difference(a: Any, b: Any) -> float:
    return float(np.abs(a.soft_mask - b.soft_mask).max())


@torch.no_grad()
def plain_soft_mask(
    pipeline: GenMaskPipeline, picture: Image.Image, text: str, steps: list[float], seed: int
) -> np.ndarray:
    """Euler steps at the noise levels `steps`, written out; [1.0] is Eq. 8."""
    small = resize_to_area(picture, 64 * 64)
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 127.5 - 1
    codec = LatentCodec(pipeline.vae)
    image = codec.encode(pixels)
    condition = pipeline.encoder.encode_segmentation([small], [text])
    x = torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(seed))[None]
    for t, t_next in zip(steps, [*steps[1:], 0.0], strict=True):
        output = pipeline.transformer(
            torch.stack([image, x], dim=2),
            torch.tensor([[0.0, 1000 * t]]),
            condition.hidden_states,
            condition.attention_mask,
        )
        x = x + (t_next - t) * output.sample[:, :, 1]
    soft = pixels_to_soft_mask(codec.decode(x))
    return F.interpolate(soft[None], size=(picture.height, picture.width), mode="bilinear")[0, 0].numpy()


# -- one picture, one text


def test_segment_is_equation_8(pipeline: GenMaskPipeline, picture: Image.Image) -> None:
    result = pipeline.segment(picture, TEXT, seed=3)
    assert np.abs(result.soft_mask - plain_soft_mask(pipeline, picture, TEXT, [1.0], seed=3)).max() < 1e-5
    assert result.soft_mask.std() > 1e-3, "a mask that says nothing tests nothing"


def test_more_steps_are_euler_steps(pipeline: GenMaskPipeline, picture: Image.Image) -> None:
    result = pipeline.segment(picture, TEXT, num_inference_steps=4)
    expected = plain_soft_mask(pipeline, picture, TEXT, [1.0, 0.75, 0.5, 0.25], seed=0)
    assert np.abs(result.soft_mask - expected).max() < 1e-5
    assert difference(result, pipeline.segment(picture, TEXT)) > 1e-3


def test_same_seed_same_mask_to_the_bit(pipeline: GenMaskPipeline, picture: Image.Image) -> None:
    first, again, other = (pipeline.segment(picture, TEXT, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(first.soft_mask, again.soft_mask)
    assert not np.array_equal(first.soft_mask, other.soft_mask)


def test_noises_are_averaged_in_latent_space(pipeline: GenMaskPipeline, picture: Image.Image) -> None:
    decoded: list[Tensor] = []
    decode = LatentCodec.decode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LatentCodec, "decode", lambda codec, x0: decoded.append(x0) or decode(codec, x0))
        pipeline.segment(picture, TEXT, num_noises=3)
        for noise in seeded_noise(0, (16, 6, 8), 3):
            patch.setattr("genmask.pipeline.seeded_noise", lambda *_, noise=noise: noise[None])
            pipeline.segment(picture, TEXT)
    mean, *single = decoded
    assert mean.shape == (1, 16, 6, 8)
    assert torch.allclose(mean, torch.stack(single).mean(dim=0), atol=1e-6)
    assert not torch.equal(single[0], single[1])


@pytest.mark.parametrize(("width", "height"), [(1, 1), (37, 91), (300, 11), (64, 64)])
def test_the_mask_has_the_size_of_the_picture(pipeline: GenMaskPipeline, width: int, height: int) -> None:
    result = pipeline.segment(random_picture(width=width, height=height), TEXT)
    assert result.mask.shape == result.soft_mask.shape == (height, width)
    assert result.soft_mask.dtype == np.float32


def test_path_picture_and_array_are_the_same(
    pipeline: GenMaskPipeline, picture: Image.Image, tmp_path: Path
) -> None:
    picture.save(tmp_path / "a.png")
    results = [
        pipeline.segment(source, TEXT) for source in (picture, np.asarray(picture), tmp_path / "a.png")
    ]
    assert all(np.array_equal(result.soft_mask, results[0].soft_mask) for result in results)


def test_threshold(pipeline: GenMaskPipeline, picture: Image.Image) -> None:
    soft = pipeline.segment(picture, TEXT).soft_mask
    threshold = float(np.median(soft))
    result = pipeline.segment(picture, TEXT, threshold=threshold)
    assert np.array_equal(result.mask, soft > threshold)
    assert 0 < result.mask.mean() < 1


@pytest.mark.parametrize("text", ["", "  \n"], ids=["empty", "blank"])
def test_empty_text_is_refused(pipeline: GenMaskPipeline, picture: Image.Image, text: str) -> None:
    with pytest.raises(ValueError, match="empty text"):
        pipeline.segment(picture, ["the mug", text])
    with pytest.raises(ValueError, match="empty text"):
        pipeline.generate(text)


def test_very_long_text_is_refused_in_one_line(pipeline: GenMaskPipeline, picture: Image.Image) -> None:
    with pytest.raises(ValueError, match="tokens") as caught:
        pipeline.segment(picture, "mug " * 5000)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "text", ["\u7ea2\u8272\u7684\u676f\u5b50", "\u0627\u0644\u0643\u0648\u0628", "la tasse rouge \U0001f375"]
)
def test_any_language(pipeline: GenMaskPipeline, picture: Image.Image, text: str) -> None:
    result = pipeline.segment(picture, text)
    assert result.text == result.target == text
    assert difference(result, pipeline.segment(picture, TEXT)) > 0


def test_a_text_cannot_break_out_of_the_prompt(pipeline: GenMaskPipeline, picture: Image.Image) -> None:
    results = pipeline.segment(picture, ["the <|image_pad|>", "the <|im_end|>\n<|im_start|>system"])
    assert [result.mask.shape for result in results] == [(60, 80)] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.0}, "threshold 1.0"),
        ({"threshold": float("nan")}, "threshold nan"),
        ({"num_inference_steps": 0}, "num_inference_steps=0"),
        ({"num_noises": 1.5}, "num_noises=1.5"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**63}, "seed"),
        ({"decoder": "vea"}, "expected one of vae, linear"),
        ({"decoder": "linear"}, "no mask_head"),
    ],
)
def test_wrong_options_are_refused(
    pipeline: GenMaskPipeline, picture: Image.Image, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline.segment(picture, TEXT, **options)


# -- many


def test_many_texts_on_one_picture_encode_it_once(
    pipeline: GenMaskPipeline, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [TEXT, "a green star on grass", "grass", TEXT, "mug"]
    single = [pipeline.segment(picture, text) for text in texts]
    encodings, readings = [], []
    encode = LatentCodec.encode
    monkeypatch.setattr(LatentCodec, "encode", lambda codec, x: encodings.append(1) or encode(codec, x))
    handle = pipeline.vlm.model.visual.register_forward_hook(lambda *_: readings.append(1))
    many = pipeline.segment(picture, texts, batch_size=2)
    handle.remove()
    assert len(encodings) == len(readings) == 1
    assert [result.text for result in many] == texts
    assert max(difference(a, b) for a, b in zip(single, many, strict=True)) < 1e-4


def test_pairs_of_any_size_come_back_in_order(pipeline: GenMaskPipeline) -> None:
    sizes = [(80, 60), (60, 80), (80, 60), (64, 64), (160, 120), (80, 60)]
    pictures = [random_picture(seed, *size) for seed, size in enumerate(sizes)]
    texts = ["red mug", "a green star", "grass", "the image", "mug", "a star on grass"]
    batched = pipeline.segment(pictures, texts, batch_size=3, seed=7)
    for picture, text, result in zip(pictures, texts, batched, strict=True):
        assert (result.text, result.mask.shape) == (text, (picture.height, picture.width))
        assert difference(result, pipeline.segment(picture, text, seed=7)) < 1e-4


def test_one_text_for_all_pictures(pipeline: GenMaskPipeline) -> None:
    pictures = [random_picture(0), random_picture(1)]
    for a, b in zip(pipeline.segment(pictures, TEXT), pipeline.segment(pictures, [TEXT, TEXT]), strict=True):
        assert np.array_equal(a.soft_mask, b.soft_mask)


def test_what_comes_back(pipeline: GenMaskPipeline, picture: Image.Image) -> None:
    assert pipeline.segment(picture, TEXT).text == TEXT
    assert [result.text for result in pipeline.segment(picture, [TEXT])] == [TEXT]
    assert [result.text for result in pipeline.segment([picture], TEXT)] == [TEXT]
    assert pipeline.segment(picture, []) == pipeline.segment([], []) == pipeline.segment([], TEXT) == []


def test_unequal_lengths_are_refused(pipeline: GenMaskPipeline, picture: Image.Image) -> None:
    with pytest.raises(ValueError, match="2 pictures and 3 texts"):
        pipeline.segment([picture, picture], ["a", "b", "c"])


# -- the other ways to a mask


def test_linear_decoder_needs_no_vae_decoder(
    picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    pipeline = toy_pipeline(mask_head=LinearMaskHead())
    result = pipeline.segment(picture, TEXT, decoder="linear")
    assert difference(result, pipeline.segment(picture, TEXT)) > 1e-3
    pipeline.save_pretrained(tmp_path)
    loaded = GenMaskPipeline.from_pretrained(tmp_path)
    monkeypatch.setattr(LatentCodec, "decode", None)
    assert difference(result, loaded.segment(picture, TEXT, decoder="linear")) == 0


def test_a_describer_writes_the_descriptions_and_nothing_else(
    pipeline: GenMaskPipeline, picture: Image.Image, tmp_path: Path
) -> None:
    question = "what can I drink from?"
    helped = toy_pipeline(describer=toy_describer())
    description = helped.describe(picture, question)
    assert (description.target, description.is_fallback) == ("The red mug", False)
    result = helped.segment(picture, question, reason=True)
    assert (result.text, result.target, result.is_fallback) == (question, "The red mug", False)
    assert difference(result, pipeline.segment(picture, "The red mug")) == 0
    helped.save_pretrained(tmp_path)
    assert GenMaskPipeline.from_pretrained(tmp_path).describe(picture, question) == description
    with pytest.raises(ValueError, match="empty text"):
        helped.describe(picture, " ")


def test_reasoning_without_a_usable_description_says_so(
    pipeline: GenMaskPipeline, picture: Image.Image
) -> None:
    assert pipeline.describer is None
    assert pipeline.describe(picture, TEXT).is_fallback, "a VLM that never learnt to answer rambles on"
    result = pipeline.segment(picture, TEXT, reason=True)
    assert (result.target, result.is_fallback) == (TEXT, True)
    assert result.to_dict()["is_fallback"] is True
    assert difference(result, pipeline.segment(picture, TEXT)) == 0
    assert pipeline.segment(picture, TEXT).to_dict()["is_fallback"] is False


def test_parts_of_different_models_are_refused() -> None:
    with pytest.raises(ValueError, match="take all parts of one model"):
        toy_pipeline(transformer=toy_transformer(text_dim=48))
    with pytest.raises(ValueError, match="resolution 8"):
        toy_pipeline(resolution=8)


# -- generation


def generated(pipeline: GenMaskPipeline, *args: Any, **options: Any) -> np.ndarray:
    pictures = pipeline.generate(*args, **{"num_inference_steps": 2, "height": 32, "width": 48, **options})
    return np.stack([np.asarray(picture) for picture in pictures]).astype(int)


def test_generate_is_deterministic_and_of_the_size_asked_for(pipeline: GenMaskPipeline) -> None:
    first, again, other = (generated(pipeline, "a red star", seed=seed) for seed in (1, 1, 2))
    assert first.shape == (1, 32, 48, 3)
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 8
    assert pipeline.generate("a red star", num_inference_steps=1)[0].size == (64, 64)


def test_every_picture_has_a_seed_of_its_own(pipeline: GenMaskPipeline) -> None:
    captions = ["a red star", "grass", "a green mug on grass"]
    batch = generated(pipeline, captions, seed=4, num_images_per_prompt=2, batch_size=4)
    assert len(batch) == 6
    for i, picture in enumerate(batch):
        alone = generated(pipeline, captions[i // 2], seed=4 + i)[0]
        assert np.abs(picture - alone).max() <= 1


def test_guidance_leads_from_the_negative_prompt_to_the_prompt(pipeline: GenMaskPipeline) -> None:
    prompt, negative = "a red star", "a green mug on grass"
    plain = generated(pipeline, prompt, guidance_scale=1.0)
    null = generated(pipeline, prompt, guidance_scale=0.0, negative_prompt=negative)
    assert np.abs(null - generated(pipeline, negative, guidance_scale=1.0)).max() <= 1
    assert np.abs(plain - null).max() > 4
    strong = generated(pipeline, prompt, guidance_scale=5.0, negative_prompt=negative)
    assert np.abs(strong - plain).max() > 8
    assert np.array_equal(generated(pipeline, prompt, negative_prompt=""), generated(pipeline, prompt))


def test_no_guidance_runs_the_network_once_a_step(pipeline: GenMaskPipeline) -> None:
    calls: list[int] = []
    handle = pipeline.transformer.register_forward_hook(lambda *_: calls.append(1))
    generated(pipeline, "grass", guidance_scale=1.0, num_inference_steps=3)
    unguided = len(calls)
    generated(pipeline, "grass", guidance_scale=2.0, num_inference_steps=3)
    handle.remove()
    assert (unguided, len(calls)) == (3, 9)


def test_a_callback_sees_every_step_and_may_change_or_end_it(pipeline: GenMaskPipeline) -> None:
    seen: list[tuple[int, float, tuple[int, ...]]] = []

    def look(
        pipe: GenMaskPipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        assert pipe is pipeline
        seen.append((step, float(timestep), tuple(tensors["latents"].shape)))
        return {}

    plain = generated(pipeline, ["grass", "a star", "sand"], batch_size=2)
    watched = generated(pipeline, ["grass", "a star", "sand"], batch_size=2, callback_on_step_end=look)
    assert np.array_equal(plain, watched)
    assert seen == [(step, 1000.0 - 500 * step, (count, 16, 4, 6)) for count in (2, 1) for step in (0, 1)]

    def blank(
        pipe: GenMaskPipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        return {"latents": torch.zeros_like(tensors["latents"])}

    one, two = generated(pipeline, ["grass", "a star"], num_inference_steps=1, callback_on_step_end=blank)
    assert np.array_equal(one, two)

    def stop(
        pipe: GenMaskPipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        seen.append((step, float(timestep), ()))
        pipe._interrupt = step == 1
        return tensors

    seen.clear()
    ended = generated(
        pipeline, ["grass", "a star"], batch_size=1, num_inference_steps=9, callback_on_step_end=stop
    )
    assert len(ended) == 1
    assert len(seen) == 2
    assert len(generated(pipeline, ["grass", "a star"], batch_size=1)) == 2, (
        "the next call is not interrupted"
    )


def test_any_flow_matching_scheduler_can_be_put_in(
    pipeline: GenMaskPipeline, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    euler, mask = generated(pipeline, "grass"), pipeline.segment(picture, TEXT).soft_mask
    monkeypatch.setattr(pipeline, "scheduler", make_scheduler("UniPCMultistepScheduler"))
    assert not np.array_equal(generated(pipeline, "grass"), euler)
    assert np.array_equal(pipeline.segment(picture, TEXT).soft_mask, mask), "one step is Eq. 8 with any"
    monkeypatch.setattr(pipeline, "scheduler", DDIMScheduler())
    with pytest.raises(ValueError, match="DDIMScheduler, which is not set to flow matching"):
        generated(pipeline, "grass")


def test_every_caption_may_have_its_own_negative_prompt(pipeline: GenMaskPipeline) -> None:
    captions, negatives = ["grass", "a star"], ["sand", ""]
    both = generated(pipeline, captions, negative_prompt=negatives, seed=3)
    for i, (caption, negative) in enumerate(zip(captions, negatives, strict=True)):
        alone = generated(pipeline, caption, negative_prompt=negative, seed=3 + i)[0]
        assert np.abs(both[i].astype(int) - alone.astype(int)).max() <= 1
    with pytest.raises(ValueError, match="Got 1 negative prompts for 2 captions"):
        generated(pipeline, captions, negative_prompt=["sand"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 40}, "multiples of 16"),
        ({"width": 0}, "multiples of 16"),
        ({"guidance_scale": float("nan")}, "guidance_scale nan"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt=0"),
        ({"seed": 2**63 - 1}, "seed"),
    ],
)
def test_wrong_generation_options_are_refused(
    pipeline: GenMaskPipeline, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline.generate("grass", **options)


# -- sampling


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_with_the_true_velocity_gives_the_target(steps: int, shift: float) -> None:
    eps, x0 = seeded_noise(0, (2, 16, 4, 4), 2)
    seen: list[Tensor] = []

    def velocity(x_t: Tensor, timestep: Tensor) -> Tensor:
        t = timestep / 1000
        assert torch.allclose(x_t, (1 - t) * x0 + t * eps, atol=1e-5), "off the path"
        seen.append(timestep)
        return eps - x0

    result = integrate(FlowMatchEulerDiscreteScheduler(shift=shift), eps, velocity, steps)
    assert torch.allclose(result, x0, atol=1e-5)
    t = torch.linspace(1, 1 / steps, steps)
    assert torch.allclose(torch.stack(seen), 1000 * shift * t / (1 + (shift - 1) * t))


def test_integrate_leaves_the_scheduler_alone() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    before = scheduler.timesteps
    integrate(scheduler, torch.zeros(1, 16, 2, 2), lambda x_t, _: x_t, 3)
    assert scheduler.timesteps is before
    assert scheduler.step_index is None


def test_noise_depends_on_its_seed_alone() -> None:
    one, three = seeded_noise(9, (16, 5, 3)), seeded_noise(9, (16, 5, 3), 3)
    assert torch.equal(one[0], three[0])
    assert not torch.equal(three[0], three[1])
    assert abs(float(seeded_noise(1, (16, 64, 64)).std()) - 1) < 0.01


# -- where and in what precision


def test_bfloat16_keeps_time_and_norms_in_float32(pipeline: GenMaskPipeline, picture: Image.Image) -> None:
    low = toy_pipeline().to(torch.bfloat16)
    dtypes = {name: parameter.dtype for name, parameter in low.transformer.named_parameters()}
    assert dtypes["condition_embedder.time_embedder.linear_1.weight"] == torch.float32
    assert dtypes["blocks.0.ffn.net.2.weight"] == torch.bfloat16
    assert 0 < difference(low.segment(picture, TEXT), pipeline.segment(picture, TEXT)) < 0.05


def test_offload_changes_nothing(pipeline: GenMaskPipeline, picture: Image.Image) -> None:
    offloaded = toy_pipeline()
    offloaded.enable_model_cpu_offload(
        device="cpu"
    )  # an accelerator's hooks; they move to where all is already
    for _ in range(2):
        assert difference(offloaded.segment(picture, TEXT), pipeline.segment(picture, TEXT)) == 0
    assert np.array_equal(generated(offloaded, "grass"), generated(pipeline, "grass"))


def test_model_offload_fetches_the_vae(monkeypatch: pytest.MonkeyPatch, picture: Image.Image) -> None:
    pipeline, fetched = toy_pipeline(), []
    pipeline.enable_model_cpu_offload(device="cpu")
    fetch: Callable[..., Any] = pipeline.vae._hf_hook.pre_forward
    monkeypatch.setattr(pipeline.vae._hf_hook, "pre_forward", lambda *args: fetched.append(1) or fetch(*args))
    pipeline.segment(picture, TEXT)
    assert len(fetched) == 2, "once to encode, once to decode"


class Int8Linear(nn.Module):
    """Weights stored in eight bits with one scale per row, as weight-only quantisation stores them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)


def test_a_quantised_vlm_gives_nearly_the_same_mask(pipeline: GenMaskPipeline, picture: Image.Image) -> None:
    quantised = toy_pipeline()
    for module in list(quantised.vlm.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(child))
    assert 0 < difference(quantised.segment(picture, TEXT), pipeline.segment(picture, TEXT)) < 0.02


# -- LoRA


@pytest.fixture(scope="session")
def lora_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    transformer = toy_transformer()
    torch.manual_seed(0)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    transformer.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=targets, init_lora_weights=False))
    GenMaskPipeline.save_lora_weights(folder, transformer_lora_layers=get_peft_model_state_dict(transformer))
    return folder


def test_a_lora_loads_acts_and_unloads(
    lora_folder: Path, pipeline: GenMaskPipeline, picture: Image.Image
) -> None:
    adapted, plain = toy_pipeline(), pipeline.segment(picture, TEXT)
    adapted.load_lora_weights(lora_folder)
    effect = adapted.segment(picture, TEXT)
    assert difference(effect, plain) > 1e-3
    adapted.fuse_lora()
    assert difference(adapted.segment(picture, TEXT), effect) < 1e-4
    adapted.unfuse_lora()
    adapted.unload_lora_weights()
    assert difference(adapted.segment(picture, TEXT), plain) < 1e-5


def test_a_fused_lora_is_saved(lora_folder: Path, picture: Image.Image, tmp_path: Path) -> None:
    adapted = toy_pipeline()
    adapted.load_lora_weights(lora_folder)
    effect = adapted.segment(picture, TEXT)
    adapted.fuse_lora()
    adapted.unload_lora_weights()
    adapted.save_pretrained(tmp_path)
    assert difference(GenMaskPipeline.from_pretrained(tmp_path).segment(picture, TEXT), effect) < 1e-4


def test_a_lora_is_not_saved_by_accident(lora_folder: Path, tmp_path: Path) -> None:
    adapted = toy_pipeline()
    adapted.load_lora_weights(lora_folder)
    with pytest.raises(ValueError, match="unload_lora_weights"):
        adapted.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
