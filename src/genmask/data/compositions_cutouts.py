"""Objects cut out of photographs along their class masks, and which photographs they may be pasted into.

A class mask is cut out where it shows one whole object: in one piece, nearly without holes, not cut off by the
photograph's border, not a scatter of thin parts, and not in the list of those that look wrong (`REJECTED`). Where the
dressed person alone is labelled, all that is labelled is a person.

An object may only be pasted into a photograph in which nothing else could be called by its name: "the tiger" must name
the pasted one, and "all tigers" all. What surely is not in a photograph follows from its labels where they are
complete, and from what kind of photograph it is (`NEVER_THERE`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import ConvexHull

from genmask.data.compositions_rejected import REJECTED
from genmask.data.photograph_index import Photograph, read_labels
from genmask.data.phrases import surely_absent
from genmask.images import open_image

# fmt: off
WILD = frozenset(("bear", "deer", "elephant", "giraffe", "otter", "tiger", "turtle", "zebra"))
FOOD = frozenset((
    "cake", "fried catfish", "fried mackerel", "fried tempeh", "fried tofu", "pizza", "rice",
    "sweet braised tempeh", "sweet braised tofu", "white bread",
))
INDOORS = frozenset((
    "cat", "clock", "couch", "cup", "keyboard", "laptop", "microwave", "refrigerator", "teddy bear",
    "television", "toilet",
))
OUTDOORS = frozenset((
    "airplane", "bicycle", "bus", "car", "dog", "fire hydrant", "horse", "motorcycle", "stop sign", "train",
    "truck", "umbrella",
))
# fmt: on
COCO = (INDOORS | OUTDOORS | {"cake", "giraffe", "pizza", "zebra"}) - {"horse"}
CUT_FROM: dict[str, frozenset[str]] = {
    "animals": WILD - {"giraffe", "zebra"},
    "building_facades": frozenset(("car",)),
    "clothing_coparsing": frozenset(("person",)),
    "coco_instances": COCO,
    "coco_panoptic": COCO,
    "indonesian_food": FOOD - {"cake", "pizza"},
    "weizmann_horses": frozenset(("horse",)),
}
"""Classes that are cut out, by source: things of one piece, of which a mask seldom holds two. COCO's herds and crowds
are left out; the other sources have its animals and people one by one."""

LABELLED_THROUGHOUT = frozenset(("animals", "building_facades", "coco_instances", "coco_panoptic"))
"""Sources that draw every object of their own classes: one that is not labelled is not there."""
NEVER_THERE: dict[str, frozenset[str]] = {
    "animals": FOOD,
    "building_facades": WILD | FOOD | {"couch", "microwave", "refrigerator", "toilet"},
    "camvid": WILD | FOOD | INDOORS - {"cat", "clock"},
    "clothing_coparsing": WILD,
    "coco_instances": frozenset(("tiger", "otter", "turtle")),
    "coco_panoptic": frozenset(("tiger", "otter", "turtle")),
    "indonesian_food": WILD | OUTDOORS | INDOORS - {"cup"} | {"person"},
    "weizmann_horses": WILD - {"deer"} | FOOD | INDOORS - {"cat", "clock", "cup"},
}
"""What nobody would overlook in a photograph of the source, labelled or not: no tiger walks in a street unnoticed, and
no car drives over a dinner table."""
BACKGROUND_SHARES = {
    "coco_panoptic": 0.24,
    "coco_instances": 0.24,
    "indonesian_food": 0.12,
    "building_facades": 0.12,
    "animals": 0.1,
    "camvid": 0.08,
    "weizmann_horses": 0.06,
    "clothing_coparsing": 0.04,
}
"""How often a source gives the background, as weights of any sum: those of many kinds of picture more often."""

MIN_AREA = 900
"""Least number of pixels of an object in its own photograph."""
MIN_SHARE_IN_ONE_PIECE = 0.9
"""Least share of the class's pixels in its largest connected piece, which is the object."""
MAX_HOLES = 0.07
"""Largest share of the outline's inside that is cut away by what lies in front."""
MAX_CUT_OFF = 0.05
"""Largest share of the outline that lies on the photograph's border."""
MIN_SOLIDITY = 0.5
"""Least share of the convex hull that is the object: a horse and its legs cover 0.5 to 0.65 of it."""

MAX_AREA = 0.16
"""Largest share of a composition that an object covers."""


@dataclass(frozen=True, kw_only=True)
class CutOut:
    """An object of a photograph: where it is, not yet its pixels."""

    name: str
    """Of its class."""
    photograph: Photograph
    label: int | None
    """Of its class in the photograph's labels; None for all that is labelled."""


def find_cut_outs(photograph: Photograph) -> list[CutOut]:
    """Every object of the photograph that is fit to be pasted elsewhere."""
    wanted = CUT_FROM.get(photograph.source, frozenset())
    if photograph.id in REJECTED.get(photograph.source, ()):
        return []
    chosen: dict[int | None, str] = {
        label: name for label, name in photograph.classes.items() if name in wanted
    }
    if wanted == {"person"}:
        chosen = {None: "person"}
    if not chosen:
        return []
    labels = read_labels(photograph.labels)
    return [
        CutOut(name=name, photograph=photograph, label=label)
        for label, name in chosen.items()
        if _whole_object(labels, label) is not None
    ]


def cut(cut_out: CutOut, area: int) -> Image.Image:
    """The object alone: RGBA with a soft edge, trimmed; no larger than compositions of `area` pixels need it."""
    photograph = cut_out.photograph
    mask = _whole_object(read_labels(photograph.labels), cut_out.label)
    assert mask is not None, "find_cut_outs leaves those out"
    # A pixel less all around: labels often take in a rim of what was behind.
    alpha = ndimage.gaussian_filter(ndimage.binary_erosion(mask).astype(np.float32), 0.7)
    pixels = np.dstack([np.asarray(open_image(photograph.image)), np.rint(alpha * 255).astype(np.uint8)])
    rows, columns = (np.flatnonzero(alpha.max(axis=axis) > 0.02) for axis in (1, 0))
    image = Image.fromarray(pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    scale = min(1.0, (MAX_AREA * area / np.count_nonzero(mask)) ** 0.5)
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )


def surely_without(name: str, photograph: Photograph, drawn: frozenset[str]) -> bool:
    """Whether nothing in the photograph could be called `name`; `drawn` are all classes of its source."""
    if not is_distinct(name, frozenset(photograph.classes.values())):
        return False
    is_drawn = photograph.source in LABELLED_THROUGHOUT and name in drawn
    return is_drawn or name in NEVER_THERE.get(photograph.source, ())


def is_distinct(name: str, others: frozenset[str]) -> bool:
    """Whether nothing that is called one of `others` could also be called `name`."""
    return all(_is_distinct(name, other) for other in others)


@cache
def _is_distinct(name: str, other: str) -> bool:
    if (
        name == "person"
    ):  # `surely_absent` finds the word too wide: a label map may call a person by their clothes
        return other not in ("person", "pedestrian", "bicyclist")
    return surely_absent(name, frozenset((other,)))


def _whole_object(labels: np.ndarray, label: int | None) -> np.ndarray | None:
    """(H, W) bool of the object in a label map, None if it is not fit to be cut out."""
    mask = labels > 0 if label is None else labels == label
    total = np.count_nonzero(mask)
    if total < MIN_AREA:
        return None
    pieces, _ = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    size = int(sizes.max())
    piece = pieces == int(sizes.argmax())
    border = sum(int(np.count_nonzero(edge)) for edge in (piece[0], piece[-1], piece[:, 0], piece[:, -1]))
    outline = piece & ~ndimage.binary_erosion(piece)
    # A pixel is a square, not a point: two of its corners are enough for the hull's area.
    rows, columns = np.nonzero(outline)
    corners = np.concatenate([np.stack([rows, columns], 1), np.stack([rows + 1, columns + 1], 1)])
    is_whole = (
        size >= max(MIN_AREA, MIN_SHARE_IN_ONE_PIECE * total)
        and border <= MAX_CUT_OFF * len(rows)
        and size >= MIN_SOLIDITY * ConvexHull(corners).volume
        and size >= (1 - MAX_HOLES) * (size + _hole_area(piece))
    )
    return piece if is_whole else None


def _hole_area(piece: np.ndarray) -> int:
    """Pixels that the piece surrounds; `binary_fill_holes` finds the same in ten times the time."""
    around, _ = ndimage.label(~np.pad(piece, 1))
    return int(np.count_nonzero(around)) - int(np.count_nonzero(around == around[0, 0]))
