"""DiffusionDB: pictures made by Stable Diffusion, with the prompts that people wrote for them."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from genmask.data.captions import (
    MAX_FILE_BYTES,
    CaptionError,
    OnError,
    Skips,
    clean_caption,
    decode_picture,
    logger,
)
from genmask.data.example import Example

LAYOUT = (
    "part-000001/ or part-000001.zip, ..., in it, in images/ or in diffusiondb-large-part-1/ and -2/, each of "
    "pictures and part-000001.json"
)
METADATA = ("metadata.parquet", "metadata-large.parquet")
PART_FOLDERS = ("", "images", "diffusiondb-large-part-1", "diffusiondb-large-part-2")
BLURRED = 2.0
"""Value of `image_nsfw` that means: the picture is nothing but blur, laid over it when it was made."""


class DiffusionDB:
    """Generation examples of the parts under a folder, in the order of parts and of their JSON.

    All JSONs are read and all pictures looked for before the first example; a picture is read when it is asked
    for. Prompts are cleaned (`clean_caption`); a sample is left out, and counted in `skipped`, where its prompt is
    empty or `metadata.parquet` says what `nsfw_below` does not allow. Ids are "<part>/<uuid>".

    Keep to some `parts` of the 14 million of "large": a sample's prompt and name take about 300 bytes.

    Args:
        root: holds the parts, as folders or as the zips of the hub (a folder goes before its zip), and
            `metadata.parquet`.
        parts: numbers of the parts to read; None: all that are there.
        nsfw_below: keep a sample whose `image_nsfw` and `prompt_nsfw` are both less than this, in (0, 1]; 0.5
            where the classifiers change their mind. A sample without scores is left out. None: no filter; but
            what the metadata, if it is there, calls blurred is left out even so.
        on_error: "skip" leaves out, counts and logs damaged parts, rows and pictures; the place of a damaged
            picture is taken by the next good one.

    Raises:
        ValueError: no parts, no metadata to filter by, no sample left; with `on_error="raise"`, a damaged part or
            row, a missing picture, and, on reading, a damaged picture.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        parts: Collection[int] | None = None,
        nsfw_below: float | None = 0.5,
        on_error: OnError = "raise",
    ) -> None:
        if nsfw_below is not None and not 0 < nsfw_below <= 1:
            raise ValueError(
                f"Got nsfw_below {nsfw_below}, expected a number in (0, 1], or None for no filter."
            )
        self.root, self.nsfw_below = Path(root), nsfw_below
        self.parts = _find_parts(self.root, parts)
        self._skips = Skips(on_error)
        self._rows: list[tuple[int, str, str]] = []
        """(place in `parts`, file name, prompt)"""
        verdicts = _read_verdicts(self.root, {_number(part) for part in self.parts}, nsfw_below)
        for place, part in enumerate(self.parts):
            self._add_part(place, part, verdicts)
        if not self._rows:
            raise ValueError(f"Got no usable sample in {root} (left out: {self._skips}), expected {LAYOUT}.")
        logger.info("DiffusionDB %s: %d samples; left out: %s", root, len(self._rows), self._skips)

    @property
    def skipped(self) -> Counter[str]:
        """Samples (or parts) left out, by reason."""
        return self._skips.counts

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        for distance in range(len(self._rows)):
            place, name, prompt = self._rows[index if distance == 0 else (index + distance) % len(self._rows)]
            part = self.parts[place]
            try:
                image = decode_picture(_read_file(part, name), f"{part}, file {name!r}")
            except CaptionError as error:
                self._skips.meet(error)
                continue
            return Example(
                image=image,
                text=prompt,
                task="generation",
                source="diffusiondb",
                id=f"{part.stem}/{Path(name).stem}",
                kind="caption",
            )
        raise ValueError(f"Got no readable picture in {self.root}, expected {LAYOUT}.")

    def _add_part(self, place: int, part: Path, verdicts: dict[str, str] | None) -> None:
        try:
            entries, files = _read_part(part)
        except CaptionError as error:
            self._skips.meet(error)
            return
        unrated = "" if self.nsfw_below is None else "without scores"
        for name, entry in entries.items():
            try:
                prompt = _parse_entry(part, name, entry, files)
            except CaptionError as error:
                self._skips.meet(error)
                continue
            verdict = "" if verdicts is None else verdicts.get(name, unrated)
            if not prompt or verdict:
                self._skips.counts[verdict or "empty prompt"] += 1
            else:
                self._rows.append((place, name, prompt))


def _find_parts(root: Path, numbers: Collection[int] | None) -> list[Path]:
    found: dict[int, Path] = {}
    for folder in (root / name for name in PART_FOLDERS):
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            is_part = path.is_dir() or (path.suffix == ".zip" and path.is_file())
            if is_part and re.fullmatch(r"part-\d{6}(\.zip)?", path.name):
                found.setdefault(_number(path), path)  # "part-000001" sorts before "part-000001.zip"
    if not found:
        raise ValueError(f"Got no part in {root}, expected {LAYOUT}.")
    missing = sorted(set(numbers or ()) - set(found))
    if missing:
        raise ValueError(f"Got no part {missing[0]} in {root}, expected {LAYOUT}: download it first.")
    return [found[number] for number in sorted(found) if numbers is None or number in numbers]


def _number(part: Path) -> int:
    return int(part.stem.removeprefix("part-"))


def _read_part(part: Path) -> tuple[dict[str, Any], frozenset[str]]:
    """The JSON of a part, and the names of its files."""
    try:
        if part.suffix == ".zip":
            with ZipFile(part) as archive:
                files = frozenset(archive.namelist())
        else:
            files = frozenset(os.listdir(part))
        entries = json.loads(_read_file(part, f"{part.stem}.json"))
    except Exception as error:  # a damaged zip makes zipfile raise nearly anything; so does deep JSON
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise CaptionError(
            "damaged part",
            f"Got the part {part}, which cannot be read ({why}), expected {part.stem}.json and pictures: fetch "
            "it again.",
        ) from error
    if not isinstance(entries, dict):
        raise CaptionError(
            "damaged part",
            f"Got a {type(entries).__name__} in {part.stem}.json of {part}, expected an object by file name: "
            "fetch it again.",
        )
    return entries, files


def _parse_entry(part: Path, name: str, entry: Any, files: frozenset[str]) -> str:
    """The cleaned prompt of one entry of a part's JSON."""
    if not isinstance(entry, dict) or not isinstance(entry.get("p"), str):
        raise CaptionError(
            "malformed row",
            f"Got {str(entry)[:60]!r} for file {name!r} in {part.stem}.json of {part}, expected an object with "
            "the prompt as p: fetch it again.",
        )
    if not re.fullmatch(r"[\w-]+\.(png|webp)", name) or name not in files:  # nor a path that leads elsewhere
        raise CaptionError(
            "missing picture",
            f"Got no picture {name!r} in {part}, expected each png or webp that {part.stem}.json names: fetch "
            "it again.",
        )
    return clean_caption(entry["p"])


def _read_file(part: Path, name: str) -> bytes:
    """A file of a part. The zip is opened for each: one held open would be shared, with its place, by workers."""
    try:
        if part.suffix != ".zip":
            return (part / name).read_bytes()
        with ZipFile(part) as archive:
            if archive.getinfo(name).file_size > MAX_FILE_BYTES:
                raise ValueError(f"over {MAX_FILE_BYTES} bytes")
            return archive.read(name)
    except Exception as error:  # as above
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise CaptionError(
            "damaged picture",
            f"Got {name!r} in {part}, which cannot be read ({why}), expected a whole file: fetch it again.",
        ) from error


def _read_verdicts(root: Path, parts: set[int], nsfw_below: float | None) -> dict[str, str] | None:
    """Of each picture of these parts why it must be left out, "" if it need not; None without metadata."""
    path = next((root / name for name in METADATA if (root / name).is_file()), None)
    if path is None:
        if nsfw_below is None:
            return None
        raise ValueError(
            f"Got no {METADATA[0]} in {root}, expected it for the NSFW filter: download it, or turn the filter "
            "off with nsfw_below=None."
        )
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            f"Got {path}, which pyarrow reads, expected it installed: pip install 'genmask[data]'."
        ) from error
    columns = ["image_name", "part_id", "image_nsfw", "prompt_nsfw"]
    verdicts: dict[str, str] = {}
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=columns):
                part, image, prompt = (
                    batch.column(name).to_numpy(zero_copy_only=False) for name in columns[1:]
                )
                verdict = _judge(image, prompt, nsfw_below)
                rows = np.flatnonzero(np.isin(part, list(parts)))
                names = batch.column("image_name").take(rows).to_pylist()
                verdicts.update(zip(names, verdict[rows].tolist(), strict=True))
    except Exception as error:  # a damaged file, or one without these columns
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"Got {path}, which cannot be read ({why}), expected columns {', '.join(columns)}: fetch it again."
        ) from error
    return verdicts


def _judge(image: np.ndarray, prompt: np.ndarray, nsfw_below: float | None) -> np.ndarray:
    """Words for each pair of scores; a score that is not a number is not below anything."""
    blurred = image >= BLURRED
    if nsfw_below is None:
        return np.where(blurred, "blurred picture", "")
    return np.select(
        [blurred, ~(image < nsfw_below), ~(prompt < nsfw_below)],
        ["blurred picture", "NSFW picture", "NSFW prompt"],
        default="",
    )
