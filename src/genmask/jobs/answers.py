"""Pictures in, files out: batches, forward passes, and the files of every answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from PIL import Image

from genmask.formats import save
from genmask.images import ImageError, open_image, processing_size, read_size
from genmask.jobs.pictures import Picture
from genmask.segmentation import Segmentation, file_stem

if TYPE_CHECKING:
    from genmask.pipeline import GenMaskPipeline

Record = dict[str, Any]
"""One answer: "image", all of `Segmentation.to_dict`, and "files": paths below the output folder, by what they hold."""
MAX_TEXT_BYTES = 80
"""Of a text in a file name."""
THREADS = 4
"""That read and write pictures while the model is at work."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How pictures are segmented, as in `GenMaskPipeline.segment`, and what is written of it."""

    threshold: float | Literal["auto"] | None = None
    num_inference_steps: int = 1
    num_noises: int = 1
    decoder: str | None = None
    seed: int = 0
    reason: bool = False
    zoom: bool = False
    clean: bool = False
    """Drop specks and fill holes, as `Segmentation.cleaned` does."""
    formats: tuple[str, ...] = ("png",)
    """Of `genmask.formats`."""
    batch_size: int = 8
    """Pairs of picture and text in a forward pass."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of one picture."""

    picture: Picture
    records: tuple[Record, ...] = ()
    """In the order of its texts."""
    failure: str = ""
    """Why there are none, in one line."""


class Segmenter:
    """A model at work on pictures.

    Raises:
        ValueError: an option that the model refuses.
    """

    def __init__(self, pipeline: GenMaskPipeline, options: Options, output: Path) -> None:
        self.pipeline = pipeline
        self.options = options
        self.output = output
        self._segment([], [])  # what the pipeline refuses is refused before any picture is opened

    def answer(
        self, pictures: Sequence[Picture], wanted: Iterable[Picture] | None = None
    ) -> Iterator[Answer]:
        """Segment pictures and write their files, one batch after the other.

        Pictures with one text and of one processing size share forward passes; a picture with several is encoded once.
        Who shares a pass with whom, and so every bit of an answer, depends on `pictures` and not on `wanted`.

        Args:
            pictures: so few that the headers of all are read first.
            wanted: those to answer; None is all. Of the others, those are computed again that share their passes.
        """
        chosen = set(pictures if wanted is None else wanted)
        batches = [batch for batch in self._batches(pictures) if not chosen.isdisjoint(batch)]
        with ThreadPoolExecutor(THREADS) as threads:
            writing: list[Future[Answer]] = []
            reading = [threads.submit(_open, picture) for picture in batches[0]] if batches else []
            for batch, following in pairwise([*batches, []]):
                opened = [future.result() for future in reading]
                reading = [threads.submit(_open, picture) for picture in following]
                found = self._find(batch, opened)
                yield from (future.result() for future in writing)
                writing = [
                    threads.submit(self._write, picture, answer)
                    for picture, answer in zip(batch, found, strict=True)
                    if picture in chosen
                ]
            yield from (future.result() for future in writing)

    def _batches(self, pictures: Sequence[Picture]) -> Iterator[list[Picture]]:
        by_size: dict[tuple[int, int] | None, list[Picture]] = {}
        for picture in pictures:
            if len(picture.texts) > 1:
                yield [picture]
            else:
                by_size.setdefault(self._processing_size(picture.path), []).append(picture)
        for same_size in by_size.values():
            for start in range(0, len(same_size), self.options.batch_size):
                yield same_size[start : start + self.options.batch_size]

    def _processing_size(self, path: Path) -> tuple[int, int] | None:
        """From the header alone; None where that cannot be read, of which `open_image` will say why."""
        try:
            height, width = read_size(path)
            return processing_size(height, width, self.pipeline.config.resolution**2, self.pipeline.cell)
        except ValueError:
            return None

    def _find(
        self, batch: Sequence[Picture], opened: Sequence[Image.Image | str]
    ) -> list[list[Segmentation] | str]:
        """For each picture its results, in the order of its texts, or why there are none."""
        good = [i for i, image in enumerate(opened) if not isinstance(image, str)]
        answers: list[list[Segmentation] | str] = [
            image if isinstance(image, str) else [] for image in opened
        ]
        images = [cast(Image.Image, opened[i]) for i in good]
        texts = [text for i in good for text in batch[i].texts]
        try:
            results = iter(self._segment(images[0] if len(good) == 1 else images, texts))
            for i in good:
                answers[i] = [next(results) for _ in batch[i].texts]
        except ValueError as error:
            if len(good) == 1:
                answers[good[0]] = str(error)
            else:  # one of them is at fault: the others are answered alone
                for i in good:
                    answers[i] = self._find([batch[i]], [opened[i]])[0]
        return answers

    def _segment(self, image: Image.Image | list[Image.Image], texts: list[str]) -> list[Segmentation]:
        options = self.options
        results = self.pipeline.segment(
            image,
            texts,
            threshold=options.threshold,
            num_inference_steps=options.num_inference_steps,
            num_noises=options.num_noises,
            decoder=options.decoder,
            batch_size=options.batch_size,
            seed=options.seed,
            reason=options.reason,
            zoom=options.zoom,
        )
        return cast(list[Segmentation], results)

    def _write(self, picture: Picture, answer: list[Segmentation] | str) -> Answer:
        if isinstance(answer, str):
            return Answer(picture=picture, failure=answer)
        return Answer(picture=picture, records=write_files(picture, answer, self.output, self.options))


def write_files(
    picture: Picture, results: Sequence[Segmentation], output: Path, options: Options
) -> tuple[Record, ...]:
    """Write all files of a picture, each in one step; a record for each of its texts."""
    if options.clean:
        results = [result.cleaned() for result in results]
    place = output / picture.stem
    files: list[dict[str, str]] = [{} for _ in results]
    names = {"rle", "coco", "labels"}  # STEM.coco.json is not what was found of the text "coco"
    for kind in options.formats:
        if kind == "png":
            for result, own in zip(results, files, strict=True):
                # A dot, which no text's name holds, so that no two pictures and texts share a name.
                stem = f"{place.name}.{_unique(file_stem(result.text), names)}"
                for path in save([result], place.parent, stem, ["png"], image_name=picture.name):
                    own[path.name[len(stem) + 1 :].removesuffix(".png")] = path.relative_to(output).as_posix()
        else:
            paths = save(
                results,
                place.parent,
                place.name,
                [kind],
                image_name=picture.name,
                image_path=picture.path,
            )
            # Without YOLO's list of classes, which all pictures share.
            kinds = ("labels", "labels_overlay") if kind == "labels" else (kind,)
            for own in files:
                own |= {
                    kind: path.relative_to(output).as_posix()
                    for kind, path in zip(kinds, paths, strict=False)
                }
    return tuple(
        {"image": picture.name, **result.to_dict(), "files": own}
        for result, own in zip(results, files, strict=True)
    )


def _open(picture: Picture) -> Image.Image | str:
    """The picture, or why there is none."""
    try:
        picture.name.encode()  # it goes into files that are UTF-8
        return open_image(picture.path)
    except UnicodeEncodeError:
        return f"Got a file name that is not UTF-8, {picture.name!a}: rename the file."
    except ImageError as error:
        return str(error)


def _unique(name: str, taken: set[str]) -> str:
    """`name`, cut to `MAX_TEXT_BYTES` and numbered if it is taken already, which it then is."""
    short = name.encode()[:MAX_TEXT_BYTES].decode(errors="ignore")
    unique = next(one for n in count(1) if (one := short if n == 1 else f"{short}-{n}") not in taken)
    taken.add(unique)
    return unique
