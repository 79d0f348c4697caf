"""The shell commands, run in this process: files, the JSON document, exit codes, one line for every mistake."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from genmask.cli import COMMANDS, main
from genmask.commands.inference import place
from genmask.pipeline import GenMaskPipeline
from tests.conftest import random_picture
from tests.pictures import png_of_size


@pytest.fixture
def model(toy_pipeline_folder: Path) -> list[str]:
    return ["--model", str(toy_pipeline_folder), "--device", "cpu"]


@pytest.fixture
def picture_file(tmp_path: Path) -> Path:
    file = tmp_path / "photo.png"
    random_picture().save(file)
    return file


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1, captured.err
        assert captured.err.startswith("genmask: ")
        return captured.err

    return run


# -- help


def test_help_and_mistakes_need_no_torch_and_no_second() -> None:
    program = """
import sys, time
import genmask
from genmask.cli import main
assert main(["--help"]) == main(["segment", "--help"]) == 0
assert main(["segmnt"]) == main(["segment", "a.png", "--txet", "x"]) == main(["segment", "a.png", "--seed", "x"]) == 2
heavy = {"torch", "numpy", "PIL", "diffusers", "transformers", "accelerate"} & set(sys.modules)
assert not heavy, heavy
assert time.process_time() < 1, time.process_time()
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    for name, field in COMMANDS[command].__dataclass_fields__.items():
        positional = "Positional" in str(field.type)
        assert positional or f"--{name.replace('_', '-')}" in said


# -- segment


def test_segment_every_text_in_every_picture(
    model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], pipeline: GenMaskPipeline
) -> None:
    pictures = [random_picture(seed, 80 + seed, 60) for seed in range(2)]
    texts = ["the red mug", "a green star"]
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i}.png")
    output = tmp_path / "masks" / "new"
    arguments = [str(tmp_path / "0.png"), str(tmp_path / "1.png"), "--text", texts[0], "--text", texts[1]]
    options = ["--dtype", "float32", "--output", str(output), "--json", "--seed", "4"]
    assert main(["segment", *arguments, *model, *options]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert captured.err == ""
    assert [(Path(record["image"]).stem, record["text"]) for record in document["results"]] == [
        (stem, text) for stem in "01" for text in texts
    ]
    for record in document["results"]:
        expected = pipeline.segment(record["image"], record["text"], seed=4)
        with Image.open(record["files"]["mask"]) as mask:
            assert mask.size == expected.image.size
            assert (np.asarray(mask) != 255 * expected.mask.astype(int)).mean() < 0.001
        assert json.loads(Path(record["files"]["json"]).read_text())["rle"] == record["rle"]
        assert Path(record["files"]["overlay"]).stat().st_size > 0
    assert sorted(output.iterdir()) == sorted(
        Path(file) for record in document["results"] for file in record["files"].values()
    )


def test_one_text_for_many_pictures_and_the_other_options(
    model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, seed in (("a", 0), ("b", 1), ("c", 2)):
        (tmp_path / folder).mkdir()
        random_picture(seed).save(tmp_path / folder / "photo.png")
    files = [str(tmp_path / folder / "photo.png") for folder in "abc"]
    options = [
        "--threshold",
        "0.3",
        "--num-noises",
        "2",
        "--num-inference-steps",
        "2",
        "--batch-size",
        "2",
        "--reason",
    ]
    assert (
        main(
            ["segment", *files, "--text", "what is it?", *model, *options, "--output", str(tmp_path / "out")]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for line, file in zip(lines, files, strict=True):
        assert line.startswith(f"{file}: 'what is it?' (understood as ")
    assert len(list((tmp_path / "out").glob("*.mask.png"))) == 3, (
        "pictures of one name must not overwrite each other"
    )


def test_texts_in_any_language_make_file_names(
    model: list[str], picture_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["\u7ea2\u676f" * 60, "../../etc/passwd", "!!", "the mug", "The MUG"]
    named = picture_file.rename(tmp_path / ("\u56fe" * 60 + ".png"))
    arguments = [part for text in texts for part in ("--text", text)]
    assert main(["segment", str(named), *arguments, *model, "--output", str(tmp_path / "out"), "--json"]) == 0
    records = json.loads(capsys.readouterr().out)["results"]
    files = {Path(file).resolve() for record in records for file in record["files"].values()}
    assert len(files) == 3 * len(texts)
    assert {file.parent for file in files} == {(tmp_path / "out").resolve()}


# -- pictures


def encoded(picture: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


BAD_PICTURES = {
    "text": b"not a picture",
    "empty": b"",
    "truncated": encoded(random_picture())[:500],
    "zero-sized": png_of_size(0, 10),
    "gigantic": png_of_size(60_000, 60_000),
    "thin": encoded(Image.new("RGB", (2000, 2))),
}


@pytest.mark.parametrize("kind", BAD_PICTURES)
def test_bad_pictures_are_refused_before_the_model_is_loaded(
    kind: str, picture_file: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(BAD_PICTURES[kind])
    output = tmp_path / "out"
    said = refused(
        "segment", picture_file, bad, "--text", "x", "--model", "no such model", "--output", output
    )
    assert "bad.png" in said
    assert list(output.iterdir()) == []


def test_missing_pictures_and_folders_are_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    output = ("--text", "x", "--output", tmp_path / "out")
    assert "does not exist" in refused("segment", tmp_path / "none.png", *output)
    assert "folder" in refused("segment", tmp_path, *output)


def odd_pictures() -> dict[str, bytes]:
    rgb = random_picture()
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    frames = [random_picture(seed).convert("P") for seed in range(3)]
    levels = (np.asarray(rgb.convert("L")).astype(np.uint16) * 257).astype(np.uint16)
    return {
        "animated": encoded(frames[0], format="GIF", save_all=True, append_images=frames[1:]),
        "16-bit": encoded(Image.fromarray(levels)),
        "cmyk": encoded(rgb.convert("CMYK"), format="JPEG"),
        "transparent": encoded(rgb.convert("RGBA")),
        "rotated": encoded(rgb, format="JPEG", exif=exif),
    }


@pytest.mark.parametrize("kind", ["animated", "16-bit", "cmyk", "transparent", "rotated"])
def test_odd_pictures_are_segmented(
    kind: str, model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "odd"
    file.write_bytes(odd_pictures()[kind])
    assert (
        main(["segment", str(file), "--text", "mug", *model, "--output", str(tmp_path / "out"), "--json"])
        == 0
    )
    (record,) = json.loads(capsys.readouterr().out)["results"]
    assert (record["width"], record["height"]) == ((60, 80) if kind == "rotated" else (80, 60))


# -- mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            [],
            "expected one of segment, generate, evaluate, benchmark, analyse, data, train, cache, ablate, convert",
        ),
        (["segmnt", "a.png"], "did you mean segment?"),
        (["segment", "a.png", "--txet", "x"], "did you mean --text?"),
        (["segment", "a.png", "--text", "x", "--num_noise", "2"], "did you mean --num-noises?"),
        (["segment", "a.png", "--text", "x", "--seed", "many"], "--seed"),
        (
            ["segment", "a.png", "--text", "x", "--decoder", "vea"],
            "invalid choice 'vea' for argument '--decoder'",
        ),
        (["segment", "--text", "x"], "Got 0 pictures"),
        (["segment", "a.png"], "0 texts"),
        (["generate"], "Got no caption"),
        (["generate", "x", "--guidance"], "did you mean --guidance-scale?"),
        (["convert", "--wan", "x"], "--qwen"),
        (["train", "tyni"], "did you mean tiny?"),
        (["--verbose"], "--verbose"),
    ],
)
def test_mistyped_arguments(
    arguments: list[str],
    said: str,
    refused: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_texts_and_options_the_pipeline_refuses(
    model: list[str], picture_file: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    command = ["segment", picture_file, *model, "--output", tmp_path / "out"]
    assert "empty text" in refused(*command, "--text", " ")
    assert "tokens" in refused(*command, "--text", "mug " * 5000)
    assert "threshold" in refused(*command, "--text", "x", "--threshold", "7")
    assert "mask_head" in refused(*command, "--text", "x", "--decoder", "linear")
    assert "seed" in refused(*command, "--text", "x", "--seed", "-1")
    assert "batch_size" in refused(*command, "--text", "x", "--batch-size", "0")
    assert "multiples of 16" in refused(
        "generate", "x", *model, "--height", "7", "--output", tmp_path / "out"
    )


def test_models_that_cannot_be_used(
    toy_pipeline_folder: Path, picture_file: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    command = ["segment", picture_file, "--text", "x", "--output", tmp_path / "out"]
    assert "'no such model'" in refused(*command, "--model", "no such model")
    assert "model_index.json" in refused(*command, "--model", tmp_path)
    file = tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors"
    file.parent.mkdir(parents=True)
    for part in toy_pipeline_folder.iterdir():
        if part.name != "vae":
            (tmp_path / "model" / part.name).symlink_to(part)
    (file.parent / "config.json").symlink_to(toy_pipeline_folder / "vae" / "config.json")
    weights = load_file(toy_pipeline_folder / "vae" / file.name)
    weights["decoder.conv_uot.weight"] = weights.pop("decoder.conv_out.weight")
    save_file(weights, file)
    assert "decoder.conv_uot.weight" in refused(*command, "--model", tmp_path / "model")


def test_devices_that_are_not_here(
    toy_pipeline_folder: Path, picture_file: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    command = [
        "segment",
        picture_file,
        "--text",
        "x",
        "--output",
        tmp_path / "out",
        "--model",
        toy_pipeline_folder,
    ]
    assert "expected auto" in refused(*command, "--device", "abacus")


@pytest.mark.parametrize("command", ["segment", "generate", "convert"])
def test_unwritable_output_is_refused_before_any_work(
    command: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "file").write_text("mine")
    arguments = {
        "segment": ["segment", "no.png", "--text", "x"],
        "generate": ["generate", "x", "--model", "no such model"],
        "convert": ["convert", "--wan", "no", "--qwen", "no"],
    }[command]
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "cannot be written to" in refused(*arguments, "--output", output)


def test_a_fault_of_ours_is_not_blamed_on_the_user(
    model: list[str],
    picture_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("shapes do not match")

    command = ["segment", str(picture_file), "--text", "x", *model, "--output", str(tmp_path / "out")]
    monkeypatch.setattr(GenMaskPipeline, "segment", fail)
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("genmask: A fault of ours (RuntimeError)")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(GenMaskPipeline, "segment", interrupt)
    assert main(command) == 130
    assert capsys.readouterr().err == "genmask: interrupted\n"


# -- generate, train, convert


@pytest.mark.parametrize(
    ("asked", "units", "expected"),
    [
        ("auto", {"avx512_bf16": True}, "bfloat16"),
        ("auto", {"amx_bf16": True, "avx512_bf16": False}, "bfloat16"),
        ("auto", {"avx512_bf16": False}, "float32"),
        ("auto", {}, "float32"),
        ("float32", {"avx512_bf16": True}, "float32"),
        ("bfloat16", {"avx512_bf16": True}, "bfloat16"),
        ("bfloat16", {"avx512_bf16": False}, "float32"),
    ],
)
def test_a_cpu_computes_in_bfloat16_where_it_has_units_for_it(
    asked: str,
    units: dict[str, bool],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: units, raising=False)
    assert place("cpu", asked) == ("cpu", expected)
    assert ("going on in float32" in capsys.readouterr().err) == (asked == "bfloat16" != expected)


def test_generate(
    model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], pipeline: GenMaskPipeline
) -> None:
    options = [
        "--num-inference-steps",
        "2",
        "--height",
        "32",
        "--width",
        "48",
        "--seed",
        "3",
        "--dtype",
        "float32",
    ]
    many = ["--num-images-per-prompt", "2", "--json", "--output", str(tmp_path)]
    assert main(["generate", "a red star", "grass", *model, *options, *many]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(record["text"], record["seed"]) for record in document["results"]] == [
        ("a red star", 3), ("a red star", 4), ("grass", 5), ("grass", 6),
    ]  # fmt: skip
    assert len({record["file"] for record in document["results"]}) == 4
    (expected,) = pipeline.generate("grass", num_inference_steps=2, height=32, width=48, seed=5)
    with Image.open(document["results"][2]["file"]) as picture:
        assert picture.size == (48, 32)
        assert np.abs(np.asarray(picture).astype(int) - np.asarray(expected).astype(int)).max() <= 1


def test_train_lists_its_recipes_and_passes_options_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, refused: Callable[..., str]
) -> None:
    from genmask.recipes import RECIPES

    assert main(["train"]) == 0
    listed = capsys.readouterr().out
    assert main(["train", "--list"]) == 0
    assert capsys.readouterr().out == listed
    assert all(name in listed for name in RECIPES)
    assert "--vae" in refused("train", "tiny", "--output", tmp_path / "run")
    missing = tmp_path / "nothing"
    said = refused(
        "train",
        "tiny",
        "--vae",
        missing,
        "--vlm",
        missing,
        "--output",
        tmp_path / "run",
        "--max-minutes",
        "1",
    )
    assert "nothing" in said


def test_a_dry_run_says_what_a_run_needs_and_starts_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, refused: Callable[..., str]
) -> None:
    options = ["--output", str(tmp_path / "run"), "--dry-run", "--override", "loop.steps=1234"]
    assert main(["train", "paper", "--processes", "8", *options]) == 0
    said = capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    rows = dict(line.split("  ", 1) for line in said.splitlines() if "  " in line.strip())
    assert rows["parameters"].strip() == "1.42 B"
    assert rows["steps"].strip() == "1,234"
    assert "GiB" in rows["memory per GPU"]
    assert "segmentation_density=PowerLaw(a=0.05)" in said
    assert "did you mean steps" in refused("train", "paper", *options, "--override", "loop.stps=3")
    assert "expected 1 or more" in refused("train", "paper", *options, "--processes", "0")
    assert "expected one of a transformer" in refused("train", "tiny-vae", *options)


def test_the_cache_command_encodes_and_finds_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, refused: Callable[..., str]
) -> None:
    options = ["--start", "tiny", "--output", str(tmp_path / "cache")]
    options += ["--override", "model.epoch_steps=1", "--override", "model.segmentation_batch=2"]
    options += ["--override", "model.generation_batch=1"]
    assert main(["cache", "tiny", *options]) == 0
    assert "3 samples encoded, 0 found" in capsys.readouterr().out
    assert main(["cache", "tiny", *options]) == 0
    assert "0 samples encoded, 3 found" in capsys.readouterr().out
    assert "made" in refused("cache", "tiny", *options, "--override", "loop.mixed_precision=no")
    assert "model.epoch_steps" in refused("cache", "tiny", "--start", "tiny", "--output", tmp_path / "other")
    assert "did you mean tiny" in refused("cache", "tyni", *options)


def test_convert(
    published_folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wan, qwen = published_folders
    output = tmp_path / "model"
    assert (
        main(
            ["convert", "--wan", str(wan), "--qwen", str(qwen), "--output", str(output), "--resolution", "64"]
        )
        == 0
    )
    assert str(output) in capsys.readouterr().out
    assert GenMaskPipeline.from_pretrained(output).config.resolution == 64
