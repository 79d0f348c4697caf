"""Looking through a user's own data before it is trained on: everything that is wrong in it, at once."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from genmask.data.candidates import Candidate, Problem, find_candidates
from genmask.data.example import Example
from genmask.data.mixture import Sized
from genmask.images import ImageError

STOPS = {
    "malformed file": True,
    "malformed row": True,
    "missing file": True,
    "unreadable picture": True,
    "bad mask": True,
    "size mismatch": True,
    "empty mask": False,
    "duplicate row": False,
    "duplicate mask": False,
    "duplicate picture": False,
}
"""Every kind of problem, and whether it keeps the data from being read; the others are worth a look.

A mask file that several sentences name is no duplicate; the same pixels in another file are.
"""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a folder holds, and what is wrong with it."""

    root: Path
    layout: str
    """ "captions.jsonl", "COCO" or "LabelMe"."""
    rows: int
    """Lines of `captions.jsonl`, else pairs of picture and class in files that make sense; read or not."""
    pictures: int
    """Different pictures among the examples."""
    masks: int
    """Examples with a mask; so far as they can be read, as are the next two."""
    absent: int
    """Examples that say that the target is not in the picture."""
    captions: int
    problems: tuple[Problem, ...]
    examples: Sized = field(repr=False, compare=False)
    """Those that can be read, whatever is wrong with others: for a contact sheet."""

    @property
    def is_usable(self) -> bool:
        """Something is there, and nothing would keep a training from reading it."""
        return len(self.examples) > 0 and not any(STOPS[problem.kind] for problem in self.problems)

    def summary(self) -> str:
        """A line of what there is, one for each kind of problem, then one for each problem."""
        counts = Counter(problem.kind for problem in self.problems)
        return "\n".join(
            [
                f"{self.root} ({self.layout}): {self.rows} rows, {self.pictures} pictures, {self.masks} masks, "
                f"{self.absent} absent, {self.captions} captions; {len(self.problems)} problems.",
                *(f"{counts[kind]} x {kind}" for kind in STOPS if counts[kind]),
                *(f"{problem.where}: {problem.kind}: {problem.message}" for problem in self.problems),
            ]
        )


class Readable:
    """The examples that can be read, as a source."""

    def __init__(self, candidates: list[Candidate]) -> None:
        self.candidates = candidates

    def __len__(self) -> int:
        return len(self.candidates)

    def __getitem__(self, index: int) -> Example:
        return self.candidates[index].load()


def check_folder(path: str | Path, images: str | Path | None = None) -> Report:
    """Read everything in a folder, and collect what is wrong.

    Args:
        path: a folder with `captions.jsonl`; or a COCO instance file, or a folder with one in it or in its
            annotations/; or a folder of LabelMe's files.
        images: for COCO, the folder of pictures; None: that of the file.

    Raises:
        ValueError: there is nothing of these layouts at `path`.
    """
    found = find_candidates(Path(path), None if images is None else Path(images))
    problems, counts = list(found.problems), Counter[str]()
    readable: list[Candidate] = []
    repeats = _Repeats()
    for candidate in found.candidates:
        try:
            example = candidate.load()
        except ValueError as error:
            problems.append(Problem(kind=_kind(error), where=candidate.where, message=str(error)))
            continue
        readable.append(candidate)
        kind = "caption" if example.mask is None else "absent" if candidate.is_absent else "mask"
        counts[kind] += 1
        if kind == "mask" and example.mask is not None and not example.mask.any():
            message = "Nothing is marked: leave the mask out if the target is absent."
            problems.append(Problem(kind="empty mask", where=candidate.where, message=message))
        problems += repeats.meet(candidate, example)
    return Report(
        root=Path(path),
        layout=found.layout,
        rows=found.rows,
        pictures=len({candidate.picture or candidate.where for candidate in found.candidates}),
        masks=counts["mask"],
        absent=counts["absent"],
        captions=counts["caption"],
        problems=tuple(problems),
        examples=Readable(readable),
    )


def _kind(error: ValueError) -> str:
    if isinstance(error, ImageError):
        return "unreadable picture"
    # The layouts' own words for two sizes that should be one.
    return "size mismatch" if "(height, width), expected" in str(error) else "bad mask"


class _Repeats:
    """Finds what has been there before."""

    def __init__(self) -> None:
        self._files: dict[bytes, Path] = {}
        self._seen: set[Path] = set()
        self._rows: dict[tuple[str, str, str], str] = {}
        self._masks: dict[tuple[str, bytes], Candidate] = {}

    def meet(self, candidate: Candidate, example: Example) -> list[Problem]:
        found: list[tuple[str, str]] = []
        if candidate.picture is not None and candidate.picture not in self._seen:
            self._seen.add(candidate.picture)
            first_file = self._files.setdefault(_digest(candidate.picture.read_bytes()), candidate.picture)
            if first_file != candidate.picture:
                found.append(("duplicate picture", f"{candidate.picture} is the same file as {first_file}."))
        picture = _digest(example.image.tobytes(), str(example.image.shape).encode()).hex()
        first_row = self._rows.setdefault(
            (picture, example.task, example.text.casefold().strip()), candidate.where
        )
        if first_row != candidate.where:
            found.append(("duplicate row", f"The picture and {example.text!r} have been in {first_row}."))
        if example.mask is not None and example.mask.any():
            first = self._masks.setdefault((picture, _digest(np.packbits(example.mask).tobytes())), candidate)
            if first is not candidate and (candidate.mask is None or first.mask != candidate.mask):
                found.append(("duplicate mask", f"The mask is the same as in {first.where}."))
        return [Problem(kind=kind, where=candidate.where, message=message) for kind, message in found]


def _digest(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()
