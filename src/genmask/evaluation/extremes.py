"""The samples that a system answered worst and best, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import numpy as np
from PIL import Image, ImageDraw

from genmask.atomic import save_png
from genmask.evaluation.evaluate import Answer, Examples, Record
from genmask.segmentation import Segmentation

SIDE, COLUMNS, LINES = 192, 3, 44
"""Of a picture on the sheet, in pixels; pairs side by side; the height of the words below."""


def draw_extremes(
    records: Sequence[Record],
    examples: Examples,
    answer: Answer,
    folder: Path,
    count: int,
) -> None:
    """Write `worst.png` and `best.png`: of `count` samples each the answer, the right mask and the words."""
    by_iou = sorted(range(len(records)), key=lambda row: _iou(records[row]))
    named = [row for row in by_iou if records[row].answer["native"].target]
    for name, rows in (("worst", by_iou[:count]), ("best", named[::-1][:count])):
        save_png(_sheet([records[row] for row in rows], examples, answer), folder / f"{name}.png")


def _iou(record: Record) -> float:
    intersection, prediction, target = record.answer["native"]
    union = prediction + target - intersection
    return intersection / union if union else 1.0


def _sheet(records: Sequence[Record], examples: Examples, answer: Answer) -> Image.Image:
    width, height = 2 * SIDE + 8, SIDE + LINES
    sheet = Image.new("RGB", (COLUMNS * width, max(1, -(-len(records) // COLUMNS)) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for number, record in enumerate(records):
        example = examples[record.index]
        (answered,) = answer([example])
        left, top = number % COLUMNS * width, number // COLUMNS * height
        assert example.mask is not None
        answer_mask = answered.mask if isinstance(answered, Segmentation) else answered
        for column, mask in enumerate((answer_mask, example.mask)):
            shown = Segmentation(
                image=Image.fromarray(example.image),
                text=example.text,
                target=example.text,
                soft_mask=mask.astype(np.float32),
            ).overlay()
            shown.thumbnail((SIDE, SIDE))
            sheet.paste(shown, (left + column * SIDE, top))
        words = wrap(f"IoU {_iou(record):.2f}  {example.text}", 2 * SIDE // 6)[:3]
        pen.text((left + 2, top + SIDE), "\n".join(words), fill="black")
    return sheet
