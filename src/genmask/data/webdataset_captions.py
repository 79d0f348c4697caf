"""Captioned pictures from WebDataset shards (BLIP-3o and any other of jpg + txt), read as a stream."""

from __future__ import annotations

import glob
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from genmask.data.captions import CaptionError, OnError, Skips, clean_caption, decode_picture, logger
from genmask.data.example import Example
from genmask.data.tar_shards import PICTURE_SUFFIXES, SHARD_SUFFIXES, TEXT_SUFFIX, ShardSample, read_shard


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where one reader stands: `drawn` samples into a window that begins at a sample of one of its shards."""

    epoch: int = 0
    window: int = 0
    """Windows of this epoch before this one."""
    shard: int = 0
    """Place of the shard in the reader's order of this epoch."""
    sample: int = 0
    """Samples of the reader's in that shard before the window."""
    drawn: int = 0


class WebDatasetCaptions(IterableDataset[Example]):
    """Generation examples from tar shards of `<key>.jpg` (or jpeg, png, webp) and `<key>.txt`.

    Every reader - one for each process, or for each DataLoader worker of each process - has its own shards of an
    epoch's shuffled order; where there are fewer shards than readers, its own samples of every shard. Together the
    readers see each sample once an epoch. Samples are shuffled within windows of `buffer`, held encoded.

    Iterating gives the rest of the current epoch, then stands at the next. Ids are "<shard>/<key>".

    `state_dict` is the position of the reader that calls it, and going on from it is exact: it costs the headers
    of one shard up to the window, and reading the window (at most `buffer` samples) again. In DataLoader workers
    the positions are the workers'; there, call `set_epoch` before each epoch, since workers begin as copies.

    `skipped` counts, by reason, the samples of this reader that were left out with `on_error="skip"`; the log
    names the first ones, and the counts at the end of an epoch. After an error that was raised, a new iteration
    goes on behind the sample that it named.

    Args:
        shards: a glob ("shards/*.tar"), or paths; sorted, so that their order does not matter.
        seed: of the orders of shards and samples.
        buffer: samples of a window; 1 leaves the samples in the order of the shards.
        rank: this process, of `world_size`.
        source: name of the data set; None: the name of the first shard's folder.

    Raises:
        ValueError: no shards, not there, a URL, no tar, two of one name; a number out of range. On iteration,
            with `on_error="raise"`: a damaged shard or picture, a sample without picture or text.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str | Path],
        *,
        seed: int = 0,
        buffer: int = 1000,
        rank: int = 0,
        world_size: int = 1,
        on_error: OnError = "raise",
        source: str | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"Got rank {rank} of world_size {world_size}, expected 0 <= rank < world_size.")
        if buffer < 1:
            raise ValueError(f"Got buffer {buffer}, expected at least 1.")
        self.shards = find_shards(shards)
        self.seed, self.buffer = seed, buffer
        self.rank, self.world_size = rank, world_size
        self.source = source or f"webdataset/{self.shards[0].resolve().parent.name}"
        self._skips = Skips(on_error)
        self._position = Position()
        self._saved_reader: tuple[int, int] | None = None

    @property
    def skipped(self) -> Counter[str]:
        return self._skips.counts

    def set_epoch(self, epoch: int) -> None:
        """Stand at the beginning of an epoch, from 0."""
        self._position = Position(epoch=epoch)
        self._saved_reader = None

    def __iter__(self) -> Iterator[Example]:
        reader, readers = _reader(self.rank, self.world_size)
        if self._saved_reader not in (None, (reader, readers)):
            raise ValueError(
                f"Got the position of reader {self._saved_reader} for {(reader, readers)} (which, of how many), "
                "expected the same: restore with as many processes and workers, or set_epoch."
            )
        now = self._position
        stream = self._samples(now, reader, readers)
        while window := list(islice(stream, self.buffer)):
            rng = np.random.default_rng((self.seed, now.epoch, 1, reader, now.window))
            order = rng.permutation(len(window)) if self.buffer > 1 else np.arange(len(window))
            for drawn, place in enumerate(order[now.drawn :], start=now.drawn + 1):
                # Before the sample is looked at: what is damaged is behind us too.
                self._position = replace(now, drawn=drawn)
                try:
                    example = decode_sample(window[place][2], self.source)
                except CaptionError as error:
                    self._skips.meet(error)
                else:
                    yield example
            shard, sample, _ = window[-1]
            now = Position(epoch=now.epoch, window=now.window + 1, shard=shard, sample=sample + 1)
        self._position = Position(epoch=now.epoch + 1)
        if self._skips.counts:
            logger.warning("%s: skipped up to the end of epoch %d: %s", self.source, now.epoch, self._skips)

    def state_dict(self) -> dict[str, Any]:
        """Where this reader stands, and what it must find again to go on from there; plain numbers and text."""
        return {**asdict(self._position), "skipped": dict(self.skipped), **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved position.

        Raises:
            ValueError: the state is of other shards, another seed, buffer or number of processes.
        """
        own = self._identity()
        for key in ("shards", "seed", "buffer", "world_size"):
            if state.get(key) != own[key]:
                raise ValueError(
                    f"Got the state of another stream, {key} {state.get(key)!r}, expected {own[key]!r}: build "
                    "the stream as it was."
                )
        self._position = Position(**{field.name: int(state[field.name]) for field in fields(Position)})
        self._saved_reader = (int(state["reader"]), int(state["readers"]))
        self._skips.counts = Counter(state["skipped"])

    def _identity(self) -> dict[str, Any]:
        reader, readers = _reader(self.rank, self.world_size)
        names = "\n".join(shard.name for shard in self.shards)
        return {
            "shards": f"{len(self.shards)}/{hashlib.sha256(names.encode()).hexdigest()[:16]}",
            "seed": self.seed,
            "buffer": self.buffer,
            "world_size": self.world_size,
            "reader": reader,
            "readers": readers,
        }

    def _samples(self, start: Position, reader: int, readers: int) -> Iterator[tuple[int, int, ShardSample]]:
        """The reader's samples of an epoch from the window at `start` on: (place of the shard, number, sample)."""
        order = np.random.default_rng((self.seed, start.epoch, 0)).permutation(len(self.shards))
        parts = readers if len(order) < readers else 1
        if parts == 1:
            order = order[reader::readers]
        for place in range(start.shard, len(order)):
            first = start.sample if place == start.shard else 0
            part = (reader + place) % parts  # so that small shards do not all go to the first readers
            samples = read_shard(self.shards[order[place]], part=part, parts=parts, start=first)
            for number, sample in enumerate(samples, start=first):
                yield place, number, sample


def find_shards(shards: str | Path | Sequence[str | Path]) -> list[Path]:
    """The shards that a glob or a list names, sorted.

    Raises:
        ValueError: as `WebDatasetCaptions` says.
    """
    is_glob = isinstance(shards, str | Path)
    names = [str(shards)] if isinstance(shards, str | Path) else [str(shard) for shard in shards]
    for name in names:
        if "://" in name or name.startswith("pipe:"):
            raise ValueError(f"Got the shard {name!r}, expected a file: download it first.")
    paths = sorted({Path(found) for name in names for found in (glob.glob(name) if is_glob else [name])})
    if not paths:
        raise ValueError(
            f"Got no shards from {shards!r}, expected a glob as 'shards/*.tar' or a list of files."
        )
    stems: dict[str, Path] = {}
    for path in paths:
        if not path.is_file() or not path.name.endswith(SHARD_SUFFIXES):
            raise ValueError(
                f"Got the shard {path}, expected a file that ends in {', '.join(SHARD_SUFFIXES)}."
            )
        if path.name in stems:
            raise ValueError(
                f"Got two shards of one name, {stems[path.name]} and {path}, expected different names: make a "
                "stream of each folder."
            )
        stems[path.name] = path
    return paths


def _reader(rank: int, world_size: int) -> tuple[int, int]:
    """Which reader this is, of how many: process and DataLoader worker together."""
    worker = get_worker_info()
    return (
        (rank, world_size)
        if worker is None
        else (
            rank * worker.num_workers + worker.id,
            world_size * worker.num_workers,
        )
    )


def decode_sample(sample: ShardSample, source: str) -> Example:
    if sample.problem is not None:
        raise sample.problem
    suffix = next((suffix for suffix in PICTURE_SUFFIXES if suffix in sample.files), None)
    missing = "picture" if suffix is None else "text" if TEXT_SUFFIX not in sample.files else None
    if suffix is None or missing:
        raise CaptionError(
            f"missing {missing}",
            f"Got no {missing} in {sample.name}, expected {', '.join(PICTURE_SUFFIXES)} and {TEXT_SUFFIX} "
            "under one key, side by side: repair the shard.",
        )
    try:
        text = clean_caption(sample.files[TEXT_SUFFIX].decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise CaptionError(
            "damaged text", f"Got a text that is not UTF-8 in {sample.name}, expected UTF-8: convert it."
        ) from error
    if not text:
        raise CaptionError(
            "empty text", f"Got an empty text in {sample.name}, expected a caption: repair the shard."
        )
    return Example(
        image=decode_picture(sample.files[suffix], sample.name),
        text=text,
        task="generation",
        source=source,
        id=f"{sample.shard.name.partition('.')[0]}/{sample.key}",
        kind="caption",
    )
