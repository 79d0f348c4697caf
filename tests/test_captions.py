"""Captioned pictures from DiffusionDB and from WebDataset shards, as others' programs write them."""

from __future__ import annotations

import io
import json
import logging
import pickle
import tarfile
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
wds = pytest.importorskip("webdataset")

from genmask.data import webdataset_captions  # noqa: E402
from genmask.data.captions import clean_caption  # noqa: E402
from genmask.data.diffusiondb import DiffusionDB  # noqa: E402
from genmask.data.mixture import InTurn, Mixture  # noqa: E402
from genmask.data.webdataset_captions import WebDatasetCaptions  # noqa: E402


def picture(value: int, form: str = "PNG") -> bytes:
    """8 x 6 pixels of one grey."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (value, value, value)).save(buffer, format=form)
    return buffer.getvalue()


def write_shard(path: Path, keys: list[str], **changed: dict[str, Any]) -> Path:
    """A shard as webdataset writes it; `changed` gives other members for a key, None for none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wds.TarWriter(str(path), encoder=False) as writer:
        for key in keys:
            value = sum(key.encode()) % 200
            members = {"jpg": picture(value, "JPEG"), "txt": f"caption of {key}".encode()}
            members |= changed.get(key, {})
            writer.write({"__key__": key, **{k: v for k, v in members.items() if v is not None}})
    return path


def write_shards(root: Path, *sizes: int) -> str:
    for shard, size in enumerate(sizes):
        write_shard(root / f"{shard:05d}.tar", [f"s{shard}n{n}" for n in range(size)])
    return str(root / "*.tar")


def ids(stream: Any) -> list[str]:
    return [example.id for example in stream]


def be_worker(monkeypatch: pytest.MonkeyPatch, worker: int, workers: int) -> None:
    info = SimpleNamespace(id=worker, num_workers=workers) if workers else None
    monkeypatch.setattr(webdataset_captions, "get_worker_info", lambda: info)


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(ValueError, match="expected") as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)


# WebDataset shards


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_pictures_and_captions_are_joined_by_key(tmp_path: Path, suffix: str) -> None:
    keys = ["a", "dir.v1/b", "c"]
    path = write_shard(
        tmp_path / "blip" / f"00000.{suffix}",
        keys,
        a={"json": b"{}", "txt": " a  red\nmug ,".encode("utf-8-sig")},
        c={"jpg": None, "PNG": picture(7), "pkl": b"not opened"},
    )
    first, second, third = WebDatasetCaptions([path], buffer=1)
    assert (first.text, first.task, first.mask, first.source) == (
        "a red mug",
        "generation",
        None,
        "webdataset/blip",
    )
    assert [e.id for e in (first, second, third)] == ["00000/a", "00000/dir.v1/b", "00000/c"]
    assert second.text == "caption of dir.v1/b"
    assert np.array_equal(third.image, np.full((6, 8, 3), 7, dtype=np.uint8))


def test_what_shardwriter_makes_is_read_as_webdataset_reads_it(tmp_path: Path) -> None:
    with wds.ShardWriter(str(tmp_path / "%04d.tar"), maxcount=3, verbose=0) as writer:
        for n in range(7):
            writer.write({"__key__": f"{n:03d}", "jpg": picture(n, "JPEG"), "txt": f"number {n}"})
    shards = sorted(map(str, tmp_path.glob("*.tar")))
    theirs = [(s["__key__"], s["txt"].decode()) for s in wds.WebDataset(shards, shardshuffle=False)]
    ours = [(e.id.partition("/")[2], e.text) for e in WebDatasetCaptions(str(tmp_path / "*.tar"))]
    assert sorted(ours) == sorted(theirs)
    assert len(ours) == 7


@pytest.mark.parametrize("sizes", [(5, 1, 7, 3, 4, 6, 2), (9, 4)])
@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (2, 0), (3, 0), (1, 2), (2, 2), (3, 3)])
def test_readers_together_see_every_sample_once_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...], world_size: int, workers: int
) -> None:
    shards = write_shards(tmp_path, *sizes)
    seen: list[Counter[str]] = [Counter(), Counter()]
    for rank in range(world_size):
        for worker in range(max(1, workers)):
            be_worker(monkeypatch, worker, workers)
            stream = WebDatasetCaptions(shards, buffer=3, rank=rank, world_size=world_size)
            for epoch in seen:
                share = ids(stream)
                assert share or sizes != (9, 4)  # nobody is idle for want of shards
                epoch.update(share)
    everything = Counter(f"{s:05d}/s{s}n{n}" for s, size in enumerate(sizes) for n in range(size))
    assert seen == [everything, everything]


def test_a_dataloader_with_workers_sees_every_sample_once(tmp_path: Path) -> None:
    from torch.utils.data import DataLoader

    stream = WebDatasetCaptions(write_shards(tmp_path, 3, 2, 4), buffer=2)
    loader = DataLoader(stream, batch_size=None, num_workers=2)
    seen = ids(loader)
    assert sorted(seen) == sorted(ids(stream))
    assert len(seen) == 9


def test_orders_are_functions_of_seed_and_epoch(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, 6, 6, 6)
    stream = WebDatasetCaptions(shards, buffer=4)
    first, second = ids(stream), ids(stream)
    assert first != second
    assert sorted(first) == sorted(second)
    assert ids(WebDatasetCaptions(shards, buffer=4)) == first
    assert ids(WebDatasetCaptions(shards, buffer=4, seed=1)) != first
    stream.set_epoch(1)
    assert ids(stream) == second
    by_shard = ids(WebDatasetCaptions(shards, buffer=1))
    assert by_shard != first
    assert all(by_shard[i : i + 6] == sorted(by_shard[i : i + 6]) for i in (0, 6, 12))


@pytest.mark.parametrize("buffer", [1, 3, 4, 100])
def test_a_stream_goes_on_exactly_from_every_position(tmp_path: Path, buffer: int) -> None:
    write_shards(tmp_path, 4, 3)
    write_shard(tmp_path / "bad.tar", ["a", "b", "c"], b={"jpg": b"broken"}, c={"txt": None})
    with tarfile.open(tmp_path / "00001.tar") as archive:
        cut = archive.getmembers()[3].offset  # between the two files of the second sample
    content = (tmp_path / "00001.tar").read_bytes()
    (tmp_path / "00001.tar").write_bytes(content[:cut])
    shards = str(tmp_path / "*.tar")

    def build() -> WebDatasetCaptions:
        return WebDatasetCaptions(shards, buffer=buffer, on_error="skip")

    def two_epochs(stream: WebDatasetCaptions, first: int) -> list[str]:
        return ids(stream) + (ids(stream) if first == 0 else [])

    whole, states = build(), []
    expected = []
    for epoch in range(2):
        states.append((epoch, len(expected), whole.state_dict()))
        for example in whole:
            expected.append(example.id)
            states.append((epoch, len(expected), json.loads(json.dumps(whole.state_dict()))))
    assert len(expected) == 2 * 6
    assert len(states) == 14
    for epoch, done, state in states:
        resumed = build()
        resumed.load_state_dict(state)
        assert expected[:done] + two_epochs(resumed, epoch) == expected
        assert resumed.skipped == whole.skipped
    assert whole.skipped == {
        "damaged picture": 2,
        "missing text": 2,
        "cut sample": 2,
        "damaged shard": 2,
    }


def test_a_position_of_a_worker_or_another_stream_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = write_shards(tmp_path, 2, 2)
    be_worker(monkeypatch, 1, 2)
    state = WebDatasetCaptions(shards).state_dict()
    be_worker(monkeypatch, 0, 2)
    stream = WebDatasetCaptions(shards)
    stream.load_state_dict(state)
    assert "(1, 2) for (0, 2)" in refusal(lambda: next(iter(stream)))
    be_worker(monkeypatch, 1, 2)
    assert len(ids(stream)) == 2
    for other in (
        WebDatasetCaptions(shards, seed=1),
        WebDatasetCaptions(shards, buffer=2),
        WebDatasetCaptions(shards, world_size=2),
        WebDatasetCaptions(str(tmp_path / "00000.tar")),
    ):
        assert "another stream" in refusal(lambda other=other: other.load_state_dict(state))


DAMAGE: list[tuple[str, dict[str, Any], str]] = [
    ("damaged picture", {"jpg": picture(9, "JPEG")[:300]}, "key 'b'"),
    ("damaged picture", {"jpg": b"GIF89a?"}, "key 'b'"),
    ("damaged picture", {"jpg": b""}, "key 'b'"),
    ("missing picture", {"jpg": None, "gif": picture(1, "GIF")}, "no picture in"),
    ("missing picture", {"jpg": None, "pkl": pickle.dumps(print)}, "no picture in"),
    ("missing text", {"txt": None, "json": b'{"caption": "x"}'}, "no text in"),
    ("empty text", {"txt": b" , \n"}, "empty text"),
    ("damaged text", {"txt": b"caf\xe9"}, "UTF-8"),
]


@pytest.mark.parametrize(("reason", "members", "said"), DAMAGE)
def test_a_damaged_sample_amid_a_shard_is_named_or_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, reason: str, members: dict[str, Any], said: str
) -> None:
    path = write_shard(tmp_path / "7.tar", ["a", "b", "c"], b=members)
    strict = WebDatasetCaptions([path], buffer=1)
    examples = iter(strict)
    assert next(examples).id == "7/a"
    message = refusal(lambda: next(examples))
    assert said in message
    assert "7.tar" in message
    assert "'b'" in message
    assert ids(strict) == ["7/c"]  # a new iteration goes on behind it
    lenient = WebDatasetCaptions([path], buffer=1, on_error="skip")
    with caplog.at_level(logging.WARNING):
        assert ids(lenient) == ["7/a", "7/c"]
    assert lenient.skipped == {reason: 1}
    assert "'b'" in caplog.messages[0]
    assert f"epoch 0: 1 {reason}" in caplog.messages[-1]


def test_a_tar_cut_anywhere_is_never_taken_for_a_whole_one(tmp_path: Path) -> None:
    whole = write_shard(tmp_path / "whole" / "1.tar", ["a", "b", "c"])
    content = whole.read_bytes()
    with tarfile.open(whole) as archive:
        members = archive.getmembers()
    end = members[-1].offset_data + 512
    path = tmp_path / "1.tar"
    for length in sorted({0, 100, *range(512, end + 1, 512), *range(700, end, 1024)}):
        path.write_bytes(content[:length])
        assert "damaged" in refusal(lambda: ids(WebDatasetCaptions([path], buffer=1)))
        stream = WebDatasetCaptions([path], buffer=1, on_error="skip")
        wholly_there = [
            f"1/{text.name[0]}"
            for picture_, text in zip(members[::2], members[1::2], strict=True)
            if max(picture_.offset_data + picture_.size, text.offset_data + text.size) <= length
        ]
        assert ids(stream) == wholly_there
        assert stream.skipped["damaged shard"] == 1
    path.write_bytes(content[: end + 512])  # one empty block: an end, if a short one
    assert ids(WebDatasetCaptions([path], buffer=1)) == ["1/a", "1/b", "1/c"]


def test_damage_is_met_once_by_all_readers_together(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "1.tar", ["a", "b", "c"])
    for length in (1024, 1600, 2560, 3100, 3584):
        cut = tmp_path / "cut.tar"
        cut.write_bytes(path.read_bytes()[:length])
        total: Counter[str] = Counter()
        for rank in range(3):
            stream = WebDatasetCaptions([cut], rank=rank, world_size=3, on_error="skip")
            ids(stream)
            total += stream.skipped
        assert total["damaged shard"] == 1


def test_the_next_shard_is_read_after_a_broken_one(tmp_path: Path) -> None:
    keys = ["a", "b"]
    for name in ("0", "1", "2"):
        write_shard(tmp_path / f"{name}.tar", keys)
    content = bytearray((tmp_path / "1.tar").read_bytes())
    with tarfile.open(tmp_path / "1.tar") as archive:
        header = archive.getmembers()[2].offset
    content[header : header + 20] = b"\xff" * 20  # amid the shard, between whole members
    (tmp_path / "1.tar").write_bytes(content)
    stream = WebDatasetCaptions(str(tmp_path / "*.tar"), on_error="skip")
    assert sorted(ids(stream)) == ["0/a", "0/b", "1/a", "2/a", "2/b"]
    assert stream.skipped == {"damaged shard": 1}


def test_hostile_archives_end(tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo("a.jpg").tobuf())
    header[124:136] = (-512 & (2**96 - 1)).to_bytes(12, "big")  # the next header is this one again
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "loop.tar"
    path.write_bytes(tarfile.TarInfo("empty").tobuf() + bytes(header) + bytes(10_240))
    assert "damaged" in refusal(lambda: ids(WebDatasetCaptions([path])))
    with tarfile.open(tmp_path / "big.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        huge = tarfile.TarInfo("a.jpg")
        huge.size = 10**12
        archive.addfile(huge)  # the terabyte is claimed, not there
    stream = WebDatasetCaptions([tmp_path / "big.tar"], on_error="skip")
    assert ids(stream) == []
    assert stream.skipped.total() >= 1
    link = tarfile.TarInfo("a.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
    with tarfile.open(tmp_path / "link.tar", "w") as archive:
        archive.addfile(link)
    assert ids(WebDatasetCaptions([tmp_path / "link.tar"])) == []


def test_files_of_one_key_must_lie_together_and_once(tmp_path: Path) -> None:
    def shard(name: str, *members: str) -> WebDatasetCaptions:
        with tarfile.open(tmp_path / name, "w") as archive:
            for member in members:
                content = picture(1, "JPEG") if member.endswith("g") else b"text"
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return WebDatasetCaptions([tmp_path / name], on_error="skip")

    apart = shard("apart.tar", "a.jpg", "b.jpg", "a.txt", "b.txt")
    assert ids(apart) == []
    assert apart.skipped == {"missing text": 2, "missing picture": 2}
    twice = shard("twice.tar", "a.jpg", "a.txt", "a.jpg", "b.jpg", "b.txt")
    assert ids(twice) == ["twice/b"]
    assert twice.skipped == {"repeated file": 1}


def test_shards_that_cannot_be_are_refused(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "a", 1)
    write_shards(tmp_path / "b", 1)
    assert "no shards" in refusal(lambda: WebDatasetCaptions(str(tmp_path / "none*.tar")))
    assert "nothere.tar" in refusal(lambda: WebDatasetCaptions([tmp_path / "nothere.tar"]))
    assert "one name" in refusal(lambda: WebDatasetCaptions([*tmp_path.glob("*/00000.tar")]))
    for url in ("https://host/0.tar", "pipe:touch x.tar"):
        assert "download it first" in refusal(lambda url=url: WebDatasetCaptions(url))
    assert "rank 2" in refusal(lambda: WebDatasetCaptions(shards, rank=2, world_size=2))
    assert "buffer 0" in refusal(lambda: WebDatasetCaptions(shards, buffer=0))
    assert "'ignore'" in refusal(lambda: WebDatasetCaptions(shards, on_error="ignore"))  # type: ignore[arg-type]


def test_a_mixture_saves_the_position_of_its_stream(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, 3, 2)

    def build() -> Mixture:
        stream = WebDatasetCaptions(shards, buffer=2)
        return Mixture({"blip": (InTurn(stream), 2.0), "again": (InTurn(WebDatasetCaptions(shards)), 1.0)})

    whole = build()
    expected = ids(islice(whole, 40))
    for done in range(0, 20):
        mixed, resumed = build(), build()
        assert ids(islice(mixed, done)) == expected[:done]
        resumed.load_state_dict(mixed.state_dict())
        assert ids(islice(resumed, 20)) == expected[done : done + 20]
    none = Mixture({"blip": (lambda index: next(iter([])), 1.0)})
    with pytest.raises(ValueError, match="another mixture"):
        none.load_state_dict(build().state_dict())


def test_a_stream_with_nothing_in_it_does_not_turn_for_ever(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", ["a"], a={"txt": None})
    stream = InTurn(WebDatasetCaptions(str(tmp_path / "0.tar"), on_error="skip"))
    assert "whole epoch" in refusal(lambda: stream(0))


# DiffusionDB

ROWS = {
    "part-000001": {"u1": "a castle, , oil painting,, ", "u2": " , ", "u3": "a\n dog", "u4": "a cat"},
    "part-000002": {"v1": "a tree,", "v2": "a boat"},
}
SCORES = {
    "u1": (0.1, 0.1),
    "u2": (0.1, 0.1),
    "u3": (2.0, 0.1),
    "u4": (0.2, 0.499),
    "v1": (0.5, 0.0),
    "v2": (0.0, 0.9),
}


def write_diffusiondb(
    root: Path,
    form: str = "png",
    *,
    inside: str = "images",
    zipped: bool = False,
    scores: dict[str, tuple[float, float]] | None = SCORES,
) -> Path:
    for part, prompts in ROWS.items():
        entries = {
            f"{name}.{form}": {"p": text, "se": 1, "c": 7.0, "st": 50, "sa": "k_lms"}
            for name, text in prompts.items()
        }
        files = {name: picture(10 * int(name[1]), form.upper()) for name in entries}
        files[f"{part}.json"] = json.dumps(entries).encode()
        folder = root / inside
        folder.mkdir(parents=True, exist_ok=True)
        if zipped:
            with ZipFile(folder / f"{part}.zip", "w") as archive:
                for name, content in files.items():
                    archive.writestr(name, content)
        else:
            (folder / part).mkdir()
            for name, content in files.items():
                (folder / part / name).write_bytes(content)
    if scores is not None:
        names = [name for prompts in ROWS.values() for name in prompts if name in scores]
        columns = {
            "image_name": [f"{name}.{form}" for name in names],
            "prompt": ["x"] * len(names),
            "part_id": pa.array([1 if name[0] == "u" else 2 for name in names], pa.uint16()),
            "sampler": pa.array([8] * len(names), pa.uint8()),
            "image_nsfw": pa.array([scores[name][0] for name in names], pa.float32()),
            "prompt_nsfw": pa.array([scores[name][1] for name in names], pa.float32()),
        }
        pq.write_table(pa.table(columns), root / "metadata.parquet", row_group_size=2)
    return root


@pytest.mark.parametrize(
    ("form", "inside", "zipped"),
    [("png", "images", False), ("png", "", True), ("webp", "diffusiondb-large-part-1", True)],
)
def test_parts_in_every_form_become_examples(tmp_path: Path, form: str, inside: str, zipped: bool) -> None:
    source = DiffusionDB(write_diffusiondb(tmp_path, form, inside=inside, zipped=zipped))
    assert [(e.id, e.text) for e in (source[i] for i in range(len(source)))] == [
        ("part-000001/u1", "a castle, , oil painting"),
        ("part-000001/u4", "a cat"),
    ]
    first = source[0]
    assert (first.task, first.mask, first.source, first.image.shape) == (
        "generation",
        None,
        "diffusiondb",
        (6, 8, 3),
    )
    assert abs(first.image.astype(int) - 10).max() <= 2
    assert source.skipped == {
        "empty prompt": 1,
        "blurred picture": 1,
        "NSFW picture": 1,
        "NSFW prompt": 1,
    }
    with pytest.raises(IndexError):
        source[2]


def test_the_filter_is_as_strict_as_asked_and_never_keeps_blur(tmp_path: Path) -> None:
    root = write_diffusiondb(tmp_path)

    def kept(**options: Any) -> set[str]:
        source = DiffusionDB(root, **options)
        return {source[i].id[-2:] for i in range(len(source))}

    assert kept(nsfw_below=1.0) == {"u1", "u4", "v1", "v2"}
    assert kept(nsfw_below=0.15) == {"u1"}
    assert kept(nsfw_below=None) == {"u1", "u4", "v1", "v2"}
    assert kept(nsfw_below=0.95, parts=[2]) == {"v1", "v2"}
    assert "nsfw_below 2" in refusal(lambda: DiffusionDB(root, nsfw_below=2.0))
    assert "no part 3" in refusal(lambda: DiffusionDB(root, parts=[1, 3]))
    (root / "metadata.parquet").unlink()
    assert kept(nsfw_below=None) == {"u1", "u3", "u4", "v1", "v2"}
    assert "nsfw_below=None" in refusal(lambda: DiffusionDB(root))


def test_a_picture_without_scores_is_left_out(tmp_path: Path) -> None:
    root = write_diffusiondb(tmp_path, scores={"u1": (0.1, 0.1), "u4": (float("nan"), 0.1)})
    source = DiffusionDB(root)
    assert [source[i].id for i in range(len(source))] == ["part-000001/u1"]
    assert source.skipped == {"without scores": 4, "NSFW picture": 1}
    assert len(DiffusionDB(root, nsfw_below=None)) == 5


def test_damaged_rows_and_parts_are_named_or_counted(tmp_path: Path) -> None:
    root = write_diffusiondb(tmp_path)
    path = root / "images/part-000001/part-000001.json"
    good = json.loads(path.read_text())
    (root / "outside.png").write_bytes(picture(1))
    for reason, entries in (
        ("malformed row", {**good, "u1.png": ["a castle"]}),
        ("malformed row", {**good, "u1.png": {"prompt": "x"}}),
        ("malformed row", {**good, "u1.png": {"p": 7}}),
        ("missing picture", {**good, "gone.png": {"p": "x"}}),
        ("missing picture", {**good, "../../outside.png": {"p": "x"}}),
        ("damaged part", ["u1.png"]),
        ("damaged part", None),
    ):
        path.write_text("{" if entries is None else json.dumps(entries))
        message = refusal(lambda: DiffusionDB(root, nsfw_below=0.95))
        assert "part-000001" in message
        lenient = DiffusionDB(root, nsfw_below=0.95, on_error="skip")
        assert lenient.skipped[reason] == 1
        assert lenient[len(lenient) - 1].id == "part-000002/v2"


def test_a_damaged_picture_is_named_or_its_place_is_taken(tmp_path: Path) -> None:
    root = write_diffusiondb(tmp_path, zipped=True)
    with ZipFile(root / "images/part-000001.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with ZipFile(root / "images/part-000001.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content[:45] if name == "u4.png" else content)
    source = DiffusionDB(root)
    assert source[0].id == "part-000001/u1"
    message = refusal(lambda: source[1])
    assert "u4.png" in message
    assert "part-000001.zip" in message
    lenient = DiffusionDB(root, on_error="skip")
    assert lenient[1].id == "part-000001/u1"
    assert lenient.skipped["damaged picture"] == 1


def test_a_zip_or_a_table_that_is_none_is_named(tmp_path: Path) -> None:
    root = write_diffusiondb(tmp_path, zipped=True)
    content = (root / "images/part-000001.zip").read_bytes()
    (root / "images/part-000001.zip").write_bytes(content[:-40])
    assert "part-000001.zip" in refusal(lambda: DiffusionDB(root))
    pq.write_table(pa.table({"image_name": ["u1.png"]}), root / "metadata.parquet")
    assert "image_nsfw" in refusal(lambda: DiffusionDB(root))
    (root / "metadata.parquet").write_bytes(b"PAR1 no")
    assert "metadata.parquet" in refusal(lambda: DiffusionDB(root))
    assert "no part" in refusal(lambda: DiffusionDB(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [("a, b,, ,", "a, b"), (" ,a\n\tb", "a b"), (",, ", ""), ("caf\u00e9.", "caf\u00e9.")],
)
def test_captions_are_cleaned_at_the_ends(text: str, cleaned: str) -> None:
    assert clean_caption(text) == cleaned
