"""A contact sheet of the drawn scenes, to look at: python benchmarks/scene_sheet.py --output sheet.png"""

from __future__ import annotations

import argparse
from pathlib import Path
from textwrap import wrap

import numpy as np
from PIL import Image, ImageDraw

from genmask.data.scenes import Scenes

CAPTION_HEIGHT = 40


def contact_sheet(scenes: Scenes, columns: int, rows: int) -> Image.Image:
    """Pairs of picture and picture with the target in relief, each pair above its sentence."""
    height, width = scenes.size
    sheet = Image.new("RGB", (columns * (2 * width + 8), rows * (height + CAPTION_HEIGHT)), "white")
    pen = ImageDraw.Draw(sheet)
    for k in range(columns * rows):
        example = scenes[k * scenes.EXPRESSIONS_PER_SCENE + k % scenes.EXPRESSIONS_PER_SCENE]
        assert example.mask is not None
        left, top = k % columns * (2 * width + 8), k // columns * (height + CAPTION_HEIGHT)
        shown = np.where(example.mask[..., None], example.image, example.image // 4)
        sheet.paste(Image.fromarray(example.image), (left, top))
        sheet.paste(Image.fromarray(shown), (left + width, top))
        lines = [f"{example.kind}:", *wrap(example.text, 2 * width // 6)]
        pen.text((left + 2, top + height), "\n".join(lines), fill="black")
    return sheet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("sheet.png"))
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--columns", type=int, default=5)
    parser.add_argument("--rows", type=int, default=8)
    arguments = parser.parse_args()
    scenes = Scenes("val", size=arguments.size, seed=arguments.seed)
    contact_sheet(scenes, arguments.columns, arguments.rows).save(arguments.output)
