"""What a run leaves to look at: the picture grid, where it came from, and the model's card."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image, ImageFont

import genmask
from genmask.data.example import Example
from genmask.segmentation import Segmentation
from genmask.training import grid
from genmask.training.grid import MARGIN, WIDTH, generation_grid, segmentation_grid, stacked
from genmask.training.model_card import write_model_card
from genmask.training.provenance import git_state, provenance, write_provenance

CELL = WIDTH // 5
SIDE = CELL - 2 * MARGIN
GROUND = (30, 90, 200)
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def sample(
    height: int = 96,
    width: int = 96,
    text: str = "the red mug",
    answer: str = "right",
    absent: bool = False,
    ignore: np.ndarray | None = None,
) -> tuple[Example, Segmentation]:
    """The target is the lower right quarter; the answer is that ("right"), the lower half ("half") or "empty"."""
    rows, columns = np.indices((height, width))
    lower, right = rows >= height // 2, columns >= width // 2
    image = np.full((height, width, 3), GROUND, np.uint8)
    example = Example(image=image, text=text, mask=lower & right & (not absent), ignore=ignore)
    found = {"right": lower & right, "half": lower, "empty": lower & False}[answer]
    soft = found.astype(np.float32) * 0.8
    return example, Segmentation(image=Image.fromarray(image), text=text, target=text, soft_mask=soft)


def drawn(*samples: tuple[Example, Segmentation]) -> np.ndarray:
    """The grid as (H, W, 3), without its headings."""
    headings = segmentation_grid([], []).height
    sheet = segmentation_grid([example for example, _ in samples], [answer for _, answer in samples])
    assert sheet.mode == "RGB"
    return np.asarray(sheet)[headings:]


def cell(row: np.ndarray, column: int) -> np.ndarray:
    return row[:, column * CELL : (column + 1) * CELL]


def picture(row: np.ndarray, column: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """The pixels of a cell's picture."""
    return cell(row, column)[MARGIN : MARGIN + height, MARGIN : MARGIN + width]


def words(row: np.ndarray, column: int, below: int = SIDE) -> np.ndarray:
    """What stands under a picture of this height."""
    return cell(row, column)[MARGIN + below :]


def spelt(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every line of words that grids draw from now on."""
    lines: list[str] = []
    wrapped = grid._wrapped

    def noted(*given: Any) -> list[str]:
        lines.extend(found := wrapped(*given))
        return found

    monkeypatch.setattr(grid, "_wrapped", noted)
    return lines


def test_a_row_shows_picture_sentence_target_soft_mask_and_answer() -> None:
    row = drawn(sample(answer="half"))
    assert row.shape[1] == WIDTH
    half = SIDE // 2
    assert (picture(row, 0) == GROUND).all()
    assert (cell(row, 1) < 100).any()  # the sentence
    target = picture(row, 2)
    assert (target[half:, half:] == 255).all()
    assert (target[:half] == 0).all()
    assert (target[:, :half] == 0).all()
    soft = picture(row, 3)
    assert (soft[half:] == 204).all()
    assert (soft[:half] == 0).all()
    overlay = picture(row, 4).astype(int)
    assert (overlay[: half - 8] == GROUND).all()
    assert (overlay[half + 8 : -8, 8:-8, 0] > GROUND[0] + 50).all()  # tinted


def test_words_give_the_iou_and_say_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = spelt(monkeypatch)
    for answer, absent, said in (
        ("half", False, ["confidence 0.80", "IoU 0.50"]),
        ("empty", False, ["confidence 1.00", "IoU 0.00, nothing found"]),
        ("half", True, ["nothing there", "confidence 0.80", "IoU 0.00, nothing is there"]),
        ("empty", True, ["nothing there", "confidence 1.00", "IoU 1.00, nothing found"]),
    ):
        row = drawn(sample(answer=answer, absent=absent))
        assert lines[-len(said) - 1 :] == ["the red mug", *said]
        assert (words(row, 4) < 100).any()
        assert (words(row, 2) < 100).any() == absent


def test_ignored_pixels_are_hatched_and_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = spelt(monkeypatch)
    ignore = np.zeros((96, 96), dtype=bool)
    ignore[48:, :48] = True  # where the answer goes wrong
    row = drawn(sample(answer="half", ignore=ignore))
    hatched = picture(row, 2)[SIDE // 2 :, : SIDE // 2]
    assert sorted(np.unique(hatched)) == sorted(grid.STRIPE_LEVELS)
    assert (picture(row, 2)[SIDE // 2 :, SIDE // 2 :] == 255).all()
    assert lines[-1] == "IoU 1.00"


def test_no_example_leaves_the_headings_and_a_second_adds_a_row() -> None:
    assert segmentation_grid([], []).width == WIDTH
    one, two = drawn(sample()), drawn(sample(), sample())
    assert np.array_equal(two, np.concatenate([one, one]))
    with pytest.raises(ValueError, match="2 examples and 1 answers"):
        segmentation_grid([sample()[0]] * 2, [sample()[1]])
    with pytest.raises(ValueError, match="expected one size"):
        segmentation_grid([sample()[0]], [sample(64, 64)[1]])
    with pytest.raises(ValueError, match="399 pixels wide"):
        segmentation_grid([], [], width=399)


@pytest.mark.parametrize(
    ("height", "width", "shown"), [(400, 100, (SIDE, 48)), (40, 160, (48, SIDE)), (2, 900, (1, SIDE))]
)
def test_pictures_keep_their_shape(height: int, width: int, shown: tuple[int, int]) -> None:
    row = drawn(sample(height, width))
    for column in (0, 2, 3, 4):
        inside = picture(row, column, *shown)
        assert inside.shape == (*shown, 3)
        assert not (inside == 255).all(axis=(1, 2)).any()
        beside = cell(row, column)[MARGIN : MARGIN + shown[0], MARGIN + shown[1] :]
        assert (beside == 255).all()


def test_long_sentences_wrap_between_words_and_end_in_dots(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = spelt(monkeypatch)
    sentence = "the mug that stands on the table beside the window"
    row = drawn(sample(text=sentence))
    start = lines.index("the mug that stands on the")
    assert " ".join(lines[start : start + 2]) == sentence
    assert (cell(row, 1)[:, -1] == 255).all()

    lines.clear()
    endless = drawn(
        sample(20, 200, text="a very long sentence " * 100)
    )  # its picture is lower than its words
    assert (cell(endless, 1)[:, -1] == 255).all()
    assert [line for line in lines if line.endswith(" ...")] == [lines[-3]]
    assert endless.shape[0] == 2 * MARGIN + grid.MOST_LINES * grid.LINE_HEIGHT


@pytest.mark.parametrize(
    "text",
    [
        "左边桌子上的红色杯子" * 8,
        "Красная кружка слева от синего круга",
        "الكوب الأحمر",
        "☕" * 99,
        "x" * 300,
    ],
)
def test_any_language_stays_within_its_cell(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = spelt(monkeypatch)
    row = drawn(sample(text=text))
    letters = "".join(lines[: lines.index("confidence 0.80")]).replace(" ", "")
    assert letters.endswith(text.replace(" ", ""))
    assert (cell(row, 1) < 100).any()
    assert (cell(row, 1)[:, -1] == 255).all()


def test_words_take_the_font_that_can_spell_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert grid._font("the red mug") is grid._fonts()[0]
    known = {"plain": set("abc"), "wide": set("abcяж")}
    monkeypatch.setattr(grid, "_fonts", lambda: list(known))
    monkeypatch.setattr(grid, "_lacks", lambda font, letter: letter not in known[font])
    assert [grid._font(text) for text in ("cab", "жя", "яж 中", "中")] == ["plain", "wide", "wide", "plain"]


def test_a_letter_that_a_font_lacks_is_known() -> None:
    font = ImageFont.load_default(size=12)
    assert not grid._lacks(font, "a")
    assert grid._lacks(font, "中")


def test_generated_pictures_stand_above_their_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = spelt(monkeypatch)
    colours = [(40 * i, 255 - 40 * i, 60) for i in range(6)]
    captions = [f"star number {i}" for i in range(5)] + [""]
    sheet = generation_grid(captions, [Image.new("RGB", (96, 96), colour) for colour in colours])
    assert lines == [*captions[:-1], "(no caption)", "drawn from captions"]
    pixels = np.asarray(sheet)[generation_grid([], []).height :]
    height = len(pixels) // 2
    for number, colour in enumerate(colours):
        row, column = pixels[number // 5 * height :][:height], number % 5
        assert (picture(row, column) == colour).all()
        assert (words(row, column) < 100).any()
    assert (cell(pixels[height:], 1) == 255).all()
    with pytest.raises(ValueError, match="1 captions and 0 pictures"):
        generation_grid(["a star"], [])


def test_grids_are_stacked() -> None:
    example, answer = sample()
    above = segmentation_grid([example], [answer], width=500)
    below = generation_grid(["a star"], [Image.new("L", (10, 30), 200)], width=700)
    pixels = np.asarray(stacked([above, below]))
    assert pixels.shape == (above.height + below.height, 700, 3)
    assert np.array_equal(pixels[: above.height, :500], np.asarray(above))
    assert (pixels[: above.height, 500:] == 255).all()
    assert np.array_equal(pixels[above.height :], np.asarray(below))


def test_provenance_names_versions_machine_and_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/genmask", "train", "tiny", "--data", "my photos"])
    before = datetime.now(UTC) - timedelta(seconds=1)
    found = json.loads(json.dumps(provenance()))
    assert found["command"] == "genmask train tiny --data 'my photos'"
    assert before <= datetime.fromisoformat(found["started"]) <= datetime.now(UTC)
    assert found["versions"]["genmask"] == genmask.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert found["versions"].keys() > {"torch", "diffusers", "transformers", "accelerate", "python"}
    assert found["platform"]
    assert all(found["devices"])


def test_without_git_there_is_no_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance()["git"] is None


def test_a_git_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "git").write_text("#!/bin/sh\nexec /bin/sleep 30\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("genmask.training.provenance.GIT_SECONDS", 0.2)
    began = datetime.now(UTC)
    assert git_state(tmp_path) is None
    assert datetime.now(UTC) - began < timedelta(seconds=10)


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package, committed."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where the tests run in a hook
        monkeypatch.delenv(name, raising=False)
    package = tmp_path / "src" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return package


@needs_git
def test_the_revision_is_known_and_whether_the_package_has_changed(checkout: Path) -> None:
    revision = git(checkout, "rev-parse", "HEAD")
    assert git_state(checkout) == {"revision": revision, "dirty": False}
    (checkout.parent / "notes.txt").write_text("not of the package")
    assert git_state(checkout) == {"revision": revision, "dirty": False}
    (checkout / "new.py").write_text("")
    assert git_state(checkout) == {"revision": revision, "dirty": True}
    (checkout / "new.py").unlink()
    (checkout / "__init__.py").write_text("changed = True")
    assert git_state(checkout) == {"revision": revision, "dirty": True}


@needs_git
def test_a_package_installed_inside_another_checkout_has_no_revision(checkout: Path) -> None:
    installed = checkout.parent / ".venv" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert git_state(installed) is None


def test_every_sitting_adds_a_line(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "toy"
    first = write_provenance(run, "Recipe(\n  steps=5)")
    before = (run / "provenance.jsonl").read_text()
    write_provenance(run, "Recipe(steps=6)")
    text = (run / "provenance.jsonl").read_text()
    assert text.startswith(before)
    records = [json.loads(line) for line in text.splitlines()]
    assert [record["config"] for record in records] == ["Recipe(\n  steps=5)", "Recipe(steps=6)"]
    assert records[0] == first
    assert records[0].keys() == {*provenance(), "config"}
    assert [path.name for path in run.iterdir()] == ["provenance.jsonl"]


def test_a_write_that_fails_loses_no_earlier_sitting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_provenance(tmp_path, "first")
    before = (tmp_path / "provenance.jsonl").read_text()

    def full(partial: Path, path: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_provenance(tmp_path, "second")
    assert (tmp_path / "provenance.jsonl").read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["provenance.jsonl"]


def card(folder: Path, **changes: Any) -> str:
    circumstances = {
        "started": "2030-01-02T03:04:05+00:00",
        "command": "genmask train toy --data 'my photos'",
        "versions": {"genmask": "0.1.0", "torch": "2.13.0"},
        "platform": "Linux",
        "devices": ["Fast 3000", "Fast 3000"],
        "git": {"revision": "0123abcd", "dirty": True},
    }
    given: dict[str, Any] = {
        "recipe": "toy",
        "summary": "a toy; ten seconds on 2 cores",
        "config": "Recipe(steps=1500, sizes={32: 48})\n",
        "scores": {"scenes_oiou": 0.25, "a|b_miou": 1 / 3},
        "steps": 1500,
        "sources": ["drawn scenes, 76 %", "photographs: \"mine\", 24 %"],
        "started_from": None,
        "provenance": circumstances,
    }  # fmt: skip
    write_model_card(folder, **(given | changes))
    return (folder / "README.md").read_text(encoding="utf-8")


def test_a_card_has_the_front_matter_and_names_every_score(tmp_path: Path) -> None:
    text = card(tmp_path)
    found = ModelCard(text).data
    assert (found.pipeline_tag, found.library_name, found.license) == (
        "image-segmentation",
        "genmask",
        "unknown",
    )
    for stated in (
        "recipe toy", "a toy; ten seconds on 2 cores.", "1,500 steps", "random weights",
        "* drawn scenes, 76 %\n* photographs: \"mine\", 24 %",
        "| scenes_oiou | 0.2500 |\n| a\\|b_miou | 0.3333 |",
        "```sh\ngenmask train toy --data 'my photos'\n```", "genmask 0.1.0, torch 2.13.0", "2 x Fast 3000",
        "git revision `0123abcd`, with changes", "Recipe(steps=1500, sizes={32: 48})", "terms of the data",
        "from_pretrained(\"FOLDER\")", "genmask segment photo.jpg --text \"the red mug\" --model FOLDER",
    ):  # fmt: skip
        assert stated in text


def test_a_card_replaces_that_of_the_starting_model_and_names_it(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Another model: 99 % on everything\n")
    text = card(tmp_path, started_from="tiny")
    assert "99 %" not in text
    assert "began with the weights of `tiny`" in text
    assert "terms of the data above and of `tiny`" in text
    assert "random weights" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_card_without_scores_or_git_says_so(tmp_path: Path) -> None:
    circumstances = {**provenance(), "git": None}
    text = card(tmp_path, scores={}, provenance=circumstances, sources=["杯子"])
    assert "No held-out samples were scored." in text
    assert "no git checkout" in text
    assert "* 杯子\n" in text
    assert ModelCard(text).data.pipeline_tag == "image-segmentation"
