"""Folders and names of what a command writes."""

from __future__ import annotations

import itertools
import json
import tempfile
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def prepare_output(folder: Path) -> None:
    """Make the folder and try it: what cannot be written is refused before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"Got output {str(folder)!r}, which cannot be written to ({error.strerror}), expected a folder that "
            "can be: name another with --output."
        ) from error


def unique_stem(taken: set[str], *parts: str) -> str:
    """A file name without ending, made of sentences and unlike those taken; it joins them."""
    from genmask.segmentation import file_stem

    # 200 bytes: with an ending it fits the 255 that file systems allow, in any script.
    base = "-".join(file_stem(part) for part in parts).encode()[:200].decode(errors="ignore")
    stem = next(stem for n in itertools.count(1) if (stem := base if n == 1 else f"{base}-{n}") not in taken)
    taken.add(stem)
    return stem


def print_json(head: dict[str, str], **lists: Iterable[Any]) -> None:
    """One JSON document on stdout, whose lists may be longer than memory."""
    print("{")
    pairs = (f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items())
    print(",\n".join(pairs), end="")
    for name, items in lists.items():
        print(f",\n  {json.dumps(name)}: [", end="")
        for number, item in enumerate(items):
            text = json.dumps(item, indent=2, ensure_ascii=False)
            print(",\n" if number else "\n", textwrap.indent(text, "    "), sep="", end="")
        print("\n  ]", end="")
    print("\n}")
