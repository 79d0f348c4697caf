"""PASCAL-Part: parts of the objects of PASCAL VOC 2010, as a COCO file with categories like "cat:head"."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genmask.data.class_names import PASCAL_VOC_SPOKEN
from genmask.data.coco import CocoImage, find_missing, open_annotated, read_instances
from genmask.data.example import Example
from genmask.data.outlines import decode_segmentation
from genmask.data.semantic import ClassPairs, View, find_folder

LAYOUT = "vlpart/pascal_part/{train,val}.json and VOCdevkit/VOC2010/JPEGImages/*.jpg"


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one sentence asks for: a part of a kind of object, wherever it is in the picture."""

    owner: str
    """The object: "cat"."""
    name: str
    """The part: "head"."""
    outlines: tuple[Any, ...]
    """Each as `decode_segmentation` takes it; the mask is all of them."""
    id: str
    """Unique in the picture."""


class PascalPart(ClassPairs):
    """Pairs of (picture, part) from `LAYOUT`; see `ClassPairs`.

    All annotations of a category in a picture make one mask: of two cats, "the head of the cat" is both
    heads. What has no outline is background.

    Args:
        root: the folder that holds vlpart and VOCdevkit (which may be in vlpart/pascal_part too).
        split: name of the JSON file, "train" or "val".
        annotations: that file, where it is elsewhere.
        images: the folder of the photographs, where it is elsewhere.
        view: "pairs" or "training"; None for what the split is for.
        skip_missing: leave out photographs that are not on disk.
        lisa: as LISA trains: one annotation makes one mask, the rest of its kind is background, and the
            words are "cat head" or "the head of the cat", half each.

    Raises:
        ValueError: files that are missing or not as the layout says.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        annotations: str | Path | None = None,
        images: str | Path | None = None,
        view: View | None = None,
        seed: int = 0,
        skip_missing: bool = False,
        lisa: bool = False,
    ) -> None:
        self.split, self.lisa = split, lisa
        home = Path(root) / "vlpart/pascal_part"
        self.path = Path(annotations) if annotations is not None else home / f"{split}.json"
        if not self.path.is_file():
            raise ValueError(f"Got no {self.path}, expected {LAYOUT}.")
        self.folder = (
            find_folder(LAYOUT, Path(images))
            if images is not None
            else find_folder(
                LAYOUT, *(place / "VOCdevkit/VOC2010/JPEGImages" for place in (Path(root), home))
            )
        )
        self.pictures = _read_pictures(self.path, merge=not lisa)
        """Every picture that has an outline, with its parts."""
        paths = {self.folder / image.file_name for image, _ in self.pictures}
        missing = find_missing(paths, f"photographs of {self.path}", skip_missing)
        self.pictures = [row for row in self.pictures if self.folder / row[0].file_name not in missing]
        super().__init__(
            len(self.pictures), view=view or ("training" if split == "train" else "pairs"), seed=seed
        )

    def plain(self, pair: int) -> Example:
        row, position = self.pairs[pair]
        part = self.pictures[row][1][position]
        return self._example(row, part, self._mask(row, part), f"the {part.name} of the {part.owner}")

    def _list_pairs(self) -> list[tuple[int, int]]:
        return [
            (row, position)
            for row, (_, parts) in enumerate(self.pictures)
            for position, part in enumerate(parts)
            if self._mask(row, part).any()
        ]

    def _draw(self, row: int, rng: np.random.Generator) -> Example | None:
        parts = self.pictures[row][1]
        for position in rng.permutation(len(parts)):
            part = parts[position]
            mask = self._mask(row, part)
            if mask.any():  # an outline may be thinner than a pixel
                text = _lisa_phrase(part, rng) if self.lisa else part_phrase(part, rng)
                return self._example(row, part, mask, text)
        return None

    def _mask(self, row: int, part: Part) -> np.ndarray:
        image = self.pictures[row][0]
        mask = np.zeros((image.height, image.width), dtype=bool)
        for outline in part.outlines:
            where = f"{part.id} of picture {image.id} of {self.path}"
            mask |= decode_segmentation(outline, image.height, image.width, where)
        return mask

    def _example(self, row: int, part: Part, mask: np.ndarray, text: str) -> Example:
        image = self.pictures[row][0]
        path = self.folder / image.file_name
        return Example(
            image=open_annotated(path, image.height, image.width, self.path),
            text=text,
            mask=mask,
            source="pascal_part",
            id=f"{path.stem}/{part.id}",
            kind=f"{part.owner} {part.name}",
        )


def part_phrase(part: Part, rng: np.random.Generator) -> str:
    """A random way to ask for a part; half of the time the plain one, "the head of the cat"."""
    plain = f"the {part.name} of the {part.owner}"
    if rng.random() < 0.5:
        return plain
    forms = (f"the {part.owner}'s {part.name}", f"the {part.owner} {part.name}", f"{part.owner} {part.name}")
    return (*forms, f"{plain} in the picture")[rng.integers(len(forms) + 1)]


def _lisa_phrase(part: Part, rng: np.random.Generator) -> str:
    return f"{part.owner} {part.name}" if rng.random() < 0.5 else f"the {part.name} of the {part.owner}"


def _read_pictures(path: Path, *, merge: bool) -> list[tuple[CocoImage, tuple[Part, ...]]]:
    """Pictures in the order of the file; parts by category, or as they are annotated if not merged."""
    instances = read_instances(path)
    names = {
        category: _split_name(name, path, clean=merge) for category, name in instances.categories.items()
    }
    found: dict[int, dict[int, list[Any]]] = {image_id: {} for image_id in instances.images}
    single: dict[int, list[Part]] = {image_id: [] for image_id in instances.images}
    for row in instances.annotations:
        if row.image_id not in found or row.category_id not in names:
            raise ValueError(
                f"Got annotation {row.id} of {path} with image_id {row.image_id} and category_id "
                f"{row.category_id}, expected ids that the file lists."
            )
        if not row.segmentation:
            continue
        owner, name = names[row.category_id]
        found[row.image_id].setdefault(row.category_id, []).append(row.segmentation)
        single[row.image_id].append(
            Part(owner=owner, name=name, outlines=(row.segmentation,), id=f"annotation {row.id}")
        )
    pictures = []
    for image_id, image in instances.images.items():
        merged = (
            Part(owner=names[c][0], name=names[c][1], outlines=tuple(outlines), id=" ".join(names[c]))
            for c, outlines in sorted(found[image_id].items())
        )
        parts = tuple(merged) if merge else tuple(single[image_id])
        if parts:
            pictures.append((image, parts))
    if not pictures:
        raise ValueError(f"Got {path} without any outline, expected {LAYOUT}.")
    return pictures


def _split_name(name: str, path: Path, *, clean: bool) -> tuple[str, str]:
    """ "pottedplant:plant" as ("potted plant", "plant"); LISA only lowers the case."""
    words = name.strip().lower().split(":")
    if len(words) != 2 or not all(words):
        raise ValueError(f"Got category {name!r} in {path}, expected an object and its part, as cat:head.")
    if not clean:
        return words[0], words[1]
    owner, part = (" ".join(word.replace("_", " ").split()) for word in words)
    return PASCAL_VOC_SPOKEN.get(owner, owner), part
