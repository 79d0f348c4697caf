"""What a model answers and draws in the midst of its training, as pictures to look at."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from genmask.data.example import Example
from genmask.evaluation.metrics import Counts, count_pixels
from genmask.segmentation import Segmentation

HEADINGS = ("picture", "sentence", "target (hatched: not counted)", "soft mask", "answer")
COLUMNS = len(HEADINGS)
WIDTH, NARROWEST = 1000, 400
"""Of a grid, in pixels: unless told, and at least."""
MARGIN = 4
FONT_SIZE, LINE_HEIGHT, MOST_LINES = 13, 17, 12
"""Of words, in pixels and in lines; what is longer ends in dots."""
FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "arial.ttf", "msyh.ttc")
"""Looked for on the machine, for the words that Pillow's own font (ASCII alone) cannot spell."""
STRIPE, STRIPE_LEVELS = 4, (96, 176)
"""Of the hatching: width in pixels, and two greys."""


def segmentation_grid(
    examples: Sequence[Example], answers: Sequence[Segmentation], width: int = WIDTH
) -> Image.Image:
    """A row for each example: picture, sentence, target, soft mask with its confidence, overlay with its IoU.

    Pixels without a label are hatched in the target and left out of the IoU. Words say where the target is absent
    ("nothing there") and where the answer is empty ("nothing found"); both at once are right, and IoU 1.

    Args:
        examples: segmentation samples, in the order of the rows; with none, the headings stand alone.
        answers: one for each, at its picture's size.
        width: of the grid, in pixels.

    Returns:
        RGB, `width` wide, as high as it needs to be.

    Raises:
        ValueError: not one answer for each example, another size, or a width below 400.
    """
    if len(examples) != len(answers):
        raise ValueError(
            f"Got {len(examples)} examples and {len(answers)} answers, expected equally many: one for each."
        )
    cell = _cell_width(width)
    rows = [[_cell(cell, heading) for heading in HEADINGS]]
    for example, answer in zip(examples, answers, strict=True):
        assert example.mask is not None
        counts = count_pixels(answer.mask, example.mask, example.ignore)
        side = cell - 2 * MARGIN
        soft = Image.fromarray((answer.soft_mask * 255).round().astype(np.uint8))
        rows.append(
            [
                _cell(cell, picture=_fitted(Image.fromarray(example.image), side)),
                _cell(cell, example.text),
                _cell(cell, "" if counts.target else "nothing there", _target(example, side)),
                _cell(cell, f"confidence {answer.confidence:.2f}", _fitted(soft, side)),
                _cell(cell, _verdict(counts), _fitted(answer.overlay(), side)),
            ]
        )
    return stacked([_row(cells, width) for cells in rows])


def generation_grid(
    captions: Sequence[str], images: Sequence[Image.Image], width: int = WIDTH
) -> Image.Image:
    """Drawn pictures, five in a row, each above its caption.

    Args:
        captions: in any language; "" is the empty caption.
        images: one for each, in any mode and size.
        width: of the grid, in pixels.

    Returns:
        RGB, `width` wide, as high as it needs to be.

    Raises:
        ValueError: not one picture for each caption, or a width below 400.
    """
    if len(captions) != len(images):
        raise ValueError(
            f"Got {len(captions)} captions and {len(images)} pictures, expected equally many: one for each."
        )
    cell = _cell_width(width)
    cells = [
        _cell(cell, caption or "(no caption)", _fitted(image.convert("RGB"), cell - 2 * MARGIN))
        for caption, image in zip(captions, images, strict=True)
    ]
    rows = [_row(cells[start : start + COLUMNS], width) for start in range(0, len(cells), COLUMNS)]
    return stacked([_cell(width, "drawn from captions"), *rows])


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures below one another, on white, as wide as the widest; at least one."""
    size = max(picture.width for picture in pictures), sum(picture.height for picture in pictures)
    sheet, top = Image.new("RGB", size, "white"), 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return sheet


def _cell_width(width: int) -> int:
    if width < NARROWEST:
        raise ValueError(f"Got a grid {width} pixels wide, expected at least {NARROWEST}: give it more.")
    return width // COLUMNS


def _row(cells: Sequence[Image.Image], width: int) -> Image.Image:
    row = Image.new("RGB", (width, max(cell.height for cell in cells)), "white")
    for column, cell in enumerate(cells):
        row.paste(cell, (column * (width // COLUMNS), 0))
    return row


def _cell(width: int, words: str = "", picture: Image.Image | None = None) -> Image.Image:
    """A picture, if any, above words, if any, on white."""
    top = MARGIN if picture is None else picture.height + 2 * MARGIN
    font = _font(words)
    lines = _wrapped(words, font, width - 2 * MARGIN)
    cell = Image.new("RGB", (width, top + len(lines) * LINE_HEIGHT + MARGIN), "white")
    if picture is not None:
        cell.paste(picture, (MARGIN, MARGIN))
    pen = ImageDraw.Draw(cell)
    for number, line in enumerate(lines):
        pen.text((MARGIN, top + number * LINE_HEIGHT), line, fill="black", font=font)
    return cell


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    """Scaled, up or down, to the largest that fits a square; a mask keeps its sharp borders."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    sampling = Image.Resampling.LANCZOS if picture.mode == "RGB" else Image.Resampling.BOX
    return picture.resize(size, sampling)


def _target(example: Example, side: int) -> Image.Image:
    """White on black, hatched in grey where there is no label."""
    assert example.mask is not None
    picture = _fitted(Image.fromarray(example.mask.astype(np.uint8) * 255), side)
    if example.ignore is None:
        return picture
    ignored = _fitted(Image.fromarray(example.ignore.astype(np.uint8) * 255), side)
    # Drawn at the size that is shown, so that the stripes survive.
    rows, columns = np.indices((picture.height, picture.width))
    hatching = np.where((rows + columns) // STRIPE % 2, *STRIPE_LEVELS)
    return Image.fromarray(
        np.where(np.asarray(ignored) > 127, hatching, np.asarray(picture)).astype(np.uint8)
    )


def _verdict(counts: Counts) -> str:
    union = counts.prediction + counts.target - counts.intersection
    iou = counts.intersection / union if union else 1.0
    if not counts.prediction:
        return f"IoU {iou:.2f}, nothing found"
    return f"IoU {iou:.2f}" + ("" if counts.target else ", nothing is there")


def _wrapped(words: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Lines of at most `width` pixels; broken between words, or within one that is wider than a line."""
    lines: list[str] = []
    for word in words.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    if len(lines) <= MOST_LINES:
        return lines
    last = lines[MOST_LINES - 1]
    while font.getlength(f"{last} ...") > width:
        last = last[:-1]
    return [*lines[: MOST_LINES - 1], f"{last} ..."]


def _font(words: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The first font that can spell all of the words, or the most of them."""
    letters = set(words)
    return min(_fonts(), key=lambda font: sum(_lacks(font, letter) for letter in letters))


@cache
def _fonts() -> list[ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    fonts = [ImageFont.load_default(size=FONT_SIZE)]
    for name in FONTS:
        with suppress(OSError):
            fonts.append(ImageFont.truetype(name, FONT_SIZE))
    return fonts


@cache
def _lacks(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, letter: str) -> bool:
    """The font shows a letter as it shows those that no font has."""
    return bytes(font.getmask(letter)) == bytes(font.getmask("\U0010ffff"))
