"""How scores grew with training, and how much more of it a score would take, were it to go on as it did.

    mkdir first last
    git archive f2dbdc7 src/genmask/models/tiny | tar -x -C first
    git archive b0c4390 src/genmask/models/tiny | tar -x -C last
    python benchmarks/learning_curve.py 5500=first/src/genmask/models/tiny 15650=last/src/genmask/models/tiny \
        --photos FOLDER

The other weights between these two are those of 96b0585 (9,700 steps), 1e0de59 (12,300) and 5b39755 (14,500). What is
bundled since then was trained on at another resolution, which is not more of the same.

Every model answers the same samples, by the VAE's decoder and a threshold of 0.5 whatever it prefers, so that the
curve is that of the transformer. Through the scores a power law is laid, error = c * steps^-k (least squares in
logarithms; an error is 1 - oIoU, or the share of wrong answers). What it says beyond the last point is an
extrapolation: the true curve is flatter wherever a limit is near, such as the size of the transformer or the number of
different photographs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import matplotlib
import numpy as np
from bundled_model import class_of, count_photographs, count_pixels, fresh_scenes, segment, target
from bundled_model_report import FREQUENT
from compositions import compositions as composed_photographs
from constant_baseline import ClassKey
from rich.console import Console
from rich.table import Table

from genmask.data.example import Example
from genmask.data.expressions import SINGULAR
from genmask.data.photographs import Photographs
from genmask.evaluation.metrics import IoUTotals
from genmask.pipeline import GenMaskPipeline

TARGETS = {
    "scenes: oIoU": 0.88,
    "scenes: absent answered empty": 0.95,
    "photographs: oIoU": 0.55,
    "photographs: mean over frequent classes": 0.42,
    "compositions: oIoU": 0.60,
}
"""What is measured, and what one would like to see."""
BATCH = 32


class Material:
    """The samples that every model answers."""

    def __init__(self, photos: Path, scenes: int, photographs: int, compositions: int) -> None:
        self.scenes = fresh_scenes(scenes, size=128)
        train, val = Photographs(photos, "train"), Photographs(photos, "val")
        self.frequent = {name for name, count in count_photographs(train).items() if count >= FREQUENT}
        groups = [list(group) for _, group in groupby(range(len(val)), key=lambda pair: val.pairs[pair][0])]
        chosen = np.linspace(0, len(groups) - 1, min(photographs, len(groups))).astype(int)
        self.photographs = [[(class_of(val, pair), val[pair]) for pair in groups[row]] for row in chosen]
        self.compositions = composed_photographs(photos, compositions)

    def scores(self, pipe: GenMaskPipeline) -> dict[str, float]:
        """By the names of `TARGETS`."""
        scenes = self._answers(pipe, self.scenes)
        absent = [not mask.any() for mask, e in zip(scenes, self.scenes, strict=True) if not target(e).any()]
        by_class: dict[ClassKey, IoUTotals] = {}
        everything = IoUTotals()
        for pairs in self.photographs:
            examples = [example for _, example in pairs]
            results = pipe.segment(examples[0].image, [e.text for e in examples], batch_size=BATCH)
            for (name, example), result in zip(pairs, results, strict=True):
                for totals in (everything, by_class.setdefault(name, IoUTotals())):
                    totals.add(result.mask, target(example), example.ignore)
        frequent = [totals.overall_iou() for name, totals in by_class.items() if name in self.frequent]
        return {
            "scenes: oIoU": _named(scenes, self.scenes),
            "scenes: absent answered empty": float(np.mean(absent)),
            "photographs: oIoU": everything.overall_iou(),
            "photographs: mean over frequent classes": float(np.mean(frequent)),
            "compositions: oIoU": _named(self._answers(pipe, self.compositions), self.compositions),
        }

    @staticmethod
    def _answers(pipe: GenMaskPipeline, examples: list[Example]) -> list[np.ndarray]:
        return segment(pipe, examples, [e.text for e in examples], BATCH, "answers")


def _named(masks: Sequence[np.ndarray], examples: Sequence[Example]) -> float:
    """oIoU over the sentences that name one object."""
    chosen = [i for i, example in enumerate(examples) if example.kind in SINGULAR]
    return count_pixels([masks[i] for i in chosen], [examples[i] for i in chosen]).overall_iou()


def power_law(steps: Sequence[int], scores: Sequence[float]) -> tuple[float, float]:
    """(c, k) of error = c * steps^-k."""
    slope, intercept = np.polyfit(np.log(steps), np.log(1 - np.array(scores)), 1)
    return float(np.exp(intercept)), float(-slope)


def steps_to(score: float, law: tuple[float, float]) -> float:
    """At which the law promises a score; infinity if it does not fall."""
    scale, exponent = law
    return float((scale / (1 - score)) ** (1 / exponent)) if exponent > 0 else float("inf")


def plot(points: dict[int, dict[str, float]], laws: dict[str, tuple[float, float]], path: Path) -> None:
    """Errors and laws on logarithmic axes, one panel a score."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    steps = sorted(points)
    figure, panels = plt.subplots(1, len(TARGETS), figsize=(3.1 * len(TARGETS), 3), layout="constrained")
    for panel, (name, wanted) in zip(panels, TARGETS.items(), strict=True):
        reach = np.geomspace(steps[0], max(20 * steps[-1], steps[0] * 2), 50)
        scale, exponent = laws[name]
        panel.loglog(reach, scale * reach**-exponent, "--", color="0.6", label="power law")
        panel.loglog(steps, [1 - points[step][name] for step in steps], "o-", color="C0", label="measured")
        panel.axhline(1 - wanted, color="C3", linewidth=1, label=f"wanted: {wanted}")
        panel.set_title(name.replace(": ", "\n"), fontsize=9)
        panel.set_xlabel("steps")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 4, 6, 8)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.legend(fontsize=7)
    panels[0].set_ylabel("error")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models", nargs="+", metavar="STEPS=MODEL", help="training steps and a model after them"
    )
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs with class masks")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--photographs", type=int, default=120)
    parser.add_argument("--compositions", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write every number to this file as well")
    parser.add_argument("--figure", type=Path, help="draw the curves: a file that ends in .svg, .png or .pdf")
    arguments = parser.parse_args()
    material = Material(arguments.photos, arguments.scenes, arguments.photographs, arguments.compositions)
    points: dict[int, dict[str, float]] = {}
    for each in arguments.models:
        steps, _, model = each.partition("=")
        pipe = GenMaskPipeline.from_pretrained(model)
        pipe.set_progress_bar_config(disable=True)
        pipe.register_to_config(decoder="vae", threshold=0.5)
        points[int(steps)] = material.scores(pipe)

    laws = {name: power_law(list(points), [row[name] for row in points.values()]) for name in TARGETS}
    table = Table("", *(f"{steps:,} steps" for steps in points), "exponent", "wanted", "steps it would take")
    for name, wanted in TARGETS.items():
        reached = [f"{row[name]:.3f}" for row in points.values()]
        needed = (
            "reached"
            if max(row[name] for row in points.values()) >= wanted
            else f"{steps_to(wanted, laws[name]):.2g}"
        )
        table.add_row(name, *reached, f"{laws[name][1]:.2f}", f"{wanted:.2f}", needed)
    Console(width=150).print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"points": points, "laws": laws}, indent=1) + "\n")
    if arguments.figure is not None:
        plot(points, laws, arguments.figure)


if __name__ == "__main__":
    main()
