"""Segment the example pictures, and compare with the known answers: a table, the masks, and one montage to look at.

python examples/demo.py [--model tiny] [--examples examples] [--output output/demo]
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from genmask import GenMaskPipeline, Segmentation
from genmask.atomic import save_png
from genmask.evaluation.metrics import IoUTotals
from genmask.images import open_image

TILE = 256
"""Side of a picture in the montage, in pixels."""


def main(argv: list[str] | None = None) -> int:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="a folder, a bundled model or a hub id")
    parser.add_argument("--examples", type=Path, default=here, help="folder with examples.json")
    parser.add_argument("--output", type=Path, default=here.parent / "output" / "demo")
    options = parser.parse_args(argv)
    try:
        run(options.model, options.examples, options.output)
    except (ValueError, OSError) as error:
        print("demo:", error, file=sys.stderr)
        return 2
    return 0


def run(model: str, folder: Path, output: Path) -> None:
    """Segment every example of `folder` and write the results to `output`."""
    examples = json.loads((folder / "examples.json").read_text())
    start = time.perf_counter()
    pipeline = GenMaskPipeline.from_pretrained(model)
    console = Console()
    console.print(f"Model {model!r}, loaded in {time.perf_counter() - start:.1f} s.")

    table = Table("picture", "sentence", "IoU", "seconds", "file")
    for column in table.columns:
        column.overflow = "fold"  # a narrow terminal breaks names, but hides none
    totals = IoUTotals()
    triples = []
    for example in examples:
        path, sentence = folder / example["image"], example["text"]
        with Image.open(folder / example["mask"]) as image:
            target = np.asarray(image.convert("L")) > 127
        start = time.perf_counter()
        result = pipeline.segment(path, sentence)
        assert isinstance(result, Segmentation)
        seconds = time.perf_counter() - start
        totals.add(result.mask, target)
        files = result.save(output, stem=path.stem)
        asked = sentence if target.any() else f"{sentence} (absent)"
        table.add_row(
            example["image"], asked, f"{totals.ious()[-1]:.2f}", f"{seconds:.2f}", files.overlay.name
        )
        known = Segmentation(
            image=result.image, text=sentence, target=sentence, soft_mask=target.astype(np.float32)
        )
        triples.append([open_image(path), known.overlay(), result.overlay()])
    console.print(table)
    save_png(montage(triples), output / "montage.png")
    console.print(
        f"Mean IoU {totals.mean_iou():.2f}, oIoU {totals.overall_iou():.2f} over {totals.num_samples} examples.\n"
        f"Masks, overlays and JSON are in {output}\n"
        f"To look at (picture | known answer | given answer): {output / 'montage.png'}"
    )


def montage(triples: list[list[Image.Image]]) -> Image.Image:
    """Triples of pictures on one sheet, two triples to a row, each picture fitted into a tile."""
    sheet = Image.new("RGB", (TILE * 6, TILE * math.ceil(len(triples) / 2)), "white")
    for i, picture in enumerate(itertools.chain.from_iterable(triples)):
        tile = ImageOps.pad(picture, (TILE, TILE), color="white")
        sheet.paste(tile, (TILE * (i % 6), TILE * (i // 6)))
    return sheet


if __name__ == "__main__":
    sys.exit(main())
