"""Your own data in COCO's format: instance JSON and its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from genmask.data.coco import LAYOUT, Annotation, CocoInstances, find_missing, open_annotated, read_instances
from genmask.data.example import Example
from genmask.data.outlines import decode_segmentation
from genmask.data.phrases import plain_phrase, varied_phrase

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")


class CocoFolder:
    """Your own COCO-format data: one example per (picture, class that is outlined in it), in order.

    All outlines of a class in a picture make one mask. Its crowd regions (iscrowd 1) are ignored pixels. A
    class is left out of a picture where it has a box without an outline (`unoutlined` counts those), or
    crowd regions alone: what is there must not be taught as background. A thing smaller than a pixel may
    still leave an empty mask.

    Args:
        annotations: the JSON file.
        images: folder of the pictures; None for that of the JSON file (as Roboflow exports it).
        split: "val" asks in the plain form, "the tiger"; "train" in varied words, fixed by (seed, index).
            The examples are the same.
        seed: of the words.
        skip_missing: leave out pictures that are not on disk (`skipped` counts their examples).

    Raises:
        ValueError: a file that is missing or not as `LAYOUT` says, or nothing that has an outline.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path | None = None,
        split: Split = "val",
        *,
        seed: int = 0,
        skip_missing: bool = False,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"Got split {split!r}, expected one of {', '.join(SPLITS)}.")
        self.path, self.split, self.seed = Path(annotations), split, seed
        self.root = self.path.parent if images is None else Path(images)
        instances = read_instances(self.path)
        self.images = instances.images
        self._outlines = self._group(instances)
        """Annotations by (image id, name of the class)."""
        pairs = [
            pair
            for pair, outlines in self._outlines.items()
            if not all(outline.is_crowd for outline in outlines)
        ]
        drawn = [pair for pair in pairs if all(map(_has_outline, self._outlines[pair]))]
        if not drawn:
            raise ValueError(
                f"Got {self.path} without any outline, expected polygons or run lengths: boxes make no mask."
            )
        self.unoutlined = len(pairs) - len(drawn)
        paths = {image_id: self.root / self.images[image_id].file_name for image_id, _ in drawn}
        missing = find_missing(set(paths.values()), f"pictures of {self.path} in {self.root}", skip_missing)
        self.pairs = [pair for pair in drawn if paths[pair[0]] not in missing]
        """Every (image id, name of the class)."""
        self.skipped = len(drawn) - len(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Example:
        image_id, name = self.pairs[index]
        image = self.images[image_id]
        pixels = open_annotated(self.root / image.file_name, image.height, image.width, self.path)
        mask, crowd = (np.zeros((image.height, image.width), dtype=bool) for _ in range(2))
        for outline in self._outlines[image_id, name]:
            where = f"annotation {outline.id} of {self.path}"
            plane = crowd if outline.is_crowd else mask
            plane |= decode_segmentation(outline.segmentation, image.height, image.width, where)
        ignore = crowd & ~mask
        words = " ".join(name.replace("_", " ").split())
        if self.split == "train":
            text = varied_phrase(words, np.random.default_rng((self.seed, index)))
        else:
            text = plain_phrase(words)
        return Example(
            image=pixels,
            text=text,
            mask=mask,
            ignore=ignore if ignore.any() else None,
            source=f"coco/{self.path.resolve().parent.name}/{self.path.stem}",
            id=f"{image_id}/{name}",
            kind=name,
        )

    def _group(self, instances: CocoInstances) -> dict[tuple[int, str], list[Annotation]]:
        """In the order of the pictures, then of the categories; categories of one name are one class."""
        groups: dict[tuple[int, str], list[Annotation]] = {}
        for annotation in instances.annotations:
            for field, ids in (("image_id", instances.images), ("category_id", instances.categories)):
                if getattr(annotation, field) not in ids:
                    raise ValueError(
                        f"Got {field} {getattr(annotation, field)} in annotation {annotation.id} of "
                        f"{self.path}, expected one that the file lists; {LAYOUT}."
                    )
            name = instances.categories[annotation.category_id]
            groups.setdefault((annotation.image_id, name), []).append(annotation)
        image_rank = {image_id: rank for rank, image_id in enumerate(instances.images)}
        name_rank = {name: rank for rank, name in enumerate(dict.fromkeys(instances.categories.values()))}
        return dict(sorted(groups.items(), key=lambda item: (image_rank[item[0][0]], name_rank[item[0][1]])))


def _has_outline(annotation: Annotation) -> bool:
    parts = annotation.segmentation
    return annotation.is_crowd or isinstance(parts, dict) or any(map(_is_part, parts))


def _is_part(part: Any) -> bool:
    return not isinstance(part, list) or len(part) >= 6
