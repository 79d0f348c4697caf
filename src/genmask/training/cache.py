"""What the frozen VAE and VLM make of samples, written once to WebDataset shards.

A sample is found by a hash of all that its encoding depends on, so an encoding of another model, prompt, picture or
resolution is never taken for it. A shard gets its name once it is whole: a kill loses the samples of the shard in
work, and the same command goes on after the finished ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TypeVar
from uuid import uuid4

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from genmask.atomic import save_json
from genmask.data.captions import CaptionError
from genmask.data.tar_index import TarIndex

FORMAT = 1
"""Version of what is on disk."""
HEADER = "cache.json"
SUFFIX = "safetensors"
DIGITS = "[0-9]"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class EncodedSample:
    """One sample as the transformer is trained on it."""

    picture: Tensor | None = None
    """(C, h, w) float32, latents of the picture to be segmented; None for generation."""
    x0: Tensor
    """(C, h, w) float32, latents of the mask, or of the picture to be drawn."""
    hidden_states: Tensor
    """(N, D), of the N tokens of the prompt, without padding, in the dtype it was encoded in."""


@dataclass(frozen=True, kw_only=True)
class FillCounts:
    """What became of the samples."""

    encoded: int
    found: int
    """Were in the cache, or came a second time."""


def model_identity(*folders: Path) -> str:
    """SHA-256 over names and contents of all files of model folders, wherever the folders are.

    Raises:
        ValueError: a folder without files.
    """
    digests = {folder: _folder_digest(folder) for folder in set(folders)}
    return hashlib.sha256(b"".join(digests[folder] for folder in folders)).hexdigest()


def sample_key(identity: str, prompt: str, image: np.ndarray, mask: np.ndarray | None) -> str:
    """SHA-256 over all that an encoding depends on, as 64 hexadecimal digits.

    Args:
        identity: of the models, from `model_identity`.
        prompt: all that the VLM is told.
        image: (H, W, 3) uint8, at the resolution it is encoded in.
        mask: (H, W) bool; None for generation.
    """
    digest = hashlib.sha256()
    fields = [identity.encode(), prompt.encode("utf-8", "surrogatepass")]
    for plane in (image, mask):
        if plane is not None:
            fields += [f"{plane.dtype.str} {plane.shape}".encode(), plane.tobytes()]
    for value in fields:
        digest.update(len(value).to_bytes(8, "big") + value)
    return digest.hexdigest()


def finished_shards(folder: Path) -> list[Path]:
    """Whole shards of a cache, of all processes."""
    return sorted(folder.glob(f"cache-{5 * DIGITS}-{6 * DIGITS}.tar"))


class CacheWriter:
    """Adds samples to a cache; a context manager, which finishes the last shard.

    Several processes may write to a folder, each with a rank of its own, and later ones, of any number, go on with
    what they left.

    Args:
        folder: of the cache; made if need be.
        identity: of the models, from `model_identity`.
        made_with: names of the models, resolution: for people to read.
        rank, world_size: which process of how many.
        samples_per_shard: of all shards but the last; a kill loses less than these.

    Raises:
        ValueError: the folder holds a cache of other models, or a damaged shard; a number out of range.
    """

    def __init__(
        self,
        folder: Path,
        identity: str,
        made_with: Mapping[str, str] | None = None,
        *,
        rank: int = 0,
        world_size: int = 1,
        samples_per_shard: int = 512,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"Got rank {rank} of world_size {world_size}, expected 0 <= rank < world_size.")
        if samples_per_shard < 1:
            raise ValueError(f"Got samples_per_shard {samples_per_shard}, expected at least 1.")
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / HEADER).exists():
            _write_header(folder, identity, made_with or {})
        _check_header(folder, identity, made_with or {})
        for partial in folder.glob(f"cache-{5 * DIGITS}-*.partial"):
            # A killed process of an earlier run may have had a rank that there is not any more.
            if int(partial.name.split("-")[1]) % world_size == rank:
                partial.unlink(missing_ok=True)
        self.folder = folder
        self.rank = rank
        self.samples_per_shard = samples_per_shard
        self._keys = set(_index(folder).keys)
        # A name that no other process has, should two be given the same rank by mistake.
        self._partial = folder / f"cache-{rank:05d}-{uuid4().hex}.partial"
        self._archive: tarfile.TarFile | None = None
        self._count = 0

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._archive is None:
            return
        if kind is None:
            self._finish()
            return
        # The error may have struck amid a sample: what is not a whole tar must not be taken for one.
        with suppress(OSError):
            self._archive.close()
        self._partial.unlink(missing_ok=True)

    def __contains__(self, key: str) -> bool:
        """Whether the sample is in a finished shard, or was added by this writer."""
        return key in self._keys

    def add(self, key: str, sample: EncodedSample) -> None:
        """Write a sample, under its `sample_key`, unless it is there."""
        if key in self._keys:
            return
        fields = {name: value for name, value in vars(sample).items() if value is not None}
        content = save({name: value.detach().cpu().contiguous() for name, value in fields.items()})
        if self._archive is None:
            self._archive = tarfile.open(self._partial, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            self._count = 0
        member = tarfile.TarInfo(f"{key}.{SUFFIX}")
        member.size = len(content)
        self._archive.addfile(member, BytesIO(content))
        self._keys.add(key)
        self._count += 1
        if self._count == self.samples_per_shard:
            self._finish()

    def _finish(self) -> None:
        assert self._archive is not None
        self._archive.close()
        own = sorted(self.folder.glob(f"cache-{self.rank:05d}-{6 * DIGITS}.tar"))
        number = int(own[-1].stem[-6:]) + 1 if own else 0
        try:
            os.replace(self._partial, self.folder / f"cache-{self.rank:05d}-{number:06d}.tar")
        except FileNotFoundError as error:
            raise ValueError(
                f"Got rank {self.rank} of another run in {self.folder}, which has deleted this one's shard in work, "
                "expected one run at a time: give each process a rank of its own."
            ) from error
        self._archive = None


class EncodingCache:
    """Reads a cache, in any process.

    Args:
        folder: of the cache.
        identity: of the models that are trained with, from `model_identity`.

    Raises:
        ValueError: no cache there, one of other models, or a damaged shard.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        _check_header(folder, identity, {})
        self.folder = folder
        self._index = _index(folder)
        self._places = {key: place for place, key in enumerate(self._index.keys)}

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def get(self, key: str) -> EncodedSample:
        """The sample under its `sample_key`, equal to what was added to the bit.

        Raises:
            ValueError: it is not there, or damaged.
        """
        if key not in self:
            raise ValueError(
                f"Got a sample that the cache {self.folder} does not hold (key {key[:12]}), expected one that it was "
                "made with: the model, prompt, picture or resolution has changed, or the cache is not complete; run "
                "`genmask cache` again."
            )
        sample = self._index[self._places[key]]
        try:
            return EncodedSample(**load(sample.files[SUFFIX]))
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(
                f"Got no encoding in {sample.name} ({error}), expected {SUFFIX} as `genmask cache` writes it: delete "
                "the shard and run `genmask cache` again."
            ) from error


def fill(
    samples: Iterable[tuple[str, T]],
    encode: Callable[[list[T]], list[EncodedSample]],
    writer: CacheWriter,
    batch_size: int,
    advance: Callable[[int], None] = lambda count: None,
) -> FillCounts:
    """Encode the samples that are missing.

    Args:
        samples: this process's share, each with its `sample_key`.
        encode: a batch of samples -> their encodings, in order.
        writer: where to.
        batch_size: samples that are encoded together.
        advance: called with the number of samples done since the last call.
    """
    waiting: dict[str, T] = {}
    encoded = found = 0

    def encode_waiting() -> None:
        nonlocal encoded
        for key, result in zip(waiting, encode(list(waiting.values())), strict=True):
            writer.add(key, result)
        encoded += len(waiting)
        advance(len(waiting))
        waiting.clear()

    for key, sample in samples:
        if key in writer or key in waiting:
            found += 1
            advance(1)
            continue
        waiting[key] = sample
        if len(waiting) == batch_size:
            encode_waiting()
    if waiting:
        encode_waiting()
    return FillCounts(encoded=encoded, found=found)


def _folder_digest(folder: Path) -> bytes:
    names = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    # Hidden files are notes of git, of the hub's client or of a desktop, and differ from copy to copy.
    seen = sorted(name for name in names if not any(part.startswith(".") for part in name.parts))
    if not seen:
        raise ValueError(f"Got {folder}, which has no files, expected a model's folder: check the path.")
    digest = hashlib.sha256()
    for name in seen:
        with names[name].open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        digest.update(hashlib.sha256(name.as_posix().encode("utf-8", "surrogateescape")).digest() + content)
    return digest.digest()


def _index(folder: Path) -> TarIndex:
    try:
        return TarIndex(finished_shards(folder))
    except CaptionError as error:
        message = str(error).removesuffix(".")
        raise ValueError(f"{message}, or delete it and run `genmask cache` again.") from error


def _write_header(folder: Path, identity: str, made_with: Mapping[str, str]) -> None:
    header = {"format": FORMAT, "identity": identity, "made_with": dict(made_with)}
    save_json(header, folder / HEADER)


def _check_header(folder: Path, identity: str, wanted: Mapping[str, str]) -> None:
    path = folder / HEADER
    if not path.is_file():
        raise ValueError(f"Got {folder}, which holds no cache, expected {HEADER} there: run `genmask cache`.")
    try:
        header = json.loads(path.read_bytes())
        version = header["format"]
        found = header["identity"]
        described = _describe(found, header["made_with"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Got {path}, which cannot be read ({type(error).__name__}), expected what `genmask cache` writes: delete "
            "it and run `genmask cache` again."
        ) from error
    if version != FORMAT:
        raise ValueError(
            f"Got the cache {folder} of format {version}, expected {FORMAT}: delete it and run `genmask cache` again."
        )
    if found != identity:
        raise ValueError(
            f"Got the cache {folder}, made with {described}, expected one made with {_describe(identity, wanted)}: "
            "name the models it was made with, or run `genmask cache` with another --output."
        )


def _describe(identity: str, made_with: Mapping[str, str]) -> str:
    names = "".join(f"{part} {name}, " for part, name in made_with.items())
    return f"{names}identity {identity[:12]}"
