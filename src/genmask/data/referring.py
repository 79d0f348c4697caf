"""RefCOCO, RefCOCO+, RefCOCOg, RefCLEF and gRefCOCO: expressions that people wrote for one thing in a photograph.

| data set | `by`, the first is the default | splits | no target |
|---|---|---|---|
| refcoco | unc, google | train, val, testA (people), testB (the rest) | |
| refcoco+ | unc | as refcoco | |
| refcocog | umd, google | train, val, test; google has no test | |
| refclef | unc, berkeley | train, val, test; unc: testA, testB, testC too | |
| grefcoco | unc | as refcoco | some expressions; others mean several things |

"test" is every split with "test" in its name, and "testA" every one with an "A", as in the authors' own reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from genmask.data.coco import (
    Annotation,
    CocoInstances,
    find_missing,
    open_annotated,
    read_instances,
)
from genmask.data.example import Example
from genmask.data.json_fields import read_field, read_json
from genmask.data.outlines import count_parts
from genmask.data.pickles import load_plain_pickle

Dataset = Literal["refcoco", "refcoco+", "refcocog", "refclef", "grefcoco"]
PARTITIONS: dict[str, tuple[str, ...]] = {
    "refcoco": ("unc", "google"),
    "refcoco+": ("unc",),
    "refcocog": ("umd", "google"),
    "refclef": ("unc", "berkeley"),
    "grefcoco": ("unc",),
}
"""Who divided each data set into splits; the first is the usual one."""
NO_TARGET = -1
"""Stands in gRefCOCO's list of annotation ids where an expression means nothing in the photograph."""
Text = Literal["sent", "raw"]
TEXTS: tuple[Text, ...] = ("sent", "raw")
Overlap = Literal["union", "lavt", "lisa"]
OVERLAPS: tuple[Overlap, ...] = ("union", "lavt", "lisa")


@dataclass(frozen=True, kw_only=True)
class Referent:
    """What an expression means: things in one photograph, or nothing."""

    image: Path
    height: int
    """Of the photograph, in pixels; so is the width."""
    width: int
    annotations: tuple[Annotation, ...]


@dataclass(frozen=True, kw_only=True)
class Expression:
    """One sentence and what it means."""

    id: str
    """ "<ref_id>/<sent_id>" of the file."""
    text: str
    referent: Referent


class Referring:
    """Every sentence of every reference of a split, in the order of the file.

    Layout: `<root>/<dataset>/refs(<by>).p` and `instances.json`, for gRefCOCO `grefs(<by>).p` or else `.json`;
    photographs in `<root>/images/mscoco/images/train2014`, for RefCLEF in `<root>/images/saiapr_tc-12`. A
    photograph is the one that `instances.json` names: the file_name of a reference is no file. The pickle is
    read by `load_plain_pickle`, which runs nothing.

    Args:
        root: the folder that holds the data sets.
        dataset: "refcoco", "refcoco+", "refcocog", "refclef" or "grefcoco".
        split: see the table above; the error for a wrong one lists those in the file.
        by: who divided it into splits; None for the first in `PARTITIONS`.
        images: folder of the photographs, if another.
        text: "sent" is lower case without punctuation, "raw" as it was typed. Where one is blank the other is
            taken; a sentence with neither is left out (`blank` counts them).
        overlap: of polygons of one thing. "union" is right. The code of LAVT and of LISA adds polygons up, and
            where two overlap both count the pixels as background: "lavt" and "lisa" (the same) do so too.
        skip_missing: leave out photographs that are not on disk (`skipped` counts their sentences).

    Raises:
        ValueError: an unknown option, or a file that is missing or not as expected.
    """

    def __init__(
        self,
        root: str | Path,
        dataset: Dataset,
        split: str,
        *,
        by: str | None = None,
        images: str | Path | None = None,
        text: Text = "sent",
        overlap: Overlap = "union",
        skip_missing: bool = False,
    ) -> None:
        for option, value, valid in (("dataset", dataset, PARTITIONS), ("text", text, TEXTS)):
            if value not in valid:
                raise ValueError(f"Got {option} {value!r}, expected one of {', '.join(valid)}.")
        by = by or PARTITIONS[dataset][0]
        if by not in PARTITIONS[dataset]:
            raise ValueError(f"Got by {by!r} for {dataset}, expected {' or '.join(PARTITIONS[dataset])}.")
        overlaps = OVERLAPS[:1] if dataset == "grefcoco" else OVERLAPS  # whose own reader does not add up
        if overlap not in overlaps:
            raise ValueError(f"Got overlap {overlap!r} for {dataset}, expected one of {', '.join(overlaps)}.")
        self.dataset, self.split, self.overlap = dataset, split, overlap
        folder = Path(root) / dataset
        default = "images/saiapr_tc-12" if dataset == "refclef" else "images/mscoco/images/train2014"
        self.images = Path(root) / default if images is None else Path(images)
        self.instances = folder / "instances.json"
        names = [f"grefs({by}).p", f"grefs({by}).json"] if dataset == "grefcoco" else [f"refs({by}).p"]
        layout = f"{folder}/ with {' or '.join(names)} and instances.json, and {self.images}/*.jpg"
        path, refs = _read_refs(folder, names, layout)
        expressions, self.blank = self._expressions(_select(refs, split, path), text, layout)
        if not expressions:
            raise ValueError(f"Got split {split!r} of {path} without a sentence, expected {layout}.")
        found = {expression.referent.image for expression in expressions}
        missing = find_missing(found, f"photographs of {dataset} in {self.images}", skip_missing)
        self.expressions = [each for each in expressions if each.referent.image not in missing]
        self.skipped = len(expressions) - len(self.expressions)

    def __len__(self) -> int:
        return len(self.expressions)

    def __getitem__(self, index: int) -> Example:
        expression = self.expressions[index]
        referent = expression.referent
        height, width = referent.height, referent.width
        image = open_annotated(referent.image, height, width, self.instances)
        mask = np.zeros((height, width), dtype=bool)
        for annotation in referent.annotations:
            where = f"annotation {annotation.id} of {self.instances}"
            covered = count_parts(annotation.segmentation, height, width, where)
            mask |= covered > 0 if self.overlap == "union" else covered == 1
        return Example(
            image=image,
            text=expression.text,
            mask=mask,
            source=f"{self.dataset}/{self.split}",
            id=expression.id,
            kind="" if referent.annotations else "absent",
        )

    def _expressions(
        self, refs: list[tuple[str, dict[str, Any]]], text: Text, layout: str
    ) -> tuple[list[Expression], int]:
        """The expressions of (where, reference), and the number of those without a word."""
        if not self.instances.is_file():
            raise ValueError(f"Got no file {self.instances}, expected {layout}.")
        instances = read_instances(self.instances)
        annotations = {annotation.id: annotation for annotation in instances.annotations}
        expressions, blank = [], 0
        for where, ref in refs:
            referent = self._referent(ref, where, instances, annotations)
            ref_id = read_field(ref, "ref_id", int, where)
            for sentence in read_field(ref, "sentences", list, where):
                sent_id = read_field(sentence, "sent_id", int, f"a sentence of {where}")
                forms = [sentence.get(form) for form in (text, *TEXTS)]
                if not any(isinstance(form, str) for form in forms):
                    raise ValueError(f"Got a sentence of {where} without {text}, expected it as text.")
                words = next((form.strip() for form in forms if isinstance(form, str) and form.strip()), "")
                if words:
                    expressions.append(Expression(id=f"{ref_id}/{sent_id}", text=words, referent=referent))
                else:
                    blank += 1
        return expressions, blank

    def _referent(
        self, ref: dict[str, Any], where: str, instances: CocoInstances, annotations: dict[int, Annotation]
    ) -> Referent:
        image = instances.images.get(read_field(ref, "image_id", int, where))
        if image is None:
            raise ValueError(
                f"Got image_id {ref['image_id']} in {where}, expected one that {self.instances} lists: fetch "
                "both files of one release."
            )
        ids = ref.get("ann_id")
        if self.dataset != "grefcoco" or not isinstance(ids, list):
            ids = [read_field(ref, "ann_id", int, where)]
        if self.dataset == "grefcoco":
            ids = [ann_id for ann_id in ids if ann_id != NO_TARGET]
        targets = [annotations.get(ann_id) for ann_id in ids if isinstance(ann_id, int)]
        known = tuple(target for target in targets if target is not None and target.image_id == image.id)
        if len(known) < len(ids):
            raise ValueError(
                f"Got an ann_id in {where} that is not among the annotations of image {image.id} in "
                f"{self.instances}, expected all of them there: fetch both files of one release."
            )
        path = self.images / image.file_name
        return Referent(image=path, height=image.height, width=image.width, annotations=known)


def _read_refs(folder: Path, names: list[str], layout: str) -> tuple[Path, list[Any]]:
    """The first file of references that is there, and what it lists."""
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise ValueError(f"Got no file {folder / names[0]}, expected {layout}.")
    refs = read_json(path, layout) if path.suffix == ".json" else load_plain_pickle(path)
    if not isinstance(refs, list) or not refs:
        raise ValueError(f"Got {path} without a list of references, expected {layout}.")
    return path, refs


def _select(refs: list[Any], split: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(Where, reference) for the references of a split."""
    named = [(f"reference {index} of {path}", ref) for index, ref in enumerate(refs)]
    splits = [read_field(ref, "split", str, where) for where, ref in named]
    chosen = [pair for pair, name in zip(named, splits, strict=True) if _is_in(name, split)]
    if not chosen:
        candidates = sorted({*splits, "test", "testA", "testB", "testC"})
        valid = [each for each in candidates if any(_is_in(name, each) for name in splits)]
        raise ValueError(f"Got split {split!r}, expected one of {', '.join(valid)}, which {path} has.")
    return chosen


def _is_in(name: str, split: str) -> bool:
    """Whether a reference marked `name` belongs to a split: "testAB" to "testA", "testB" and "test"."""
    if split == "test":
        return "test" in name
    if split in ("testA", "testB", "testC"):
        return split[-1] in name
    return name == split
