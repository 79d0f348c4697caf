"""Do generated pictures show what the caption says? Colours and shapes of drawn things, told without any network.

    python benchmarks/generated_pictures.py --model tiny [--samples 60] [--sheet sheet.png] [--json scores.json]
    python benchmarks/generated_pictures.py --check-alone --samples 400

Scenes of one or two large things of one colour each, on any background of a single surface, are drawn, captioned as in
training ("a red star and a blue ring on sand"), and drawn again by the model from their captions. `find_things` looks
at a picture alone and says what it sees. A row is the share of captioned things whose colour is seen, whose shape is
seen, and that are seen with both, with the Wilson 95 % interval of the last:

* true scenes: what the check itself is worth;
* true scenes, through the VAE: the most that this model's pictures could reach;
* generated: 30 steps with guidance 5, unless told otherwise.

Each of them stands beside itself held against the captions of other scenes, which is what chance is worth.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from math import pi, radians, sqrt
from pathlib import Path
from random import Random
from textwrap import wrap
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.stats import binomtest

from genmask.atomic import save_json, save_png
from genmask.data.backgrounds import BACKGROUNDS
from genmask.data.composition import AREAS, COLOURS, Item, Plan
from genmask.data.dialogues import caption
from genmask.data.drawing import Scene, draw_plan
from genmask.data.shapes import SHAPES, silhouette_area
from genmask.latents import LatentCodec
from genmask.pipeline import GenMaskPipeline

CATEGORIES = tuple(
    name for name, shape in SHAPES.items() if {paint for paint, _ in shape.parts} <= {"fill", "hole"}
)
"""Shapes of one colour: circle, oval, square, ... arrow."""
SURFACES = tuple(name for name in BACKGROUNDS if name not in ("sky", "meadow"))
"""Backgrounds of a single surface; clouds and horizons would have to be told from things."""
MIN_AREA = 0.015
"""Share of the picture below which a part is a speck."""
DISTANCE = 4.5
"""From the background, in its own standard deviations, beyond which a pixel belongs to a thing."""
TEMPLATE = 48
"""Side of the normalised silhouettes, in pixels."""
ANGLES = 72
"""In a full turn, at which silhouettes are held against a part."""
SHOWN = 16
"""Captions on the contact sheet."""
ZOOM = 2
"""Of its pictures."""


class Thing(NamedTuple):
    """What a caption names, or what the check sees."""

    colour: str
    category: str


def simple_scene(rng: Random, side: int) -> Scene:
    """One or two large things of one colour each, side by side on a background of a single surface."""
    background = rng.choice(SURFACES)
    colours = [colour for colour in COLOURS if colour not in BACKGROUNDS[background].hides]
    count = rng.choice((1, 2))
    items = []
    for number in range(count):
        category, colour = rng.choice(CATEGORIES), rng.choice(colours)
        brighter, turn = rng.uniform(-12, 12), SHAPES[category].turn
        red, green, blue = COLOURS[colour]
        radius = sqrt(rng.uniform(*AREAS["large"]) / silhouette_area(category))
        items.append(
            Item(
                category=category,
                colour=colour,
                texture=rng.choice(("plain", "shaded")),
                size="large",
                centre=((number + 0.5) / count, rng.uniform(0.35, 0.65)),
                radius=min(radius, 0.24),
                angle=radians(rng.uniform(-turn, turn)),
                tone=(red + brighter, green + brighter, blue + brighter),
            )
        )
    return draw_plan(Plan(background=background, items=tuple(items)), rng, (side, side))


def asked_of(scene: Scene) -> list[Thing]:
    """What its caption names."""
    return [Thing(thing.colour, thing.category) for thing in scene.objects]


def find_things(picture: np.ndarray) -> list[Thing]:
    """What is seen in a picture (H, W, 3) uint8: its parts that stand out, by nearest colour and likeliest shape."""
    lab = to_lab(ndimage.median_filter(picture, (3, 3, 1)))
    labels, _ = ndimage.label(_foreground(lab))
    found = []
    for label in np.flatnonzero(np.bincount(labels.ravel())[1:] >= MIN_AREA * labels.size) + 1:
        part = labels == label
        inside = ndimage.binary_erosion(part, iterations=2)
        tone = np.median(lab[inside if inside.any() else part], axis=0)
        found.append(Thing(nearest_colour(tone), likeliest_shape(part)))
    return found


def score(seen: Sequence[Sequence[Thing]], asked: Sequence[Sequence[Thing]]) -> dict[str, float]:
    """Shares of the captioned things that are seen, each seen thing standing for one."""
    right = Counter({"colour": 0, "shape": 0, "both": 0})
    for found, wanted in zip(seen, asked, strict=True):
        right["colour"] += _common([t.colour for t in found], [t.colour for t in wanted])
        right["shape"] += _common([t.category for t in found], [t.category for t in wanted])
        right["both"] += _common(found, wanted)
    things = sum(map(len, asked))
    low, high = binomtest(right["both"], things).proportion_ci(method="wilson")
    return {
        "things": things,
        **{name: count / things for name, count in right.items()},
        "low": low,
        "high": high,
    }


def _common(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    return (Counter(a) & Counter(b)).total()


def _foreground(lab: np.ndarray) -> np.ndarray:
    """(H, W) bool: far from the background, which is smooth in place and of one texture.

    The background is a quadratic surface, fitted anew to what is near to the last one; far is by Mahalanobis' distance
    of the residuals.
    """
    height, width = lab.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    pixels = lab.reshape(-1, 3)
    near = (np.maximum(np.abs(x), np.abs(y)) > 0.83).ravel()  # at first, a frame
    for _ in range(6):
        surface, *_ = np.linalg.lstsq(basis[near], pixels[near], rcond=None)
        residual = pixels - basis @ surface
        covariance = np.cov(residual[near].T) + 4 * np.eye(3)  # a step of 2 in Lab is hardly seen
        distance = np.sqrt(np.einsum("ij,jk,ik->i", residual, np.linalg.inv(covariance), residual))
        near = distance < 3
    far = distance.reshape(height, width) > DISTANCE
    return ndimage.binary_opening(far, iterations=1)


def to_lab(picture: np.ndarray) -> np.ndarray:
    """sRGB (H, W, 3) in [0, 255] -> CIE L*a*b* under D65, float64."""
    levels = np.asarray(picture, dtype=np.float64) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / to_xyz.sum(axis=1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1
    )


def nearest_colour(lab: np.ndarray) -> str:
    """The name of a colour in L*a*b*; lightness, which the light in a scene changes, counts half."""
    palette = to_lab(np.array(list(COLOURS.values())))
    distance = np.linalg.norm((palette - lab) * (0.5, 1, 1), axis=1)
    return list(COLOURS)[int(distance.argmin())]


def likeliest_shape(part: np.ndarray) -> str:
    """The category whose silhouette, turned as far as it may be, has the greatest IoU with a part (H, W) bool."""
    seen, (names, templates) = _normalised(part), _templates()
    inside = templates @ seen.ravel()
    iou = inside / (templates.sum(axis=1) + seen.sum() - inside)
    return names[int(iou.argmax())]


def _normalised(mask: np.ndarray) -> np.ndarray:
    """`mask` (H, W) bool with its centroid in the middle and its area a fifth of (TEMPLATE, TEMPLATE), float32."""
    points = np.argwhere(mask)
    scale = sqrt(len(points) / (0.2 * TEMPLATE**2))
    grid = (np.arange(TEMPLATE) + 0.5 - TEMPLATE / 2) * scale
    places = np.stack(np.meshgrid(grid, grid, indexing="ij")) + points.mean(axis=0)[:, None, None]
    return (ndimage.map_coordinates(mask.astype(np.float32), places, order=1) > 0.5).astype(np.float32)


@cache
def _templates() -> tuple[list[str], np.ndarray]:
    """A category's name for each row, and the rows: silhouettes at every angle that it may have, (n, TEMPLATE^2)."""
    names, rows, side = [], [], 256
    for category in CATEGORIES:
        turn = radians(SHAPES[category].turn)
        for angle in np.linspace(-pi, pi, ANGLES, endpoint=False):
            if abs(angle) > turn + 0.05:
                continue
            rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            raster = Image.new("1", (side, side))
            for paint, outline in SHAPES[category].parts:
                corners = outline @ rotation * (side / 3) + side / 2
                ImageDraw.Draw(raster).polygon(corners.ravel().tolist(), fill=paint != "hole")
            names.append(category)
            rows.append(_normalised(np.asarray(raster)).ravel())
    return names, np.stack(rows)


@torch.no_grad()
def round_trip(codec: LatentCodec, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Pictures (H, W, 3) uint8 as the VAE gives them back."""
    found = []
    for picture in pictures:
        pixels = torch.from_numpy(picture).permute(2, 0, 1).unsqueeze(0) / 127.5 - 1
        decoded = codec.decode(codec.encode(pixels.to(codec.vae.device)))[0].float().cpu()
        found.append(((decoded + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())
    return found


def contact_sheet(captions: Sequence[str], columns: Mapping[str, Sequence[np.ndarray]]) -> Image.Image:
    """For each caption a picture of every column; under each what the check sees in it."""
    side, lines = ZOOM * len(next(iter(columns.values()))[0]), 52
    across = 2
    width = len(columns) * (side + 8) + 16
    sheet = Image.new("RGB", (across * width, -(-len(captions) // across) * (side + 2 * lines)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, text in enumerate(captions):
        top, left = number // across * (side + 2 * lines), number % across * width
        pen.text((left + 4, top + 4), "\n".join(wrap(text, width // 7)), fill="black")
        for column, (name, pictures) in enumerate(columns.items()):
            x, picture = left + column * (side + 8) + 4, pictures[number]
            enlarged = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (x, top + lines - 14))
            seen = ", ".join(map(" ".join, find_things(picture))) or "nothing"
            words = wrap(f"{name}: {seen}", side // 6, max_lines=4, placeholder=" ...")
            pen.text((x, top + lines - 12 + side), "\n".join(words), fill="black")
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--samples", type=int, default=60, help="captions")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--check-alone", action="store_true", help="true scenes alone: generate nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet as PNG")
    parser.add_argument("--json", type=Path, help="write the scores")
    arguments = parser.parse_args()
    if arguments.samples < 2:
        parser.error(f"Got --samples {arguments.samples}, expected at least 2, to exchange captions.")

    pipe = GenMaskPipeline.from_pretrained(arguments.model)
    rng = Random(arguments.seed)
    scenes = [simple_scene(rng, pipe.config.resolution) for _ in range(arguments.samples)]
    captions, asked = [caption(scene, rng) for scene in scenes], [asked_of(scene) for scene in scenes]
    true = [scene.image for scene in scenes]
    columns = {"true scenes": true, "true scenes, through the VAE": round_trip(pipe.codec, true)}
    if not arguments.check_alone:
        generated = pipe.generate(
            captions,
            num_inference_steps=arguments.steps,
            guidance_scale=arguments.guidance,
            seed=arguments.seed,
        )
        columns["generated"] = [np.asarray(picture) for picture in generated]
    scores = {}
    for name, pictures in columns.items():
        seen = [find_things(picture) for picture in pictures]
        scores[name] = score(seen, asked)
        scores[f"{name}, captions exchanged"] = score(seen, asked[1:] + asked[:1])

    print(f"| {arguments.samples} captions, {sum(map(len, asked))} things | colour | shape | both |")
    print("|---|---:|---:|---:|")
    for name, found in scores.items():
        shares = " | ".join(f"{100 * found[key]:.1f} %" for key in ("colour", "shape", "both"))
        print(f"| {name} | {shares} [{100 * found['low']:.1f}, {100 * found['high']:.1f}] |")
    if arguments.json is not None:
        save_json({"captions": captions, "scores": scores}, arguments.json)
    if arguments.sheet is not None:
        save_png(contact_sheet(captions[:SHOWN], columns), arguments.sheet)


if __name__ == "__main__":
    main()
