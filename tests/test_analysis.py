"""The linear decoder, the numbers behind the figures, and `genmask analyse`."""

from __future__ import annotations

import itertools
import json
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from PIL import Image
from torch import Tensor, nn

from genmask.analysis.components import find_components
from genmask.analysis.densities import tabulate_densities
from genmask.analysis.linear_decoder import LARGEST_SCALE, fit_linear_head, least_squares
from genmask.analysis.material import by_shape, drawn_examples, read_examples, read_masks
from genmask.analysis.noise import (
    LEVELS,
    as_pixels,
    decode_noised,
    measure_linear_accuracy,
    measure_survival,
)
from genmask.analysis.predictions import predict
from genmask.analysis.soft_scores import SoftScores
from genmask.cli import main
from genmask.data.example import Example
from genmask.latents import LatentCodec, pixels_to_soft_mask
from genmask.loading import load_model
from genmask.mask_head import LinearMaskHead, surroundings
from genmask.model_folder import BUNDLED
from genmask.pipeline import GenMaskPipeline
from tests.conftest import random_picture, toy_pipeline, toy_presence_head
from tests.toy import toy_vae


def random_head(kernel: int, seed: int = 0) -> LinearMaskHead:
    torch.manual_seed(seed)
    return LinearMaskHead(16, 8, kernel).eval()


def random_latents(*sizes: tuple[int, int], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(6, 16, *size, generator=generator) for size in sizes]


def blots(count: int, side: int = 64) -> list[np.ndarray]:
    """Masks of about half a picture, (side, side) bool."""
    pictures = (random_picture(seed, side, side).convert("L") for seed in range(count))
    return [np.asarray(picture) > 127 for picture in pictures]


@pytest.fixture(scope="module")
def encoded() -> tuple[list[Tensor], list[Tensor]]:
    """Latents of masks by the toy VAE, and the masks."""
    codec, masks = LatentCodec(toy_vae()), blots(48)
    batches = [[masks[row] for row in rows] for rows in by_shape(masks, 8)]
    with torch.no_grad():
        latents = [codec.encode(as_pixels(batch)) for batch in batches]
    return latents, [torch.from_numpy(np.stack(batch)) for batch in batches]


# -- the head


def test_a_head_of_kernel_1_is_the_one_of_old() -> None:
    """Its keys, its configuration without "kernel", and its output to the bit."""
    head, latents = random_head(1), random_latents((4, 6))[0]
    old = nn.Linear(16, 64)
    old.load_state_dict({name.removeprefix("linear."): value for name, value in head.state_dict().items()})
    expected = F.pixel_shuffle(old(latents.movedim(1, -1)).movedim(-1, 1), 8).squeeze(1)
    assert torch.equal(head(latents), expected)
    assert LinearMaskHead.from_config({"latent_channels": 16, "cell": 8}).config.kernel == 1


def test_a_head_of_kernel_3_is_a_convolution_with_a_repeated_border() -> None:
    head, latents = random_head(3), random_latents((4, 6))[0]
    weight = head.linear.weight.view(64, 16, 3, 3)
    convolved = F.conv2d(F.pad(latents, (1, 1, 1, 1), mode="replicate"), weight, head.linear.bias)
    torch.testing.assert_close(head(latents), F.pixel_shuffle(convolved, 8).squeeze(1), atol=1e-5, rtol=0)
    assert surroundings(latents, 3).shape == (6, 4, 6, 144)


def test_an_even_kernel_has_no_middle() -> None:
    with pytest.raises(ValueError, match="Got kernel 2"):
        LinearMaskHead(kernel=2)


# -- least squares


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_linear_map_is_recovered(kernel: int) -> None:
    """Latents are made so that a map of them is +1 on the mask and -1 beside it: it is found, at any size."""
    generator = torch.Generator().manual_seed(1)
    masks = [torch.rand(6, 8 * h, 8 * w, generator=generator) > 0.5 for h, w in ((4, 6), (5, 5), (8, 3))]
    # One channel for each pixel of a cell, mixed by an invertible matrix.
    mixing = torch.randn(64, 64, generator=generator, dtype=torch.float64)
    signs = [F.pixel_unshuffle(mask.double().unsqueeze(1) * 2 - 1, 8) for mask in masks]
    latents = [torch.einsum("bchw,dc->bdhw", plane, mixing).float() + 0.5 for plane in signs]
    found = least_squares(latents, masks, kernel=kernel)
    with torch.no_grad():
        worst = max((found(z) - (mask * 2.0 - 1)).abs().max() for z, mask in zip(latents, masks, strict=True))
    assert worst < 0.02
    head = fit_linear_head(latents, masks, kernel=kernel)
    with torch.no_grad():
        assert torch.equal(head(latents[0]) > 0, masks[0])
        assert head(latents[0]).abs().mean() == pytest.approx(LARGEST_SCALE, rel=0.01)  # nothing is in doubt


def test_batches_and_sizes_do_not_matter(encoded: tuple[list[Tensor], list[Tensor]]) -> None:
    latents, masks = encoded
    once = fit_linear_head([torch.cat(latents)], [torch.cat(masks)], kernel=3)
    often = fit_linear_head(latents, masks, kernel=3)
    torch.testing.assert_close(once.linear.weight, often.linear.weight, atol=1e-4, rtol=1e-3)


def test_cells_of_weight_0_do_not_count() -> None:
    latents, head = random_latents((4, 4), (4, 4)), random_head(1)
    with torch.no_grad():
        masks = [head(z) > 0 for z in latents]
    spoilt = [masks[0], ~masks[1]]
    weights = [torch.ones(6, 1, 4, 4), torch.zeros(6, 1, 4, 4)]
    fitted = fit_linear_head(latents, spoilt, weights=weights)
    assert torch.equal(fitted.linear.weight, fit_linear_head(latents[:1], masks[:1]).linear.weight)
    with pytest.raises(ValueError, match="weights of 0 throughout"):
        fit_linear_head(latents, masks, weights=[torch.zeros(6, 1, 4, 4)] * 2)


def test_what_does_not_fit_is_refused() -> None:
    latents = random_latents((4, 4))
    with pytest.raises(ValueError, match="0 batches"):
        fit_linear_head([], [])
    with pytest.raises(ValueError, match="expected 8 pixels"):
        fit_linear_head(latents, [torch.zeros(6, 24, 32, dtype=torch.bool)])


def test_the_soft_mask_is_calibrated() -> None:
    """Of two masks that one latent may mean, 3 to 1, the soft mask is 3/4: the regression E[mask | latents]."""
    latents = torch.zeros(400, 16, 1, 1)
    latents[::2, 0] = 1
    masks = torch.zeros(400, 8, 8, dtype=torch.bool)
    masks[::2] = True
    masks[:: 2 * 4] = False  # a quarter of those
    masks[1 :: 2 * 4] = True
    with torch.no_grad():
        soft = fit_linear_head([latents], [masks])(latents).sigmoid()
    assert soft[::2].mean() == pytest.approx(0.75, abs=0.01)
    assert soft[1::2].mean() == pytest.approx(0.25, abs=0.01)


def test_a_fitted_head_reads_masks_that_it_was_not_fitted_on(
    encoded: tuple[list[Tensor], list[Tensor]],
) -> None:
    """The toy VAE's encoder is random, its decoder worthless; what it wrote is still there to be read."""
    latents, masks = encoded
    truth = torch.cat(masks[4:])

    def iou(answer: Tensor) -> float:
        return float((answer & truth).sum() / (answer | truth).sum())

    with torch.no_grad():
        decoder = LatentCodec(toy_vae()).decode
        by_vae = iou(torch.cat([pixels_to_soft_mask(decoder(z)) > 0.5 for z in latents[4:]]))
        by_kernel = {
            kernel: iou(torch.cat([head(z) > 0 for z in latents[4:]]))
            for kernel in (1, 3)
            if (head := fit_linear_head(latents[:4], masks[:4], kernel=kernel))
        }
    assert by_kernel[1] > by_vae + 0.1
    assert by_kernel[3] > max(0.6, by_kernel[1])


# -- the numbers of the figures


def test_noise_wears_masks_away_and_no_noise_leaves_them(encoded: tuple[list[Tensor], list[Tensor]]) -> None:
    cells = torch.cat([z.movedim(1, -1).flatten(0, 2) for z in encoded[0]])
    mean, std = (values.view(-1, 1, 1) for values in (cells.mean(dim=0), cells.std(dim=0)))
    latents = [(z - mean) / std for z in encoded[0]]  # as loud as the noise; the toy's own are a whisper
    numbers = measure_linear_accuracy(latents, encoded[1], seed=0)
    for kernel in (1, 3):
        smooth = [np.mean(numbers.iou[kernel][i : i + 5]) for i in range(0, len(LEVELS) - 3, 5)]
        assert smooth == sorted(smooth, reverse=True)
        assert numbers.accuracy[kernel][0] > 0.65 > numbers.accuracy[kernel][-1]
        assert abs(numbers.accuracy[kernel][-1] - 0.5) < 0.1  # pure noise: a guess
    with pytest.raises(ValueError, match="no two masks"):
        measure_linear_accuracy([encoded[0][0][:1]], [encoded[1][0][:1]], seed=0)


def test_pictures_survive_no_longer_than_their_latents() -> None:
    """With the bundled VAE, whose decoder draws: all curves fall from the round trip's to nothing."""
    codec = LatentCodec(load_model(AutoencoderKLWan, BUNDLED / "tiny" / "vae", dtype=torch.float32))
    masks, pictures = blots(3), [np.asarray(random_picture(seed, 64, 64)) for seed in range(3)]
    numbers = measure_survival(codec, masks, pictures, seed=0)
    assert numbers.mask_iou[0] > 0.9
    assert numbers.mask_iou[-1] < 0.6
    for curve in (numbers.mask_iou, numbers.mask_correlation, numbers.picture_correlation, numbers.mask_psnr):
        assert all(after < before + 0.02 * curve[0] for before, after in itertools.pairwise(curve))
    assert abs(numbers.picture_correlation[-1]) < 0.2
    pixels = as_pixels(masks[:1])
    with torch.no_grad():
        once = codec.decode(codec.encode(pixels))
    (decoded,) = decode_noised(codec, pixels, [0.0], seed=0)
    assert torch.equal(decoded, (once + 1) / 2)
    psnr = -10 * torch.log10((decoded - (pixels + 1) / 2).square().mean())
    assert float(psnr) == pytest.approx(
        measure_survival(codec, masks[:1], pictures, seed=0).mask_psnr[0], abs=1e-3
    )


def test_the_first_component_is_the_one_that_draws_the_mask() -> None:
    """Latents of which one direction is the mask and the others are weaker noise."""
    generator = torch.Generator().manual_seed(0)
    masks = [torch.from_numpy(np.stack(blots(8)))]
    axes = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]
    coverage = F.avg_pool2d(masks[0].float().unsqueeze(1), 8)
    noise = torch.randn(8, 16, 8, 8, generator=generator)
    noise[:, 0] = 0
    for sign in (1, -1):  # of one of them the component is to be turned round
        scores = 0.2 * noise
        scores[:, :1] = sign * 3 * coverage
        latents = torch.einsum("bchw,cd->bdhw", scores, axes)
        found = find_components([latents], masks, [noise])
        assert sum(found.mask_variance) == pytest.approx(1)
        assert list(found.mask_variance) == sorted(found.mask_variance, reverse=True)
        assert found.correlation[0] > 0.999
        assert torch.allclose(found.first.float(), sign * axes[0], atol=0.05)
        planes = found.project(latents)
        assert torch.corrcoef(torch.stack([planes.flatten(), coverage.flatten()]))[0, 1] > 0.999
        assert max(found.picture_variance) < 0.1


def test_the_densities_are_the_paper_s() -> None:
    numbers = tabulate_densities(seed=0)
    assert numbers["logit-normal"].peak == pytest.approx(0.016, abs=5e-4)
    assert numbers["power law, a = 0.07"].peak == pytest.approx(0.134, abs=5e-4)
    assert numbers["power law, a = 0.07"].below_085 == pytest.approx(0.098, abs=5e-4)
    for density in numbers.values():
        assert sum(density.probability) == pytest.approx(1)
        assert np.abs(np.subtract(density.drawn, density.probability)).max() < 0.005


def test_soft_scores_tell_sure_from_unsure() -> None:
    mask = np.zeros((8, 8), dtype=bool)
    mask[:, :4] = True
    image, ignore = np.zeros((8, 8, 3), dtype=np.uint8), np.zeros((8, 8), dtype=bool)
    ignore[:4] = True
    present = Example(image=image, text="a", mask=mask, ignore=ignore, source="s", kind="k")
    absent = Example(image=image, text="b", mask=np.zeros_like(mask), source="s", kind="absent")
    soft = np.where(mask, 0.4, 0.1).astype(np.float32)
    soft[:4] = 1  # where nobody knows
    scores = SoftScores()
    scores.add(soft, present)
    scores.add(np.full((8, 8), 0.3, dtype=np.float32), absent)
    report = scores.report()
    low, high = report["thresholds"]["0.25"], report["thresholds"]["0.45"]
    assert low == {"oIoU": 16 / 80, "mIoU": 0.5, "macro": 1.0, "absent_empty": 0.0, "present_empty": 0.0}
    assert high == {"oIoU": 0.0, "mIoU": 0.5, "macro": 0.0, "absent_empty": 1.0, "present_empty": 1.0}
    assert report["brier"] == pytest.approx(((0.36 + 0.01) / 2 + 0.09) / 2)
    assert report["calibration_error"] == pytest.approx((0.5 * 0.6 + 0.5 * 0.1 + 0.3) / 2)
    assert report["auroc"] == {"maximum": 1.0, "mass": 1.0, "confidence": 1.0}
    alone = SoftScores()
    alone.add(soft, present)
    assert alone.report()["auroc"]["mass"] is None


# -- material


def test_masks_are_read_at_the_processing_size(tmp_path: Path) -> None:
    for name, size in (("a", (64, 64)), ("b", (100, 50)), ("c", (64, 64))):
        Image.new("1", size, 1).save(tmp_path / f"{name}.png")
    masks = read_masks(tmp_path, 3, 64**2)
    assert [mask.shape for mask in masks] == [(64, 64), (48, 96), (64, 64)]
    assert by_shape(masks, 8) == [[0, 2], [1]]
    assert by_shape(masks, 1) == [[0], [2], [1]]
    assert len(read_masks(tmp_path, 2, 64**2)) == 2


def test_predictions_are_those_that_segment_answers_by() -> None:
    heads = {"mask_head": random_head(3), "presence_head": toy_presence_head()}
    pipeline, examples = toy_pipeline(**heads), list(islice(drawn_examples("val", 64, 0), 3))
    predictions = predict(pipeline, examples, batch_size=2, seed=5)
    answers = pipeline.segment(
        [example.image for example in examples],
        [example.text for example in examples],
        decoder="linear", batch_size=2, seed=5,
    )  # fmt: skip
    assert pipeline.mask_head is not None
    with torch.no_grad():
        for (x0_hat, features), answer in zip(predictions, answers, strict=True):
            soft = pipeline.mask_head(x0_hat.unsqueeze(0)).sigmoid()[0]
            np.testing.assert_allclose(answer.soft_mask, soft, atol=1e-6)
            assert pipeline.presences(features.unsqueeze(0)) == pytest.approx([answer.presence], abs=1e-6)


# -- the command


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures with masks and sentences."""
    folder, rows = tmp_path_factory.mktemp("data") / "mugs", []
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for n, mask in enumerate(blots(12)):
        random_picture(n, 64, 64).save(folder / f"images/{n}.png")
        Image.fromarray(mask).save(folder / f"masks/{n}.png")
        rows.append(json.dumps({"image": f"images/{n}.png", "text": "the mug", "mask": f"masks/{n}.png"}))
    (folder / "captions.jsonl").write_text("\n".join(rows))
    return folder


def test_your_own_folder_is_divided_as_for_training(own_folder: Path) -> None:
    sides = [list(read_examples(own_folder, split, 99, area=64**2, seed=0)) for split in ("train", "val")]
    train, val = ({example.image.tobytes() for example in side} for side in sides)
    assert len(train) + len(val) == 12
    assert val
    assert not train & val


def run(*arguments: object) -> int:
    return main(["analyse", *map(str, arguments)])


def test_every_figure_with_its_numbers(
    toy_pipeline_folder: Path, own_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--model", toy_pipeline_folder, "--device", "cpu", "--samples", 4)
    assert run(*model, "--data", own_folder, "--output", tmp_path / "a", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    for number in (2, 3, 4, 5, 7):
        stem = tmp_path / "a" / f"figure-{number}"
        with Image.open(stem.with_suffix(".png")) as figure:
            levels = np.asarray(figure.convert("L"))
        assert levels.std() > 5  # something is drawn
        assert stem.with_suffix(".svg").read_text().startswith("<?xml")
        assert json.loads(stem.with_suffix(".json").read_text()) == printed[f"figure-{number}"]
    assert len(printed["files"]) == 15
    assert len(printed["figure-2"]["mask_iou"]) == len(printed["figure-4"]["t"]) == len(LEVELS)
    assert {row["source"] for row in printed["figure-7"]["samples"]} == {"scenes", "folder/mugs"}
    assert run(*model, "--data", own_folder, "--output", tmp_path / "b", "--figures", 4, 5) == 0
    for name in ("figure-4.svg", "figure-4.json", "figure-5.png"):  # the same numbers, the same bytes
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_vae_alone(toy_pipeline_folder: Path, own_folder: Path, tmp_path: Path) -> None:
    folders = ("--masks", own_folder / "masks", "--photos", own_folder / "images")
    assert run("--vae", toy_pipeline_folder / "vae", *folders, "--samples", 2, "--output", tmp_path) == 0
    assert {file.stem for file in tmp_path.iterdir()} == {f"figure-{number}" for number in (2, 3, 4, 5)}


@pytest.mark.parametrize("target", ["masks", "predictions"])
def test_a_fitted_decoder_is_saved_with_the_model(
    target: str, toy_pipeline_folder: Path, own_folder: Path, tmp_path: Path
) -> None:
    few = ("--data", own_folder, "--fit-samples", 12, "--held-out", 4)
    model, new = ("--model", toy_pipeline_folder, "--device", "cpu"), tmp_path / "new"
    assert run(*model, *few, "--fit-decoder", target, "--save-model", new, "--output", tmp_path / "out") == 0
    scores = json.loads((tmp_path / "out/decoders.json").read_text())
    assert scores["fitted_on"] == target
    assert set(scores["scores"]) == {"drawn scenes", "mugs"}
    assert set(scores["scores"]["mugs"]) == {"vae", "linear"}

    loaded, picture = GenMaskPipeline.from_pretrained(new), random_picture()
    assert loaded.mask_head is not None
    assert (loaded.presence_head is not None) == (target == "predictions")
    assert set(scores["presence"]) == (set(scores["scores"]) if target == "predictions" else set())
    assert loaded.mask_head.config.kernel == 3
    for file in toy_pipeline_folder.rglob("*"):  # everything else is as it was
        if file.is_file() and file.name != "model_index.json":
            assert (new / file.relative_to(toy_pipeline_folder)).read_bytes() == file.read_bytes()
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    indices = [json.loads((folder / "model_index.json").read_text()) for folder in (new, again)]
    assert indices[0] == indices[1]
    answers = [
        GenMaskPipeline.from_pretrained(folder).segment(picture, "the mug", decoder="linear")
        for folder in (new, again)
    ]
    assert np.array_equal(answers[0].soft_mask, answers[1].soft_mask)
    assert not np.array_equal(
        answers[0].soft_mask, loaded.segment(picture, "the mug", decoder="vae").soft_mask
    )
    own = ("linear", "auto") if target == "predictions" else ("vae", 0.5)
    assert (loaded.config.decoder, loaded.config.threshold) == own
    assert np.array_equal(
        loaded.segment(picture, "the mug").mask,
        loaded.segment(picture, "the mug", decoder=own[0], threshold=own[1]).mask,
    )
    assert not list(tmp_path.glob(".*"))


def test_a_presence_head_that_is_there_is_scored_and_stays(tmp_path: Path) -> None:
    toy_pipeline(presence_head=toy_presence_head()).save_pretrained(tmp_path / "model")
    few = ("--fit-decoder", "predictions", "--fit-samples", 24, "--held-out", 12, "--device", "cpu")
    new = tmp_path / "new"
    model = ("--model", tmp_path / "model", "--save-model", new)
    assert run(*model, *few, "--output", tmp_path / "out") == 0
    assert set(json.loads((tmp_path / "out/decoders.json").read_text())["presence"]) == {"drawn scenes"}
    weights = [
        next((folder / "presence_head").glob("*.safetensors")).read_bytes()
        for folder in (tmp_path / "model", new)
    ]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--samples", "1"], "Got --samples 1"),
        (["--vae", "vae", "--figures", "7"], "needs a whole model"),
        (["--vae", "vae", "--fit-decoder", "masks"], "needs a whole model"),
        (["--save-model", "new"], "Got --save-model without a decoder"),
        (["--fit-decoder", "masks", "--save-model", "."], "which exists"),
        (["--figures", "6"], "Got arguments that do not fit"),
        (["--vae", "nowhere"], "nowhere"),
        (["--masks", "nowhere"], "'nowhere', which is not a folder"),
        (["--data", "nowhere"], "nowhere"),
        (["--figgures", "2"], "did you mean --figures"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    arguments: list[str],
    said: str,
    toy_pipeline_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("--model", toy_pipeline_folder, *arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert said in error


def test_without_matplotlib_it_says_what_to_install(
    toy_pipeline_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("--model", toy_pipeline_folder, "--output", tmp_path) == 2
    assert "pip install 'genmask[figures]'" in capsys.readouterr().err
