"""Writing on pictures: a numbered tag on every labelled part, and a legend that says what the numbers are."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from genmask.instances import Box, Instance, find_instances

Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
PAPER, INK = (255, 255, 255), (20, 20, 20)
FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "arialuni.ttf", "msyh.ttc")
"""Asked for, where they are installed, if Pillow's own font lacks a character."""
MIN_TYPE = 15
"""Height of the smallest type, in pixels."""
MIN_COLUMN = 24
"""Width of the legend at least, in heights of type, however narrow the picture."""
MAX_TAGS = 12
"""Of one label: a flock needs no number on every bird."""
MIN_TAGGED = 0.002
"""Share of the picture below which only a label's largest part has a tag."""


def type_size(size: tuple[int, int]) -> int:
    """Height of type in pixels for a picture of (width, height)."""
    return max(MIN_TYPE, round(math.sqrt(size[0] * size[1]) / 40))


def draw_tags(picture: Image.Image, labels: np.ndarray, colors: Sequence[Color]) -> Image.Image:
    """Each label's number on its parts, or beside those that a tag would hide.

    Args:
        picture: RGB, W x H.
        labels: (H, W) integers; i + 1 where something has `colors[i]`.
        colors: RGB, 0 to 255.
    """
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    height = type_size(picture.size)
    font = ImageFont.load_default(height)
    taken: list[Box] = []
    for number, color in enumerate(colors, 1):
        mask = labels == number
        parts = find_instances(mask, mask.astype(np.float32))
        shown = [part for part in parts[1:MAX_TAGS] if part.area >= MIN_TAGGED * mask.size]
        for part in [*parts[:1], *shown]:
            size = (round(font.getlength(str(number)) + 0.7 * height), round(1.3 * height))
            places = list(_places(part, size, picture.size))
            place = next(
                (place for place in places if not any(_overlap(place, other) for other in taken)), None
            )
            if place is None and part is not parts[0]:
                continue
            place = place or places[0]
            taken.append(place)
            _draw_tag(draw, place, str(number), color, font)
    return picture


def add_legend(picture: Image.Image, entries: Sequence[str], colors: Sequence[Color]) -> Image.Image:
    """The picture with a legend below: for each entry a numbered tag and its text, broken where it is too long.

    It is set in as many columns as the longest entry allows.
    """
    height = type_size(picture.size)
    gap, line, tag_height = height // 2, round(1.6 * height), round(1.3 * height)
    number_font = ImageFont.load_default(height)
    tag_width = round(number_font.getlength(str(len(entries))) + 0.7 * height)
    indent = tag_width + 2 * gap
    width = max(picture.width, MIN_COLUMN * height)
    fonts = [_font(entry, height) for entry in entries]
    longest = max(font.getlength(entry) for font, entry in zip(fonts, entries, strict=True))
    columns = max(1, int((width - gap) // (indent + longest + 2 * gap)))
    rows = -(-len(entries) // columns)
    text_width = (width - gap) // columns - indent - gap
    written = [_wrap(entry, font, text_width) for entry, font in zip(entries, fonts, strict=True)]
    total = line * (rows if columns > 1 else sum(map(len, written)))
    page = Image.new("RGB", (width, picture.height + total + 2 * gap), PAPER)
    page.paste(picture)
    draw = ImageDraw.Draw(page)
    top = picture.height + gap
    for index, (font, lines, color) in enumerate(zip(fonts, written, colors, strict=True)):
        column, row = divmod(index, rows)
        left = gap + column * (width - gap) // columns
        top = picture.height + gap if row == 0 else top
        tag_top = top + (line - tag_height) // 2
        tag = (left, tag_top, left + tag_width, tag_top + tag_height)
        _draw_tag(draw, tag, str(index + 1), color, number_font)
        for text in lines:
            draw.text((left + tag_width + gap, top + line / 2), text, INK, font, anchor="lm")
            top += line
    return page


def _draw_tag(draw: ImageDraw.ImageDraw, box: Box, text: str, color: Color, font: Font) -> None:
    """Text on its colour, with a white rim inside a black one: it shows on any picture."""
    left, top, right, bottom = box
    rim = max(1, (bottom - top) // 16)
    outer = (left - rim, top - rim, right + rim - 1, bottom + rim - 1)
    draw.rounded_rectangle(outer, 5 * rim, (0, 0, 0))
    draw.rounded_rectangle((left, top, right - 1, bottom - 1), 4 * rim, (255, 255, 255))
    inner = (left + rim, top + rim, right - rim - 1, bottom - rim - 1)
    draw.rounded_rectangle(inner, 3 * rim, color)
    ink = (0, 0, 0) if _luminance(color) > 0.18 else (255, 255, 255)  # where both contrasts are equal
    draw.text(((left + right) / 2, (top + bottom) / 2), text, ink, font, anchor="mm")


def _places(part: Instance, size: tuple[int, int], picture: tuple[int, int]) -> Iterator[Box]:
    """Where a tag may go, best first: on the part where that is widest, unless it is too small; then around it."""
    width, height = size
    left, top, right, bottom = part.box
    x, y, reach = _widest_point(part)
    gap = height // 4
    centres = [
        ((left + right) / 2, top - height / 2 - gap),
        ((left + right) / 2, bottom + height / 2 + gap),
        (right + width / 2 + gap, (top + bottom) / 2),
        (left - width / 2 - gap, (top + bottom) / 2),
    ]
    centres.insert(0 if reach >= 0.75 * max(size) else len(centres), (x, y))
    for centre_x, centre_y in centres:
        fitted_x = min(max(round(centre_x - width / 2), 0), max(picture[0] - width, 0))
        fitted_y = min(max(round(centre_y - height / 2), 0), max(picture[1] - height, 0))
        yield fitted_x, fitted_y, fitted_x + width, fitted_y + height


def _widest_point(part: Instance) -> tuple[int, int, float]:
    """(x, y) farthest inside of a part, and its distance to the edge, in pixels."""
    stride = max(1, max(part.crop.shape) // 256)  # precise enough to write on, and quick for any size
    depth = ndimage.distance_transform_edt(np.pad(part.crop[::stride, ::stride], 1))
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    left, top, _, _ = part.box
    return left + int(column - 1) * stride, top + int(row - 1) * stride, float(depth.max()) * stride


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _luminance(color: Color) -> float:
    """Relative, in [0, 1], as in WCAG."""
    levels = np.array(color) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def _font(text: str, height: int) -> Font:
    """The first of Pillow's own font and `FONTS` that has every character; Pillow's own if none does."""
    fonts = (_load_font(name, height) for name in ("", *FONTS))
    able = (font for font in fonts if font and all(_has(font, character) for character in set(text)))
    return next(able, ImageFont.load_default(height))


@cache
def _load_font(name: str, height: int) -> Font | None:
    """Pillow's own for no name; None if it is not installed."""
    try:
        return ImageFont.truetype(name, height) if name else ImageFont.load_default(height)
    except OSError:
        return None


@lru_cache(4096)
def _has(font: Font, character: str) -> bool:
    """Whether a character is not drawn as the box that stands for all missing ones."""
    return character.isspace() or bytes(font.getmask(character)) != bytes(font.getmask("\U0010ffff"))


def _wrap(text: str, font: Font, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken between words, and within a word that is longer."""
    lines = [""]
    for word in re.findall(r"\S+\s*", text):
        if lines[-1] and font.getlength(lines[-1] + word.rstrip()) > width:
            lines.append("")
        for character in word:
            if lines[-1] and not character.isspace() and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines
