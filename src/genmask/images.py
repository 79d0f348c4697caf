"""Opening a picture, whatever it is: eight-bit RGB, upright, or one clear line that says what is wrong with
it."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Formats that are read: plain raster formats, none that Pillow hands to an outside program (EPS, SVG)."""
MAX_PIXELS = 100_000_000
"""Largest picture that is decoded, in pixels; read from the header, before any memory is taken."""
MAX_ASPECT = 50
"""Longest side over shortest side: what is thinner has no sensible processing size."""

QUARTER_TURNS = (5, 6, 7, 8)
"""Values of EXIF's orientation by which height and width change places."""

ImageSource = str | Path | Image.Image | np.ndarray


class ImageError(ValueError):
    """A picture that cannot be used; the message is one line: what was given, what was expected, what to
    do."""


def open_image(source: ImageSource) -> Image.Image:
    """Read a picture as RGB.

    Args:
        source: a path, a PIL image (whose present frame is taken) or an `(H, W, 3)` uint8 RGB array.

    Returns:
        A loaded RGB image. EXIF rotation is applied; transparency is composited on white; of an animation
        the first frame is taken; 16-bit grey is scaled (not clipped) to 8 bits.

    Raises:
        ImageError: missing, a folder, unreadable, truncated, zero-sized, over `MAX_PIXELS`, thinner than
            `MAX_ASPECT`, or an array that is not `(H, W, 3)` uint8.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _to_rgb(source, f"the given {source.mode} image")
    if not isinstance(source, str | Path):
        raise ImageError(
            f"Got {type(source).__name__} for a picture, expected a path, a PIL image or an (H, W, 3) uint8 "
            "array."
        )
    name = repr(str(source))
    path = _existing_file(source, name)
    try:
        with warnings.catch_warnings():
            # Pillow's own bomb limits are replaced by ours, which is stated and checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(_too_large(name, "more than 170 megapixels")) from error
    except PermissionError as error:
        raise ImageError(f"Got {name}, which may not be read: change its permissions.") from error
    except Exception as error:  # a hostile header makes Pillow's plugins raise nearly anything
        raise ImageError(
            f"Got {name}, which cannot be read as a picture, expected one of {', '.join(FORMATS)}: "
            "convert it first."
        ) from error
    with image:
        return _to_rgb(image, name)


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture as `open_image` would turn it, from its header alone.

    Raises:
        ImageError: missing, or no picture.
    """
    if not path.is_file():  # a pipe would be waited for
        raise ImageError(f"Got {str(path)!r}, which is no file, expected a picture.")
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            # Asked for what its header does not have, the reader of PNG decodes the picture to look behind it.
            knows = image.format != "PNG" or "exif" in image.info
            turn = image.getexif().get(ExifTags.Base.Orientation, 1) if knows else 1
            width, height = image.size
    except Exception as error:  # as in `open_image`
        raise ImageError(
            f"Cannot read the size of {path}, expected a picture ({', '.join(FORMATS)}): fetch it again."
        ) from error
    return (width, height) if turn in QUARTER_TURNS else (height, width)


def processing_size(height: int, width: int, area: int, multiple: int = 16) -> tuple[int, int]:
    """Size `(height, width)` at which a picture is processed.

    Both sides are multiples of `multiple` (at least one), their product is about `area` pixels and their
    ratio as near to the picture's as that allows; a very thin picture keeps the area rather than the ratio.
    """
    if min(height, width, area, multiple) < 1:
        raise ValueError(
            f"Got height {height}, width {width}, area {area}, multiple {multiple}, expected all at least 1."
        )
    short, long = sorted((height, width))
    exact_short = max(multiple, math.sqrt(area * short / long))
    exact_long = max(multiple, area / exact_short)

    def neighbours(side: float) -> tuple[int, int]:
        below = max(1, math.floor(side / multiple)) * multiple
        return below, below + multiple

    def error(size: tuple[int, int]) -> float:
        ratio = math.log(size[1] / size[0]) - math.log(exact_long / exact_short)
        return 2 * abs(ratio) + abs(math.log(size[0] * size[1] / area))  # so that a square stays one

    candidates = [(a, b) for a in neighbours(exact_short) for b in neighbours(exact_long) if a <= b]
    best_short, best_long = min(candidates, key=error)
    return (best_short, best_long) if height <= width else (best_long, best_short)


def resize_to_area(image: Image.Image, area: int, multiple: int = 16) -> Image.Image:
    """The picture at its `processing_size`, antialiased (Lanczos)."""
    height, width = processing_size(image.height, image.width, area, multiple)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _existing_file(source: str | Path, name: str) -> Path:
    path = Path(source)
    try:
        if path.is_dir():
            raise ImageError(f"Got {name}, which is a folder, expected a picture file: name the files in it.")
        if not path.exists():
            hint = "download it first" if "://" in str(source) else "check the path"
            raise ImageError(f"Got {name}, which does not exist, expected a picture file: {hint}.")
        if not path.is_file():
            raise ImageError(f"Got {name}, which is not a regular file, expected a picture file.")
        if path.stat().st_size == 0:
            raise ImageError(
                f"Got {name}, which is an empty file, expected a picture: fetch or save it again."
            )
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ImageError(
            f"Got {name}, which cannot be opened ({reason}), expected a picture file."
        ) from error
    return path


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        hint = ""
        if array.dtype.kind == "f":
            hint = ": turn values in [0, 1] into (255 * array).round().astype('uint8')"
        elif array.ndim == 3 and array.shape[0] == 3:
            hint = ": move the channels last, array.transpose(1, 2, 0)"
        raise ImageError(f"Got an array {array.shape} {array.dtype}, expected (H, W, 3) uint8 RGB{hint}.")
    _check_size(array.shape[1], array.shape[0], "the given array")
    return Image.fromarray(np.ascontiguousarray(array))


def _too_large(name: str, size: str) -> str:
    return (
        f"Got {name} of {size}, expected at most {MAX_PIXELS // 1_000_000} megapixels: make it smaller first."
    )


def _check_size(width: int, height: int, name: str) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"Got {name} of {width} x {height} pixels, expected at least 1 x 1.")
    if width * height > MAX_PIXELS:
        raise ImageError(_too_large(name, f"{width} x {height} pixels"))
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(
            f"Got {name} of {width} x {height} pixels, expected the long side at most {MAX_ASPECT} times the "
            "short one: crop it first."
        )


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    _check_size(image.width, image.height, name)
    try:
        image.load()
    except Exception as error:  # as above: whatever a plugin raises, the picture is broken
        raise ImageError(
            f"Got {name}, whose pixels are damaged or cut short, expected a whole picture: fetch or "
            "save it again."
        ) from error
    image = _upright(image)
    if image.mode.startswith("I"):
        return _from_sixteen_bit(image, name)
    if image.mode == "F":
        raise ImageError(
            f"Got {name} with float pixels, expected 8 or 16 bits: convert it to 8-bit RGB first."
        )
    if image.mode in ("La", "RGBa"):  # premultiplied alpha
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata does not spoil the pixels
        return image


def _from_sixteen_bit(image: Image.Image, name: str) -> Image.Image:
    """16-bit grey, which Pillow holds in its modes "I;16" and "I", scaled from 0-65535 to 0-255."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"Got {name} with 32-bit pixels, expected 8 or 16 bits: convert it to 8-bit RGB first."
        )
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
