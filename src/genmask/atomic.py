"""Files that appear whole or not at all: written beside their place first, then renamed into it."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of `path` in the end, unless an error ends it."""
    partial = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with partial.open("wb") as file:
            yield file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes | str) -> None:
    """Write a file in one step; text as UTF-8."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def save_json(document: Any, path: Path, indent: int | None = 2) -> None:
    """Write UTF-8 JSON in one step."""
    replace_file(path, json.dumps(document, indent=indent, ensure_ascii=False) + "\n")


def save_png(image: Image.Image, path: Path, info: PngInfo | None = None) -> None:
    """Write a picture without loss and in one step; `info` holds its text chunks."""
    buffer = BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    replace_file(path, buffer.getvalue())
