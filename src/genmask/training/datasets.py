"""The table of training sets: name -> what it teaches, where it is looked for, and how it becomes a source.

`open-photographs` and `open-compositions` leave out every source whose terms are not known to let anyone use and
pass on its photographs, changed or not (`OPEN_PHOTOGRAPHS`).

**No picture that the RefCOCO family evaluates on is trained on.** Its three sets divide the same pictures of COCO
differently, so that "train" of one holds pictures from "val" and "test" of another, and COCO-Stuff holds them all.
As is usual in published work, all pictures that RefCOCO (unc), RefCOCO+ (unc) and RefCOCOg (umd) keep for evaluation
are left out of each of the three, and here of COCO-Stuff too: those of whichever are found under the root. The
google split of RefCOCOg is not guarded: its val shares pictures with its own train.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from genmask.data import ade20k, coco_stuff, diffusiondb, pascal_part, pascal_voc
from genmask.data.example import Example, Task
from genmask.data.json_fields import read_field
from genmask.data.pickles import load_plain_pickle
from genmask.data.referring import PARTITIONS, Dataset, Referring
from genmask.data.semantic import ClassPairs, LabelMaps
from genmask.data.tar_index import TarIndex
from genmask.data.webdataset_captions import decode_sample, find_shards
from genmask.evaluation.benchmarks import BENCHMARKS
from genmask.training.own_folder import folder_split, open_folder
from genmask.training.sources import (
    CaptionSource,
    CompositionSource,
    GenerationSource,
    MaskSource,
    PhotographSource,
    SceneSource,
    SegmentationSource,
    Size,
    group_by_size,
    read_picture_sizes,
    repeat_by_size,
)

Source = SegmentationSource | GenerationSource
Classes = TypeVar("Classes", LabelMaps, pascal_part.PascalPart)
OPEN_PHOTOGRAPHS = ("building_facades", "indonesian_food")
"""CC BY 4.0 and MIT. Of the others, camvid is for research alone; the terms of clothing_coparsing and
weizmann_horses say nothing of the photographers' rights; and each photograph of COCO, of which animals has many,
has terms of its own."""
REFERRING: tuple[Dataset, ...] = ("refcoco", "refcoco+", "refcocog")


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """A data set to train on."""

    tasks: tuple[Task, ...]
    """What it serves; a folder of your own only what it has rows for."""
    layout: str
    """What the root holds; "" if none is needed."""
    open: Callable[[Path, Sequence[Size], int], Source]
    """From root, sizes and seed."""


class ShardCaptions:
    """Captioned pictures of tar shards, `<key>.jpg` (or jpeg, png, webp) and `<key>.txt`, by number.

    `WebDatasetCaptions` reads the same shards in their order; here sample `i` can be had without those before it.

    Args:
        shards: uncompressed tars, each of another name.
        source: name of the data set.

    Raises:
        ValueError: no shards, or one that is damaged. On use `CaptionError`, where a sample is.
    """

    def __init__(self, shards: Sequence[Path], source: str) -> None:
        self._index = TarIndex(find_shards(shards))
        self._source = source

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Example:
        return decode_sample(self._index[index], self._source)


def open_source(name: str, root: Path | None, sizes: Sequence[Size], seed: int = 0) -> Source:
    """A training set as an endless, shuffled stream of samples at exactly the size that is asked for.

    Args:
        name: a key of `TRAINING_SETS`.
        root: the folder that holds what the set's `layout` says; None where that is "".
        sizes: all (height, width) that will be asked for, in pixels.
        seed: of order, words and augmentation.

    Returns:
        A `SegmentationSource`, a `GenerationSource`, or both in one.

    Raises:
        ValueError: unknown name; data that are missing or not as the layout says.
    """
    training_set = TRAINING_SETS.get(name)
    if training_set is None:
        raise ValueError(f"Got training set {name!r}, expected one of {', '.join(TRAINING_SETS)}.")
    if training_set.layout and root is None:
        raise ValueError(f"Got no --data for {name}, expected the folder that holds {training_set.layout}.")
    return training_set.open(root or Path(), sizes, seed)


def find_evaluated(root: Path) -> frozenset[int]:
    """COCO's ids of all pictures that the RefCOCO family under `root` keeps for evaluation (see above)."""
    paths = (root / dataset / f"refs({PARTITIONS[dataset][0]}).p" for dataset in REFERRING)
    return frozenset().union(*(_read_evaluated(path) for path in paths if path.is_file()))


@cache  # the files take tens of seconds to read, and every set of COCO's pictures asks for all three
def _read_evaluated(path: Path) -> frozenset[int]:
    refs = load_plain_pickle(path)
    if not isinstance(refs, list):
        raise ValueError(
            f"Got {path} without a list of references, expected the authors' file: fetch it again."
        )
    named = [(f"reference {index} of {path}", ref) for index, ref in enumerate(refs)]
    return frozenset(
        read_field(ref, "image_id", int, where)
        for where, ref in named
        if read_field(ref, "split", str, where) != "train"
    )


def _open_referring(dataset: Dataset, root: Path, sizes: Sequence[Size], seed: int) -> MaskSource:
    refs, evaluated = Referring(root, dataset, "train"), find_evaluated(root)
    refs.expressions = [
        each
        for each in refs.expressions
        if not any(annotation.image_id in evaluated for annotation in each.referent.annotations)
    ]
    pictures = [(each.referent.height, each.referent.width) for each in refs.expressions]
    return MaskSource(repeat_by_size(refs, pictures, sizes, seed), seed, names_classes=False)


def _open_coco_stuff(root: Path, sizes: Sequence[Size], seed: int) -> MaskSource:
    data = coco_stuff.CocoStuff(root, "train", seed=seed)
    evaluated = {f"{image_id:012d}" for image_id in find_evaluated(root)}
    kept = [row for row, picture in enumerate(data.pictures) if picture.id not in evaluated]
    return _open_label_maps(_with_pictures(data, kept), sizes)


def _open_label_maps(data: LabelMaps, sizes: Sequence[Size]) -> MaskSource:
    # Label maps are as large as their pictures, and PNG states the size in its first bytes.
    return _open_classes(data, read_picture_sizes([picture.labels for picture in data.pictures]), sizes)


def _open_pascal_part(root: Path, sizes: Sequence[Size], seed: int) -> MaskSource:
    data = pascal_part.PascalPart(root, "train", seed=seed)
    return _open_classes(data, [(image.height, image.width) for image, _ in data.pictures], sizes)


def _open_classes(data: Classes, pictures: Sequence[Size], sizes: Sequence[Size]) -> MaskSource:
    by_size = {size: _with_pictures(data, rows) for size, rows in group_by_size(pictures, sizes).items()}
    return MaskSource(by_size, data.seed, names_classes=True)


def _with_pictures(data: Classes, rows: Iterable[int]) -> Classes:
    """The same set of some of its pictures, in an order of their own."""
    some = copy(data)
    some.pictures = [data.pictures[row] for row in rows]
    ClassPairs.__init__(some, len(some.pictures), view=data.view, seed=data.seed)
    return some


def _open_blip3o(root: Path, _: Sequence[Size], seed: int) -> CaptionSource:
    shards = sorted((root / "blip3o").glob("*.tar"))
    if not shards:
        raise ValueError(f"Got no shard in {root / 'blip3o'}, expected {BLIP3O_LAYOUT}.")
    return CaptionSource(ShardCaptions(shards, "blip3o"), seed)


MASKS: tuple[Task, ...] = ("segmentation",)
CAPTIONS: tuple[Task, ...] = ("generation",)
BLIP3O_LAYOUT = "blip3o/*.tar, each of KEY.jpg and KEY.txt"

TRAINING_SETS: dict[str, TrainingSet] = {
    "coco-stuff": TrainingSet(tasks=MASKS, layout=coco_stuff.LAYOUT, open=_open_coco_stuff),
    "ade20k": TrainingSet(
        tasks=MASKS,
        layout=ade20k.LAYOUT,
        open=lambda root, sizes, seed: _open_label_maps(ade20k.Ade20k(root, "train", seed=seed), sizes),
    ),
    "pascal-voc": TrainingSet(
        tasks=MASKS,
        layout=pascal_voc.LAYOUT,
        open=lambda root, sizes, seed: _open_label_maps(
            pascal_voc.PascalVoc(root, "train", seed=seed), sizes
        ),
    ),
    "pascal-part": TrainingSet(tasks=MASKS, layout=pascal_part.LAYOUT, open=_open_pascal_part),
    **{
        dataset: TrainingSet(
            tasks=MASKS, layout=BENCHMARKS[f"{dataset}/val"].layout, open=partial(_open_referring, dataset)
        )
        for dataset in REFERRING
    },
    "diffusiondb": TrainingSet(
        tasks=CAPTIONS,
        layout=f"diffusiondb/ with metadata.parquet and {diffusiondb.LAYOUT}",
        open=lambda root, _, seed: CaptionSource(
            diffusiondb.DiffusionDB(root / "diffusiondb", on_error="skip"), seed
        ),
    ),
    "blip3o": TrainingSet(tasks=CAPTIONS, layout=BLIP3O_LAYOUT, open=_open_blip3o),
    "scenes": TrainingSet(
        tasks=MASKS + CAPTIONS, layout="", open=lambda _, sizes, seed: SceneSource(sizes, seed)
    ),
    "photographs": TrainingSet(
        tasks=MASKS + CAPTIONS, layout=BENCHMARKS["photos/val"].layout, open=PhotographSource
    ),
    "open-photographs": TrainingSet(
        tasks=MASKS + CAPTIONS,
        layout=BENCHMARKS["photos/val"].layout,
        open=partial(PhotographSource, sources=OPEN_PHOTOGRAPHS),
    ),
    "compositions": TrainingSet(tasks=MASKS, layout=BENCHMARKS["photos/val"].layout, open=CompositionSource),
    "open-compositions": TrainingSet(
        tasks=MASKS,
        layout=BENCHMARKS["photos/val"].layout,
        open=partial(CompositionSource, sources=OPEN_PHOTOGRAPHS),
    ),
    "folder": TrainingSet(
        tasks=MASKS + CAPTIONS,
        layout="captions.jsonl, images/ and masks/, or COCO instance JSON, or LabelMe's files",
        open=lambda root, sizes, seed: open_folder(folder_split(root)[0], sizes, seed),
    ),
}
"""By name. Of a folder, the pictures that `folder_split` holds out are not trained on."""
