"""The cache of the frozen parts: equal to the bit, never stale, whole after a kill; and the tar index that reads it."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import sys
import tarfile
from collections.abc import Callable, Iterable
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from genmask.data import tar_index
from genmask.data.tar_index import TarIndex
from genmask.data.tar_shards import read_shard
from genmask.training import cache
from genmask.training.cache import (
    CacheWriter,
    EncodedSample,
    EncodingCache,
    FillCounts,
    fill,
    finished_shards,
    model_identity,
    sample_key,
)

if TYPE_CHECKING:
    from genmask.pipeline import GenMaskPipeline

# The networks are imported where they are used: a spawned worker imports this module.

IDENTITY = "a" * 64
IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
MASK = IMAGE[..., 0] > 30


def key(number: int) -> str:
    return sample_key(IDENTITY, f"sample {number}", IMAGE, None)


def encoded(number: int) -> EncodedSample:
    """Every third has no picture; prompts have several lengths."""
    generator = torch.Generator().manual_seed(number)
    latents = torch.randn(2, 4, 2, 3, generator=generator)
    hidden_states = torch.randn(1, 9, 5, generator=generator).bfloat16()
    return EncodedSample(
        picture=latents[0] if number % 3 else None,
        x0=latents[1],
        hidden_states=hidden_states[0, : 3 + number % 6],
    )


def encode(numbers: list[int]) -> list[EncodedSample]:
    return [encoded(number) for number in numbers]


def keyed(numbers: Iterable[int]) -> list[tuple[str, int]]:
    return [(key(number), number) for number in numbers]


def write(folder: Path, numbers: Iterable[int], **options: Any) -> FillCounts:
    with CacheWriter(folder, IDENTITY, **{"samples_per_shard": 3, **options}) as writer:
        return fill(keyed(numbers), encode, writer, batch_size=2)


def bits(value: Tensor | None) -> Any:
    return (
        None if value is None else (value.dtype, value.shape, value.contiguous().view(torch.uint8).tolist())
    )


def assert_equal(sample: EncodedSample, other: EncodedSample) -> None:
    assert {k: bits(v) for k, v in vars(sample).items()} == {k: bits(v) for k, v in vars(other).items()}


def assert_holds(folder: Path, numbers: Iterable[int]) -> None:
    reader = EncodingCache(folder, IDENTITY)
    for number in numbers:
        assert_equal(reader.get(key(number)), encoded(number))


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(ValueError, match=r"expected .*:") as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)


def in_child(action: Callable[[], object]) -> int:
    """What became of a process that did it: 0, 1 after an error, less than 0 after a signal."""
    process = get_context("fork").Process(target=action)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


# What comes back


def test_samples_come_back_to_the_bit(tmp_path: Path) -> None:
    odd = EncodedSample(
        x0=torch.tensor([[[float("nan"), -0.0, 1e-45, float("inf")]]]), hidden_states=torch.randn(1, 3).half()
    )
    assert write(tmp_path, range(7)) == FillCounts(encoded=7, found=0)
    with CacheWriter(tmp_path, IDENTITY) as writer:
        writer.add("odd", odd)
    assert_holds(tmp_path, range(7))
    assert_equal(EncodingCache(tmp_path, IDENTITY).get("odd"), odd)
    assert len(finished_shards(tmp_path)) == 4


def test_the_real_parts_are_found_again_by_what_they_read(
    pipeline: GenMaskPipeline, toy_pipeline_folder: Path, tmp_path: Path
) -> None:
    from genmask.conditioning import InstructionEncoder
    from genmask.latents import LatentCodec, mask_to_pixels

    identity = model_identity(*(toy_pipeline_folder / part for part in ("vae", "vlm", "processor")))
    image, prompt = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8), "the red mug"
    mask = image[..., 0] > 99
    codec, encoder = LatentCodec(pipeline.vae), InstructionEncoder(pipeline.vlm, pipeline.processor)
    with torch.no_grad():
        pixels = torch.from_numpy(image).movedim(-1, 0) / 127.5 - 1
        picture, x0 = codec.encode(torch.stack([pixels, mask_to_pixels(torch.from_numpy(mask))]))
        (hidden_states,) = encoder.encode_segmentation([image], [prompt]).hidden_states
    sample = EncodedSample(picture=picture, x0=x0, hidden_states=hidden_states)
    with CacheWriter(tmp_path, identity) as writer:
        writer.add(sample_key(identity, prompt, image, mask), sample)
    found = EncodingCache(tmp_path, identity).get(sample_key(identity, prompt, image.copy(), mask.copy()))
    assert_equal(found, sample)


def test_shards_are_webdatasets(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    from safetensors.torch import load

    write(tmp_path, range(5))
    read = {}
    for sample in wds.WebDataset([str(shard) for shard in finished_shards(tmp_path)], shardshuffle=False):
        read[sample["__key__"]] = EncodedSample(**load(sample["safetensors"]))
    assert list(read) == [key(number) for number in range(5)]
    for number in range(5):
        assert_equal(read[key(number)], encoded(number))


class Comparison(Dataset):
    """Whether a sample, read where the worker is, is the one that was written."""

    def __init__(self, reader: EncodingCache) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return 24

    def __getitem__(self, number: int) -> bool:
        assert_equal(self.reader.get(key(number % 12)), encoded(number % 12))
        return True


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_read_what_one_process_reads(tmp_path: Path, method: str, workers: int) -> None:
    write(tmp_path, range(12))
    reader = EncodingCache(tmp_path, IDENTITY)
    for number in range(12):  # all shards are open before the workers begin
        assert_equal(reader.get(key(number)), encoded(number))
    compared = DataLoader(
        Comparison(reader), batch_size=4, num_workers=workers, multiprocessing_context=method
    )
    assert sum(len(batch) for batch in compared) == 24


# What is stale


def test_a_sample_of_another_prompt_picture_mask_or_resolution_is_not_there(tmp_path: Path) -> None:
    pixel = IMAGE.copy()
    pixel[3, 5, 2] ^= 1
    wrong = MASK.copy()
    wrong[0, 0] ^= True
    with CacheWriter(tmp_path, IDENTITY) as writer:
        writer.add(sample_key(IDENTITY, "a mug", IMAGE, MASK), encoded(1))
    reader = EncodingCache(tmp_path, IDENTITY)
    assert sample_key(IDENTITY, "a mug", np.asfortranarray(IMAGE), MASK) in reader
    for stale in (
        sample_key("b" * 64, "a mug", IMAGE, MASK),
        sample_key(IDENTITY, "a mug ", IMAGE, MASK),
        sample_key(IDENTITY, "a mug", pixel, MASK),
        sample_key(IDENTITY, "a mug", IMAGE.reshape(6, 4, 3), MASK.reshape(6, 4)),
        sample_key(IDENTITY, "a mug", IMAGE, wrong),
        sample_key(IDENTITY, "a mug", IMAGE, None),
    ):
        assert stale not in reader
        message = refusal(lambda stale=stale: reader.get(stale))
        assert str(tmp_path) in message
        assert "genmask cache" in message


def test_no_two_inputs_have_the_same_key() -> None:
    zeros = np.zeros((2, 3, 3), np.uint8)
    inputs: list[tuple[str, str, np.ndarray, np.ndarray | None]] = [
        ("a", "bc", zeros, None),
        ("ab", "c", zeros, None),
        ("abc", "", zeros, None),
        ("", "abc", zeros, None),
        ("a", "bc", zeros.reshape(3, 2, 3), None),
        ("a", "bc", zeros, np.zeros((2, 3), bool)),
        ("a", "bc", zeros, np.zeros((3, 2), bool)),
        ("a", "bc\0\0\0", zeros, None),
        ("a", "bc", np.zeros((3, 3, 3), np.uint8), None),
        ("a", "|u1 (2, 3, 3)", zeros, None),
        ("a", "\ud800", zeros, None),
    ]
    keys = {sample_key(*parts) for parts in inputs}
    assert len(keys) == len(inputs)
    assert all(len(one) == 64 and int(one, 16) for one in keys)


def test_the_identity_is_of_names_and_contents(tmp_path: Path) -> None:
    vae, vlm, elsewhere = (tmp_path / name for name in ("vae", "vlm", "elsewhere"))
    for folder, weights in ((vae, b"12"), (vlm, b"3"), (elsewhere, b"12")):
        (folder / "sub").mkdir(parents=True)
        (folder / "config.json").write_bytes(b"{}")
        (folder / "sub/weights.safetensors").write_bytes(weights)
    identity = model_identity(vae, vlm, vlm)
    assert identity == model_identity(elsewhere, vlm, vlm)
    assert len({identity, model_identity(vlm, vae, vae), model_identity(vae, vlm), model_identity(vae)}) == 4
    (vae / ".cache").mkdir()
    (vae / ".cache/downloaded").write_text("today")
    assert identity == model_identity(vae, vlm, vlm)

    (elsewhere / "sub/weights.safetensors").write_bytes(b"13")
    assert identity != model_identity(elsewhere, vlm, vlm)
    (vae / "sub/weights.safetensors").rename(vae / "sub/other.safetensors")
    assert identity != model_identity(vae, vlm, vlm)
    assert "nowhere" in refusal(lambda: model_identity(tmp_path / "nowhere"))


def test_a_cache_of_other_models_is_refused(tmp_path: Path) -> None:
    write(tmp_path, range(2), made_with={"vae": "runs/vae", "resolution": "96x96"})
    message = refusal(lambda: CacheWriter(tmp_path, "b" * 64, made_with={"vae": "runs/other"}))
    for said in (
        str(tmp_path),
        "vae runs/vae, resolution 96x96",
        "a" * 12,
        "vae runs/other",
        "b" * 12,
        "--output",
    ):
        assert said in message
    assert "b" * 12 in refusal(lambda: EncodingCache(tmp_path, "b" * 64))
    assert_holds(tmp_path, range(2))


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (None, "run `genmask cache`"),
        (b"", "cannot be read"),
        (b"[]", "cannot be read"),
        (b'{"format": 1}', "cannot be read"),
        (json.dumps({"format": 1, "identity": IDENTITY, "made_with": []}).encode(), "cannot be read"),
        (json.dumps({"format": 2, "identity": IDENTITY, "made_with": {}}).encode(), "of format 2"),
    ],
)
def test_a_header_that_is_not_ours_is_refused(tmp_path: Path, header: bytes | None, said: str) -> None:
    write(tmp_path, range(2))
    path = tmp_path / "cache.json"
    path.unlink() if header is None else path.write_bytes(header)
    assert said in refusal(lambda: EncodingCache(tmp_path, IDENTITY))


# Going on


def killed_after(lines: int) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that kills its process at a line of the cache's or tarfile's code."""
    watched, left = {cache.__file__, tarfile.__file__}, lines

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in watched:
            return None
        left -= event == "line"
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


@pytest.mark.parametrize("stride", [131, pytest.param(13, marks=pytest.mark.slow)])
def test_a_kill_at_any_line_leaves_whole_shards_and_the_rest_is_made_again(
    tmp_path: Path, stride: int
) -> None:
    lines, outcomes, lengths = 0, [], set()
    while not outcomes or outcomes[-1] != 0:
        folder = tmp_path / str(lines)

        def work(folder: Path = folder, lines: int = lines) -> None:
            sys.settrace(killed_after(lines))
            write(folder, range(5), samples_per_shard=2, rank=1, world_size=2)

        outcomes.append(in_child(work))
        kept = TarIndex(finished_shards(folder)).keys
        assert kept == [key(number) for number in range(len(kept))]
        lengths.add(len(kept))
        assert write(folder, range(6)) == FillCounts(encoded=6 - len(kept), found=len(kept))
        assert_holds(folder, range(6))
        assert not list(folder.glob("cache-*.partial"))
        lines += stride
    assert set(outcomes[:-1]) == {-signal.SIGKILL}
    assert lengths == {0, 2, 4, 5}


def test_processes_share_the_work_and_any_number_goes_on(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        write(tmp_path, range(rank, 20, 2), rank=rank, world_size=2)

    processes = [get_context("fork").Process(target=work, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(TarIndex(finished_shards(tmp_path)).keys) == sorted(key(number) for number in range(20))

    counts = [write(tmp_path, range(rank, 30, 3), rank=rank, world_size=3) for rank in range(3)]
    assert sum(count.encoded for count in counts) == 10
    assert sum(count.found for count in counts) == 20
    assert_holds(tmp_path, range(30))


def test_an_earlier_runs_leftovers_go_and_another_ranks_stay(tmp_path: Path) -> None:
    write(tmp_path, [])
    for rank in range(4):
        (tmp_path / f"cache-{rank:05d}-left.partial").write_bytes(b"half a shard")
    write(tmp_path, [], rank=1, world_size=3)
    assert [path.name[6:11] for path in sorted(tmp_path.glob("*.partial"))] == ["00000", "00002", "00003"]
    write(tmp_path, [], rank=0, world_size=3)
    assert [path.name[6:11] for path in sorted(tmp_path.glob("*.partial"))] == ["00002"]


def test_an_error_amid_a_shard_leaves_the_finished_ones(tmp_path: Path) -> None:
    def fail(numbers: list[int]) -> list[EncodedSample]:
        if 4 in numbers:
            raise KeyboardInterrupt
        return encode(numbers)

    with (
        pytest.raises(KeyboardInterrupt),
        CacheWriter(tmp_path, IDENTITY, samples_per_shard=3) as writer,
    ):
        fill(keyed(range(7)), fail, writer, batch_size=2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["cache-00000-000000.tar", "cache.json"]
    assert write(tmp_path, range(7)) == FillCounts(encoded=4, found=3)
    assert_holds(tmp_path, range(7))


def test_two_runs_of_one_rank_spoil_nothing(tmp_path: Path) -> None:
    def twice() -> None:
        with CacheWriter(tmp_path, IDENTITY) as writer:
            writer.add(key(0), encoded(0))
            write(tmp_path, range(3))

    assert "give each process a rank of its own" in refusal(twice)
    assert_holds(tmp_path, range(3))
    assert not list(tmp_path.glob("*.partial"))


def test_only_what_is_missing_is_encoded_once_and_in_batches(tmp_path: Path) -> None:
    write(tmp_path, [1, 4])
    batches: list[list[int]] = []
    advanced: list[int] = []
    with CacheWriter(tmp_path, IDENTITY) as writer:
        counts = fill(
            keyed([0, 1, 2, 2, 3, 4, 0, 5]),
            lambda numbers: batches.append(list(numbers)) or encode(numbers),
            writer,
            batch_size=3,
            advance=advanced.append,
        )
        writer.add(key(0), encoded(9))  # is there, and stays
    assert batches == [[0, 2, 3], [5]]
    assert counts == FillCounts(encoded=4, found=4)
    assert sum(advanced) == 8
    assert_holds(tmp_path, range(6))


@pytest.mark.parametrize(
    "options", [{"rank": 2, "world_size": 2}, {"rank": -1, "world_size": 2}, {"samples_per_shard": 0}]
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"Got .* expected"):
        CacheWriter(tmp_path / "new", IDENTITY, **options)
    assert not (tmp_path / "new").exists()


# Damage


def test_a_truncated_shard_is_named_wherever_it_is_cut(tmp_path: Path) -> None:
    write(tmp_path, range(4))
    shard = finished_shards(tmp_path)[0]
    whole = shard.read_bytes()
    with tarfile.open(shard) as archive:
        headers = [info.offset for info in archive]
        end = archive.offset
    for cut in range(0, end + 1, 256):
        shard.write_bytes(whole[:cut])
        for action in (lambda: CacheWriter(tmp_path, IDENTITY), lambda: EncodingCache(tmp_path, IDENTITY)):
            message = refusal(action)
            assert str(shard) in message
            assert "`genmask cache`" in message
            seen = sum(header + 512 <= cut for header in headers)
            assert (f"after key {key(seen - 1)!r}" if seen else "before its first sample") in message
    shard.unlink()
    assert write(tmp_path, range(4)) == FillCounts(encoded=3, found=1)
    assert_holds(tmp_path, range(4))


def test_a_shard_that_is_cut_or_spoilt_later_is_named(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    (shard,) = finished_shards(tmp_path)
    whole = shard.read_bytes()
    reader = EncodingCache(tmp_path, IDENTITY)
    shard.write_bytes(whole[:600])
    message = refusal(lambda: reader.get(key(2)))
    assert str(shard) in message
    assert key(2) in message
    assert "0 of " in message
    shard.write_bytes(whole.replace(b'"x0"', b'"y0"').replace(b"BF16", b"BF61"))
    for number in range(3):
        message = refusal(lambda number=number: reader.get(key(number)))
        assert str(shard) in message
        assert key(number) in message


# The index of any shard


def member(name: str, content: bytes = b"x", **fields: Any) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, io.BytesIO(content)


def write_tar(path: Path, *members: tuple[tarfile.TarInfo, io.BytesIO]) -> Path:
    with tarfile.open(path, "w") as archive:
        for info, content in members:
            archive.addfile(info, content)
    return path


def test_samples_are_those_of_the_stream_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_index, "MAX_OPEN_SHARDS", 2)
    shards = [
        write_tar(
            tmp_path / f"{shard}.tar",
            *(
                member(f"dir.v1/{'n' * 120}{number}.{suffix}", f"{shard} {number} {suffix}".encode())
                for number in range(4)
                for suffix in ("TXT", "jpg", "seg.png")[number % 2 :]
            ),
        )
        for shard in range(5)
    ]
    index = TarIndex(shards)
    expected = [sample for shard in shards for sample in read_shard(shard)]
    assert len(index) == len(expected) == 20
    assert index.keys == [sample.key for sample in expected]
    index = pickle.loads(pickle.dumps(index))
    open_files = len(list(Path("/proc/self/fd").glob("*")))
    for place in np.random.default_rng(0).permutation(20):
        sample = index[int(place)]
        assert sample.shard == expected[place].shard
        files = dict(sample.files)
        assert files.pop("seg.png").endswith(b"seg.png")
        assert files == expected[place].files
        assert len(list(Path("/proc/self/fd").glob("*"))) <= open_files + 2
    # Processes share a file's position after a fork: reading must not move it.
    assert index[-1].files == expected[-1].files | {"seg.png": b"4 3 seg.png"}
    assert index._stream(4).tell() == 0


def test_a_hostile_tar_is_only_read(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    shard = write_tar(
        folder / "0.tar",
        member("../../evil.txt", b"1"),
        member("/tmp/evil.txt", b"2"),
        member("link.txt", b"", type=tarfile.SYMTYPE, linkname="../secret.txt"),
        member("hard.txt", b"", type=tarfile.LNKTYPE, linkname="../secret.txt"),
        member("pipe.txt", b"", type=tarfile.FIFOTYPE),
        member("device.txt", b"", type=tarfile.CHRTYPE),
        member("folder.txt", b"", type=tarfile.DIRTYPE),
        member("sparse.txt", b"", pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "9" * 12}),
        member("no-suffix", b"3"),
        member("good.txt", b"4"),
    )
    before = sorted(tmp_path.rglob("*"))
    index = TarIndex([shard])
    assert {index.keys[i]: index[i].files for i in range(len(index))} == {
        "../../evil": {"txt": b"1"},
        "/tmp/evil": {"txt": b"2"},
        "good": {"txt": b"4"},
    }
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/evil.txt").exists()


def test_a_sample_that_cannot_be_had_is_named_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_index, "MAX_FILE_BYTES", 10)
    shard = write_tar(
        tmp_path / "0.tar",
        member("good.txt"),
        member("two.txt"),
        member("two.TXT"),
        member("large.txt", b"x" * 11),
    )
    index = TarIndex([shard])
    assert index[0].files == {"txt": b"x"}
    for place, said in ((1, "second txt"), (2, "11 bytes")):
        message = refusal(lambda place=place: index[place])
        assert said in message
        assert str(shard) in message
        assert repr(index.keys[place]) in message


def test_only_tars_are_indexed(tmp_path: Path) -> None:
    assert "0.tar.gz" in refusal(lambda: TarIndex([tmp_path / "0.tar.gz"]))
    path = tmp_path / "0.tar"
    path.write_bytes(np.random.default_rng(0).bytes(2000))
    assert str(path) in refusal(lambda: TarIndex([path]))


# The command


def test_the_command_passes_on_its_share_and_says_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from genmask.commands.cache import Cache
    from genmask.recipe_tasks import Parts
    from genmask.recipes import find_recipe

    calls = []

    def stand_in(
        name: str, output: Path, parts: Parts, *, rank: int, world_size: int, progress: Any, **options: Any
    ) -> FillCounts:
        calls.append((name, parts, rank, world_size, options["samples"], options["recipe"].model.epoch_steps))
        with progress(10) as advance:
            advance(10)
        return write(output, range(rank, 10, world_size), rank=rank, world_size=world_size)

    monkeypatch.setattr("genmask.recipe_runs.cache", stand_in)
    for variable in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    output = tmp_path / "encodings"
    command: dict[str, Any] = {"recipe": "tiny", "output": output, "data": Path("photos"), "start": "tiny"}
    Cache(**command, samples=10, rank=1, world_size=2, override=("model.epoch_steps=7",)).run()
    assert "share 2 of 2: 5 samples encoded, 0 found" in capsys.readouterr().out
    Cache(**command).run()
    size = sum(path.stat().st_size for path in output.glob("*.tar"))
    assert capsys.readouterr().out == f"{output}: 5 samples encoded, 5 found; {size / 1e6:.1f} MB on disk\n"
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    Cache(**command).run()
    parts, epoch = Parts(data=Path("photos"), start="tiny"), find_recipe("tiny").model.epoch_steps
    assert calls == [
        ("tiny", parts, 1, 2, 10, 7),
        ("tiny", parts, 0, 1, None, epoch),
        ("tiny", parts, 2, 3, None, epoch),
    ]

    for wrong in ({"rank": 3}, {"samples": 0}, {"recipe": "tinny"}):
        with pytest.raises(ValueError, match=r"Got .* expected"):
            Cache(**{**command, **wrong}).run()
