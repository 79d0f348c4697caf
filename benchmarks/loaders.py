"""Pictures per second of every loader on two processes, beside a bare loop that decodes and resizes the same files.

    python benchmarks/loaders.py [--pictures 96] [--only refcoco]

Each data set is written to a temporary folder in its own layout: drawn scenes of 640 x 480 pixels as JPEG, their
objects as annotations. A sample is a picture and its mask, resized to 512 x 512 pixels; the bare loop reads no
annotation and makes no mask. Loader and bare loop take turns, and the medians count. Only the ratio means anything on a
shared machine.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api
from rich.console import Console
from rich.table import Table

from genmask.data.ade20k import Ade20k
from genmask.data.coco_folder import CocoFolder
from genmask.data.coco_stuff import CocoStuff
from genmask.data.diffusiondb import DiffusionDB
from genmask.data.folder import Folder
from genmask.data.labelme import LabelMe
from genmask.data.pascal_part import PascalPart
from genmask.data.pascal_voc import PascalVoc
from genmask.data.reasoning import ReasonSeg
from genmask.data.referring import Referring
from genmask.data.scenes import Scenes
from genmask.data.transforms import resize
from genmask.data.webdataset_captions import WebDatasetCaptions

SIZE = (480, 640)
SIDE = 512
PROCESSES = 2
ROUNDS = 3
GRAIN = 20
"""Standard deviation of the noise on the pictures, of 255."""


@dataclass(frozen=True)
class Drawn:
    """A picture as JPEG and the masks of two things in it."""

    jpeg: bytes
    masks: list[np.ndarray]

    def label_map(self) -> np.ndarray:
        labels = np.zeros(SIZE, dtype=np.uint8)
        for number, mask in enumerate(self.masks, start=1):
            labels[mask] = number
        return labels

    def polygons(self) -> list[list[float]]:
        """Around the box of each thing, forty points: as many as people set."""
        found = []
        for mask in self.masks:
            rows, columns = np.nonzero(mask)
            angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
            x = (columns.min() + columns.max()) / 2 + np.cos(angles) * (np.ptp(columns) / 2 + 1)
            y = (rows.min() + rows.max()) / 2 + np.sin(angles) * (np.ptp(rows) / 2 + 1)
            found.append(np.stack([x, y], axis=1).clip(0, [SIZE[1] - 1, SIZE[0] - 1]).ravel().tolist())
        return found


def draw(count: int) -> list[Drawn]:
    scenes, drawn = Scenes("train", size=SIZE), []
    for index in range(count):
        example, scene = scenes[4 * index], scenes.scene(4 * index)
        buffer = io.BytesIO()
        # Drawn pictures are smooth; with this grain a file has about the 160 kB of COCO's photographs.
        grain = np.random.default_rng(index).normal(0, GRAIN, example.image.shape)
        Image.fromarray((example.image + grain).clip(0, 255).astype(np.uint8)).save(
            buffer, "JPEG", quality=90
        )
        drawn.append(Drawn(buffer.getvalue(), [scene.mask(frozenset((number,))) for number in range(2)]))
    return drawn


def save(path: Path, content: bytes | np.ndarray | Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        Image.fromarray(content).save(path)
    else:
        path.write_text(json.dumps(content))


def coco(pictures: list[Drawn], name: str, categories: Sequence[str]) -> dict[str, Any]:
    annotations = [
        {
            "id": 2 * index + number,
            "image_id": index,
            "category_id": number,
            "segmentation": [polygon],
            "iscrowd": 0,
        }
        for index, picture in enumerate(pictures)
        for number, polygon in enumerate(picture.polygons())
    ]
    images = [
        {"id": index, "file_name": name.format(index), "height": SIZE[0], "width": SIZE[1]}
        for index in range(len(pictures))
    ]
    named = [{"id": number, "name": category} for number, category in enumerate(categories)]
    return {"images": images, "annotations": annotations, "categories": named}


def refcoco(root: Path, pictures: list[Drawn]) -> Referring:
    content = coco(pictures, "COCO_train2014_{:012d}.jpg", ("mug", "star"))
    save(root / "refcoco/instances.json", content)
    refs = [
        {
            "ref_id": index, "ann_id": 2 * index, "category_id": 0, "image_id": index, "file_name": "none",
            "split": "val", "sent_ids": [index],
            "sentences": [{"raw": "the mug", "sent": "the mug", "sent_id": index, "tokens": ["the", "mug"]}],
        }
        for index in range(len(pictures))
    ]  # fmt: skip
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    for image, picture in zip(content["images"], pictures, strict=True):
        save(root / "images/mscoco/images/train2014" / image["file_name"], picture.jpeg)
    return Referring(root, "refcoco", "val")


def coco_json(root: Path, pictures: list[Drawn]) -> CocoFolder:
    content = coco(pictures, "{}.jpg", ("mug", "star"))
    for annotation, picture in zip(content["annotations"][::2], pictures, strict=True):
        rle = mask_api.encode(np.asfortranarray(picture.masks[0].astype(np.uint8)))
        annotation["segmentation"] = {"size": list(SIZE), "counts": rle["counts"].decode()}
    save(root / "instances.json", content)
    for index, picture in enumerate(pictures):
        save(root / f"{index}.jpg", picture.jpeg)
    return CocoFolder(root / "instances.json")


def coco_stuff(root: Path, pictures: list[Drawn]) -> CocoStuff:
    for index, picture in enumerate(pictures):
        save(root / f"coco/val2017/{index:012d}.jpg", picture.jpeg)
        save(root / f"cocostuff/val2017/{index:012d}.png", picture.label_map())
    return CocoStuff(root, "val")


def ade20k(root: Path, pictures: list[Drawn]) -> Ade20k:
    for index, picture in enumerate(pictures):
        save(root / f"ADEChallengeData2016/images/validation/ADE_val_{index:08d}.jpg", picture.jpeg)
        save(
            root / f"ADEChallengeData2016/annotations/validation/ADE_val_{index:08d}.png", picture.label_map()
        )
    return Ade20k(root, "val")


def pascal_voc(root: Path, pictures: list[Drawn]) -> PascalVoc:
    base = root / "VOCdevkit/VOC2012"
    for index, picture in enumerate(pictures):
        save(base / f"JPEGImages/{index:06d}.jpg", picture.jpeg)
        labels = Image.fromarray(picture.label_map())
        labels.putpalette(list(range(256)) * 3)
        (base / "SegmentationClass").mkdir(exist_ok=True)
        labels.save(base / f"SegmentationClass/{index:06d}.png")
    save(
        base / "ImageSets/Segmentation/val.txt", "".join(f"{i:06d}\n" for i in range(len(pictures))).encode()
    )
    return PascalVoc(root, "val")


def pascal_part(root: Path, pictures: list[Drawn]) -> PascalPart:
    save(root / "vlpart/pascal_part/val.json", coco(pictures, "{}.jpg", ("cat:head", "dog:tail")))
    for index, picture in enumerate(pictures):
        save(root / f"VOCdevkit/VOC2010/JPEGImages/{index}.jpg", picture.jpeg)
    return PascalPart(root, "val")


def shapes(picture: Drawn) -> list[dict[str, Any]]:
    return [
        {"label": label, "points": np.reshape(polygon, (-1, 2)).tolist(), "shape_type": "polygon"}
        for label, polygon in zip(("target", "other"), picture.polygons(), strict=True)
    ]


def reasonseg(root: Path, pictures: list[Drawn]) -> ReasonSeg:
    for index, picture in enumerate(pictures):
        save(root / f"ReasonSeg/val/{index}.jpg", picture.jpeg)
        question = {"shapes": shapes(picture), "text": ["what is it?"], "is_sentence": True}
        save(root / f"ReasonSeg/val/{index}.json", question)
    return ReasonSeg(root, "val")


def labelme(root: Path, pictures: list[Drawn]) -> LabelMe:
    for index, picture in enumerate(pictures):
        save(root / f"{index}.jpg", picture.jpeg)
        size = {"imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        save(root / f"{index}.json", {"imagePath": f"{index}.jpg", "shapes": shapes(picture), **size})
    return LabelMe(root)


def folder(root: Path, pictures: list[Drawn]) -> Folder:
    rows = []
    for index, picture in enumerate(pictures):
        save(root / f"images/{index}.jpg", picture.jpeg)
        save(root / f"masks/{index}.png", picture.masks[0].astype(np.uint8) * 255)
        rows.append({"image": f"images/{index}.jpg", "text": "the mug", "mask": f"masks/{index}.png"})
    save(root / "captions.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    return Folder(root)


def diffusiondb(root: Path, pictures: list[Drawn]) -> DiffusionDB:
    """Its pictures are PNG."""
    rows = {}
    for index, picture in enumerate(pictures):
        name = f"{index:08d}-0000-4000-8000-000000000000.png"
        save(root / "images/part-000001" / name, np.asarray(Image.open(io.BytesIO(picture.jpeg))))
        rows[name] = {"p": "a mug", "se": 1, "c": 7.0, "st": 50, "sa": "k_lms"}
    save(root / "images/part-000001/part-000001.json", rows)
    return DiffusionDB(root, nsfw_below=None)


def webdataset(root: Path, pictures: list[Drawn]) -> WebDatasetCaptions:
    for shard in range(4):
        with tarfile.open(root / f"{shard:06d}.tar", "w") as archive:
            for index, picture in list(enumerate(pictures))[shard::4]:
                for ending, content in (("jpg", picture.jpeg), ("txt", b"a mug")):
                    member = tarfile.TarInfo(f"{index:08d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return WebDatasetCaptions(f"{root}/*.tar")


MAKERS: dict[str, Callable[[Path, list[Drawn]], Any]] = {
    maker.__name__: maker
    for maker in (
        refcoco, coco_json, coco_stuff, ade20k, pascal_voc, pascal_part, reasonseg, labelme, folder, diffusiondb,
        webdataset,
    )
}  # fmt: skip


def load(source: Any, rank: int) -> int:
    """A process's share of the samples."""
    count = 0
    for example in samples(source, rank):
        resize(example, SIDE, SIDE)
        count += 1
    return count


def samples(source: Any, rank: int) -> Iterator[Any]:
    if isinstance(source, WebDatasetCaptions):
        source.rank, source.world_size = rank, PROCESSES
        yield from source
        return
    for index in range(rank, len(source), PROCESSES):
        yield source[index]


def bare(files: Sequence[Path], repeats: int, rank: int) -> int:
    """The same pictures, as often as the loader reads them: decoded and resized, nothing else."""
    mine = [path for path in files for _ in range(repeats)][rank::PROCESSES]
    for path in mine:
        with Image.open(path) as image:
            np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    return len(mine)


def bare_stream(files: Sequence[Path], rank: int) -> int:
    """The same from tars."""
    count = 0
    for path in files[rank::PROCESSES]:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(".jpg"):
                    content = archive.extractfile(member)
                    assert content is not None
                    with Image.open(io.BytesIO(content.read())) as image:
                        np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS))
                    count += 1
    return count


def rate(work: Callable[[int], int], pool: Any) -> float:
    start = time.perf_counter()
    return sum(pool.map(work, range(PROCESSES), chunksize=1)) / (time.perf_counter() - start)


def measure(name: str, pictures: list[Drawn], pool: Any) -> tuple[float, float]:
    """Pictures per second of the loader and of the bare loop."""
    with tempfile.TemporaryDirectory() as root:
        source = MAKERS[name](Path(root), pictures)
        if isinstance(source, WebDatasetCaptions):
            plain = partial(bare_stream, sorted(Path(root).glob("*.tar")))
        else:
            files = sorted(path for path in Path(root).rglob("*") if _is_picture(path))
            plain = partial(bare, files, max(1, round(len(source) / len(files))))
        works = (partial(load, source), plain)
        for work in works:
            rate(work, pool)  # the first reads from disk
        rates = [(rate(works[0], pool), rate(works[1], pool)) for _ in range(ROUNDS)]
    return median(loader for loader, _ in rates), median(loop for _, loop in rates)


def _is_picture(path: Path) -> bool:
    return path.suffix == ".jpg" or (path.suffix == ".png" and "part-" in path.parent.name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--only", choices=MAKERS, help="one loader")
    arguments = parser.parse_args()
    pictures = draw(arguments.pictures)
    table = Table(
        "loader", title=f"{PROCESSES} processes, pictures of {SIZE[1]} x {SIZE[0]} to {SIDE} x {SIDE}"
    )
    for column in ("pictures/s", "bare loop", "ratio"):
        table.add_column(column, justify="right")
    with get_context("spawn").Pool(PROCESSES) as pool:
        for name in [arguments.only] if arguments.only else MAKERS:
            loader, loop = measure(name, pictures, pool)
            table.add_row(name, f"{loader:.0f}", f"{loop:.0f}", f"{loader / loop:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
