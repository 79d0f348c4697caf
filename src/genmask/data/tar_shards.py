"""The samples of a WebDataset shard: files of a tar that follow each other and share a name up to its first dot.

Why not webdataset's own reader, whose naming rule and writer are kept to: tarfile, and so webdataset, takes a
damaged header, or a file cut between two members, for the end of the archive, and the rest is lost without a
word; half a sample at a cut joins the first sample of the next shard where the keys are equal; and a stream can
only be gone on with by reading every byte before it again. Here a shard that does not end as a tar must end says
so, samples never cross shards, and going to sample n reads the headers before it alone.
"""

from __future__ import annotations

import gzip
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from genmask.data.captions import MAX_FILE_BYTES, CaptionError

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
PICTURE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
TEXT_SUFFIX = "txt"
"""Members with other suffixes (json, cls, pickles) are passed over unread."""


@dataclass(frozen=True, kw_only=True)
class ShardSample:
    """What a shard holds under one key; not yet looked into."""

    shard: Path
    key: str
    """Member name up to the first dot of its last part, folders included."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Pictures and text, by suffix in lower case."""
    problem: CaptionError | None = None
    """Why there is no sample to be had here; at the place of a sample so that it is met in its turn."""

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.shard}, key {self.key!r}"

    @property
    def is_whole(self) -> bool:
        """Has a text and a picture."""
        return TEXT_SUFFIX in self.files and len(self.files) > 1


def read_shard(path: Path, *, part: int = 0, parts: int = 1, start: int = 0) -> Iterator[ShardSample]:
    """Every `parts`-th sample of a shard from the `part`-th on, less the first `start` of these.

    Damage ends the shard: it comes as a last sample with a `problem`. The content of a member that is not asked
    for is not read.
    """
    sample: ShardSample | None = None
    number = -1

    def is_asked_for() -> bool:
        return number % parts == part and number // parts >= start

    try:
        with (
            gzip.open(path) if path.suffix != ".tar" else path.open("rb") as stream,
            tarfile.open(fileobj=stream, mode="r:") as archive,
        ):
            for member, key, suffix in read_members(archive):
                if sample is None or sample.key != key:
                    if sample is not None and is_asked_for():
                        yield sample
                    number += 1
                    sample = ShardSample(shard=path, key=key)
                if is_asked_for() and suffix in (*PICTURE_SUFFIXES, TEXT_SUFFIX) and sample.problem is None:
                    sample = _with_member(sample, archive, member, suffix)
    except Exception as error:  # a damaged archive makes tarfile raise nearly anything
        if sample is not None and is_asked_for():
            yield sample if sample.problem or sample.is_whole else _cut(sample)
        number += 1  # of the damage, the same for every part and start
        if is_asked_for():
            yield ShardSample(shard=path, key="", problem=describe_damage(path, sample, error))
        return
    if sample is not None and is_asked_for():
        yield sample


def read_members(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str, str]]:
    """Plain files with their key and suffix, to the end of the archive, which must be there."""
    before = -1
    while (member := archive.next()) is not None:
        if member.offset <= before or member.size < 0:  # else tarfile goes round in circles
            raise tarfile.ReadError("a member of negative size")
        before = member.offset
        named = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]*)", member.name, re.DOTALL)
        if named and member.isfile():
            yield member, named[1], named[2].lower()
    stream = archive.fileobj
    assert stream is not None
    stream.seek(archive.offset)
    end = stream.read(tarfile.BLOCKSIZE)
    if end != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"byte {archive.offset}: {'a broken header' if end else 'cut short'}")


def _with_member(
    sample: ShardSample, archive: tarfile.TarFile, member: tarfile.TarInfo, suffix: str
) -> ShardSample:
    problem = None
    if suffix in sample.files:
        problem = CaptionError(
            "repeated file",
            f"Got a second {suffix} in {sample.name}, expected each file once: name the samples apart.",
        )
    elif member.size > MAX_FILE_BYTES:
        problem = CaptionError(
            "oversized file",
            f"Got a {suffix} of {member.size} bytes in {sample.name}, expected at most {MAX_FILE_BYTES}: "
            "leave it out.",
        )
    if problem is not None:
        return ShardSample(shard=sample.shard, key=sample.key, problem=problem)
    content = archive.extractfile(member)
    assert content is not None  # a plain file
    sample.files[suffix] = content.read()
    return sample


def _cut(sample: ShardSample) -> ShardSample:
    problem = CaptionError(
        "cut sample",
        f"Got only a part of {sample.name}, where the shard is damaged, expected a whole tar: fetch it again.",
    )
    return ShardSample(shard=sample.shard, key=sample.key, problem=problem)


def describe_damage(path: Path, last: ShardSample | None, error: Exception) -> CaptionError:
    where = f"at or after key {last.key!r}" if last else "before its first sample"
    why = " ".join(f"{type(error).__name__}: {error}".split())
    return CaptionError(
        "damaged shard",
        f"Got the shard {path}, which is damaged {where} ({why}), expected a whole tar: fetch it again.",
    )
