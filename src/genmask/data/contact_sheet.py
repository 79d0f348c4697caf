"""A page of examples, to see at a glance whether pictures, masks and words belong together."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from genmask.atomic import save_png
from genmask.data.example import Example
from genmask.data.mixture import Sized

COLUMNS = 6
TILE = 240
"""Side of the square that a picture is fitted into, in pixels."""
TEXT_LINES = 3
LINE_HEIGHT = 16
CELL = (TILE + 8, TILE + TEXT_LINES * LINE_HEIGHT + 8)
"""Width and height of a picture with its words and the space around, in pixels."""
MASK_COLOUR = (255, 40, 40)
IGNORE_COLOUR = (60, 120, 255)


def contact_sheet(examples: Sized, path: str | Path, *, count: int = 24) -> None:
    """Write a PNG of up to `count` examples, evenly spread from the first to the last.

    The mask is tinted red, ignored pixels blue; the words stand underneath ("absent: " before those of an empty
    mask, "caption: " before a caption). The file appears whole or not at all.

    Raises:
        ValueError: no examples, a count below 1, a path that does not end in .png, or an example that cannot
            be read.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"Got {path} for a contact sheet, expected a name that ends in .png.")
    if len(examples) == 0 or count < 1:
        raise ValueError(f"Got {len(examples)} examples and count {count}, expected at least one of each.")
    chosen = np.linspace(0, len(examples) - 1, min(count, len(examples))).round().astype(int).tolist()
    columns = min(COLUMNS, len(chosen))
    sheet = Image.new("RGB", (columns * CELL[0], -(-len(chosen) // columns) * CELL[1]), "white")
    for place, index in enumerate(chosen):
        row, column = divmod(place, columns)
        sheet.paste(_cell(examples[index]), (column * CELL[0], row * CELL[1]))
    save_png(sheet, path)


def _cell(example: Example) -> Image.Image:
    cell = Image.new("RGB", CELL, "white")
    cell.paste(_tinted(example), (4, 4))
    if example.mask is None:
        words = f"caption: {example.text}"
    else:
        words = example.text if example.mask.any() else f"absent: {example.text}"
    draw, font = ImageDraw.Draw(cell), ImageFont.load_default(size=12)
    lines = textwrap.wrap(words, width=36, max_lines=TEXT_LINES, placeholder=" ...")
    for number, line in enumerate(lines):
        draw.text((4, TILE + 6 + number * LINE_HEIGHT), line, fill="black", font=font)
    return cell


def _tinted(example: Example) -> Image.Image:
    picture = Image.fromarray(example.image)
    picture.thumbnail((TILE, TILE))
    for plane, colour in ((example.ignore, IGNORE_COLOUR), (example.mask, MASK_COLOUR)):
        if plane is not None:
            half = Image.fromarray(plane.astype(np.uint8) * 128).resize(picture.size, Image.Resampling.BOX)
            picture.paste(colour, mask=half)
    return picture
