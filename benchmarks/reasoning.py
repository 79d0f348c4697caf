"""What reasoning's first stage is worth: the masks of a question, of the model's description, and of the right one.

    python benchmarks/reasoning.py --model tiny [--describer runs/tiny-describer/model] [--samples 200]

On drawn scenes with indirect instructions ("what can I drink from?"; `data.questions.SceneQuestions`), half of them in
words that no describer was trained on. For each row gIoU with its 95 % bootstrap interval; the last row, whose text is
the right description, is what a perfect first stage would reach. `--photos FOLDER` asks about photographs instead.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from scipy.stats import binomtest
from transformers import Qwen2_5_VLForConditionalGeneration

from genmask.data.questions import PhotographQuestions, SceneQuestions
from genmask.evaluation.metrics import IoUTotals
from genmask.loading import load_model
from genmask.pipeline import GenMaskPipeline

ROWS = ("question", "description", "right description")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument(
        "--describer", type=Path, help="model/ folder of another describer than the model's own"
    )
    parser.add_argument("--photos", type=Path, help="ask about the photographs in this folder")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the stream of drawn scenes")
    parser.add_argument(
        "--no-masks", action="store_true", help="count right descriptions alone: many times faster"
    )
    parser.add_argument("--json", type=Path, help="write a line for each sample")
    arguments = parser.parse_args()

    pipe = GenMaskPipeline.from_pretrained(arguments.model)
    if arguments.describer is not None:
        describer = load_model(Qwen2_5_VLForConditionalGeneration, arguments.describer, dtype=torch.float32)
        pipe.register_modules(describer=describer)
    source = (
        SceneQuestions("val", seed=arguments.seed, length=arguments.samples)
        if arguments.photos is None
        else PhotographQuestions(arguments.photos, "val")
    )
    count = min(arguments.samples, len(source))
    totals: dict[tuple[str, str], IoUTotals] = defaultdict(IoUTotals)
    rows = () if arguments.no_masks else ROWS
    exact: dict[str, list[bool]] = defaultdict(list)
    lines: list[dict[str, Any]] = []
    for index in track(
        np.linspace(0, len(source) - 1, count).astype(int).tolist(), console=Console(stderr=True)
    ):
        example, right = source[index], source.answer(index)
        assert example.mask is not None
        description = pipe.describe(example.image, example.text)
        found: Any = []
        if not arguments.no_masks:
            found = pipe.segment(example.image, [example.text, description.target, right])
        for kind in ("all", example.kind):
            exact[kind].append(description.target == right)
            for row, segmentation in zip(rows, found, strict=True):
                totals[kind, row].add(segmentation.mask, example.mask)
        lines.append(
            {
                "id": example.id,
                "kind": example.kind,
                "text": example.text,
                "description": description.target,
                "right": right,
                "fallback": description.is_fallback,
            }
        )
    columns = (f"{count} questions", "samples", "described exactly", *(f"gIoU, {row}" for row in rows))
    print(f"| {' | '.join(columns)} |\n" + "|---" * len(columns) + "|")
    for kind, hits in exact.items():
        low, high = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
        cells = [kind, str(len(hits)), f"{np.mean(hits):.1%} [{low:.1%}, {high:.1%}]"]
        for row in rows:
            low, high = totals[kind, row].mean_iou_interval()
            cells.append(f"{totals[kind, row].mean_iou():.3f} [{low:.3f}, {high:.3f}]")
        print(f"| {' | '.join(cells)} |")
    print(f"fallbacks: {sum(line['fallback'] for line in lines)}")
    if arguments.json is not None:
        arguments.json.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
