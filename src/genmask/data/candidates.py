"""What a user's own folder says it holds, in any of three layouts, without stopping at what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genmask.data import coco, coco_folder, folder, labelme
from genmask.data.example import Example
from genmask.data.mixture import Sized


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong."""

    kind: str
    """A key of `check.STOPS`."""
    where: str
    """File, and line, picture or class in it."""
    message: str
    """One line."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An example whose description makes sense; whether it can be read is found out by reading it."""

    where: str
    source: Sized
    index: int
    picture: Path | None
    """None where the picture has no file of its own."""
    mask: Path | None
    """None where the mask has no file of its own, or there is none."""
    is_absent: bool = False
    """The target is said not to be in the picture."""

    def load(self) -> Example:
        return self.source[self.index]


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """All of a folder."""

    layout: str
    """ "captions.jsonl", "COCO" or "LabelMe"."""
    rows: int
    """Lines of `captions.jsonl`, else pairs of picture and class in files that make sense; read or not."""
    candidates: list[Candidate]
    problems: list[Problem]


def find_candidates(root: Path, images: Path | None = None) -> Candidates:
    """Arguments and errors are those of `check.check_folder`."""
    if (root / "captions.jsonl").is_file():
        return _from_rows(root)
    for path in (
        [root] if root.is_file() else [*sorted(root.glob("*.json")), *root.glob("annotations/*.json")]
    ):
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError):
            continue  # another file will tell the layout, and then this one is a problem
        if isinstance(content, dict) and "annotations" in content and "images" in content:
            return _from_coco(path, images or path.parent)
        if isinstance(content, dict) and "shapes" in content and root.is_dir():
            return _from_labelme(root)
    raise ValueError(f"Got {root}, expected {folder.LAYOUT}; or {coco.LAYOUT}; or {labelme.LAYOUT}.")


class _Rows(folder.Folder):
    """The good rows of a folder that has others, too."""

    def __init__(self, root: Path, rows: list[folder.Row]) -> None:
        self.root, self.rows = root, rows


def _from_rows(root: Path) -> Candidates:
    path = root / "captions.jsonl"
    problems: list[Problem] = []
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        problems.append(Problem(kind="malformed file", where=str(path), message=f"Not UTF-8 ({error})."))
        text = content.decode("utf-8", errors="replace")
    lines = [(f"{path}, line {n}", line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    rows: list[folder.Row] = []
    places = []
    for where, line in lines:
        try:
            rows.append(folder.parse_row(root, line, where))
            places.append(where)
        except (
            ValueError,
            OSError,
            RecursionError,
        ) as error:  # the last two: a name too long, brackets too deep
            missing = [
                Problem(kind="missing file", where=where, message=f"No {file} for the {name}.")
                for name, file in _missing_files(root, line)
            ]
            problems += missing
            if not (missing and str(error).startswith("Got no file")):  # a row may be wrong in both ways
                problems.append(
                    Problem(kind="malformed row", where=where, message=" ".join(str(error).split()))
                )
    source = _Rows(root, rows)
    candidates = [
        Candidate(
            where=where,
            source=source,
            index=index,
            picture=row.image,
            mask=row.mask,
            is_absent=row.mask is None and not row.is_caption,
        )
        for index, (where, row) in enumerate(zip(places, rows, strict=True))
    ]
    return Candidates(layout="captions.jsonl", rows=len(lines), candidates=candidates, problems=problems)


def _missing_files(root: Path, line: str) -> Iterator[tuple[str, Path]]:
    try:
        fields: Any = json.loads(line)
    except (ValueError, RecursionError):
        return
    for name in ("image", "mask", "ignore") if isinstance(fields, dict) else ():
        value = fields.get(name)
        if isinstance(value, str) and value.strip() and not _is_file(root / value):
            yield name, root / value


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _from_coco(path: Path, images: Path) -> Candidates:
    problems: list[Problem] = []
    candidates: list[Candidate] = []
    rows = 0
    try:
        for image in coco.read_instances(path).images.values():
            if not (images / image.file_name).is_file():
                message = f"No {images / image.file_name} for the image {image.id}."
                problems.append(Problem(kind="missing file", where=str(path), message=message))
        source = coco_folder.CocoFolder(path, images, skip_missing=True)
    except ValueError as error:
        if not problems:  # else: all pictures are missing, which has been said
            problems.append(Problem(kind="malformed file", where=str(path), message=str(error)))
    else:
        rows = len(source) + source.skipped
        candidates = [
            Candidate(
                where=f"{path}, image {image_id}, {name!r}",
                source=source,
                index=index,
                picture=images / source.images[image_id].file_name,
                mask=None,
            )
            for index, (image_id, name) in enumerate(source.pairs)
        ]
    return Candidates(layout="COCO", rows=rows, candidates=candidates, problems=problems)


class _OneFile(labelme.LabelMe):
    """The labels of one of LabelMe's files, so that others need not be right."""

    def __init__(self, path: Path) -> None:
        self.root = path.parent
        record, self.skipped = labelme.read_record(path)
        self.records = [record]
        labels = dict.fromkeys(shape.label for shape in record.shapes)
        hidden = (labelme.IGNORED_LABEL, labelme.BACKGROUND_LABEL)
        self.pairs = [(0, label) for label in labels if label not in hidden]


def _from_labelme(root: Path) -> Candidates:
    problems: list[Problem] = []
    candidates: list[Candidate] = []
    for path in sorted(root.glob("*.json")):
        try:
            source = _OneFile(path)
        except ValueError as error:
            kind = "missing file" if str(error).startswith("Got no file") else "malformed file"
            problems.append(Problem(kind=kind, where=str(path), message=str(error)))
            continue
        candidates += [
            Candidate(
                where=f"{path}, {label!r}",
                source=source,
                index=index,
                picture=source.records[0].image,
                mask=None,
            )
            for index, (_, label) in enumerate(source.pairs)
        ]
    return Candidates(layout="LabelMe", rows=len(candidates), candidates=candidates, problems=problems)
