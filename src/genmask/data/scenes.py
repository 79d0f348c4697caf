"""Drawn scenes: an endless, seeded source of pictures with referring expressions, captions and dialogues."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from random import Random
from typing import Literal

import numpy as np

from genmask.data.composition import AREAS, COLOURS, FULL, Layout
from genmask.data.dialogues import caption, dialogues
from genmask.data.drawing import Scene, draw_scene
from genmask.data.example import Dialogue, Example
from genmask.data.expressions import SHARES, Expression, Kind, expressions
from genmask.data.regions import IS, IS_NOT, Regions
from genmask.data.shapes import SHAPES


class Scenes:
    """Drawn scenes with exact masks, made on the fly.

    Index `i` is expression `i % K` of scene `i // K`, with `K = Scenes.EXPRESSIONS_PER_SCENE`: read in order,
    each scene is drawn once. What an index holds depends on split, seed, index and size alone; the two splits
    share nothing.

    Args:
        split: "train" or "val".
        size: Side of the pictures in pixels, or (height, width); at least 32.
        seed: Any integer; another seed is another stream.
        length: Number of indices, None for an endless source (`len` is then a TypeError).
        shares: Weights of the kinds of expression.
        layout: How many objects there are, which ones and how large.
    """

    EXPRESSIONS_PER_SCENE = 4
    CONCEPTS = (*SHAPES, *COLOURS, *AREAS)
    """Categories, colours and sizes: the columns of `Regions.table`."""

    def __init__(
        self,
        split: Literal["train", "val"] = "train",
        size: tuple[int, int] | int = 128,
        seed: int = 0,
        length: int | None = None,
        shares: Mapping[Kind, float] = SHARES,
        layout: Layout = FULL,
    ) -> None:
        if split not in ("train", "val"):
            raise ValueError(f"Got split {split!r}, expected one of 'train', 'val'.")
        self.size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        if min(self.size) < 32:
            raise ValueError(
                f"Got size {self.size}, expected sides of at least 32 pixels; shapes need that many."
            )
        self.split, self.seed, self.length = split, seed, length
        self.shares, self.layout = shares, layout
        self._cached: tuple[int, Scene, list[Expression]] | None = None

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError("These scenes are endless: pass length=... to Scenes where a length is needed.")
        return self.length

    def __getitem__(self, index: int) -> Example:
        scene, found = self._draw(index)
        expression = found[index % self.EXPRESSIONS_PER_SCENE]
        return Example(
            image=scene.image.copy(),
            text=expression.text,
            mask=scene.mask(expression.targets),
            regions=_regions(scene),
            source="scenes",
            id=f"{self.split}/{index:06d}",
            kind=expression.kind,
        )

    def scene(self, index: int) -> Scene:
        """The scene behind an index; its arrays are shared, so leave them unchanged."""
        return self._draw(index)[0]

    def expression(self, index: int) -> Expression:
        """The meaning of an index's sentence and the objects that it names."""
        return self._draw(index)[1][index % self.EXPRESSIONS_PER_SCENE]

    def recognition(self, number: int) -> Example:
        scene = draw_scene(self._stream("scene", number), self.size, self.layout)
        return Example(image=scene.image, text="", mask=None, task="generation", regions=_regions(scene))

    def caption(self, index: int) -> Example:
        """The index's picture with a caption, for text-to-image."""
        scene = self.scene(index)
        return Example(
            image=scene.image.copy(),
            text=caption(scene, self._stream("caption", index)),
            task="generation",
            source="scenes",
            id=f"{self.split}/{index:06d}/caption",
        )

    def dialogues(self, index: int) -> list[Dialogue]:
        """Questions on the index's picture and exact answers; other indices of the scene ask other ones."""
        return dialogues(self.scene(index), self.expression(index), self._stream("dialogues", index))

    def _stream(self, purpose: str, index: int) -> Random:
        return Random(f"genmask scenes/{self.split}/{self.seed}/{purpose}/{index}")

    def _draw(self, index: int) -> tuple[Scene, list[Expression]]:
        index = operator.index(index)
        if index < 0 or (self.length is not None and index >= self.length):
            raise IndexError(
                f"Got index {index}, expected 0 <= index" + (f" < {self.length}." if self.length else ".")
            )
        number = index // self.EXPRESSIONS_PER_SCENE
        if self._cached is None or self._cached[0] != number:
            rng = self._stream("scene", number)
            scene = draw_scene(rng, self.size, self.layout)
            found = expressions(scene, rng, self.EXPRESSIONS_PER_SCENE, self.shares)
            self._cached = (number, scene, found)
        return self._cached[1], self._cached[2]


def _regions(scene: Scene) -> Regions:
    """The background, then every object."""
    labels = np.zeros(scene.image.shape[:2], dtype=np.uint8)
    table = np.full((1 + len(scene.objects), len(Scenes.CONCEPTS)), IS_NOT, dtype=np.int8)
    for row, thing in enumerate(scene.objects, start=1):
        labels[thing.mask] = row
        for word in (thing.category, thing.colour, thing.size):
            table[row, Scenes.CONCEPTS.index(word)] = IS
    return Regions(labels=labels, table=table)
