"""Whether a target is there: what the head sees, how it is fitted, and what `segment` makes of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from genmask.analysis.decoders import FittedDecoder, save_with_decoder
from genmask.analysis.presence import RIDGE, fit_presence_head, presence_table, score_presence
from genmask.mask_head import LinearMaskHead
from genmask.pipeline import GenMaskPipeline
from genmask.presence_head import PresenceHead, frame_means
from genmask.zoom import Zoom
from tests.conftest import random_picture, toy_pipeline, toy_presence_head

ABSENT, PRESENT = -1e4, 1e4
"""Biases that leave no doubt."""


def with_heads(bias: float = 0.0, **options: object) -> GenMaskPipeline:
    torch.manual_seed(3)
    return toy_pipeline(
        mask_head=LinearMaskHead(16, 8).eval(),
        presence_head=toy_presence_head(bias),
        decoder="linear",
        threshold="auto",
        **options,
    )


def samples(count: int = 400, features: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of very different scales, of which two tell what is there, with some doubt."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, features, generator=generator)
    present = x[:, 0] - x[:, 1] + 0.5 * torch.randn(count, generator=generator) + 1 > 0
    return 5 + x * torch.tensor([100.0, 0.01, 1, 1, 1, 1]), present


# -- what the head sees


def test_each_frame_has_the_mean_of_its_own_tokens() -> None:
    tokens = torch.arange(24.0).reshape(1, 2, 4, 3)
    assert torch.equal(frame_means(tokens), torch.cat([tokens[0, 0].mean(0), tokens[0, 1].mean(0)])[None])


def test_the_tokens_are_those_that_the_velocities_are_read_from() -> None:
    transformer = toy_pipeline().transformer
    seen = []
    hook = transformer.blocks[-1].register_forward_hook(lambda block, inputs, output: seen.append(output))
    with torch.no_grad():
        output = transformer(torch.randn(2, 16, 2, 4, 6), torch.zeros(2, 2), torch.randn(2, 5, 32))
    hook.remove()
    assert output.tokens.shape[:3] == (2, 2, 6)
    assert torch.equal(output.tokens.flatten(1, 2), seen[0])


# -- fitting


def test_the_fit_is_where_the_loss_is_least_whatever_the_units() -> None:
    features, present = samples()
    head = fit_presence_head(features, present)
    scale = features.double().std(dim=0)

    def loss(weight: torch.Tensor, bias: torch.Tensor) -> float:
        logits = features.double() @ weight + bias
        error = torch.nn.functional.binary_cross_entropy_with_logits(logits, present.double())
        return float(error + RIDGE * (weight * scale).square().sum())

    weight, bias = head.linear.weight[0].detach().double(), head.linear.bias[0].detach().double()
    best = loss(weight, bias)
    for column in range(6):
        step = torch.zeros(6, dtype=torch.float64)
        step[column] = 0.02 / scale[column]
        mean = features[:, column].double().mean()
        for sign in (-1, 1):
            assert loss(weight + sign * step, bias - sign * step[column] * mean) > best


def test_a_fitted_head_tells_what_is_there_and_how_surely() -> None:
    features, present = samples(4000)
    head = fit_presence_head(features[:2000], present[:2000])
    scores = score_presence(head, features[2000:], present[2000:])
    assert scores["samples"] == 2000
    assert scores["auroc"] > 0.95
    assert scores["absent_empty"] > 0.75
    assert scores["present_empty"] < 0.1
    with torch.no_grad():
        sure = head(features[2000:]).sigmoid()
    for low, high in ((0.2, 0.5), (0.5, 0.8)):
        rows = (sure > low) & (sure < high)
        assert abs(float(sure[rows].mean() - present[2000:][rows].float().mean())) < 0.12


def test_scores_and_table_without_absent_targets() -> None:
    features, _ = samples(5)
    scores = score_presence(PresenceHead(6), features, torch.ones(5, dtype=torch.bool))
    assert scores["auroc"] is None
    assert scores["absent_empty"] is None
    assert presence_table({"drawn": scores})[1][:4] == ["drawn", "5", "-", "-"]


@pytest.mark.parametrize("value", [False, True])
def test_one_answer_alone_teaches_nothing(value: bool) -> None:
    with pytest.raises(ValueError, match="expected some that are and some that are not"):
        fit_presence_head(torch.randn(4, 3), torch.full((4,), value))


# -- segment


def test_what_is_absent_has_an_empty_mask_unless_a_threshold_is_given() -> None:
    picture = random_picture(1)
    absent, present = (with_heads(bias).segment(picture, "the mug") for bias in (ABSENT, PRESENT))
    assert (absent.presence, absent.is_empty) == (0.0, True)
    assert (present.presence, present.is_empty) == (1.0, False)
    assert np.array_equal(absent.soft_mask, present.soft_mask)
    fixed = with_heads(ABSENT).segment(picture, "the mug", threshold=float(absent.soft_mask.mean()))
    assert not fixed.is_empty


def test_presence_is_the_heads_own_whatever_the_batch() -> None:
    pipe, texts = with_heads(), ["the mug", "a dog left of the tree", "sky"]
    together = pipe.segment(random_picture(1), texts)
    alone = [pipe.segment(random_picture(1), text, batch_size=1) for text in texts]
    assert len({answer.presence for answer in together}) == 3
    for one, other in zip(together, alone, strict=True):
        assert one.presence == pytest.approx(other.presence, abs=1e-5)
        assert one.to_dict()["presence"] == one.presence


def test_several_steps_and_noises_keep_the_features_of_the_first_step() -> None:
    pipe = with_heads()
    one = pipe.segment(random_picture(1), "the mug").presence
    assert pipe.segment(random_picture(1), "the mug", num_inference_steps=3).presence == pytest.approx(one)
    assert pipe.segment(random_picture(1), "the mug", num_noises=3).presence != one


def test_a_model_without_the_head_says_nothing_of_it() -> None:
    answer = toy_pipeline().segment(random_picture(1), "the mug")
    assert answer.presence is None
    assert answer.to_dict()["presence"] is None


def test_a_second_look_keeps_the_presence_of_the_first() -> None:
    pipe, picture = with_heads(), random_picture(1, 300, 200)
    soft_mask = pipe.segment(picture, "the mug").soft_mask
    options = {"threshold": float(np.unique(soft_mask)[-2])}
    plain, zoomed = (
        pipe.segment(picture, "the mug", zoom=zoom, **options)
        for zoom in (False, Zoom(padding=0, agreement=0))
    )
    assert not np.array_equal(zoomed.soft_mask, plain.soft_mask)
    assert zoomed.presence == plain.presence


# -- the model folder


def test_the_head_is_saved_with_the_model(tmp_path: Path) -> None:
    pipe = with_heads()
    pipe.save_pretrained(tmp_path)
    again = GenMaskPipeline.from_pretrained(tmp_path)
    answers = [each.segment(random_picture(1), "the mug") for each in (pipe, again)]
    assert answers[0].presence == answers[1].presence
    weights = tmp_path / "presence_head" / "diffusion_pytorch_model.safetensors"
    assert weights.exists()
    assert json.loads((tmp_path / "model_index.json").read_text())["presence_head"][1] == "PresenceHead"


def test_another_decoder_leaves_the_head_of_the_same_transformer_as_it_is(tmp_path: Path) -> None:
    pipe, picture = with_heads(), random_picture(1)
    pipe.save_pretrained(tmp_path / "model")
    fitted = FittedDecoder(LinearMaskHead(16, 8), None)
    save_with_decoder(tmp_path / "model", fitted, tmp_path / "new", as_own=False)
    new = GenMaskPipeline.from_pretrained(tmp_path / "new")
    assert new.segment(picture, "the mug").presence == pipe.segment(picture, "the mug").presence


def test_the_head_is_exact_in_a_model_of_half_the_bits(tmp_path: Path) -> None:
    pipe, features = with_heads(), 100 + torch.randn(4, toy_presence_head().config.features)
    pipe.save_pretrained(tmp_path)
    half = GenMaskPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert half.transformer.dtype == torch.bfloat16
    assert half.presences(features) == pipe.presences(features)


def test_the_head_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="Got a presence_head for 5 features of the transformer, which has"):
        toy_pipeline(presence_head=PresenceHead(5))
