"""Paints a planned scene: textured objects over a photograph-like background, with exact masks of what is visible."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin, sqrt
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from genmask.data.backgrounds import BACKGROUNDS, Size, grid, smooth_noise
from genmask.data.composition import Item, SizeWord, compose
from genmask.data.shapes import SHAPES, Outline, Paint

SUPERSAMPLING = 3
MIN_VISIBLE_AREA = 64 / 128**2
"""Least visible share of the picture: at 128 px every object shows at least 64 pixels."""
MIN_VISIBLE_SHARE = 0.5
"""Least visible share of an object's own silhouette."""
DETAIL_COLOURS: dict[Paint, tuple[int, int, int]] = {
    "dark": (38, 36, 40),
    "light": (226, 232, 236),
    "wood": (112, 74, 44),
}


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
    mask: np.ndarray
    """(H, W) bool: the visible pixels."""
    covers: frozenset[int]
    """Indices of the objects that it partly hides."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture and everything that is true of it."""

    image: np.ndarray
    """(H, W, 3) uint8, RGB."""
    background: str
    objects: tuple[SceneObject, ...]
    """Those in front last."""

    def mask(self, indices: frozenset[int]) -> np.ndarray:
        """(H, W) bool: the visible pixels of the given objects."""
        union = np.zeros(self.image.shape[:2], dtype=bool)
        for index in indices:
            union |= self.objects[index].mask
        return union


@dataclass(frozen=True, kw_only=True)
class _Sprite:
    """An object's silhouette on its own small window of the picture."""

    item: Item
    window: tuple[slice, slice]
    coverage: np.ndarray
    """(h, w) float32 in [0, 1]."""
    details: tuple[tuple[Paint, np.ndarray], ...]

    @property
    def solid(self) -> np.ndarray:
        return self.coverage >= 0.5


def draw_scene(rng: Random, size: Size) -> Scene:
    """Draw the next scene of a random stream at (height, width) pixels; one stream gives alike scenes at all sizes."""
    plan = compose(rng, size[1] / size[0])
    sprites = [_sprite(item, size) for item in plan.items]
    sprites = _drop_hidden(sprites, size)
    if len(sprites) < 3:
        return draw_scene(rng, size)
    owner, covers = _stack(sprites, size)
    image = _paint(sprites, plan.background, np.random.default_rng(rng.getrandbits(64)), size)
    scale = sqrt(size[0] * size[1])
    objects = tuple(
        SceneObject(
            category=s.item.category,
            colour=s.item.colour,
            texture=s.item.texture,
            size=s.item.size,
            centre=(s.item.centre[0] * scale / size[1], s.item.centre[1] * scale / size[0]),
            area=float(s.solid.sum()) / owner.size,
            mask=owner == k + 1,
            covers=covers[k],
        )
        for k, s in enumerate(sprites)
    )
    return Scene(image=image, background=plan.background, objects=objects)


def _sprite(item: Item, size: Size) -> _Sprite:
    scale = sqrt(size[0] * size[1])
    turn = np.array([[cos(item.angle), sin(item.angle)], [-sin(item.angle), cos(item.angle)]])
    turn *= item.radius * scale
    centre = np.array(item.centre) * scale
    parts = [(paint, outline @ turn + centre) for paint, outline in SHAPES[item.category].parts]
    points = np.concatenate([outline for _, outline in parts])
    left, top = np.maximum(np.floor(points.min(0)).astype(int) - 1, 0)
    right, bottom = np.minimum(np.ceil(points.max(0)).astype(int) + 1, (size[1], size[0]))
    corner, extent = (left, top), (right - left, bottom - top)
    details: dict[Paint, np.ndarray] = {}
    for detail in dict.fromkeys(paint for paint, _ in parts if paint not in ("fill", "hole")):
        details[detail] = _coverage([(outline, paint == detail) for paint, outline in parts], corner, extent)
    return _Sprite(
        item=item,
        window=(slice(top, bottom), slice(left, right)),
        coverage=_coverage([(outline, paint != "hole") for paint, outline in parts], corner, extent),
        details=tuple(details.items()),
    )


def _coverage(
    outlines: list[tuple[Outline, bool]], corner: tuple[int, int], extent: tuple[int, int]
) -> np.ndarray:
    """(h, w) float32 in [0, 1]: the share of each pixel inside, outlines painted in turn, a False one erasing."""
    raster = Image.new("L", (extent[0] * SUPERSAMPLING, extent[1] * SUPERSAMPLING))
    pen = ImageDraw.Draw(raster)
    for outline, inside in outlines:
        # Pillow's pixel k has its centre at k, ours at k + 1/2
        pen.polygon(((outline - corner) * SUPERSAMPLING - 0.5).ravel().tolist(), fill=255 if inside else 0)
    return np.asarray(raster.reduce(SUPERSAMPLING), dtype=np.float32) * np.float32(1 / 255)


def _stack(sprites: list[_Sprite], size: Size) -> tuple[np.ndarray, list[frozenset[int]]]:
    """(H, W) uint8, 1 + the index of the object in front (0 background), and which objects each one partly hides."""
    owner = np.zeros(size, dtype=np.uint8)
    covers = []
    for k, sprite in enumerate(sprites):
        window, solid = owner[sprite.window], sprite.solid
        hidden = np.bincount(window[solid], minlength=1)
        covers.append(frozenset(int(j) - 1 for j in np.flatnonzero(hidden) if j > 0))
        window[solid] = k + 1
    return owner, covers


def _drop_hidden(sprites: list[_Sprite], size: Size) -> list[_Sprite]:
    """Leave out every object of which too little would be seen."""
    owner, _ = _stack(sprites, size)
    visible = np.bincount(owner.ravel(), minlength=len(sprites) + 1)[1:]
    return [
        sprite
        for sprite, pixels in zip(sprites, visible, strict=True)
        if pixels >= max(MIN_VISIBLE_AREA * owner.size, MIN_VISIBLE_SHARE * sprite.solid.sum())
    ]


def _paint(sprites: list[_Sprite], background: str, rng: np.random.Generator, size: Size) -> np.ndarray:
    """(H, W, 3) uint8."""
    canvas = BACKGROUNDS[background].paint(rng, size).astype(np.float32)
    shadow = rng.uniform(0.2, 0.55) if BACKGROUNDS[background].where.startswith("on") else 0.0
    offset = max(1, round(0.012 * sqrt(size[0] * size[1])))
    for sprite in sprites:
        if shadow:
            _cast_shadow(canvas, sprite, np.float32(shadow), offset)
        window = canvas[sprite.window]
        window += sprite.coverage[..., None] * (_surface(sprite, rng) - window)
    rows, columns = grid(size)
    slope = rng.uniform(-0.16, 0.16, 2)
    light = 1 + slope[0] * (rows - 0.5) + slope[1] * (columns - 0.5)
    light = light - rng.uniform(0, 0.5) * ((rows - 0.5) ** 2 + (columns - 0.5) ** 2)
    canvas *= light.astype(np.float32)[..., None]
    canvas += _grain(size, int(rng.integers(0, 1 << 16))) * np.float32(rng.uniform(1, 5))
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.2, 0.5) * sqrt(size[0] * size[1]) / 128))
    return np.asarray(image)


def _cast_shadow(canvas: np.ndarray, sprite: _Sprite, strength: np.float32, offset: int) -> None:
    rows, columns = sprite.window
    window = canvas[rows.start + offset : rows.stop + offset, columns.start + offset : columns.stop + offset]
    window *= 1 - strength * sprite.coverage[: window.shape[0], : window.shape[1], None]


def _surface(sprite: _Sprite, rng: np.random.Generator) -> np.ndarray:
    """(h, w, 3) float32 in [0, 255]: an object's own colour, texture and details, before its silhouette is cut."""
    item, (rows, columns) = sprite.item, sprite.window
    height, width = sprite.coverage.shape
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    tone = np.array(item.tone, np.float32)
    bright = float(tone @ np.array((0.3, 0.59, 0.11), np.float32)) > 150
    accent = tone * np.float32(0.55) if bright else tone + (255 - tone) * np.float32(0.5)
    surface = np.broadcast_to(tone, (height, width, 3))
    if item.texture in ("striped", "dotted", "checked"):
        surface = tone + _pattern(item, x, y, rng)[..., None] * (accent - tone)
    if item.texture == "shaded":
        ball = (x + 0.35) ** 2 + (y + 0.4) ** 2
        surface = (
            tone * (np.float32(1.12) - np.float32(0.3) * ball)[..., None] + np.exp(-6 * ball)[..., None] * 70
        )
    for paint, coverage in sprite.details:
        ink = tone * np.float32(0.62) if paint == "shade" else np.array(DETAIL_COLOURS[paint], np.float32)
        surface = surface + coverage[..., None] * (ink - surface)
    return surface


def _pattern(item: Item, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(h, w) float32 in [0, 1]: where the accent colour goes."""
    angle = rng.uniform(0, pi)
    waves = np.float32(pi * rng.uniform(2.4, 3.4) * (1.25 if item.size == "large" else 0.85))
    u = (x * cos(angle) + y * sin(angle)) * waves
    v = (y * cos(angle) - x * sin(angle)) * waves
    if item.texture == "striped":
        wave = np.sin(u) * 4
    elif item.texture == "dotted":
        wave = (np.cos(u) + np.cos(v) - 0.7) * 4
    else:
        wave = np.sin(u) * np.sin(v) * 6
    return np.clip(wave + 0.5, 0, 1)


@lru_cache(maxsize=4)
def _grain_tile(size: Size) -> np.ndarray:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((size[0] + 64, size[1] + 64, 3), dtype=np.float32)
    return noise + smooth_noise(rng, noise.shape[:2], (size[0] / 2, size[1] / 2))[..., None] - np.float32(0.5)


def _grain(size: Size, key: int) -> np.ndarray:
    """(H, W, 3) float32 of about unit variance: a window of a fixed tile of sensor noise, chosen by `key`."""
    row, column = key % 64, key // 64 % 64
    return _grain_tile(size)[row : row + size[0], column : column + size[1]]
