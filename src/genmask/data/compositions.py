"""Compositions: objects cut out of photographs and pasted into others, with referring expressions.

Photographs with class masks name kinds of thing; compositions tell several of a kind apart, on real pixels: "the tiger
on the left", "the smaller horse", "all people". Seeded and endless; every mask is exact.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from genmask.data.compositions_cutouts import is_distinct
from genmask.data.compositions_expressions import SHARES, expressions
from genmask.data.compositions_material import Background, Material
from genmask.data.compositions_pasting import arrange, paint
from genmask.data.drawing import Scene
from genmask.data.example import Example
from genmask.data.expressions import Expression, Kind
from genmask.data.regions import IS, IS_NOT, UNKNOWN, Regions

MAX_ATTEMPTS = 200
"""So many pictures in turn may lack a sentence of one of the kinds that were drawn."""


@dataclass(frozen=True, kw_only=True)
class Composition:
    """A picture, what is unknown in it, and its sentences."""

    scene: Scene
    unknown: np.ndarray | None
    """(H, W) bool: pixels of the background that nobody labelled; None where there are none."""
    background: Background
    expressions: tuple[Expression, ...]


class Compositions:
    """Two to five cut-outs on a photograph, made on the fly.

    Index `i` is expression `i % K` of composition `i // K`, with `K = Compositions.EXPRESSIONS`: read in order, each is
    made once. What an index holds depends on the material, seed, index and size alone.

    Args:
        material: of the split "train" or "val".
        size: side of the pictures in pixels, or (height, width); at least 32.
        seed: any integer; another seed is another stream.
        length: number of indices, None for an endless source (`len` is then a TypeError).
        shares: weights of the kinds of expression.

    Raises:
        ValueError: too small a size, or an unknown kind; on use, material that is too poor.
    """

    EXPRESSIONS = 4

    def __init__(
        self,
        material: Material,
        size: tuple[int, int] | int = 128,
        seed: int = 0,
        length: int | None = None,
        shares: Mapping[Kind, float] = SHARES,
    ) -> None:
        self.size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        if min(self.size) < 32:
            raise ValueError(f"Got size {self.size}, expected sides of at least 32 pixels.")
        unknown = [kind for kind in shares if kind not in SHARES]
        if unknown:
            raise ValueError(f"Got kind {unknown[0]!r}, expected some of {', '.join(SHARES)}.")
        self.material, self.seed, self.length, self.shares = material, seed, length, shares
        self.concepts = material.names
        """Names of all classes that are pasted: the columns of `Regions.table`."""
        self._knowledge = {name: self._row(name) for name in self.concepts}
        self._cached: tuple[int, Composition] | None = None

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError("These compositions are endless: pass length=... where a length is needed.")
        return self.length

    def __getitem__(self, index: int) -> Example:
        index = operator.index(index)
        if index < 0 or (self.length is not None and index >= self.length):
            raise IndexError(
                f"Got index {index}, expected 0 <= index" + (f" < {self.length}." if self.length else ".")
            )
        number, which = divmod(index, self.EXPRESSIONS)
        made = self.composition(number)
        expression = made.expressions[which]
        return Example(
            image=made.scene.image.copy(),
            text=expression.text,
            mask=made.scene.mask(expression.targets),
            ignore=None if made.unknown is None else made.unknown.copy(),
            regions=self._regions(made),
            source="compositions",
            id=f"{self.material.split}/{index:06d}",
            kind=expression.kind,
        )

    def composition(self, number: int) -> Composition:
        """The composition behind indices `number * EXPRESSIONS` and on; its arrays are shared: leave them unchanged."""
        if self._cached is None or self._cached[0] != number:
            self._cached = (number, self._make(number))
        return self._cached[1]

    def _make(self, number: int) -> Composition:
        rng = Random(f"genmask compositions/{self.material.split}/{self.seed}/{number}")
        # Drawn first, and pictures until one has them all to offer: else the shares would be the pictures' choice.
        kinds = rng.choices(list(self.shares), weights=list(self.shares.values()), k=self.EXPRESSIONS)
        for _ in range(MAX_ATTEMPTS):
            arrangement = arrange(rng, self.material, self.size)
            scene, background = arrangement.scene, arrangement.background
            pasted = frozenset(thing.category for thing in scene.objects)
            absent = [name for name in background.names if is_distinct(name, pasted)]
            found = expressions(scene, absent, rng, kinds)
            if found is not None:
                image, unknown = paint(rng, self.material, arrangement)
                return Composition(
                    scene=replace(scene, image=image),
                    unknown=unknown,
                    background=background,
                    expressions=tuple(found),
                )
        raise ValueError(
            f"Got cut-outs of {', '.join(self.concepts)} and no picture of them with sentences of the kinds "
            f"{', '.join(kinds)}, expected two cut-outs of a class and two classes at least."
        )

    def _regions(self, made: Composition) -> Regions:
        """The background, then every object, then what is unknown."""
        count = len(made.scene.objects)
        labels = np.zeros(self.size, dtype=np.uint8)
        table = np.full((2 + count, len(self.concepts)), UNKNOWN, dtype=np.int8)
        clear = [self.concepts.index(name) for name in made.background.names]
        table[0, clear] = IS_NOT
        for row, thing in enumerate(made.scene.objects, start=1):
            labels[thing.mask] = row
            table[row] = self._knowledge[thing.category]
        if made.unknown is not None:
            labels[made.unknown] = 1 + count
        return Regions(labels=labels, table=table)

    def _row(self, name: str) -> np.ndarray:
        """What is known of an object of a class: (K,) of `IS`, `IS_NOT`, `UNKNOWN`."""
        return np.array(
            [
                IS if other == name else IS_NOT if is_distinct(other, frozenset((name,))) else UNKNOWN
                for other in self.concepts
            ],
            dtype=np.int8,
        )
