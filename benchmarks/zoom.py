"""What a second look at small things is worth: oIoU and mIoU by the size of the target, with and without.

    python benchmarks/zoom.py --model tiny --photos FOLDER [--scenes 200] [--pairs 300] [--markdown]
    python benchmarks/zoom.py --sizes 256 --variants --paddings 0.25 0.5 2

On drawn scenes larger than the model's own size, where a crop has more to show, and on validation photographs. Both
ways answer the same batches in turn; the cost is the ratio of their times in that run. All masks are the VAE's
decoder's above a threshold of 0.5, whatever the model's own way is.

`--variants` and `--paddings` add what was decided against: the second answer taken whether or not it agrees with the
first, a crop read together with the condition of the whole picture, and other paddings.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image
from rich import box as boxes
from rich.console import Console
from rich.progress import track
from rich.table import Table

from genmask.atomic import save_json
from genmask.data.example import Example
from genmask.data.expressions import SHARES
from genmask.data.photographs import Photographs
from genmask.data.scenes import Scenes
from genmask.evaluation.metrics import IoUTotals
from genmask.images import resize_to_area
from genmask.latents import pixels_to_soft_mask, resize_soft_masks
from genmask.pipeline import GenMaskPipeline
from genmask.sampling import seeded_noise
from genmask.segmentation import Segmentation
from genmask.stages import timed
from genmask.zoom import Zoom, blend

FIRST_INDEX = 200_000
"""In the validation stream of scenes, behind those of every other benchmark."""
BINS = {"under 1 %": 0.01, "1 to 2 %": 0.02, "2 to 5 %": 0.05, "5 to 10 %": 0.1, "10 % and more": np.inf}
"""Sizes of the target, as the upper bound of its share of the picture."""
PLAIN, ZOOM = "without", "zoom"
RESAMPLES = 1000
TABLE_WIDTH = 160


@dataclass(frozen=True, kw_only=True)
class Options:
    model: str = "tiny"
    """A model folder, a bundled model's name, or a hub id."""
    scenes: int = 200
    """Drawn scenes of each size, one sentence each; 0 leaves them out."""
    sizes: tuple[int, ...] = (256, 512)
    """Sides of the scenes, in pixels."""
    seed: int = 0
    """Of the scenes; another seed is other scenes."""
    photos: Path | None = None
    """Folder of photographs; without it they are left out."""
    pairs: int = 300
    """Of a validation photograph and a class of it, evenly spread."""
    variants: bool = False
    """Also without the agreement, and with the condition of the whole picture."""
    paddings: tuple[float, ...] = ()
    """Also with these."""
    batch_size: int = 16
    """Pairs in a forward pass."""
    json: Path | None = None
    """Write every number to this file as well."""
    markdown: bool = False
    """Print Markdown."""


def drawn(count: int, size: int, seed: int) -> list[Example]:
    """One sentence on each of `count` scenes, all but those that name nothing in the picture."""
    step, scenes = Scenes.EXPRESSIONS_PER_SCENE, Scenes("val", size=size, seed=seed)
    examples = (scenes[FIRST_INDEX + step * i + i % step] for i in range(count))
    return [example for example in examples if share(example) > 0]


def photographed(root: Path, count: int) -> list[Example]:
    photographs = Photographs(root, "val")
    chosen = np.linspace(0, len(photographs) - 1, min(count, len(photographs))).astype(int)
    return [photographs[int(i)] for i in chosen]


def share(example: Example) -> float:
    """Of the picture that the target covers, in [0, 1]."""
    assert example.mask is not None
    return float(example.mask.mean())


def gain(plain: list[float], zoom: list[float]) -> dict[str, float]:
    """In mIoU, with its 95 % bootstrap interval over the samples; both ways answered the same."""
    gains = np.subtract(zoom, plain)
    drawn = np.random.default_rng(0).integers(len(gains), size=(RESAMPLES, len(gains)))
    low, high = np.quantile(gains[drawn].mean(axis=1), [0.025, 0.975])
    return {"mIoU": float(gains.mean()), "low": float(low), "high": float(high)}


class Measurement:
    """Every way's masks of the examples, and what they cost."""

    def __init__(self, pipe: GenMaskPipeline, examples: list[Example], options: Options, what: str) -> None:
        self.examples, self.batch_size = examples, options.batch_size
        self.pipe = pipe
        self.masks: dict[str, list[np.ndarray]] = {}
        self.seconds = {PLAIN: 0.0, ZOOM: 0.0}
        batches = [examples[i : i + self.batch_size] for i in range(0, len(examples), self.batch_size)]
        self.segment(batches[0], zoom=True)  # the first call is slower than all others
        for batch in track(batches, what, console=Console(stderr=True)):
            first = self.timed(PLAIN, batch, zoom=False)
            self.timed(ZOOM, batch, zoom=True)
            if options.variants:
                self.add("always", self.again(first, Zoom(agreement=0)))
                self.add("whole condition", self.again(first, Zoom(), whole=True))
                self.add("whole, always", self.again(first, Zoom(agreement=0), whole=True))
            for padding in options.paddings:
                self.add(f"padding {padding:g}", self.again(first, Zoom(padding=padding)))

    def segment(self, batch: list[Example], zoom: bool) -> list[Segmentation]:
        results: Any = self.pipe.segment(
            [example.image for example in batch],
            [example.text for example in batch],
            threshold=0.5,
            decoder="vae",
            batch_size=self.batch_size,
            zoom=zoom,
        )
        return results

    def timed(self, way: str, batch: list[Example], zoom: bool) -> list[Segmentation]:
        results, seconds = timed(lambda: self.segment(batch, zoom), self.pipe.device)
        self.seconds[way] += seconds
        self.add(way, results)
        return results

    def add(self, way: str, results: list[Segmentation]) -> None:
        self.masks.setdefault(way, []).extend(result.mask for result in results)

    @torch.no_grad()
    def again(self, first: list[Segmentation], how: Zoom, whole: bool = False) -> list[Segmentation]:
        """The second pass alone; `whole`: the sentence is read with the whole picture, the latents are the crop's."""
        pipe, results = self.pipe, list(first)
        found = ((i, how.crop_box(result.box, *result.image.size)) for i, result in enumerate(first))
        small = [(i, box) for i, box in found if box is not None]
        pictures = [resize_to_area(first[i].image, pipe.config.resolution**2, pipe.cell) for i, _ in small]
        crops = [
            first[i].image.resize(picture.size, Image.Resampling.LANCZOS, box=box)
            for (i, box), picture in zip(small, pictures, strict=True)
        ]
        texts = [first[i].target for i, _ in small]
        for indices, latents, condition in pipe.batches(crops, texts, self.batch_size):
            if whole:
                condition = pipe.encoder.encode_segmentation(
                    [pictures[k] for k in indices], [texts[k] for k in indices]
                )
            noises = seeded_noise(0, latents.shape[1:]).to(latents.device)
            x0_hat = pipe.predict_mask(latents, condition, noises, 1).sample
            soft_masks = pixels_to_soft_mask(pipe.codec.decode(x0_hat)).cpu()
            for k, soft_mask in zip(indices, soft_masks, strict=True):
                i, box = small[k]
                second = resize_soft_masks(soft_mask[None], box[3] - box[1], box[2] - box[0])[0].numpy()
                if how.agrees(first[i].mask, box, second > first[i].threshold):
                    results[i] = replace(first[i], soft_mask=blend(first[i].soft_mask, box, second))
        return results

    def scores(self, chosen: Callable[[Example], bool]) -> dict[str, Any]:
        """Of the examples that `chosen` keeps, by every way."""
        kept = [i for i, example in enumerate(self.examples) if chosen(example)]
        row: dict[str, Any] = {"samples": len(kept)}
        ious: dict[str, list[float]] = {}
        for way, masks in self.masks.items():
            counts = IoUTotals()
            for i in kept:
                mask = self.examples[i].mask
                assert mask is not None
                counts.add(masks[i], mask, self.examples[i].ignore)
            if kept:
                row[way] = {"oIoU": counts.overall_iou(), "mIoU": counts.mean_iou()}
                ious[way] = counts.ious()
        if kept:
            row["gain"] = gain(ious[PLAIN], ious[ZOOM])
        return row

    def report(self) -> dict[str, Any]:
        changed = [bool((a != b).any()) for a, b in zip(self.masks[PLAIN], self.masks[ZOOM], strict=True)]
        groups: list[tuple[str, Callable[[Example], bool]]] = []
        low = 0.0
        for name, high in BINS.items():
            groups.append((name, lambda e, low=low, high=high: low <= share(e) < high))
            low = high
        kinds = {example.kind for example in self.examples}
        groups += [(kind, lambda e, kind=kind: e.kind == kind) for kind in SHARES if kind in kinds]
        groups.append(("all", lambda e: True))
        return {
            "rows": {name: self.scores(chosen) for name, chosen in groups},
            "times_the_time": self.seconds[ZOOM] / self.seconds[PLAIN],
            "changed": float(np.mean(changed)),
        }


def tables(report: dict[str, Any], style: boxes.Box) -> Iterator[Table | str]:
    for what, found in report.items():
        ways = [way for way in found["rows"]["all"] if way not in ("samples", "gain")]
        rows = {name: row for name, row in found["rows"].items() if row["samples"]}
        for score in ("oIoU", "mIoU"):
            table = Table(f"{what}: {score}", "samples", *ways, box=style)
            if score == "mIoU":
                table.add_column(f"{ZOOM} - {PLAIN} [95 %]")
            for name, row in rows.items():
                cells = [f"{row[way][score]:.3f}" for way in ways]
                if score == "mIoU":
                    cells.append("{mIoU:+.3f} [{low:+.3f}, {high:+.3f}]".format(**row["gain"]))
                table.add_row(name, str(row["samples"]), *cells)
            yield table
        yield (
            f"{what}: {found['times_the_time']:.2f} times the time without; another mask for {found['changed']:.0%} of "
            "the sentences\n"
        )


def main(options: Options) -> None:
    if options.scenes < 1 and options.photos is None:
        raise SystemExit("Got neither --scenes nor --photos, expected one of them.")
    pipe = GenMaskPipeline.from_pretrained(options.model)
    materials: dict[str, Callable[[], list[Example]]] = {}
    if options.scenes:
        for size in options.sizes:
            materials[f"scenes of {size} px"] = lambda size=size: drawn(options.scenes, size, options.seed)
    if options.photos is not None:
        materials["photographs"] = lambda root=options.photos: photographed(root, options.pairs)
    report = {what: Measurement(pipe, make(), options, what).report() for what, make in materials.items()}
    # A line of Markdown's tables must not be broken, however narrow the terminal is.
    console = Console(width=max(TABLE_WIDTH, Console().width))
    for part in tables(report, boxes.MARKDOWN if options.markdown else boxes.ROUNDED):
        console.print(part, highlight=False, markup=False)
    if options.json is not None:
        document = {"model": Path(options.model).name, "processed_at": pipe.config.resolution}
        save_json(document | {"materials": report}, options.json)
    print(f"{options.model}, {torch.get_num_threads()} threads, {pipe.device}", file=sys.stderr)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
