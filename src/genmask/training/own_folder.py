"""A folder of your own to train on: which pictures are held out, and the rest as a source."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from genmask.data.candidates import Candidate, find_candidates
from genmask.data.coco_folder import CocoFolder
from genmask.data.example import Example
from genmask.data.folder import Folder
from genmask.data.labelme import LabelMe, Record
from genmask.training.sources import (
    CaptionSource,
    GenerationSource,
    MaskSource,
    SegmentationSource,
    Size,
    read_picture_sizes,
    repeat_by_size,
)


@dataclass(frozen=True, kw_only=True)
class FolderPart:
    """Some examples of a folder, in its order, at their own sizes."""

    candidates: tuple[Candidate, ...]
    layout: str
    """ "captions.jsonl", "COCO" or "LabelMe"."""

    def __len__(self) -> int:
        return len(self.candidates)

    def __getitem__(self, index: int) -> Example:
        return self.candidates[index].load()


class BothTasks:
    """Masks and captioned pictures of one folder."""

    def __init__(self, masks: SegmentationSource, captions: GenerationSource) -> None:
        self.segmentation, self.generation = masks.segmentation, captions.generation


def folder_split(root: Path, share: float = 0.1, seed: int = 0) -> tuple[FolderPart, FolderPart]:
    """A folder as (train, held out), with all rows of a picture on one side.

    A picture is held out if the hash of its path in the folder is among the lowest `share` of all hashes there
    can be: no other picture has a say in it, nor has the number of rows. Only where that holds out none, or all,
    the picture next to the border changes sides; so of two pictures or more there is one at least on each.
    Captions are trained on, except those of held-out pictures, which are left out.

    Args:
        root: in any layout that `find_candidates` knows.
        share: of the pictures with masks, in (0, 1).
        seed: of the hash.

    Raises:
        ValueError: a share that is none; another layout; a row or file that cannot be trained on.
    """
    if not 0 < share < 1:
        raise ValueError(f"Got share {share}, expected a number between 0 and 1.")
    found = find_candidates(root)
    if found.problems:
        first = found.problems[0]
        raise ValueError(
            f"Got {len(found.problems)} problems in {root}, first {first.where}: {first.message} Expected none: "
            f"genmask data check {root} lists them all."
        )
    if not found.candidates:
        raise ValueError(
            f"Got {root} without an example, expected pictures with masks or captions: add some."
        )
    home = root.parent if root.is_file() else root
    names = [os.path.relpath(_picture_path(candidate), home) for candidate in found.candidates]
    masked = (name for name, row in zip(names, found.candidates, strict=True) if not _is_caption(row))
    places = {name: _place(Path(name).as_posix(), seed) for name in masked}
    below = sum(place < share for place in places.values())
    held_out = set(sorted(places, key=places.__getitem__)[: min(max(below, 1), len(places) - 1)])
    sides: tuple[list[Candidate], list[Candidate]] = ([], [])
    for name, row in zip(names, found.candidates, strict=True):
        if name not in held_out or not _is_caption(row):
            sides[name in held_out].append(row)
    train, rest = (FolderPart(candidates=tuple(side), layout=found.layout) for side in sides)
    return train, rest


def open_folder(
    part: FolderPart, sizes: Sequence[Size], seed: int = 0
) -> SegmentationSource | GenerationSource:
    """Masks, captioned pictures or both, as the rows are; arguments are those of `datasets.open_source`.

    The sentences of `captions.jsonl` may tell things apart, those of the other layouts name classes: `MaskSource`
    says what that means.
    """
    rows = [row for row in part.candidates if not _is_caption(row)]
    captions = replace(part, candidates=tuple(row for row in part.candidates if _is_caption(row)))
    if not rows:
        return CaptionSource(captions, seed)
    source = rows[0].source
    if isinstance(source, CocoFolder):  # one for all rows; it was opened to be scored, in plain words
        varied = CocoFolder(source.path, source.root, "train", seed=seed)
        rows = [replace(row, source=varied) for row in rows]
    examples = repeat_by_size(replace(part, candidates=tuple(rows)), _picture_sizes(rows), sizes, seed)
    masks = MaskSource(examples, seed, names_classes=part.layout != "captions.jsonl")
    return BothTasks(masks, CaptionSource(captions, seed)) if len(captions) else masks


def _place(name: str, seed: int) -> float:
    """Uniform in [0, 1)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:6]) / 2**48


def _is_caption(row: Candidate) -> bool:
    return isinstance(row.source, Folder) and row.source.rows[row.index].is_caption


def _record(row: Candidate) -> Record:
    """The file of LabelMe's that holds its picture itself, as no other layout's does."""
    assert isinstance(row.source, LabelMe)
    return row.source.records[row.source.pairs[row.index][0]]


def _picture_path(row: Candidate) -> Path:
    return row.picture or _record(row).path


def _picture_sizes(rows: Sequence[Candidate]) -> list[Size]:
    """Of each row's picture; a picture of many rows is looked at once."""
    files = list(dict.fromkeys(row.picture for row in rows if row.picture is not None))
    sizes = dict(zip(files, read_picture_sizes(files), strict=True))
    for row in rows:
        path = _picture_path(row)
        if path not in sizes:
            height, width = _record(row).size or row.load().image.shape[:2]
            sizes[path] = (height, width)
    return [sizes[_picture_path(row)] for row in rows]
