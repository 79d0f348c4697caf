"""Samples of tar shards in any order: headers are read once, a sample's content when it is asked for."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from genmask.data.captions import MAX_FILE_BYTES, CaptionError
from genmask.data.tar_shards import ShardSample, describe_damage, read_members

MAX_OPEN_SHARDS = 64
"""Files that a process keeps open; operating systems allow a few hundred."""


class _Member(NamedTuple):
    suffix: str
    offset: int
    """Of the content, bytes from the beginning of the shard."""
    size: int
    """Bytes."""


class TarIndex:
    """The samples of local tar shards by number, grouped by key as `tar_shards` says.

    Nothing is unpacked: a member's name serves as a key alone, and what is not a plain file is passed over. An index
    can be pickled, and used before and after a fork: each process opens the shards for itself, or reads at places of
    its own.

    Args:
        shards: uncompressed tars; samples are numbered in their order.

    Raises:
        ValueError: a shard is not a `.tar`, or is truncated or damaged.
    """

    keys: list[str]
    """Of every sample, in order; nothing keeps two samples from having the same."""

    def __init__(self, shards: Sequence[Path]) -> None:
        self.shards = tuple(shards)
        self.keys = []
        self._samples: list[tuple[int, list[_Member]]] = []
        self._open: dict[int, BinaryIO] = {}
        for number in range(len(self.shards)):
            self._scan(number)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> ShardSample:
        """Sample number `index`, with every file of it, whatever its suffix.

        Raises:
            CaptionError: a file is there twice or over the limit; the shard was cut since it was indexed.
        """
        number, members = self._samples[index]
        sample = ShardSample(shard=self.shards[number], key=self.keys[index])
        for suffix, offset, size in members:
            if suffix in sample.files:
                raise CaptionError(
                    "repeated file",
                    f"Got a second {suffix} in {sample.name}, expected each file once: name the samples apart.",
                )
            if size > MAX_FILE_BYTES:
                raise CaptionError(
                    "oversized file",
                    f"Got a {suffix} of {size} bytes in {sample.name}, expected at most {MAX_FILE_BYTES}: "
                    "leave it out.",
                )
            content = os.pread(self._stream(number).fileno(), size, offset)
            if len(content) < size:
                raise describe_damage(
                    sample.shard, sample, EOFError(f"{len(content)} of {size} bytes of a {suffix}")
                )
            sample.files[suffix] = content
        return sample

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}

    def _scan(self, number: int) -> None:
        shard = self.shards[number]
        if shard.suffix != ".tar":
            raise ValueError(f"Got the shard {shard}, expected a file that ends in .tar: unpack it.")
        last = None
        with shard.open("rb") as stream:
            try:
                with tarfile.open(fileobj=stream, mode="r:") as archive:
                    for member, key, suffix in read_members(archive):
                        if member.issparse():  # its content is not in one piece
                            continue
                        if last is None or last.key != key:
                            last = ShardSample(shard=shard, key=key)
                            self.keys.append(key)
                            self._samples.append((number, []))
                        self._samples[-1][1].append(_Member(suffix, member.offset_data, member.size))
            except Exception as error:  # a damaged archive makes tarfile raise nearly anything
                raise describe_damage(shard, last, error) from error

    def _stream(self, number: int) -> BinaryIO:
        if number not in self._open:
            if len(self._open) == MAX_OPEN_SHARDS:
                self._open.clear()  # a file is closed with its last reader
            self._open[number] = self.shards[number].open("rb", buffering=0)
        return self._open[number]
