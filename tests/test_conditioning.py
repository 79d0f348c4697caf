"""The instruction encoder against plain statements of Qwen2.5-VL's preprocessing and its own forward."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from genmask.conditioning import InstructionEncoder, clean_answer, concatenate
from genmask.processor import (
    CHAT_TEMPLATE,
    MAX_TEXT_TOKENS,
    GenMaskProcessor,
    segmentation_prompt,
)
from genmask.training.small_vlm import small_vlm_config
from genmask.training.tokenizer import SPECIAL_TOKENS, train_tokenizer
from tests.toy import TOY_DESCRIPTIONS, toy_describer, toy_processor, toy_vlm

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


@pytest.fixture(scope="module")
def encoder() -> InstructionEncoder:
    return InstructionEncoder(toy_vlm(), toy_processor())


# -- pictures to patches


def plain_patches(image: Image.Image, patch: int) -> np.ndarray:
    """Qwen2.5-VL's preprocessing, said plainly: merge 2, two equal frames, CLIP's mean and deviation."""
    cell = 2 * patch
    width, height = (max(1, round(side / cell)) * cell for side in image.size)
    levels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    pixels = (levels / 255 - mean) / std
    patches = []
    for top in range(0, height, cell):
        for left in range(0, width, cell):
            for y in (top, top + patch):
                for x in (left, left + patch):
                    square = pixels[y : y + patch, x : x + patch]
                    patches.append(np.stack([square[..., c] for c in range(3) for _ in range(2)]).ravel())
    return np.array(patches)


@pytest.mark.parametrize("patch", [8, 14])
@pytest.mark.parametrize("size", [(56, 112), (50, 67), (20, 200)])
def test_patches_are_qwens(patch: int, size: tuple[int, int]) -> None:
    image_processor = Qwen2VLImageProcessorPil(patch_size=patch)
    processor = GenMaskProcessor(image_processor, toy_processor().tokenizer)
    image = picture(*size)
    pixel_values, grids = processor.patches([image])
    expected = plain_patches(image, patch)
    assert pixel_values.shape == expected.shape
    assert np.abs(pixel_values.numpy() - expected).max() < 1e-6
    rows, columns = (max(1, round(side / patch / 2)) * 2 for side in size)
    assert grids.tolist() == [[1, rows, columns]]


def test_equal_pictures_take_a_quicker_way_to_the_same_patches() -> None:
    processor = toy_processor()
    images = [picture(32, 48, seed) for seed in range(3)]
    expected = processor.image_processor(
        images, size={"shortest_edge": 1, "longest_edge": 10**9}, return_tensors="pt"
    )
    levels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    for given_as in (levels, images, list(levels)):
        pixel_values, grids = processor.patches(given_as)
        assert torch.allclose(pixel_values, expected["pixel_values"], atol=1e-6, rtol=0)
        assert torch.equal(grids, expected["image_grid_thw"])


def test_the_model_sees_the_picture_at_the_size_it_is_given() -> None:
    _, grids = toy_processor().patches([picture(16, 16), picture(1000, 1024)])
    assert grids.tolist() == [[1, 2, 2], [1, 124, 128]], "Qwen's own pixel limits must not act"


def test_the_vlm_may_see_less_than_the_vae() -> None:
    toy = toy_processor()
    limited = GenMaskProcessor(toy.image_processor, toy.tokenizer, vlm_max_pixels=32 * 48)
    small, large = picture(32, 48), picture(96, 144)
    pixel_values, grids = limited.patches([small, large])
    patch = toy.image_processor.patch_size
    assert grids.tolist() == [[1, 32 // patch, 48 // patch]] * 2
    resized = toy.patches([large.resize((48, 32), Image.Resampling.BICUBIC)])[0]
    assert torch.allclose(pixel_values[: len(resized)], toy.patches([small])[0], atol=1e-6)
    assert torch.allclose(pixel_values[len(resized) :], resized, atol=1e-6)
    one_size = limited.patches(torch.from_numpy(np.stack([np.asarray(large)] * 2)))[0]
    assert torch.allclose(one_size, torch.cat([resized, resized]), atol=1e-6)


# -- words to tokens


@pytest.mark.parametrize(
    ("target", "prompt"),
    [
        ("red mug", "Please segment the red mug in the image."),
        ("the red mug", "Please segment the red mug in the image."),
        ("  The red\n mug. ", "Please segment the red mug in the image."),
        ("an apple", "Please segment the apple in the image."),
        ("theatre on the left", "Please segment the theatre on the left in the image."),
        ("A", "Please segment the A in the image."),
        ("what can I drink from?", "Please segment the what can I drink from? in the image."),
    ],
)
def test_the_prompt_brings_its_own_article_and_full_stop(target: str, prompt: str) -> None:
    assert segmentation_prompt(target) == prompt


@pytest.mark.parametrize("target", ["", "  \n", " . "])
def test_a_target_without_words_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="expected words"):
        segmentation_prompt(target)


def test_ids_are_those_of_the_template_written_by_hand() -> None:
    processor = toy_processor()
    question, answer, caption = segmentation_prompt("green mug"), "it is green", "a red star"
    batch = processor.prepare([question, caption], [picture(32, 48), None], [answer, None])
    vision = f"<|vision_start|>{'<|image_pad|>' * 6}<|vision_end|>"
    prompt = f"{SYSTEM}<|im_start|>user\n{vision}{question}<|im_end|>\n"
    expected = [
        f"{prompt}<|im_start|>assistant\n{answer}<|im_end|>",
        f"{SYSTEM}<|im_start|>user\n{caption}<|im_end|>\n",
    ]
    for ids, text in zip(batch.input_ids.tolist(), expected, strict=True):
        wanted = processor.tokenizer(text)["input_ids"]
        assert ids[: len(wanted)] == wanted
        assert set(ids[len(wanted) :]) <= {processor.tokenizer.pad_token_id}
    assert batch.prompt_lengths.tolist() == [
        len(processor.tokenizer(t)["input_ids"]) for t in (prompt, expected[1])
    ]
    assert batch.labels is not None
    assert (batch.labels[1] == -100).all()
    assert processor.tokenizer.decode(batch.labels[0][batch.labels[0] != -100]) == f"{answer}<|im_end|>"


def test_prepare_agrees_with_the_processor_called_the_library_way() -> None:
    processor = toy_processor()
    question, image = segmentation_prompt("star"), picture(64, 80)
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    text = processor.apply_chat_template([message], tokenize=False)
    inputs = processor(images=[image], text=[text], return_tensors="pt")
    batch = processor.prepare([question], [image])
    assert torch.equal(batch.input_ids, inputs["input_ids"])
    assert batch.pixel_values is not None
    assert torch.allclose(batch.pixel_values, inputs["pixel_values"], atol=1e-6)


def test_positions_are_the_models_own(encoder: InstructionEncoder) -> None:
    images = [picture(32, 80), None, picture(64, 16)]
    batch = encoder.processor.prepare(["a", "a long caption of a star", "b"], images)
    mask = batch.prompt_mask
    expected, _ = encoder.vlm.model.get_rope_index(
        batch.input_ids,
        mm_token_type_ids=(batch.input_ids == encoder.processor.image_token_id).int(),
        image_grid_thw=batch.image_grid_thw,
        attention_mask=mask,
    )
    assert torch.equal(batch.position_ids[:, mask], expected[:, mask])


def test_no_text_can_leave_its_turn_or_conjure_a_picture() -> None:
    processor = toy_processor()
    special = set(processor.tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)))
    plain, hostile = processor.prepare(["x"]), processor.prepare(["".join(SPECIAL_TOKENS)])
    count = [sum(i in special for i in batch.input_ids[0].tolist()) for batch in (plain, hostile)]
    assert count[0] == count[1]


def test_an_endless_text_and_unequal_lengths_are_refused() -> None:
    processor = toy_processor()
    with pytest.raises(ValueError, match=f"at most {MAX_TEXT_TOKENS}"):
        processor.prepare(["word " * MAX_TEXT_TOKENS])
    with pytest.raises(ValueError, match="2 prompts, 1 images and 2 answers"):
        processor.prepare(["a", "b"], [picture(16, 16)])
    with pytest.raises(ValueError, match="at least one"):
        processor.prepare([])
    with pytest.raises(ValueError, match=r"float64, expected \(H, W, 3\) uint8"):
        processor.prepare(["a"], [np.zeros((16, 16, 3))])


@given(text=st.text(max_size=40))
@settings(max_examples=50, deadline=None)
def test_the_trained_tokenizer_round_trips_any_text(text: str) -> None:
    tokenizer = toy_processor().tokenizer
    normalised = tokenizer.backend_tokenizer.normalizer.normalize_str(text)
    ids = tokenizer(text, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(ids) == normalised


def test_the_trained_tokenizer_has_single_special_tokens_and_short_templates() -> None:
    tokenizer = toy_processor().tokenizer
    assert all(len(tokenizer(token)["input_ids"]) == 1 for token in SPECIAL_TOKENS)
    assert len(tokenizer) <= 320
    assert len(tokenizer(SYSTEM)["input_ids"]) == 11  # a word is a token
    with pytest.raises(ValueError, match="expected at least 263"):
        train_tokenizer(["a"], vocab_size=200)


# -- folders


def assert_same_processor(loaded: GenMaskProcessor, original: GenMaskProcessor) -> None:
    arguments = (["Please segment the mug.", "a star"], [picture(30, 50), None], ["yes", None])
    found, expected = loaded.prepare(*arguments), original.prepare(*arguments)
    for name, tensor in vars(expected).items():
        assert torch.equal(getattr(found, name), tensor), name
    assert loaded.chat_template == original.chat_template
    assert loaded.describe_prompt == original.describe_prompt
    assert loaded.vlm_max_pixels == original.vlm_max_pixels


def test_a_saved_processor_loads_the_same(tmp_path: Path) -> None:
    toy = toy_processor()
    original = GenMaskProcessor(
        toy.image_processor, toy.tokenizer, describe_prompt="What is {instruction}", vlm_max_pixels=1024
    )
    original.save_pretrained(tmp_path)
    assert_same_processor(GenMaskProcessor.from_pretrained(tmp_path), original)


@pytest.mark.parametrize(
    "place", ["chat_template.json", "chat_template.jinja", "tokenizer_config.json", "nowhere"]
)
def test_a_published_qwen_folder_is_read(place: str, tmp_path: Path) -> None:
    toy_processor().tokenizer.save_pretrained(tmp_path)
    preprocessor = {
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    template = CHAT_TEMPLATE.replace("helpful", "sober")
    if place == "chat_template.jinja":
        (tmp_path / place).write_text(template)
    elif place != "nowhere":
        file = tmp_path / place
        content = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**content, "chat_template": template}))
    processor = GenMaskProcessor.from_pretrained(tmp_path)
    expected = CHAT_TEMPLATE if place == "nowhere" else template
    original = GenMaskProcessor(Qwen2VLImageProcessorPil(patch_size=14), toy_processor().tokenizer, expected)
    assert_same_processor(processor, original)


def test_a_template_without_a_place_for_the_picture_is_refused() -> None:
    processor = toy_processor()
    template = CHAT_TEMPLATE.replace("<|image_pad|>", "")
    with pytest.raises(ValueError, match="chat template"):
        GenMaskProcessor(processor.image_processor, processor.tokenizer, template)
    with pytest.raises(ValueError, match=r"holds \{instruction\}"):
        GenMaskProcessor(processor.image_processor, processor.tokenizer, describe_prompt="What is it?")


def test_a_vlm_that_would_see_less_than_a_token_is_refused() -> None:
    processor = toy_processor()
    with pytest.raises(ValueError, match="Got vlm_max_pixels 1, expected at least those of one token"):
        GenMaskProcessor(processor.image_processor, processor.tokenizer, vlm_max_pixels=1)


# -- the condition


def test_the_condition_is_the_models_own_last_hidden_state(encoder: InstructionEncoder) -> None:
    processor, vlm, image = encoder.processor, encoder.vlm, picture(64, 80)
    message = {
        "role": "user",
        "content": [{"type": "image"}, {"type": "text", "text": segmentation_prompt("mug")}],
    }
    text = processor.apply_chat_template([message], tokenize=False)
    inputs = processor(images=[image], text=[text], return_tensors="pt")
    inputs["pixel_values"], _ = processor.patches([image])
    widths = []
    hook = vlm.lm_head.register_forward_hook(lambda module, args, output: widths.append(output.shape[1]))
    condition = encoder.encode_segmentation([image], ["the mug"])
    hook.remove()
    with torch.no_grad():
        expected = vlm.model(**inputs).last_hidden_state
    assert torch.equal(condition.hidden_states, expected)
    assert condition.attention_mask.all()
    assert sum(widths) == 0, "the head must project no token"


def test_no_sample_depends_on_its_batch(encoder: InstructionEncoder) -> None:
    images = [picture(32, 48), picture(64, 32, 1), picture(30, 30, 2)]
    texts = ["mug", "the very long description of a green star on red grass", "x"]
    together = encoder.encode_segmentation(images, texts)
    alone = concatenate([encoder.encode_segmentation([i], [t]) for i, t in zip(images, texts, strict=True)])
    assert torch.equal(together.attention_mask, alone.attention_mask)
    assert (together.hidden_states - alone.hidden_states).abs().max() < 1e-5
    assert (together.hidden_states[~together.attention_mask] == 0).all()
    assert (together.hidden_states[0, 20:30] - together.hidden_states[2, 20:30]).abs().max() > 0.1


@pytest.mark.parametrize(
    "texts", [["mug"], ["mug", "mug"], ["mug", "the star on the grass", "x", "a mug and a star"]]
)
def test_many_prompts_on_one_picture_read_it_once(encoder: InstructionEncoder, texts: list[str]) -> None:
    image, seen = picture(48, 64), []
    hook = encoder.vlm.model.visual.register_forward_hook(lambda *_: seen.append(1))
    found = encoder.encode_prompts(image, texts, batch_size=3)
    hook.remove()
    expected = encoder.encode_segmentation([image] * len(texts), texts)
    assert len(seen) == 1
    assert torch.equal(found.attention_mask, expected.attention_mask)
    assert (found.hidden_states - expected.hidden_states).abs().max() < 1e-5


def test_an_empty_caption_is_a_condition_of_the_template_alone(encoder: InstructionEncoder) -> None:
    null = encoder.encode_captions([""])
    assert len(null.attention_mask[0]) == len(
        encoder.processor.tokenizer(f"{SYSTEM}<|im_start|>user\n<|im_end|>\n").input_ids
    )
    both = concatenate([null.expand(2), encoder.encode_captions(["a green star on grass"])])
    assert both.attention_mask.sum(dim=1).tolist()[:2] == [null.attention_mask.sum()] * 2
    assert torch.equal(both[1:2].hidden_states[:, : null.hidden_states.shape[1]], null.hidden_states)


# -- training


def test_one_forward_gives_condition_and_language_loss(encoder: InstructionEncoder) -> None:
    images = [picture(32, 48), None, picture(32, 48, 1), None]
    prompts = [
        segmentation_prompt("mug"),
        "a green star",
        segmentation_prompt("x"),
        "Which part of the image?",
    ]
    answers = ["the red mug in the image", None, "no", "the grass"]
    batch = encoder.processor.prepare(prompts, images, answers)
    condition, losses = encoder.encode_dialogues(batch)
    assert batch.labels is not None

    alone = concatenate(
        [
            encoder.encode_segmentation([picture(32, 48)], ["mug"]),
            encoder.encode_captions(["a green star"]),
            encoder.encode_segmentation([picture(32, 48, 1)], ["x"]),
            encoder.encode_captions(["Which part of the image?"]),
        ]
    )
    assert torch.equal(condition.attention_mask, alone.attention_mask)
    assert (condition.hidden_states - alone.hidden_states).abs().max() < 1e-5

    with torch.no_grad():
        expected = encoder.vlm(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            pixel_values=batch.pixel_values,
            image_grid_thw=batch.image_grid_thw,
            labels=batch.labels,
        ).loss
    assert losses.mean().item() == pytest.approx(expected.item(), abs=1e-5)
    assert len(losses) == (batch.labels != -100).sum()
    with pytest.raises(ValueError, match="without labels"):
        encoder.encode_dialogues(encoder.processor.prepare(["a"]))


def test_the_encoder_is_frozen_unless_asked() -> None:
    vlm, processor = toy_vlm(), toy_processor()
    assert not InstructionEncoder(vlm, processor).encode_captions(["a star"]).hidden_states.requires_grad
    encoder = InstructionEncoder(vlm, processor, differentiable=True)
    condition = encoder.encode_prompts(picture(32, 32), ["mug", "the star"])
    condition.hidden_states.square().sum().backward()
    for parameter in (vlm.model.visual.patch_embed.proj.weight, vlm.model.language_model.embed_tokens.weight):
        assert parameter.grad.abs().sum() > 0


# -- reasoning


def test_describe_says_what_the_model_was_trained_to_say_or_falls_back() -> None:
    encoder, image = InstructionEncoder(toy_describer(), toy_processor()), Image.new("RGB", (16, 16))
    question, silenced = TOY_DESCRIPTIONS
    before = encoder.encode_captions(["a star"])
    description = encoder.describe(image, question)
    assert (description.target, description.answer) == ("The red mug", '"The red mug."')
    assert not description.is_fallback
    for unusable in (encoder.describe(image, silenced), encoder.describe(image, silenced, max_new_tokens=1)):
        assert (unusable.target, unusable.is_fallback) == (silenced, True)
    cut_off = encoder.describe(image, question, max_new_tokens=2)
    assert (cut_off.target, cut_off.is_fallback) == (question, True)
    assert cut_off.answer
    after = encoder.encode_captions(
        ["a star"]
    )  # the model remembers a generation's positions: they must not leak
    assert torch.equal(before.hidden_states, after.hidden_states)


@pytest.mark.parametrize(
    ("answer", "target"),
    [
        ("'the mug'.", "the mug"),
        ("\n\n the  red mug \nand more", "the red mug"),
        ("?!", ""),
        ("", ""),
        ("7", "7"),
    ],
)
def test_answers_are_cleaned(answer: str, target: str) -> None:
    assert clean_answer(answer) == target


def test_a_small_vlm_needs_heads_that_the_rotary_embedding_can_split() -> None:
    with pytest.raises(ValueError, match="multiples of 16 and of 4"):
        small_vlm_config(toy_processor(), hidden_size=48, num_heads=2)
