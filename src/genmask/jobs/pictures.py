"""What a job is asked: pictures found in folders, or named in a list of pairs, each with its texts and a name for its
answers."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
)
"""Endings, in small letters, of the files in a folder that are taken for pictures."""
RESERVED = frozenset(("results", "classes"))
"""Names of files that belong to the whole job: results.coco.json, classes.txt."""
JOB_FOLDER = ".genmask"
"""In an output folder, says which pictures are done."""
MAX_STEM_BYTES = 120
"""Of a picture's name: with a text and an ending it stays below the 255 that file systems allow."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture and all that is asked of it."""

    path: Path
    """Absolute, so that every worker finds it."""
    name: str
    """What results call it: its path below the folder that was given, or as a pair names it."""
    stem: str
    """Below the output folder, without ending and with forward slashes, "a/1"; no two pictures share one."""
    texts: tuple[str, ...]


def find_pictures(paths: Sequence[Path], texts: Sequence[str], *, output: Path) -> list[Picture]:
    """Every picture in folders, at any depth, and in files; each once, each with every text.

    Hidden files and folders, output folders, and files of other endings than `SUFFIXES` are left out of a folder.
    Names are relative to the folder or, where several paths are given, to the folder that they have in common.

    Args:
        paths: folders and picture files.
        texts: what to find in each picture.
        output: where answers go.

    Returns:
        In the order of the paths; within a folder by name, files before folders.

    Raises:
        ValueError: a folder without a picture, or one that is the output folder itself.
    """
    given = [Path(os.path.abspath(path)) for path in paths]
    output = Path(os.path.abspath(output))
    root = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in given]))
    found: dict[Path, None] = {}
    for path, named in zip(given, paths, strict=True):
        if not path.is_dir():
            found[path] = None
            continue
        if path == output:
            raise ValueError(
                f"Got the output folder {str(named)!r} as folder of pictures too, expected two different ones: name "
                "another with --output."
            )
        inside = list(_walk(path, output))
        if not inside:
            raise ValueError(
                f"Got the folder {str(named)!r}, which holds no picture, expected files such as "
                f"{', '.join(sorted(SUFFIXES)[:4])} in it or below it."
            )
        found.update(dict.fromkeys(inside))
    return _named([(path, path.relative_to(root).as_posix(), tuple(texts)) for path in found])


def read_pairs(file: Path) -> list[Picture]:
    """The pictures of a list of pairs: lines {"image": path relative to the file, "text": what to find}.

    All lines of a picture are one `Picture`, which stands where the first of them does; a line that repeats another is
    dropped.

    Raises:
        ValueError: the file cannot be read, holds no line, or a line is not as above (named by its number).
    """
    expected = '{"image": "mug.jpg", "text": "the red mug"}'
    texts: dict[str, dict[str, None]] = {}
    try:
        for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
            if not line.strip():
                continue
            image, text = _pair(line, f"line {number} of {file}, expected {expected}")
            texts.setdefault(image, {})[text] = None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ValueError(f"Cannot read {file} ({reason}), expected lines such as {expected}.") from error
    if not texts:
        raise ValueError(f"Got no line in {file}, expected lines such as {expected}.")
    folder = Path(os.path.abspath(file.parent))
    return _named([(folder / image, image, tuple(asked)) for image, asked in texts.items()])


def name_files(files: Sequence[Path], texts: Sequence[str]) -> list[Picture]:
    """Picture files that were named one by one, each with every text; results call them as they were named."""
    rows = [(Path(os.path.abspath(file)), str(file), tuple(texts)) for file in files]
    return _named(rows, keep_folders=False)


def _walk(folder: Path, output: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        folders[:] = sorted(
            name for name in folders if name[0] != "." and not _holds_answers(here / name, output)
        )
        for name in sorted(files):
            if name[0] != "." and Path(name).suffix.lower() in SUFFIXES:
                yield here / name


def _holds_answers(folder: Path, output: Path) -> bool:
    return folder == output or (folder / JOB_FOLDER).is_dir()


def _pair(line: str, where: str) -> tuple[str, str]:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Got no valid JSON in {where}.") from error
    image, text = (row.get(key) if isinstance(row, dict) else None for key in ("image", "text"))
    if not (isinstance(image, str) and image.strip() and isinstance(text, str) and text.strip()):
        raise ValueError(f"Got no image or no text in {where}.")
    return image, text


def _named(rows: Sequence[tuple[Path, str, tuple[str, ...]]], *, keep_folders: bool = True) -> list[Picture]:
    """Pictures from paths, names and texts; where two would share a stem, its ending tells them apart."""
    stems = [_stem(name, keep_folders) for _, name, _ in rows]
    shared = Counter(_folded(stem) for stem in stems)
    taken: set[str] = set()
    pictures = []
    for (path, name, texts), stem in zip(rows, stems, strict=True):
        if shared[_folded(stem)] > 1 or stem.name in RESERVED:
            stem = stem.with_name(f"{stem.name}-{path.suffix[1:].lower() or 'file'}")
        unique = next(name for name in _numbered(stem) if _folded(name) not in taken)
        taken.add(_folded(unique))
        pictures.append(Picture(path=path, name=name, stem=unique.as_posix(), texts=texts))
    return pictures


def _stem(name: str, keep_folders: bool) -> PurePosixPath:
    """Where answers go: inside the output folder, however the picture was named, and never to a hidden file."""
    path = Path(name)
    # 'surrogateescape' and 'ignore': a name that is no UTF-8, or cut within a letter, is still a name.
    short = path.stem.encode(errors="surrogateescape")[:MAX_STEM_BYTES].decode(errors="ignore")
    folders: Iterable[str] = path.parent.relative_to(path.anchor).parts if keep_folders else ()
    return PurePosixPath(*(part.lstrip(".") for part in folders), short.lstrip(".") or "picture")


def _folded(stem: PurePosixPath) -> str:
    """As file systems compare that take capitals for small letters."""
    return str(stem).casefold()


def _numbered(stem: PurePosixPath) -> Iterator[PurePosixPath]:
    yield stem
    number = 2
    while True:
        yield stem.with_name(f"{stem.name}-{number}")
        number += 1
