"""Paints a planned scene: textured objects over a photograph-like background, with exact visible masks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin, sqrt
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from genmask.data.backgrounds import BACKGROUNDS, Size, grid, smooth_noise
from genmask.data.composition import COLOURS, FULL, Colour, Item, Layout, Plan, SizeWord, compose
from genmask.data.shapes import SHAPES, Outline, Paint

SUPERSAMPLING = 3
MIN_VISIBLE_AREA = 64 / 128**2
"""Least visible share of the picture: at 128 px every object shows at least 64 pixels."""
MIN_VISIBLE_SHARE = 0.5
"""Least visible share of an object's own silhouette."""
DETAIL_COLOURS: dict[Paint, Colour] = {"dark": (38, 36, 40), "light": (226, 232, 236), "wood": (112, 74, 44)}


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One object of a finished scene."""

    category: str
    colour: str
    texture: str
    size: SizeWord
    centre: tuple[float, float]
    """(x, y) as shares of the width and the height, in [0, 1], y downwards."""
    area: float
    """Share of the picture that the whole silhouette covers, hidden parts included."""
    span: float
    """Twice the distance from the centre to the outermost point, in square roots of the picture's area."""
    mask: np.ndarray
    """(H, W) bool: the visible pixels."""
    covers: dict[int, float]
    """Index of each object that it partly hides: the share of the picture that it takes from it."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture and everything that is true of it."""

    image: np.ndarray
    """(H, W, 3) uint8, RGB."""
    background: str
    """A key of `BACKGROUNDS`."""
    objects: tuple[SceneObject, ...]
    """Those in front last; 3 to 8 where the scene is a random one."""

    def mask(self, indices: frozenset[int]) -> np.ndarray:
        """(H, W) bool: the visible pixels of the given objects."""
        union = np.zeros(self.image.shape[:2], dtype=bool)
        for index in indices:
            union |= self.objects[index].mask
        return union


@dataclass(frozen=True, kw_only=True)
class _Sprite:
    """An object on its own small window of the picture."""

    item: Item
    window: tuple[slice, slice]
    coverage: np.ndarray
    """(h, w) float32 in [0, 1]: the share of each pixel inside the silhouette."""
    solid: np.ndarray
    """(h, w) bool: at least half inside."""
    details: dict[Paint, np.ndarray]
    """(h, w) coverage of each paint other than the object's own."""


def draw_scene(rng: Random, size: Size, layout: Layout = FULL) -> Scene:
    """Draw a random scene at (height, width) pixels; equal streams give equal scenes, alike at all sizes."""
    while True:
        plan = compose(rng, size[1] / size[0], layout)
        sprites = _in_sight([_sprite(item, size) for item in plan.items], size)
        if len(sprites) >= 3:
            return _draw(sprites, plan.background, rng, size)


def draw_plan(plan: Plan, rng: Random, size: Size) -> Scene:
    """Draw a planned scene, of any number of objects, at (height, width) pixels; the stream is of grain and light."""
    return _draw([_sprite(item, size) for item in plan.items], plan.background, rng, size)


def _draw(sprites: list[_Sprite], background: str, rng: Random, size: Size) -> Scene:
    owner, covers = _stack(sprites, size)
    scale = sqrt(owner.size)
    objects = tuple(
        SceneObject(
            category=sprite.item.category,
            colour=sprite.item.colour,
            texture=sprite.item.texture,
            size=sprite.item.size,
            centre=(sprite.item.centre[0] * scale / size[1], sprite.item.centre[1] * scale / size[0]),
            area=np.count_nonzero(sprite.solid) / owner.size,
            span=2 * sprite.item.reach,
            mask=owner == k + 1,
            covers=covers[k],
        )
        for k, sprite in enumerate(sprites)
    )
    image = _paint(sprites, background, np.random.default_rng(rng.getrandbits(64)), size)
    return Scene(image=image, background=background, objects=objects)


def _sprite(item: Item, size: Size) -> _Sprite:
    scale = sqrt(size[0] * size[1])
    turn = np.array([[cos(item.angle), sin(item.angle)], [-sin(item.angle), cos(item.angle)]])
    turn *= item.radius * scale
    centre = np.array(item.centre) * scale
    parts = [(paint, outline @ turn + centre) for paint, outline in SHAPES[item.category].parts]
    points = np.concatenate([outline for _, outline in parts])
    left, top = np.maximum(np.floor(points.min(0)).astype(int) - 1, 0).tolist()
    right, bottom = np.minimum(np.ceil(points.max(0)).astype(int) + 1, (size[1], size[0])).tolist()
    corner, extent = (left, top), (right - left, bottom - top)
    coverage = _coverage([(outline, paint != "hole") for paint, outline in parts], corner, extent)
    paints = dict.fromkeys(paint for paint, _ in parts if paint not in ("fill", "hole"))
    return _Sprite(
        item=item,
        window=(slice(top, bottom), slice(left, right)),
        coverage=coverage,
        solid=coverage >= 0.5,
        details={
            p: _coverage([(outline, paint == p) for paint, outline in parts], corner, extent) for p in paints
        },
    )


def _coverage(
    outlines: list[tuple[Outline, bool]], corner: tuple[int, int], extent: tuple[int, int]
) -> np.ndarray:
    """(h, w) float32 in [0, 1]: the share of each pixel inside; outlines in turn, a False one erases."""
    raster = Image.new("L", (extent[0] * SUPERSAMPLING, extent[1] * SUPERSAMPLING))
    pen = ImageDraw.Draw(raster)
    for outline, inside in outlines:
        # Pillow's pixel k has its centre at k, ours at k + 1/2
        pen.polygon(((outline - corner) * SUPERSAMPLING - 0.5).ravel().tolist(), fill=255 if inside else 0)
    return np.asarray(raster.reduce(SUPERSAMPLING), dtype=np.float32) * np.float32(1 / 255)


def _in_sight(sprites: list[_Sprite], size: Size) -> list[_Sprite]:
    """Leave out each object of which too little would be seen; that only uncovers more of the others."""
    owner, _ = _stack(sprites, size)
    visible = np.bincount(owner.ravel(), minlength=len(sprites) + 1)[1:]
    return [
        sprite
        for sprite, pixels in zip(sprites, visible, strict=True)
        if pixels >= max(MIN_VISIBLE_AREA * owner.size, MIN_VISIBLE_SHARE * np.count_nonzero(sprite.solid))
    ]


def _stack(sprites: list[_Sprite], size: Size) -> tuple[np.ndarray, list[dict[int, float]]]:
    """Who owns each pixel, (H, W) uint8: 0 nobody, else 1 + index; and whom each object partly hides."""
    owner = np.zeros(size, dtype=np.uint8)
    covers = []
    for k, sprite in enumerate(sprites):
        window = owner[sprite.window]
        hidden = np.bincount(window[sprite.solid], minlength=1)[1:]
        covers.append({int(j): int(hidden[j]) / owner.size for j in np.flatnonzero(hidden)})
        window[sprite.solid] = k + 1
    return owner, covers


def _paint(sprites: list[_Sprite], background: str, rng: np.random.Generator, size: Size) -> np.ndarray:
    """(H, W, 3) uint8: background, shadows, objects; then light, grain and now and then blur over all."""
    pixel = sqrt(size[0] * size[1]) / 128
    canvas = BACKGROUNDS[background].paint(rng, size)
    shadow = rng.uniform(0.2, 0.55) if BACKGROUNDS[background].solid else 0.0
    for sprite in sprites:
        if shadow:
            _cast_shadow(canvas, sprite, np.float32(shadow), max(1, round(1.5 * pixel)))
        window = canvas[sprite.window]
        window += sprite.coverage[..., None] * (_surface(sprite, rng) - window)
    rows, columns = grid(size)
    slope = rng.uniform(-0.16, 0.16, 2).astype(np.float32)
    vignette = np.float32(rng.uniform(0, 0.5)) * ((rows - 0.5) ** 2 + (columns - 0.5) ** 2)
    canvas *= (1 + slope[0] * (rows - 0.5) + slope[1] * (columns - 0.5) - vignette)[..., None]
    canvas += _grain(size, rng) * np.float32(rng.uniform(1, 5))
    image = Image.fromarray(np.clip(canvas, 0, 255, out=canvas).astype(np.uint8))
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.2, 0.5) * pixel))
    return np.array(image)


def _cast_shadow(canvas: np.ndarray, sprite: _Sprite, strength: np.float32, offset: int) -> None:
    rows, columns = sprite.window
    window = canvas[rows.start + offset : rows.stop + offset, columns.start + offset : columns.stop + offset]
    window *= 1 - strength * sprite.coverage[: window.shape[0], : window.shape[1], None]


def _surface(sprite: _Sprite, rng: np.random.Generator) -> np.ndarray:
    """(h, w, 3) float32 in about [0, 255]: colour, texture and details, before the silhouette is cut out."""
    item, (height, width) = sprite.item, sprite.coverage.shape
    rows, columns = grid((height, width))
    y, x = 2 * rows - 1, 2 * columns - 1
    tone = np.array(item.tone, np.float32)
    surface: np.ndarray
    if item.texture == "plain":
        surface = np.broadcast_to(tone, (height, width, 3))
    elif item.texture == "shaded":  # as a ball, lit from the upper left
        distance = (x + np.float32(0.35)) ** 2 + (y + np.float32(0.4)) ** 2
        surface = tone * (np.float32(1.12) - np.float32(0.22) * distance)[..., None]
        surface += (np.float32(50) * np.exp(-7 * distance))[..., None]
    else:
        surface = tone + _pattern(item, x, y, rng)[..., None] * (_accent(item) - tone)
    for paint, coverage in sprite.details.items():
        ink = tone * np.float32(0.62) if paint == "shade" else np.array(DETAIL_COLOURS[paint], np.float32)
        surface = surface + coverage[..., None] * (ink - surface)
    return surface


def _accent(item: Item) -> np.ndarray:
    """The second colour of a texture, (3,) float32: darker where the first is bright, else lighter."""
    tone, named = np.array(item.tone, np.float32), COLOURS[item.colour]
    strength = np.float32(
        0.3 if max(named) - min(named) < 10 else 0.5
    )  # half-way, white and black would be gray
    return tone * (1 - strength) if sum(named) > 400 else tone + (255 - tone) * strength


def _pattern(item: Item, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(h, w) float32 in [0, 1]: where the accent colour goes."""
    angle = rng.uniform(0, pi)
    waves = pi * rng.uniform(2.4, 3.4) * (1.25 if item.size == "large" else 0.85)
    along, across = np.float32(cos(angle) * waves), np.float32(sin(angle) * waves)
    u, v = x * along + y * across, y * along - x * across
    if item.texture == "striped":
        wave = 4 * np.sin(u)
    elif item.texture == "dotted":
        wave = 4 * (np.cos(u) + np.cos(v)) - 2.8
    else:
        wave = 6 * np.sin(u) * np.sin(v)
    return np.clip(wave + 0.5, 0, 1)


def _grain(size: Size, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) float32 of about unit variance: sensor noise, a random window of a fixed tile."""
    row, column = rng.integers(0, 64, 2)
    return _grain_tile(size)[row : row + size[0], column : column + size[1]]


@lru_cache(maxsize=4)
def _grain_tile(size: Size) -> np.ndarray:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((size[0] + 64, size[1] + 64, 3), dtype=np.float32)
    blotches = smooth_noise(rng, (size[0] + 64, size[1] + 64), (size[0] / 2, size[1] / 2))
    return noise + blotches[..., None] - np.float32(0.5)
