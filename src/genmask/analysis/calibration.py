"""Whether a model's soft masks and confidences can be believed, and what one temperature mends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np

from genmask.analysis.decoders import decode_examples, decoders_of, target_of
from genmask.analysis.figures import draw_reliability, drawing, save_figure
from genmask.atomic import replace_file, save_json
from genmask.data.example import Example
from genmask.evaluation.calibration import (
    PixelHistogram,
    auroc,
    expected_area,
    largest_expected_iou,
    pearson,
    spearman,
    stability_score,
    with_temperature,
)
from genmask.evaluation.metrics import count_pixels
from genmask.evaluation.report import markdown
from genmask.pipeline import GenMaskPipeline
from genmask.thresholds import FAINT, best_threshold, expected_iou, mean_confidence

DEFINITIONS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "mean over the mask": mean_confidence,
    "expected IoU": expected_iou,
    "expected IoU, no faint pixels": partial(expected_iou, faint=FAINT),
    "stability score": stability_score,
}
"""Of confidence: soft mask and mask -> [0, 1]."""
PRESENCE: dict[str, Callable[[np.ndarray], float]] = {
    "maximum": lambda soft: float(soft.max()),
    "expected area": expected_area,
    "largest expected IoU": largest_expected_iou,
}
"""How far a soft mask speaks for a target that is there."""
PARTS = ("present", "answered", "all")
"""Of the samples: see `measure_calibration`."""


class _Measured:
    """One decoder's soft masks of one source, before and after a temperature.

    Masks whose IoU a confidence should foretell are those of `segment` with threshold 0.5 and with "auto".
    """

    def __init__(self, temperature: float) -> None:
        self.scales = {"before": 1.0, "after": temperature}
        self.pixels = PixelHistogram()
        self.present: list[bool] = []
        self.ious: dict[str, list[float]] = defaultdict(list)
        self.answered: dict[str, list[bool]] = defaultdict(list)
        """Whether the mask holds any pixel; this and the IoU by threshold."""
        self.confidences: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        self.presence: dict[tuple[str, str], list[float]] = defaultdict(list)

    def add(self, soft: np.ndarray, example: Example, presence: float | None) -> None:
        """One sample; `presence`: the probability that its target is there, if the model has a head that tells it."""
        target = target_of(example)
        self.pixels.add(soft, target, example.ignore)
        masks = {"0.5": soft > 0.5, "auto": soft > best_threshold(soft, presence)}
        for threshold, mask in masks.items():
            counts = count_pixels(mask, target, example.ignore)
            union = counts.prediction + counts.target - counts.intersection
            self.ious[threshold].append(counts.intersection / union if union else 1.0)
            self.answered[threshold].append(bool(mask.any()))
        self.present.append(counts.target > 0)
        for when, temperature in self.scales.items():
            values = with_temperature(soft, temperature)
            for name, score in PRESENCE.items():
                self.presence[name, when].append(score(values))
            if presence is not None:
                self.presence["presence head", when].append(presence)
            for threshold, mask in masks.items():
                for name, confidence in DEFINITIONS.items():
                    self.confidences[threshold, name, when].append(confidence(values, mask))

    def report(self) -> dict[str, Any]:
        present = np.array(self.present)
        return {
            "samples": len(present),
            "present": int(present.sum()),
            "soft_mask": {when: self._soft_mask(scale) for when, scale in self.scales.items()},
            "confidence": [self._confidence(*key) for key in self.confidences],
            "presence": [
                {"score": name, "temperature": when, "auroc": auroc(np.array(values), present)}
                for (name, when), values in self.presence.items()
            ],
        }

    def _soft_mask(self, temperature: float) -> dict[str, Any]:
        bins = self.pixels.reliability(temperature)
        return {
            "calibration_error": bins.error,
            "brier": self.pixels.brier(temperature),
            "cross_entropy": self.pixels.cross_entropy(temperature),
            "reliability": [
                {"share": share, "soft": soft, "true": true}
                for share, soft, true in zip(*(row.tolist() for row in astuple(bins)), strict=True)
                if share > 0
            ],
        }

    def _confidence(self, threshold: str, name: str, when: str) -> dict[str, Any]:
        confidence, iou = np.array(self.confidences[threshold, name, when]), np.array(self.ious[threshold])
        parts = {
            "present": np.array(self.present),
            "answered": np.array(self.answered[threshold]),
            "all": np.ones(len(iou), dtype=bool),
        }
        return {
            "threshold": threshold,
            "definition": name,
            "temperature": when,
            **{
                part: {
                    "samples": int(rows.sum()),
                    "mean_confidence": float(confidence[rows].mean()) if rows.any() else None,
                    "mean_iou": float(iou[rows].mean()) if rows.any() else None,
                    "distance": float(np.abs(confidence - iou)[rows].mean()) if rows.any() else None,
                    "pearson": pearson(confidence[rows], iou[rows]),
                    "spearman": spearman(confidence[rows], iou[rows]),
                }
                for part, rows in parts.items()
            },
        }


def measure_calibration(
    pipeline: GenMaskPipeline,
    sources: Callable[[], Mapping[str, Iterable[Example]]],
    *,
    batch_size: int,
    seed: int,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """How far the soft masks of each decoder can be believed, ready for JSON.

    One temperature is fitted to each decoder, on the even-numbered pictures of all sources; all else is measured on
    the odd-numbered ones.

    Args:
        pipeline: the model, with a linear decoder or without.
        sources: called twice, gives examples with masks by where they are from, the same ones both times.
        batch_size: of the networks.
        seed: of the predictions' noise.
        advance: told how many examples are done.

    Returns:
        By decoder: "temperature", and under "sources" for each of them

        * "samples", and how many of these ask for something "present";
        * "soft_mask", "before" the temperature and "after" it: calibration error, Brier score, cross-entropy, bins;
        * "confidence": by threshold, definition and temperature its mean beside the mean IoU, the mean distance of
          the two, and their Pearson and Spearman correlations: over samples whose target is "present"; over those
          "answered" with a mask, where an absent target has IoU 0; and over "all", where one answered empty has IoU 1;
        * "presence": AUROC of what may tell present targets from absent ones; None without one of either.

    Raises:
        ValueError: a source of fewer than two pictures.
    """
    decoders = decoders_of(pipeline, pipeline.mask_head)
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "advance": advance}
    histograms = {name: PixelHistogram() for name in decoders}
    for examples in sources().values():
        for example, _, soft_masks in decode_examples(
            pipeline, decoders, every_other_picture(examples, 0), **options
        ):
            for name, (soft, _) in soft_masks.items():
                histograms[name].add(soft, target_of(example), example.ignore)
    temperatures = {name: histogram.fit_temperature() for name, histogram in histograms.items()}
    reports: dict[str, Any] = {name: {"temperature": t, "sources": {}} for name, t in temperatures.items()}
    for source, examples in sources().items():
        measured = {name: _Measured(temperature) for name, temperature in temperatures.items()}
        for example, features, soft_masks in decode_examples(
            pipeline, decoders, every_other_picture(examples, 1), **options
        ):
            (presence,) = pipeline.presences(features.unsqueeze(0).to(pipeline.device))
            for name, (soft, _) in soft_masks.items():
                measured[name].add(soft, example, presence)
        if not all(each.present for each in measured.values()):
            raise ValueError(
                f"Got fewer than two pictures of {source}, expected one to fit the temperature on and one to measure "
                "on: give more with --held-out."
            )
        for name, each in measured.items():
            reports[name]["sources"][source] = each.report()
    return reports


def every_other_picture(examples: Iterable[Example], remainder: Literal[0, 1]) -> Iterator[Example]:
    """Those on the even-numbered pictures (0, 2, ...) or on the odd-numbered; a picture's examples stay together."""
    numbers: dict[bytes, int] = {}
    for example in examples:
        picture = sha256(example.image.tobytes()).digest()
        if numbers.setdefault(picture, len(numbers)) % 2 == remainder:
            yield example


def calibration_tables(reports: Mapping[str, Any]) -> list[list[list[str]]]:
    """What `measure_calibration` found as three tables of cells, the first row of each its header."""
    pixels = [
        ["soft mask", "source", "samples", "temperature", "calibration error", "Brier", "cross-entropy"]
    ]
    confidence = [
        ["confidence", "source", "threshold", "definition", "temperature", "mean", "mIoU", "distance"]
        + [f"{kind}, {part}" for part in PARTS for kind in ("Pearson", "Spearman")]
    ]
    presence = [["AUROC, present", "source", "absent", "score", "before", "after"]]
    for decoder, report in reports.items():
        for source, found in report["sources"].items():
            first = [decoder, source]
            for when, scores in found["soft_mask"].items():
                temperature = f"{report['temperature']:.2f}" if when == "after" else "1"
                cells = [f"{scores[name]:.4f}" for name in ("calibration_error", "brier", "cross_entropy")]
                pixels.append([*first, str(found["samples"]), temperature, *cells])
            for row in found["confidence"]:
                cells = [_cell(row["answered"][name]) for name in ("mean_confidence", "mean_iou", "distance")]
                cells += [_cell(row[part][kind]) for part in PARTS for kind in ("pearson", "spearman")]
                confidence.append([*first, row["threshold"], row["definition"], row["temperature"], *cells])
            by_score: dict[str, list[str]] = defaultdict(list)
            for row in found["presence"]:
                by_score[row["score"]].append(_cell(row["auroc"]))
            absent = str(found["samples"] - found["present"])
            presence += [[*first, absent, score, *cells] for score, cells in by_score.items()]
    return [pixels, confidence, presence]


def write_calibration(reports: Mapping[str, Any], folder: Path) -> list[Path]:
    """The reliability diagram as calibration.png and .svg, all numbers as .json, the tables as .md.

    Raises:
        ValueError: matplotlib is not installed.
    """
    with drawing():
        files = save_figure(draw_reliability(reports), folder, "calibration")
    files += [folder / "calibration.json", folder / "calibration.md"]
    save_json(reports, files[-2])
    replace_file(files[-1], "\n".join(map(markdown, calibration_tables(reports))))
    return files


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
