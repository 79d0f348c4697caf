"""Pastes cut-outs into a photograph: which, where, how large; with exact visible masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log, sqrt
from random import Random

import numpy as np
from PIL import Image

from genmask.data.backgrounds import Size
from genmask.data.compositions_cutouts import MAX_AREA, CutOut, is_distinct
from genmask.data.compositions_material import Background, Material
from genmask.data.drawing import Scene, SceneObject

COUNT_SHARES = {2: 0.1, 3: 0.35, 4: 0.35, 5: 0.2}
"""How many objects are meant to be in a picture; those that find no place are left out."""
SEVERAL_SHARE = 0.9
"""Share of pictures that are meant to hold several of a class: only there position and size tell things apart."""
SAME_AGAIN_SHARE = 0.25
"""How often a further object is one more of a class that is there already."""
MIN_AREA = 0.015
"""Least share of the picture that a whole object covers. The shares are evenly distributed in their logarithm, up to
the largest, which a cut-out is kept for."""
MAX_SIDE = 0.9
"""Largest height or width of an object, as a share of the picture's."""
MAX_ENLARGEMENT = 1.6
"""So many times larger than the cut-out an object may become, in height and width."""
OVERLAP_SHARE = 0.5
"""Share of the pictures in which objects may hide each other."""
MIN_VISIBLE_SHARE = 0.6
"""Least share of an object that stays visible."""
MATCHED_SHARE = 0.6
"""Share of the objects whose brightness and colour move towards those of the background."""
MAX_SHIFT = 40.0
"""How far they move at most, of 255."""
FREQUENT = 200
"""So many cut-outs, or more, give a class its full weight; the weight grows as the root of their number."""
SMALLEST_WINDOW = 0.5
"""Least share of the background photograph that is seen."""
MAX_ATTEMPTS = 200
"""So many backgrounds in turn may turn out to have no room for two objects."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A cut-out at its size and place."""

    piece: Image.Image
    """RGBA."""
    window: tuple[slice, slice]
    solid: np.ndarray
    """(h, w) bool: at least half covered."""


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """A composition that is not painted yet."""

    background: Background
    placed: tuple[Placed, ...]
    """Those in front last."""
    scene: Scene
    """What is where: its objects have no colour, texture or size word, and its picture is black."""


def arrange(rng: Random, material: Material, size: Size) -> Arrangement:
    """A random arrangement at (height, width) pixels; equal streams give equal ones.

    Raises:
        ValueError: the cut-outs are too few, or the picture too small, for two in it.
    """
    for _ in range(MAX_ATTEMPTS):
        background = material.draw_background(rng)
        overlap = rng.random() < OVERLAP_SHARE
        owner = np.zeros(size, dtype=np.uint8)
        placed: list[Placed] = []
        objects: list[SceneObject] = []
        for cut_out in _choose(rng, material, background):
            alike = [thing.area for thing in objects if thing.category == cut_out.name]
            piece = _scaled(rng, material.piece(cut_out), size, alike)
            solid = np.asarray(piece.getchannel("A")) >= 128
            spot = _spot(rng, solid, owner, objects, overlap) if solid.any() else None
            if spot is None:
                continue
            objects.append(_object(cut_out.name, solid, spot, owner))
            window = (slice(spot[0], spot[0] + piece.height), slice(spot[1], spot[1] + piece.width))
            placed.append(Placed(piece=piece, window=window, solid=solid))
            owner[window][solid] = len(objects)
        if len(objects) > 1:
            scene = Scene(
                image=np.zeros((*size, 3), dtype=np.uint8),
                background=f"{background.photograph.source}/{background.photograph.id}",
                objects=tuple(replace(thing, mask=owner == k) for k, thing in enumerate(objects, start=1)),
            )
            return Arrangement(background=background, placed=tuple(placed), scene=scene)
    raise ValueError(
        f"Got cut-outs of {', '.join(material.names)} and no background with room for two of them at {size[0]} x "
        f"{size[1]} pixels, expected more photographs or larger pictures."
    )


def paint(rng: Random, material: Material, arrangement: Arrangement) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W, 3) uint8; and (H, W) bool where nobody knows what is seen, None where everything is known."""
    size = arrangement.scene.image.shape[:2]
    canvas, unknown = _window(rng, *material.picture(arrangement.background), (size[0], size[1]))
    for placed in arrangement.placed:
        pixels = np.asarray(placed.piece, dtype=np.float32)
        alpha, pixels, behind = pixels[..., 3:] / 255, pixels[..., :3], canvas[placed.window]
        if rng.random() < MATCHED_SHARE:
            pixels = pixels + _shift(rng, pixels[placed.solid], behind[placed.solid])
        behind += alpha * (pixels - behind)
    if unknown is not None:
        for thing in arrangement.scene.objects:
            unknown &= ~thing.mask
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8), unknown


def _choose(rng: Random, material: Material, background: Background) -> list[CutOut]:
    """Different cut-outs, in the order in which they are pasted, none of a name that could mean another's class."""
    count = rng.choices(list(COUNT_SHARES), weights=list(COUNT_SHARES.values()))[0]
    names: list[str] = []
    several = rng.random() < SEVERAL_SHARE
    for place in range(count):
        again = (place == 1 and several) or rng.random() < SAME_AGAIN_SHARE
        left = [
            name for name in background.names if name not in names and is_distinct(name, frozenset(names))
        ]
        if names and (again or not left):
            names.append(rng.choice(names))
        else:
            weights = [sqrt(min(len(material.cut_outs[name]), FREQUENT)) for name in left]
            names.append(rng.choices(left, weights=weights)[0])
    chosen = []
    for name in dict.fromkeys(names):
        found = material.cut_outs[name]
        chosen += rng.sample(found, min(len(found), names.count(name)))
    rng.shuffle(chosen)
    return chosen


def _window(
    rng: Random, picture: Image.Image, unknown: np.ndarray | None, size: Size
) -> tuple[np.ndarray, np.ndarray | None]:
    """A random window of the picture, mirrored or not: (H, W, 3) float32 in [0, 255], and what is unknown in it."""
    height, width = size
    fit = min(picture.width / width, picture.height / height)
    fit *= sqrt(rng.uniform(SMALLEST_WINDOW, 1))
    left = rng.uniform(0, picture.width - fit * width)
    top = rng.uniform(0, picture.height - fit * height)
    box = (left, top, left + fit * width, top + fit * height)
    image = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
    mirrored = rng.random() < 0.5
    canvas = np.asarray(image, dtype=np.float32)
    canvas = np.ascontiguousarray(canvas[:, ::-1]) if mirrored else canvas.copy()
    if unknown is not None:
        plane = Image.fromarray(unknown).resize((width, height), Image.Resampling.NEAREST, box=box)
        unknown = np.asarray(plane)[:, ::-1] if mirrored else np.asarray(plane)
        unknown = unknown.copy() if unknown.any() else None
    return canvas, unknown


def _scaled(rng: Random, piece: Image.Image, size: Size, alike: Sequence[float]) -> Image.Image:
    """At a random size that fits the picture, mirrored or not; rather unlike the areas of others of its class."""
    height, width = size
    areas = [exp(rng.uniform(log(MIN_AREA), log(MAX_AREA))) for _ in range(2)]
    area = max(areas, key=lambda area: min((abs(log(area / other)) for other in alike), default=0.0))
    own_area = max(1, int(np.count_nonzero(np.asarray(piece.getchannel("A")) >= 128)))
    scale = min(
        sqrt(area * height * width / own_area),
        MAX_SIDE * height / piece.height,
        MAX_SIDE * width / piece.width,
        MAX_ENLARGEMENT,
    )
    if rng.random() < 0.5:
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    shape = (max(1, round(piece.width * scale)), max(1, round(piece.height * scale)))
    return piece.resize(shape, Image.Resampling.BILINEAR)


def _spot(
    rng: Random, solid: np.ndarray, owner: np.ndarray, objects: list[SceneObject], overlap: bool
) -> tuple[int, int] | None:
    """(top, left) that keeps the object in the picture and the others in sight; None if none is found."""
    height, width = solid.shape
    rows, columns = owner.shape[0] - height, owner.shape[1] - width
    visible = np.bincount(owner.ravel(), minlength=len(objects) + 1)
    whole = [0.0, *(thing.area * owner.size for thing in objects)]
    for _ in range(30):
        top, left = rng.randint(0, rows), rng.randint(0, columns)
        hidden = np.bincount(owner[top : top + height, left : left + width][solid], minlength=len(whole))
        if not overlap and hidden[1:].any():
            continue
        if all(visible[k] - hidden[k] >= MIN_VISIBLE_SHARE * whole[k] for k in range(1, len(whole))):
            return top, left
    return None


def _shift(rng: Random, pixels: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """(3,) that brings the object's mean colour nearer to that of what it hides, brightness more than hue."""
    difference = behind.mean(axis=0) - pixels.mean(axis=0)
    brightness = difference.mean()
    shift = rng.uniform(0.1, 0.6) * brightness + rng.uniform(0, 0.3) * (difference - brightness)
    return np.clip(shift, -MAX_SHIFT, MAX_SHIFT).astype(np.float32)


def _object(name: str, solid: np.ndarray, spot: tuple[int, int], owner: np.ndarray) -> SceneObject:
    """As it is pasted over `owner`; its mask is filled in when all are."""
    rows, columns = np.nonzero(solid)
    middle = ((rows.min() + rows.max() + 1) / 2, (columns.min() + columns.max() + 1) / 2)
    reach = float(np.hypot(rows + 0.5 - middle[0], columns + 0.5 - middle[1]).max())
    window = owner[spot[0] : spot[0] + solid.shape[0], spot[1] : spot[1] + solid.shape[1]]
    hidden = np.bincount(window[solid], minlength=1)[1:]
    return SceneObject(
        category=name,
        colour="",
        texture="",
        size="medium",
        centre=((spot[1] + middle[1]) / owner.shape[1], (spot[0] + middle[0]) / owner.shape[0]),
        area=len(rows) / owner.size,
        span=2 * reach / sqrt(owner.size),
        mask=np.empty(0),
        covers={int(k): int(hidden[k]) / owner.size for k in np.flatnonzero(hidden)},
    )
