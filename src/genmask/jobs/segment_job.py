"""A job over many pictures: interrupted and started again, shared out to any number of workers, each picture answered
once.

    pictures = find_pictures([Path("photos")], ["the red mug"], output=Path("masks"))
    job = SegmentJob(pictures=pictures, output=Path("masks"), options=Options(), asked={"model": "tiny"})
    failed = job.run(partial(GenMaskPipeline.from_pretrained, "tiny"))

Pictures are shared out in whole windows, in the job's order, and a window is cut into batches in the same way by
whoever takes it. So neither an interruption nor the number of workers changes a bit of an answer.

A picture is done when its record is there, which is written last, and in one step: a job that is killed leaves at most
one window of each worker to do again, and doing it again writes the same files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from genmask.atomic import replacing
from genmask.formats import merge_coco
from genmask.jobs.answers import Options, Record, Segmenter
from genmask.jobs.pictures import JOB_FOLDER, Picture

if TYPE_CHECKING:
    from genmask.pipeline import GenMaskPipeline

BATCHES_PER_WINDOW = 4
"""Batches of one processing size are gathered among so many batches' worth of pictures."""
PARTIAL = re.compile(r"\.[0-9a-f]{16}\.part")
"""Names of files that are being written."""

Window = Sequence[Picture]
Load = Callable[[], "GenMaskPipeline"]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A picture without an answer."""

    image: str
    """Its name."""
    reason: str
    """One line."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a worker says of a window."""

    answered: int
    """Pictures; those that were done before do not count."""
    failures: tuple[Failure, ...]


@dataclass(frozen=True, kw_only=True)
class SegmentJob:
    """Pictures, and all that their answers depend on.

    In the output folder it writes the files of each picture and, of the whole job:

    | file | holds |
    |---|---|
    | `job.json` | what was asked; a job with other options is refused |
    | `results.jsonl` | a line for each picture and text, in the job's order, without run lengths |
    | `failed.jsonl` | a line for each picture that could not be answered, and why; no file if there is none |
    | `results.coco.json` | all of them as one COCO document, where that format was asked for |
    | `.genmask/` | a record of each picture that is done |
    """

    pictures: Sequence[Picture]
    output: Path
    options: Options
    asked: dict[str, Any] = field(default_factory=dict)
    """What else the answers depend on, such as the model; ready for JSON."""

    def run(
        self,
        load: Load,
        *,
        engine: Callable[[Worker, list[Window]], Iterable[Done]] | None = None,
        advance: Callable[[int], None] = lambda count: None,
    ) -> list[Failure]:
        """Answer what is not answered yet, then write the files of the whole job.

        Args:
            load: the model; called by each worker, and not at all if nothing is left to do.
            engine: shares windows out to workers; None is this process.
            advance: called with the number of pictures done, those found done at the start included.

        Returns:
            Pictures that could not be answered, in the job's order.

        Raises:
            ValueError: the output folder belongs to a job with other options, or to one that is running; an option
                that the model refuses.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        own = self.output / JOB_FOLDER
        own.mkdir(exist_ok=True)
        lock = FileLock(own / "lock", timeout=0)
        try:
            with lock:
                return self._run(Worker(job=self, load=load), engine or run_here, advance)
        except Timeout as error:
            raise ValueError(
                f"Got the output folder {str(self.output)!r}, in which another process is at work: wait for it, or "
                "name another with --output."
            ) from error

    def _run(
        self,
        worker: Worker,
        engine: Callable[[Worker, list[Window]], Iterable[Done]],
        advance: Callable[[int], None],
    ) -> list[Failure]:
        self._check_asked()
        size = BATCHES_PER_WINDOW * max(1, self.options.batch_size)
        windows = [self.pictures[start : start + size] for start in range(0, len(self.pictures), size)]
        missing = [len(self.missing(window)) for window in windows]
        advance(len(self.pictures) - sum(missing))
        reasons: dict[str, str] = {}
        for done in engine(worker, [window for window, count in zip(windows, missing, strict=True) if count]):
            reasons.update((failure.image, failure.reason) for failure in done.failures)
            advance(done.answered + len(done.failures))
        failed = [
            Failure(image=picture.name, reason=reasons[picture.name])
            for picture in self.pictures
            if picture.name in reasons
        ]
        self._write_summary(failed)
        return failed

    def missing(self, pictures: Iterable[Picture]) -> list[Picture]:
        """Those without a record of what is asked of them now."""
        return [picture for picture in pictures if not self._done(picture)]

    def records(self) -> Iterator[Record]:
        """All answers, in the job's order."""
        for picture in self.pictures:
            yield from self._done(picture)

    def write_record(self, picture: Picture, records: Sequence[Record]) -> None:
        """After the files of a picture: from here on it is done."""
        path = self._record_path(picture)
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, [json.dumps(records, ensure_ascii=False)])

    def clear(self, picture: Picture) -> None:
        """Remove the files of a picture that was asked something else before."""
        records = self._read_record(picture)
        self._record_path(picture).unlink(missing_ok=True)
        for name in {name for record in records for name in record["files"].values()}:
            (self.output / name).unlink(missing_ok=True)

    def _done(self, picture: Picture) -> list[Record]:
        """Its record, if that answers what is asked now."""
        records = self._read_record(picture)
        answered = [(record["image"], record["text"]) for record in records]
        return records if answered == [(picture.name, text) for text in picture.texts] else []

    def _read_record(self, picture: Picture) -> list[Record]:
        try:
            return json.loads(self._record_path(picture).read_bytes())
        except (FileNotFoundError, ValueError):  # never written, or cut short when the machine lost its power
            return []

    def _record_path(self, picture: Picture) -> Path:
        return self.output / JOB_FOLDER / "records" / f"{picture.stem}.json"

    def _check_asked(self) -> None:
        options = asdict(self.options)
        del options["batch_size"]  # it may be lowered where memory ran out
        asked = json.loads(json.dumps(self.asked | options))
        path = self.output / "job.json"
        if path.exists():
            before = json.loads(path.read_bytes())
            for name in sorted({*before, *asked}):
                if before.get(name) != asked.get(name):
                    raise ValueError(
                        f"Got {name} {asked.get(name)!r} for {str(self.output)!r}, which was begun with "
                        f"{before.get(name)!r}: go on with that, or name another --output."
                    )
        else:
            _write(path, [json.dumps(asked, indent=2, ensure_ascii=False)])

    def _write_summary(self, failed: Sequence[Failure]) -> None:
        lines = (
            json.dumps({key: value for key, value in record.items() if key != "rle"}, ensure_ascii=False)
            for record in self.records()
        )
        _write(self.output / "results.jsonl", lines)
        if failed:
            _write(self.output / "failed.jsonl", (json.dumps(asdict(failure)) for failure in failed))
        else:
            (self.output / "failed.jsonl").unlink(missing_ok=True)
        if "coco" in self.options.formats:
            files = dict.fromkeys(record["files"]["coco"] for record in self.records())
            document = merge_coco(json.loads((self.output / file).read_bytes()) for file in files)
            _write(self.output / "results.coco.json", [json.dumps(document, ensure_ascii=False)])
        for folder, _, names in os.walk(self.output):
            for name in names:
                if PARTIAL.fullmatch(name):  # left by a process that was killed
                    Path(folder, name).unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Answers windows of a job, wherever it runs."""

    job: SegmentJob
    load: Load

    @cached_property
    def segmenter(self) -> Segmenter:
        return Segmenter(self.load(), self.job.options, self.job.output)

    def __call__(self, window: Window) -> Done:
        """Answer those pictures of a window that have no answer yet.

        Raises:
            ValueError: the model or an option cannot be used; a picture that cannot be is a `Failure` instead.
        """
        missing = self.job.missing(window)
        for picture in missing:
            self.job.clear(picture)
        failures = []
        for answer in self.segmenter.answer(window, missing):
            if answer.failure:
                failures.append(Failure(image=answer.picture.name, reason=answer.failure))
            else:
                self.job.write_record(answer.picture, answer.records)
        return Done(answered=len(missing) - len(failures), failures=tuple(failures))


def run_here(worker: Worker, windows: list[Window]) -> Iterator[Done]:
    """One after the other, in this process."""
    return map(worker, windows)


def weights_fingerprint(folder: Path) -> str:
    """Of a model folder: its configuration, and samples of its weights, so that gigabytes are not read."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix not in (".json", ".safetensors"):
            continue
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()} {size} ".encode())
        with path.open("rb") as file:
            for start in range(0, size, max(4096, size // 64)):
                file.seek(start)
                digest.update(file.read(4096))
    return digest.hexdigest()[:16]


def _write(path: Path, lines: Iterable[str]) -> None:
    """A file of lines, in one step."""
    with replacing(path) as file:
        for line in lines:
            file.write(f"{line}\n".encode())
