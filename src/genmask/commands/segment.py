"""genmask segment"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from genmask.commands.inference import Flag, Inference, load, place
from genmask.commands.output import prepare_output, print_json
from genmask.commands.terminal import only_json, progress

if TYPE_CHECKING:
    from genmask.jobs.answers import Options
    from genmask.jobs.segment_job import SegmentJob

SHOWN_FAILURES = 20
"""More of them are in failed.jsonl alone."""


@dataclass(frozen=True, kw_only=True)
class Segment(Inference):
    """Find what sentences ask for in pictures: a mask for each picture and text.

    genmask segment photo.jpg --text "the red mug" --text "the table" --output masks
    genmask segment photos --text "the red mug" --output masks
    genmask segment --pairs pairs.jsonl --output masks --engine ray --workers 8

    Writes, for each, STEM.mask.png (lossless, 0 and 255), STEM.overlay.png and STEM.json. For folders and pairs it
    also writes results.jsonl and, if need be, failed.jsonl; the same command goes on where an interrupted one stopped.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]
    """Pictures, or folders of them at any depth; each picture gets every text."""
    text: Annotated[list[str], tyro.conf.UseAppendAction]
    """What to find, in any language."""
    pairs: Path | None = None
    """Instead of both: lines {"image": path relative to this file, "text": what to find}."""
    format: Annotated[
        tuple[Literal["png", "rle", "coco", "labelme", "yolo", "numpy", "labels"], ...],
        tyro.conf.UseAppendAction,
    ] = ()
    """What is written; may be given several times. If not given: png."""
    clean: Flag = False
    """Drop specks and fill holes in the masks."""
    threshold: float | Literal["auto"] | None = None
    """A pixel is in the mask if its soft mask is greater; in [0, 1). auto is for each mask the one that promises the
    best IoU. By default the model's own, 0.5 for most."""
    num_inference_steps: int = 1
    """Euler steps from noise to mask."""
    num_noises: int = 1
    """Average over this many noises: better and slower."""
    decoder: Literal["vae", "linear"] | None = None
    """From latents to mask; linear needs a model with a mask head. By default the model's own, vae for most."""
    reason: Flag = False
    """Let the model first describe what the text means, and find that."""
    zoom: Flag = False
    """Look again at what was found small, in a crop of the picture around it."""
    engine: Literal["local", "ray"] = "local"
    """Who works: this process, or workers of a Ray cluster: RAY_ADDRESS, or else one on this machine alone."""
    workers: int | None = None
    """Of engine ray; by default one for each GPU of the cluster, or for each of its machines."""

    def run(self) -> None:
        if self.pairs is not None and (self.images or self.text):
            raise ValueError("Got --pairs beside pictures or --text, expected one or the other.")
        if self.pairs is None and not (self.images and self.text):
            raise ValueError(
                f"Got {len(self.images)} pictures and {len(self.text)} texts, expected at least one of each, "
                'as in genmask segment photo.jpg --text "the red mug"'
            )
        if self.workers is not None and (self.engine == "local" or self.workers < 1):
            raise ValueError(
                f"Got --workers {self.workers} with --engine {self.engine}, expected at least 1, and --engine ray."
            )
        if self.pairs is not None and "yolo" in self.format:
            raise ValueError(
                "Got --format yolo with --pairs, expected the same texts for all pictures, since YOLO numbers them: "
                "use coco."
            )
        prepare_output(self.output)
        from genmask.images import open_image

        for path in self.images:
            if not path.is_dir():
                open_image(path)  # a bad picture is refused before the work begins, not in its midst
        from genmask.jobs.answers import Options

        options = Options(
            threshold=self.threshold,
            num_inference_steps=self.num_inference_steps,
            num_noises=self.num_noises,
            decoder=self.decoder,
            seed=self.seed,
            reason=self.reason,
            zoom=self.zoom,
            clean=self.clean,
            formats=tuple(dict.fromkeys(self.format)) or ("png",),
            batch_size=self.batch_size,
        )
        if self.pairs is None and self.engine == "local" and not any(path.is_dir() for path in self.images):
            self.run_files(options)
        else:
            self.run_job(options)

    def run_files(self, options: Options) -> None:
        """A handful of pictures: every answer is printed."""
        from genmask.jobs.answers import Segmenter
        from genmask.jobs.pictures import name_files

        pictures = name_files(self.images, self.text)
        answers = {}
        with only_json(self.json), progress("segment", len(pictures)) as advance:
            for answer in Segmenter(load(self), options, self.output).answer(pictures):
                if answer.failure:
                    raise ValueError(answer.failure)
                answers[answer.picture] = answer.records
                advance(1)
        records = [self.with_paths(record) for picture in pictures for record in answers[picture]]
        if self.json:
            print_json({"model": self.model}, results=records)
            return
        for record in records:
            said = f" (understood as {record['target']!r})" if self.reason else ""
            found = "nothing found" if record["is_empty"] else f"{record['area_fraction']:.1%} of the picture"
            sure = f"confidence {record['confidence']:.2f}"
            print(
                f"{record['image']}: {record['text']!r}{said}: {found}, {sure}, {next(iter(record['files'].values()))}"
            )

    def run_job(self, options: Options) -> None:
        """Any number of pictures: every answer is written, and the failures are printed."""
        from genmask.jobs.segment_job import run_here

        engine: Any = run_here
        if self.engine == "ray":
            from genmask.jobs.ray_engine import check_ray, run_on_ray

            check_ray()
            engine = partial(run_on_ray, num_workers=self.workers, gpus=self.device != "cpu")
        job, command = self.job(options)
        with only_json(self.json), progress("segment", len(job.pictures)) as advance:
            failures = job.run(partial(load, command), engine=engine, advance=advance)
        if self.json:
            print_json(
                {"model": self.model},
                results=map(self.with_paths, job.records()),
                failed=({"image": failure.image, "reason": failure.reason} for failure in failures),
            )
        else:
            done = len(job.pictures) - len(failures)
            print(f"{done} of {len(job.pictures)} pictures: {self.output / 'results.jsonl'}")
        if failures:
            for failure in failures[:SHOWN_FAILURES]:
                print(f"{failure.image}: {failure.reason}", file=sys.stderr)
            raise ValueError(
                f"Got {len(failures)} of {len(job.pictures)} pictures that could not be answered, listed in "
                f"{self.output / 'failed.jsonl'}: mend them and give the same command again, which does these alone."
            )

    def job(self, options: Options) -> tuple[SegmentJob, Inference]:
        """What is to be done; and this command with paths that hold on any machine, for workers to load the model."""
        from genmask.jobs.pictures import find_pictures, read_pairs
        from genmask.jobs.segment_job import SegmentJob, weights_fingerprint
        from genmask.model_folder import resolve_model

        if self.pairs is not None:
            pictures = read_pairs(self.pairs)
            asked: dict[str, Any] = {"pairs": str(self.pairs.resolve())}
        else:
            pictures = find_pictures(self.images, self.text, output=self.output)
            asked = {"images": [str(path.resolve()) for path in self.images], "texts": self.text}
        folder = resolve_model(self.model)
        _, dtype = place(self.device, self.dtype)
        asked |= {
            "model": self.model,
            "weights": weights_fingerprint(folder),
            "dtype": dtype,
            "vlm_precision": self.vlm_precision,
        }
        job = SegmentJob(pictures=pictures, output=self.output.resolve(), options=options, asked=asked)
        return job, replace(self, model=str(folder.resolve()))

    def with_paths(self, record: dict[str, Any]) -> dict[str, Any]:
        """A record whose files are named as seen from here."""
        return record | {"files": {kind: str(self.output / file) for kind, file in record["files"].items()}}
