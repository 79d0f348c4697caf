"""What the sources of captioned pictures share: pictures from bytes, clean captions, and what is left out and why."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from io import BytesIO
from typing import Literal, get_args

import numpy as np
from PIL import Image

from genmask.images import FORMATS, ImageError, open_image

logger = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]
"""What a damaged sample does: stop with one line that names it, or be left out, counted and logged."""
MAX_FILE_BYTES = 256_000_000
"""Largest picture or caption file that is taken out of an archive, by the size the archive states."""
LOGGED_SKIPS = 10
"""Skipped samples that are named in the log; later ones are only counted."""


class CaptionError(ValueError):
    """A sample that cannot be used: `reason` is the few words it is counted under, the message one full line."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Skips:
    """Keeps the count of what is left out; decides whether a damaged sample stops everything.

    Raises:
        ValueError: `on_error` is neither "raise" nor "skip".
    """

    def __init__(self, on_error: OnError) -> None:
        if on_error not in get_args(OnError):
            raise ValueError(f"Got on_error {on_error!r}, expected one of {', '.join(get_args(OnError))}.")
        self.on_error = on_error
        self.counts: Counter[str] = Counter()

    def meet(self, error: CaptionError) -> None:
        """Raise the error, or count and log it."""
        if self.on_error == "raise":
            raise error
        self.counts[error.reason] += 1
        total = self.counts.total()
        if total <= LOGGED_SKIPS:
            further = " (further ones are counted only)" if total == LOGGED_SKIPS else ""
            logger.warning("Skipped a sample: %s%s", error, further)

    def __str__(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in sorted(self.counts.items())) or "nothing"


def decode_picture(content: bytes, name: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB from an encoded picture; the limits are those of `open_image`.

    Raises:
        CaptionError: the bytes are no picture, or one that is damaged or out of limits; `name` says whose.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `open_image` has the limit
            image = Image.open(BytesIO(content), formats=FORMATS)
        return np.asarray(open_image(image))
    except ImageError as error:
        raise CaptionError("damaged picture", f"In {name}: {error}") from error
    except Exception as error:  # a hostile header makes Pillow's plugins raise nearly anything
        raise CaptionError(
            "damaged picture",
            f"Got {len(content)} bytes that are no picture in {name}, expected one of {', '.join(FORMATS)}: "
            "fetch it again.",
        ) from error


def clean_caption(text: str) -> str:
    """One line, single spaces, no commas or blanks at either end; empty where nothing else was in it."""
    return " ".join(text.split()).strip(" ,")
