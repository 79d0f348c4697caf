"""The table of benchmarks: name -> samples, and how empty masks are scored."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from genmask.data.compositions import Compositions
from genmask.data.compositions_material import Material
from genmask.data.folder import Folder
from genmask.data.photographs import Photographs
from genmask.data.questions import PhotographQuestions, SceneQuestions
from genmask.data.reasoning import ReasonSeg
from genmask.data.referring import Dataset, Referring
from genmask.data.scenes import Scenes
from genmask.evaluation.evaluate import Examples

SCENES = 4000
"""Drawn scenes have no end; so many sentences are the benchmark."""
QUESTIONS = 1000
"""Likewise of indirect instructions."""
COMPOSITIONS = 2000
"""Likewise of objects pasted into photographs,"""
COMPOSITION_SIZE = (240, 320)
"""in pictures of this height and width."""
PHOTOGRAPHS = "a folder for each source with index.jsonl, classes.json, images/ and labels/"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A split of a data set, and its convention."""

    load: Callable[[Path], Examples]
    """From the folder that holds the data."""
    layout: str
    """What that folder holds; "" if none is needed."""
    empty: float = 1.0
    """I / U of an empty answer to an empty target: 1 as in LISA and gRefCOCO; LAVT's 0 for the sets without such."""


def _referring(dataset: Dataset, split: str, by: str) -> Benchmark:
    return Benchmark(
        load=lambda root: Referring(root, dataset, split, by=by),
        layout=f"{dataset}/refs({by}).p, {dataset}/instances.json and images/mscoco/images/train2014/",
    )


def _reasonseg(split: Literal["val", "test"]) -> Benchmark:
    return Benchmark(
        load=lambda root: ReasonSeg(root, split), layout=f"ReasonSeg/{split}/ with a JSON for each picture"
    )


def _compositions(root: Path) -> Compositions:
    material = Material(root, "val", area=COMPOSITION_SIZE[0] * COMPOSITION_SIZE[1])
    return Compositions(material, COMPOSITION_SIZE, length=COMPOSITIONS)


_UNC: tuple[Dataset, ...] = ("refcoco", "refcoco+", "grefcoco")

BENCHMARKS: dict[str, Benchmark] = {
    "scenes/val": Benchmark(load=lambda _: Scenes("val", length=SCENES), layout=""),
    "scene-questions/val": Benchmark(load=lambda _: SceneQuestions("val", length=QUESTIONS), layout=""),
    "photos/val": Benchmark(load=lambda root: Photographs(root, "val"), layout=PHOTOGRAPHS),
    "photo-questions/val": Benchmark(load=lambda root: PhotographQuestions(root, "val"), layout=PHOTOGRAPHS),
    "compositions/val": Benchmark(load=_compositions, layout=PHOTOGRAPHS),
    **{
        f"{dataset}/{split}": _referring(dataset, split, "unc")
        for dataset in _UNC
        for split in ("val", "testA", "testB")
    },
    **{f"refcocog/{split}": _referring("refcocog", split, "umd") for split in ("val", "test")},
    "refcocog-google/val": _referring("refcocog", "val", "google"),
    **{f"refclef/{split}": _referring("refclef", split, "unc") for split in ("val", "testA", "testB")},
    **{f"reasonseg/{split}": _reasonseg(cast(Any, split)) for split in ("val", "test")},
}


def load_benchmark(name: str, data: Path | None) -> tuple[Benchmark, Examples]:
    """A benchmark of the table, or your own folder as `Folder` reads it, by its path.

    Raises:
        ValueError: an unknown name; data that are missing or not as the layout says.
    """
    benchmark = BENCHMARKS.get(name)
    if benchmark is None:
        if (Path(name) / "captions.jsonl").exists():
            return Benchmark(load=Folder, layout=""), Folder(name)
        lowered = {known.lower(): known for known in BENCHMARKS}
        near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
        raise ValueError(
            f"Got benchmark {name!r}, expected a folder with captions.jsonl or one of {', '.join(BENCHMARKS)}"
            + (f": did you mean {lowered[near[0]]}?" if near else ".")
        )
    if benchmark.layout and data is None:
        raise ValueError(f"Got no --data for {name}, expected the folder that holds {benchmark.layout}.")
    return benchmark, benchmark.load(data or Path())
