"""Every fast path gives what the plain one gives; those not found here are held equal elsewhere:

* time per frame against Wan's time per token, attention by products: `test_denoiser.py`
* the VAE's 2-D view against the VAE, decoding in bfloat16: `test_latents.py`
* a prefix read once, no sample dependent on its batch, no head: `test_conditioning.py`
* many texts on one picture, batches against single pairs, the linear decoder: `test_pipeline.py`
* int8 weights: `test_low_memory.py`
* cached training steps: `test_cache.py`
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from genmask.data.scenes import Scenes
from genmask.images import open_image
from genmask.jobs.answers import Options, Segmenter, write_files
from genmask.jobs.pictures import name_files
from genmask.pipeline import GenMaskPipeline
from genmask.segmentation import Segmentation
from tests.conftest import random_picture, toy_pipeline
from tests.toy import toy_transformer

TEXT = "the red mug"


def difference(a: Segmentation, b: Segmentation) -> float:
    return float(np.abs(a.soft_mask - b.soft_mask).max())


# -- compiled blocks


def test_padding_to_buckets_changes_nothing(pipeline: GenMaskPipeline, picture: Image.Image) -> None:
    texts = ["mug", TEXT, "the green star on the grass beside the red mug"]
    condition = pipeline.encoder.encode_prompts(picture, texts)
    length = condition.attention_mask.shape[1]
    padded = condition.padded(16)
    assert padded.attention_mask.shape[1] == -(-length // 16) * 16 > length
    assert padded.hidden_states.shape[:2] == padded.attention_mask.shape
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(3, 16, 2, 6, 8, generator=generator)
    times = torch.tensor([[0.0, 1000.0]]).expand(3, 2)
    with torch.no_grad():
        expected = pipeline.transformer(frames, times, condition.hidden_states, condition.attention_mask)
        actual = pipeline.transformer(frames, times, padded.hidden_states, padded.attention_mask)
    torch.testing.assert_close(actual.sample, expected.sample, rtol=0, atol=1e-5)


def check_compiled(compiled: GenMaskPipeline, plain: GenMaskPipeline) -> None:
    """After the warm-up nothing is compiled again, and masks differ by rounding alone."""
    texts = ["mug", TEXT, "the green star on the grass", "the red mug beside the green star", TEXT]
    sizes = [(80, 60), (60, 80), (64, 64), (160, 50), (80, 60)]
    pictures = [random_picture(seed, *size) for seed, size in enumerate(sizes)]
    lengths = []
    compiled.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["encoder_attention_mask"].shape[1]),
        with_kwargs=True,
    )
    with torch.compiler.set_stance("fail_on_recompile"):
        for text, picture in zip(texts, pictures, strict=True):
            assert difference(compiled.segment(picture, text), plain.segment(picture, text)) < 1e-4
        for count in range(1, 17):  # every remainder of the length
            compiled.segment(pictures[0], "mug " * count)
        for count in (2, 3, 5):
            answers = [model.segment(pictures[0], texts[:count]) for model in (compiled, plain)]
            assert max(difference(a, b) for a, b in zip(*answers, strict=True)) < 1e-4
        both = [model.segment(pictures, texts, num_inference_steps=2) for model in (compiled, plain)]
        assert max(difference(a, b) for a, b in zip(*both, strict=True)) < 1e-4
    assert all(length % 16 == 0 for length in lengths)


def test_what_is_compiled_once_serves_all_sizes_and_lengths(
    pipeline: GenMaskPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By dynamo's graphs and guards, without the minutes that a C++ compiler takes."""
    compiled = toy_pipeline()
    compile_blocks = compiled.transformer.compile_repeated_blocks
    monkeypatch.setattr(
        compiled.transformer,
        "compile_repeated_blocks",
        lambda **options: compile_blocks(backend="eager", **options),
    )
    assert compiled.compile_blocks(batch_size=2) > 0
    check_compiled(compiled, pipeline)


@pytest.mark.slow
def test_compiled_blocks_give_the_same_masks(pipeline: GenMaskPipeline) -> None:
    compiled = toy_pipeline()
    compiled.compile_blocks()
    check_compiled(compiled, pipeline)


def test_without_a_compiler_one_line_says_so_and_the_pipeline_works_on(
    picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.compiler.reset()
    pipeline = toy_pipeline(transformer=toy_transformer(num_layers=1))
    expected = pipeline.segment(picture, TEXT)
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    with pytest.raises(ValueError, match=r"^Got blocks that cannot be compiled.*install it, or go") as caught:
        pipeline.compile_blocks()
    assert "\n" not in str(caught.value)
    assert difference(pipeline.segment(picture, TEXT), expected) == 0


# -- precision


@pytest.fixture(scope="module")
def scenes() -> tuple[list[np.ndarray], list[str]]:
    examples = [Scenes("val", size=128)[index] for index in range(8)]
    return [example.image for example in examples], [example.text for example in examples]


def test_bfloat16_masks_agree_on_nearly_all_pixels(scenes: tuple[list[np.ndarray], list[str]]) -> None:
    masks = [
        np.stack([answer.mask for answer in model.segment(*scenes)])
        for model in (
            GenMaskPipeline.from_pretrained("tiny"),
            GenMaskPipeline.from_pretrained("tiny", torch_dtype=torch.bfloat16),
        )
    ]
    assert masks[0].any()
    assert (masks[0] == masks[1]).mean() > 0.995


def test_an_int8_vlm_is_asked_for_by_name_and_not_saved(
    toy_pipeline_folder: Path, pipeline: GenMaskPipeline, picture: Image.Image, tmp_path: Path
) -> None:
    rounded = GenMaskPipeline.from_pretrained(toy_pipeline_folder, vlm_precision="int8")
    states, expected = (
        model.encoder.encode_segmentation([picture], [TEXT]).hidden_states for model in (rounded, pipeline)
    )
    assert 0 < (states - expected).norm() < 0.05 * expected.norm()
    assert 0 < difference(rounded.segment(picture, TEXT), pipeline.segment(picture, TEXT)) < 0.02
    with pytest.raises(ValueError, match=r"^Got a model with an int8 VLM.*load it without vlm_precision"):
        rounded.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_other_precisions_and_a_missing_torchao_are_refused(
    toy_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other: Any = "int3"
    with pytest.raises(ValueError, match=r"^Got vlm_precision 'int3', expected None or 'int8'\.$"):
        GenMaskPipeline.from_pretrained(toy_pipeline_folder, vlm_precision=other)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ValueError, match=r"without torchao, expected it: pip install 'genmask\[train\]'\.$"):
        GenMaskPipeline.from_pretrained(toy_pipeline_folder, vlm_precision="int8")


# -- pictures read and files written while the model works


def test_reading_ahead_changes_no_byte(pipeline: GenMaskPipeline, tmp_path: Path) -> None:
    paths = []
    for number in range(7):
        paths.append(tmp_path / f"{number}.png")
        random_picture(number).save(paths[-1])
    options, pictures = Options(batch_size=2, formats=("png", "rle")), name_files(paths, [TEXT])
    ahead, plain = tmp_path / "ahead", tmp_path / "plain"
    answers = list(Segmenter(pipeline, options, ahead).answer(pictures))
    records = []
    for start in range(0, len(pictures), 2):
        batch = pictures[start : start + 2]
        images = [open_image(picture.path) for picture in batch]
        found: Any = pipeline.segment(
            images if len(batch) > 1 else images[0], [TEXT] * len(batch), batch_size=2
        )
        for picture, result in zip(batch, found, strict=True):
            records.append(write_files(picture, [result], plain, options))
    assert [answer.records for answer in answers] == records
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (ahead, plain)]
    assert files[0] == files[1]
    assert len(files[0]) == 4 * 7
