"""What was found in a picture, written as the files that people and other tools work on with."""

from __future__ import annotations

import base64
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from genmask.atomic import replace_file, save_json
from genmask.coco_document import coco_document, merge_coco
from genmask.instances import Instance
from genmask.label_map import label_map
from genmask.polygons import has_hole, pixel_polygon
from genmask.segmentation import Segmentation, check_stem, file_stem

__all__ = ["FORMATS", "merge_coco", "save"]

LABELME_VERSION = "5.5.0"
"""Whose layout is written: the first with masks as shapes was 5.3."""


def save(
    results: Sequence[Segmentation],
    folder: str | Path,
    stem: str,
    formats: Sequence[str],
    *,
    image_name: str,
    image_path: str | Path | None = None,
    classes: Sequence[str] | None = None,
) -> list[Path]:
    """Write the results of one picture in one or more of `FORMATS`; docs/outputs.md shows each.

    "Nothing found" is written as well, so that it can be told from "not done". Every file appears whole or not
    at all; one of the same name is replaced.

    Args:
        results: at least one, all of the same picture.
        folder: made if need be; "labelme" and "yolo" are folders in it, since those tools pair files by name.
        stem: the beginning of every file's name; another for every picture in the folder.
        formats: keys of `FORMATS`.
        image_name: what the files call the picture: its path in the folder of pictures.
        image_path: where the picture is, for LabelMe's files to point at; None writes it into them.
        classes: the names of YOLO's numbers, for all pictures in the folder; None takes the texts of these
            results in order, which does where every picture is asked the same.

    Returns:
        The files, in the order of `formats`.

    Raises:
        ValueError: an unknown format, no result, results of several sizes, a stem that is not a bare file name,
            a text that is not in `classes`, classes that differ from those of a folder, or a package missing.
        OSError: the folder cannot be made or written to.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ValueError(f"Got format {unknown[0]!r}, expected one of {', '.join(FORMATS)}.")
    sizes = {result.image.size for result in results}
    if len(sizes) != 1:
        raise ValueError(
            f"Got {len(results)} results of pictures of {len(sizes)} sizes, expected those of one picture."
        )
    check_stem(stem)
    answers = _Answers(
        results=results,
        folder=Path(folder),
        stem=stem,
        image_name=image_name,
        image_path=None if image_path is None else Path(image_path),
        classes=tuple(classes) if classes is not None else tuple(dict.fromkeys(r.text for r in results)),
    )
    answers.folder.mkdir(parents=True, exist_ok=True)
    return [path for name in dict.fromkeys(formats) for path in FORMATS[name](answers)]


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """The arguments of `save`, checked."""

    results: Sequence[Segmentation]
    folder: Path
    stem: str
    image_name: str
    image_path: Path | None
    classes: tuple[str, ...]


def _save_png(answers: _Answers) -> list[Path]:
    if len(answers.results) == 1:
        return list(answers.results[0].save(answers.folder, answers.stem))
    taken: set[str] = set()
    files: list[Path] = []
    for result in answers.results:
        # A dot is in no stem made of words, so no other picture's files have this name; 255 bytes is the longest.
        room = 255 - len(f"{answers.stem}.-999.overlay.png".encode())
        base = f"{answers.stem}.{file_stem(result.text).encode()[: max(room, 1)].decode(errors='ignore')}"
        names = itertools.chain([base], (f"{base}-{n}" for n in itertools.count(2)))
        taken.add(name := next(name for name in names if name not in taken))
        files += result.save(answers.folder, name)
    return files


def _save_rle(answers: _Answers) -> list[Path]:
    path = answers.folder / f"{answers.stem}.rle.json"
    results = [result.to_dict() for result in answers.results]
    save_json({"image": answers.image_name, "results": results}, path)
    return [path]


def _save_coco(answers: _Answers) -> list[Path]:
    path = answers.folder / f"{answers.stem}.coco.json"
    save_json(coco_document(answers.results, answers.image_name), path, indent=None)
    return [path]


def _save_labelme(answers: _Answers) -> list[Path]:
    folder = answers.folder / "labelme"
    folder.mkdir(exist_ok=True)
    picture = answers.results[0].image
    image_name, image_data = answers.image_name, None
    if answers.image_path is not None:
        image_name = Path(os.path.relpath(answers.image_path, folder)).as_posix()
    else:
        image_data = _png_base64(picture)
    document: dict[str, Any] = {
        "version": LABELME_VERSION,
        "flags": {},
        "shapes": [
            _labelme_shape(part, result, group)
            for group, result in enumerate(answers.results)
            for part in result.instances()
        ],
        "imagePath": image_name,
        "imageData": image_data,
        "imageHeight": picture.height,
        "imageWidth": picture.width,
    }
    path = folder / f"{answers.stem}.json"
    save_json(document, path)
    return [path]


def _labelme_shape(part: Instance, result: Segmentation, group: int) -> dict[str, Any]:
    """A polygon, whose points can be moved; a mask where a hole makes that inexact."""
    left, top, right, bottom = part.box
    shape: dict[str, Any] = {
        "label": result.text,
        "points": (pixel_polygon(part.crop) + part.box[:2]).tolist(),
        "group_id": group,
        "description": f"confidence {part.confidence:.3f}",
        "shape_type": "polygon",
        "flags": {},
        "mask": None,
    }
    if has_hole(part.crop):
        shape["points"] = [[left, top], [right - 1, bottom - 1]]
        shape["shape_type"] = "mask"
        shape["mask"] = _png_base64(Image.fromarray(part.crop))
    return shape


def _png_base64(image: Image.Image) -> str:
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _save_yolo(answers: _Answers) -> list[Path]:
    numbers = {text: number for number, text in enumerate(answers.classes)}
    if strangers := [result.text for result in answers.results if result.text not in numbers]:
        raise ValueError(f"Got text {strangers[0]!r}, expected one of the classes: {', '.join(numbers)}.")
    folder = answers.folder / "yolo"
    folder.mkdir(exist_ok=True)
    names = folder / "classes.txt"
    listing = "".join(" ".join(text.split()) + "\n" for text in answers.classes).encode()
    if names.exists() and names.read_bytes() != listing:
        raise ValueError(
            f"Got classes {', '.join(numbers)}, expected those of {names}, which other files there count on: "
            "write to another folder, or give the same classes for every picture."
        )
    lines = []
    size = np.array(answers.results[0].image.size)
    for result in answers.results:
        for part in result.instances():
            points = (pixel_polygon(part.crop) + part.box[:2] + 0.5) / size
            lines.append(" ".join([str(numbers[result.text]), *(f"{value:.6f}" for value in points.flat)]))
    path = folder / f"{answers.stem}.txt"
    replace_file(names, listing)
    replace_file(path, "".join(line + "\n" for line in lines))
    return [path, names]


def _save_numpy(answers: _Answers) -> list[Path]:
    buffer = BytesIO()
    np.savez_compressed(
        buffer,
        soft_masks=np.stack([result.soft_mask.astype(np.float16) for result in answers.results]),
        masks=np.stack([result.mask for result in answers.results]),
        texts=np.array([result.text for result in answers.results], dtype=np.str_),
        confidences=np.array([result.confidence for result in answers.results]),
        thresholds=np.array([result.threshold for result in answers.results]),
    )
    path = answers.folder / f"{answers.stem}.npz"
    replace_file(path, buffer.getvalue())
    return [path]


def _save_labels(answers: _Answers) -> list[Path]:
    return list(label_map(answers.results).save(answers.folder, answers.stem))


FORMATS: dict[str, Callable[[_Answers], list[Path]]] = {
    "png": _save_png,
    "rle": _save_rle,
    "coco": _save_coco,
    "labelme": _save_labelme,
    "yolo": _save_yolo,
    "numpy": _save_numpy,
    "labels": _save_labels,
}
"""What `save` can write, by name."""
