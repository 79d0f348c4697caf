"""Jobs over many pictures: names, batches, interruptions, failures; the same files whatever happened meanwhile."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from genmask.cli import main
from genmask.images import processing_size
from genmask.jobs.answers import Options
from genmask.jobs.pictures import find_pictures, name_files, read_pairs
from genmask.jobs.segment_job import SegmentJob, weights_fingerprint
from genmask.pipeline import GenMaskPipeline
from genmask.segmentation import Segmentation
from tests.conftest import random_picture
from tests.pictures import png_of_size


def draw(folder: Path, count: int) -> Path:
    """So many small pictures, in three folders and of three processing sizes."""
    for i in range(count):
        path = folder / "abc"[i % 3] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = [(80, 60), (60, 80), (64, 64)][i % 5 % 3]
        random_picture(i, width, height).save(path)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, but for the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def job_of(photos: Path, output: Path, texts: Sequence[str] = ("the mug",), **options: Any) -> SegmentJob:
    return SegmentJob(
        pictures=find_pictures([photos], texts, output=output),
        output=output,
        options=Options(**{"batch_size": 2, **options}),
        asked={"texts": list(texts)},
    )


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A forked process has none of its parent's threads, and sums must be added up in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# -- what is asked


def test_folders_are_walked_in_order_without_hidden_files_other_files_and_the_output(tmp_path: Path) -> None:
    names = [
        "b/2.jpg",
        "b/10.JPG",
        "b/c/1.webp",
        "a.png",
        "a/1.png",
        "notes.txt",
        ".x.png",
        ".x/1.png",
        "out/1.png",
        "earlier/.genmask/lock",
        "earlier/1.mask.png",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_pictures([tmp_path], ["x", "y"], output=tmp_path / "out")
    assert [picture.name for picture in found] == ["a.png", "a/1.png", "b/10.JPG", "b/2.jpg", "b/c/1.webp"]
    assert [picture.stem for picture in found] == ["a", "a/1", "b/10", "b/2", "b/c/1"]
    assert {picture.texts for picture in found} == {("x", "y")}
    mixed = find_pictures(
        [tmp_path / "b" / "c", tmp_path / "a.png", tmp_path / "b"], ["x"], output=tmp_path / "out"
    )
    assert [picture.name for picture in mixed] == ["b/c/1.webp", "a.png", "b/10.JPG", "b/2.jpg"]


def test_no_two_pictures_share_a_name(tmp_path: Path) -> None:
    names = ["1.jpg", "1.png", "A.png", "a.jpg", "b/1.png", "results.png", "1-jpg.gif", "x" * 200 + "1.png"]
    names += ["x" * 200 + "2.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_pictures([tmp_path], ["x"], output=tmp_path / "out")
    stems = {picture.name: picture.stem for picture in found}
    assert len({stem.casefold() for stem in stems.values()}) == len(names)
    assert (stems["1.jpg"], stems["1.png"], stems["b/1.png"]) == ("1-jpg-2", "1-png", "b/1")
    assert stems["results.png"] != "results"
    assert max(map(len, stems.values())) < 130
    twice = name_files([tmp_path / "b" / "1.png", tmp_path / "1.png"], ["x"])
    assert [picture.stem for picture in twice] == ["1-png", "1-png-2"]


def test_pairs_are_gathered_by_picture_and_their_answers_stay_in_the_output_folder(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [("b.png", "x"), ("../secret/a.png", "x"), ("b.png", "y"), ("/etc/.a.png", "z"), ("b.png", "x")]
    file.write_text(
        "\ufeff" + "\n\n".join(json.dumps({"image": image, "text": text}) for image, text in rows)
    )
    found = read_pairs(file)
    assert [(picture.name, picture.texts) for picture in found] == [
        ("b.png", ("x", "y")), ("../secret/a.png", ("x",)), ("/etc/.a.png", ("z",)),
    ]  # fmt: skip
    assert [picture.stem for picture in found] == ["b", "secret/a", "etc/a"]
    assert [picture.path for picture in found][::2] == [tmp_path / "b.png", Path("/etc/.a.png")]


WRONG_LINES = ["", "[" * 10_000, '{"image": 3, "text": "x"}', '{"image": "a.png", "text": " "}', "3"]


@pytest.mark.parametrize("line", WRONG_LINES)
def test_a_wrong_line_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text((json.dumps({"image": "a.png", "text": "x"}) + "\n") * bool(line) + line)
    with pytest.raises(ValueError, match="line 2 of" if line else "no line in"):
        read_pairs(file)


# -- answers


def test_a_job_answers_as_the_pipeline_does(pipeline: GenMaskPipeline, tmp_path: Path) -> None:
    photos, output = draw(tmp_path / "photos", 5), tmp_path / "out"
    texts = ("the mug", "a green star", "coco", "The MUG!")
    advanced: list[int] = []
    job = job_of(photos, output, texts, formats=("png", "coco", "rle"), threshold=0.3)
    assert job.run(lambda: pipeline, advance=advanced.append) == []
    assert sum(advanced) == 5
    records = list(job.records())
    assert [(record["image"], record["text"]) for record in records] == [
        (f"{folder}/{number}.png", text)
        for folder, number in [("a", "00"), ("a", "03"), ("b", "01"), ("b", "04"), ("c", "02")]
        for text in texts
    ]
    for record in records:
        expected = pipeline.segment(photos / record["image"], record["text"], threshold=0.3)
        assert np.isclose(record["confidence"], expected.confidence, atol=1e-4)
        with Image.open(output / record["files"]["mask"]) as mask:
            assert (np.asarray(mask) != 255 * expected.mask.astype(int)).mean() < 0.001
        assert json.loads((output / record["files"]["json"]).read_text())["rle"] == record["rle"]
    files = [file for record in records for kind, file in record["files"].items() if kind in ("mask", "json")]
    assert len(set(files)) == 2 * len(records)
    assert lines(output / "results.jsonl") == [
        {key: value for key, value in record.items() if key != "rle"} for record in records
    ]
    document = json.loads((output / "results.coco.json").read_text())
    assert [image["file_name"] for image in document["images"]] == list(
        dict.fromkeys(r["image"] for r in records)
    )
    assert len(document["annotations"]) == sum(not record["is_empty"] for record in records)
    assert {category["name"] for category in document["categories"]} == set(texts)


def test_pictures_of_one_size_share_a_pass_and_texts_share_a_picture(
    pipeline: GenMaskPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, int]] = []
    segment = pipeline.segment

    def spy(image: Any, text: list[str], **options: Any) -> Any:
        images = image if isinstance(image, list) else [image]
        calls.append(({processing_size(one.height, one.width, 64 * 64) for one in images}, len(text)))
        return segment(image, text, **options)

    monkeypatch.setattr(pipeline, "segment", spy)
    photos = draw(tmp_path / "photos", 15)
    sideways = Image.Exif()
    sideways[0x0112] = 6
    random_picture(0, 60, 80).save(photos / "a" / "lies.jpg", exif=sideways)
    job_of(photos, tmp_path / "one", batch_size=4).run(lambda: pipeline)
    sizes = [size for size, _ in calls[1:]]  # the first call tries the options
    assert all(len(size) == 1 for size in sizes)
    assert sorted(count for _, count in calls[1:]) == [2, 3, 3, 4, 4]
    calls.clear()
    job_of(photos, tmp_path / "two", ("x", "y", "z")).run(lambda: pipeline)
    assert [count for _, count in calls[1:]] == [3] * 16


def test_clean_masks_are_cleaned(pipeline: GenMaskPipeline, tmp_path: Path) -> None:
    photos = draw(tmp_path / "photos", 1)
    job = job_of(photos, tmp_path / "out", clean=True, formats=("labels", "yolo", "labelme", "numpy"))
    job.run(lambda: pipeline)
    (record,) = job.records()
    expected = pipeline.segment(photos / "a" / "00.png", "the mug").cleaned()
    assert record["rle"] == expected.rle()
    assert record["area_fraction"] != float(pipeline.segment(photos / "a" / "00.png", "the mug").mask.mean())
    assert sorted(record["files"]) == ["labelme", "labels", "labels_overlay", "numpy", "yolo"]
    assert all((tmp_path / "out" / file).is_file() for file in record["files"].values())


def test_results_are_not_kept_in_memory(pipeline: GenMaskPipeline, tmp_path: Path) -> None:
    alive = []

    def count(done: int) -> None:
        gc.collect()
        alive.append(sum(type(thing) is Segmentation for thing in gc.get_objects()))

    job = job_of(draw(tmp_path / "photos", 16), tmp_path / "out", batch_size=1)
    job.run(lambda: pipeline, advance=count)
    assert len(alive) == 5
    assert max(alive) == alive[0]


# -- failures


def test_a_bad_picture_does_not_stop_the_rest_and_is_done_when_mended(
    pipeline: GenMaskPipeline, tmp_path: Path
) -> None:
    photos, output = draw(tmp_path / "photos", 6), tmp_path / "out"
    whole = (photos / "a" / "00.png").read_bytes()
    (photos / "a" / "00.png").write_bytes(b"no picture")
    (photos / "b" / "04.png").write_bytes((photos / "b" / "04.png").read_bytes()[:1000])
    os.mkfifo(photos / "c" / "pipe.png")
    for side in (0, 60_000):
        (photos / "c" / f"{side}.png").write_bytes(png_of_size(side, side))
    failed = job_of(photos, output).run(lambda: pipeline)
    assert [failure.image for failure in failed] == [
        "a/00.png", "b/04.png", "c/0.png", "c/60000.png", "c/pipe.png",
    ]  # fmt: skip
    assert all("\n" not in failure.reason for failure in failed)
    assert lines(output / "failed.jsonl") == [{"image": one.image, "reason": one.reason} for one in failed]
    answered = [line["image"] for line in lines(output / "results.jsonl")]
    assert answered == ["a/03.png", "b/01.png", "c/02.png", "c/05.png"]

    written = {path: path.stat().st_mtime_ns for path in output.rglob("*.mask.png")}
    (photos / "a" / "00.png").write_bytes(whole)
    (photos / "b" / "04.png").unlink()
    for name in ("0.png", "60000.png", "pipe.png"):
        (photos / "c" / name).unlink()
    assert job_of(photos, output).run(lambda: pipeline) == []
    assert not (output / "failed.jsonl").exists()
    assert len(lines(output / "results.jsonl")) == 5
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_a_text_that_the_model_refuses_fails_its_picture_alone(
    pipeline: GenMaskPipeline, tmp_path: Path
) -> None:
    draw(tmp_path, 4)
    texts = ["the mug", "mug " * 5000, "the star", "the mug"]
    rows = [{"image": f"{'abc'[i % 3]}/0{i}.png", "text": text} for i, text in enumerate(texts)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    job = SegmentJob(
        pictures=read_pairs(tmp_path / "pairs.jsonl"), output=tmp_path / "out", options=Options(batch_size=8)
    )
    (failure,) = job.run(lambda: pipeline)
    assert failure.image == "b/01.png"
    assert "tokens" in failure.reason
    assert len(list(job.records())) == 3


def test_a_name_that_is_no_utf8_is_a_failure(pipeline: GenMaskPipeline, tmp_path: Path) -> None:
    photos = draw(tmp_path / "photos", 2)
    os.rename(photos / "b" / "01.png", os.fsencode(photos) + b"/b/\xff.png")
    job = job_of(photos, tmp_path / "out")
    (failure,) = job.run(lambda: pipeline)
    assert "UTF-8" in failure.reason
    assert lines(tmp_path / "out" / "failed.jsonl")[0]["image"] == failure.image
    assert len(list(job.records())) == 1


# -- interruptions


def killed_at_a_write(job: SegmentJob, pipeline: GenMaskPipeline, number: int) -> bool:
    """Run a job in a process that is killed just before or after a file appears; whether it was."""

    def run() -> None:
        replace, count = os.replace, 0

        def dying_replace(source: Any, target: Any) -> None:
            nonlocal count
            count += 1
            if count > number:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

        os.replace = dying_replace
        job.run(lambda: pipeline)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def killed_after(job: SegmentJob, pipeline: GenMaskPipeline, seconds: float) -> bool:
    process = multiprocessing.get_context("fork").Process(target=job.run, args=(lambda: pipeline,))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode != 0


def check_interrupted(
    kill: Callable[[SegmentJob], bool], pipeline: GenMaskPipeline, photos: Path, output: Path, kills: int
) -> None:
    """After so many interruptions the same files as after none, and no picture was done twice."""
    job = job_of(photos, output, formats=("png", "coco"))
    count, written = 0, {}
    while count < kills and kill(job):
        count += 1
        done = {record["files"]["mask"] for record in job.records()}
        written |= {name: (output / name).stat().st_mtime_ns for name in done - set(written)}
    assert count == kills
    assert 0 < len(written) < len(job.pictures)
    assert job.run(lambda: pipeline) == []
    assert {name: (output / name).stat().st_mtime_ns for name in written} == written
    names = [line["image"] for line in lines(output / "results.jsonl")]
    assert names == [picture.name for picture in job.pictures]
    whole = output.with_name("uninterrupted")
    job_of(photos, whole, formats=("png", "coco")).run(lambda: pipeline)
    assert tree(output) == tree(whole)


@pytest.mark.usefixtures("one_thread")
def test_a_job_that_is_killed_at_any_write_ends_with_the_same_files(
    pipeline: GenMaskPipeline, tmp_path: Path
) -> None:
    moments = random.Random(0)
    check_interrupted(
        lambda job: killed_at_a_write(job, pipeline, moments.randrange(1, 15)),
        pipeline, draw(tmp_path / "photos", 30), tmp_path / "out", kills=10,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_job_that_is_killed_at_any_time_ends_with_the_same_files(
    pipeline: GenMaskPipeline, tmp_path: Path
) -> None:
    photos, moments = draw(tmp_path / "photos", 200), random.Random(1)
    started = time.monotonic()
    job_of(draw(tmp_path / "few", 10), tmp_path / "tried", formats=("png", "coco")).run(lambda: pipeline)
    per_picture = (time.monotonic() - started) / 10
    check_interrupted(
        lambda job: killed_after(job, pipeline, moments.uniform(1, 8) * per_picture),
        pipeline, photos, tmp_path / "out", kills=20,
    )  # fmt: skip


def test_a_job_with_other_options_is_refused_and_a_smaller_batch_is_not(
    pipeline: GenMaskPipeline, tmp_path: Path
) -> None:
    photos, output = draw(tmp_path / "photos", 2), tmp_path / "out"
    job_of(photos, output).run(lambda: pipeline)
    before = tree(output)
    with pytest.raises(ValueError, match=r"Got seed 1 .* begun with 0: go on with that, or name another"):
        job_of(photos, output, seed=1).run(lambda: pipeline)
    with pytest.raises(ValueError, match="Got texts"):
        job_of(photos, output, texts=("x",)).run(lambda: pipeline)

    def load() -> GenMaskPipeline:
        raise AssertionError("nothing is left to do")

    assert job_of(photos, output, batch_size=1).run(load) == []
    assert tree(output) == before


def test_only_what_changed_in_a_list_of_pairs_is_done_again(
    pipeline: GenMaskPipeline, tmp_path: Path
) -> None:
    draw(tmp_path, 2)
    output, file = tmp_path / "out", tmp_path / "pairs.jsonl"

    def run(*rows: tuple[str, str]) -> list[str]:
        file.write_text("\n".join(json.dumps({"image": image, "text": text}) for image, text in rows))
        SegmentJob(pictures=read_pairs(file), output=output, options=Options()).run(lambda: pipeline)
        return sorted(path.relative_to(output).as_posix() for path in output.rglob("*.mask.png"))

    assert run(("a/00.png", "x"), ("b/01.png", "x")) == ["a/00.x.mask.png", "b/01.x.mask.png"]
    kept = (output / "b" / "01.x.mask.png").stat().st_mtime_ns
    assert run(("a/00.png", "y"), ("b/01.png", "x")) == ["a/00.y.mask.png", "b/01.x.mask.png"]
    assert (output / "b" / "01.x.mask.png").stat().st_mtime_ns == kept


def test_two_processes_do_not_share_an_output_folder(pipeline: GenMaskPipeline, tmp_path: Path) -> None:
    job = job_of(draw(tmp_path / "photos", 1), tmp_path / "out")
    (tmp_path / "out" / ".genmask").mkdir(parents=True)
    with (
        FileLock(tmp_path / "out" / ".genmask" / "lock"),
        pytest.raises(ValueError, match="another process is at work"),
    ):
        job.run(lambda: pipeline)
    assert job.run(lambda: pipeline) == []


def test_the_fingerprint_tells_weights_apart(toy_pipeline_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(1_000_000))
    before = weights_fingerprint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(bytes(999_999) + b"x")
    assert weights_fingerprint(tmp_path) == before, "only samples are read"
    (tmp_path / "model.safetensors").write_bytes(bytes(x % 7 for x in range(1_000_000)))
    assert len({before, weights_fingerprint(tmp_path), weights_fingerprint(toy_pipeline_folder)}) == 3


# -- from the shell


def test_the_command_does_folders_and_lists_failures(
    toy_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, output = draw(tmp_path / "photos", 3), tmp_path / "photos" / "masks"
    (photos / "b" / "bad.jpg").write_text("no picture")
    command = ["segment", str(photos), "--text", "the mug", "--model", str(toy_pipeline_folder)]
    command += ["--device", "cpu", "--output", str(output), "--format", "png", "--format", "coco", "--clean"]
    assert main(command) == 2
    said = capsys.readouterr()
    assert said.out == f"3 of 4 pictures: {output / 'results.jsonl'}\n"
    reason, last = said.err.splitlines()
    assert reason.startswith("b/bad.jpg: Got ")
    assert last.startswith("genmask: Got 1 of 4 pictures")
    assert (output / "results.coco.json").is_file()

    assert main([*command, "--seed", "3"]) == 2
    assert "begun with 0" in capsys.readouterr().err
    (photos / "b" / "bad.jpg").unlink()
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [record["image"] for record in document["results"]] == ["a/00.png", "b/01.png", "c/02.png"]
    assert all(Path(record["files"]["coco"]).is_file() and "rle" in record for record in document["results"])
    assert document["failed"] == []


def test_the_command_does_pairs(
    toy_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path, 2)
    rows = [{"image": "a/00.png", "text": "the mug"}, {"image": "no.png", "text": "x"}]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [
        "segment",
        "--pairs",
        str(tmp_path / "pairs.jsonl"),
        "--output",
        str(tmp_path / "out"),
        "--json",
    ]
    assert main([*command, "--model", str(toy_pipeline_folder), "--device", "cpu"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert [(record["image"], record["text"]) for record in document["results"]] == [("a/00.png", "the mug")]
    assert [failure["image"] for failure in document["failed"]] == ["no.png"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pairs", "pairs.jsonl", "--text", "x"], "one or the other"),
        (["--pairs", "none.jsonl"], "No such file"),
        (["--pairs", "pairs.jsonl", "--format", "yolo"], "use coco"),
        ([".", "--text", "x", "--workers", "2"], "--engine ray"),
        ([".", "--text", "x", "--engine", "ray", "--workers", "0"], "at least 1"),
        ([".", "--text", "x"], "holds no picture"),
        ([".", "--text", "x", "--output", "."], "output folder"),
        (["bad.png", ".", "--text", "x"], "cannot be read as a picture"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_model_is_loaded(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text('{"image": "a.png", "text": "x"}')
    if "bad.png" in arguments:
        Path("bad.png").write_text("bad")
    assert main(["segment", *arguments, "--model", "no such model"]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
