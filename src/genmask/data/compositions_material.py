"""What compositions are made of: the cut-outs and backgrounds of one split of the photographs, kept small in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from genmask.data.compositions_cutouts import (
    BACKGROUND_SHARES,
    CUT_FROM,
    CutOut,
    cut,
    find_cut_outs,
    surely_without,
)
from genmask.data.photograph_index import (
    LAYOUT,
    Photograph,
    find_sources,
    read_classes,
    read_index,
    read_labels,
)
from genmask.data.photographs import SPLITS, UNLABELLED_IS_IGNORED, Split
from genmask.images import open_image

MIN_NAMES = 2
"""So many classes must fit into a photograph, or it is no background."""
MAX_BACKGROUNDS = 200
"""Of each source, evenly spread over its index: for the sake of memory."""
BACKGROUND_AREA = 1.5
"""A background is kept at so many times the area of a composition, which shows a window of it."""


@dataclass(frozen=True, kw_only=True)
class Background:
    """A photograph to paste into."""

    photograph: Photograph
    names: tuple[str, ...]
    """Classes of which nothing is in it: they may be pasted, and are absent where they are not."""


class Material:
    """Cut-outs by class and backgrounds by source, from photographs laid out as `photograph_index.LAYOUT`.

    All labels are read at once, to find what can be cut out; pixels when they are first asked for, and then kept:
    3 bytes per pixel of a background, 4 of a cut-out.

    Args:
        root: the folder that holds the sources.
        split: "train" or "val"; nothing of the other split is used.
        sources: which sources; None for all there are.
        area: of the compositions, in pixels. Cut-outs and backgrounds are kept as large as they need them.

    Raises:
        ValueError: unknown split or source; files that are not as the layout says; nothing to cut out, or nothing to
            paste it into.
    """

    def __init__(
        self, root: str | Path, split: Split, sources: tuple[str, ...] | None = None, *, area: int
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"Got split {split!r}, expected one of {', '.join(SPLITS)}.")
        folders = [Path(root) / source for source in find_sources(Path(root), sources)]
        self.split, self.area = split, area
        photographs = [photograph for folder in folders for photograph in read_index(folder, split)]
        self.cut_outs: dict[str, list[CutOut]] = {}
        for photograph in photographs:
            for cut_out in find_cut_outs(photograph):
                self.cut_outs.setdefault(cut_out.name, []).append(cut_out)
        drawn = {folder.name: frozenset(read_classes(folder).values()) for folder in folders}
        candidates: dict[str, list[Background]] = {}
        for photograph in photographs:
            names = tuple(
                name
                for name in sorted(self.cut_outs)
                if surely_without(name, photograph, drawn[photograph.source])
            )
            if photograph.source in BACKGROUND_SHARES and len(names) >= MIN_NAMES:
                background = Background(photograph=photograph, names=names)
                candidates.setdefault(photograph.source, []).append(background)
        self.backgrounds = {source: _thinned(found) for source, found in candidates.items()}
        if not self.backgrounds:
            raise ValueError(
                f"Got {str(root)!r}, of whose {split} photographs nothing can be cut out and pasted into another, "
                f"expected some of {', '.join(sorted(CUT_FROM))}; {LAYOUT}."
            )
        self._pieces: dict[tuple[Path, str], Image.Image] = {}
        self._pictures: dict[Path, tuple[Image.Image, np.ndarray | None]] = {}

    @property
    def names(self) -> list[str]:
        """Classes of the cut-outs, sorted."""
        return sorted(self.cut_outs)

    def draw_background(self, rng: Random) -> Background:
        """One of a source by `BACKGROUND_SHARES`."""
        sources = list(self.backgrounds)
        source = rng.choices(sources, weights=[BACKGROUND_SHARES[source] for source in sources])[0]
        return rng.choice(self.backgrounds[source])

    def piece(self, cut_out: CutOut) -> Image.Image:
        """The object as `compositions_cutouts.cut` gives it; shared, so leave it unchanged."""
        key = (cut_out.photograph.image, cut_out.name)
        if key not in self._pieces:
            self._pieces[key] = cut(cut_out, self.area)
        return self._pieces[key]

    def picture(self, background: Background) -> tuple[Image.Image, np.ndarray | None]:
        """RGB, and (H, W) bool where nobody knows what a pixel is, if anywhere; shared, as are pieces."""
        photograph = background.photograph
        if photograph.image not in self._pictures:
            image = open_image(photograph.image)
            unknown = None
            if photograph.source in UNLABELLED_IS_IGNORED:
                unknown = read_labels(photograph.labels) == 0
            scale = min(1.0, (BACKGROUND_AREA * self.area / (image.width * image.height)) ** 0.5)
            size = (round(image.width * scale), round(image.height * scale))
            if size != image.size:
                image = image.resize(size, Image.Resampling.LANCZOS)
                if unknown is not None:
                    unknown = np.asarray(Image.fromarray(unknown).resize(size, Image.Resampling.NEAREST))
            self._pictures[photograph.image] = (image, unknown)
        return self._pictures[photograph.image]

    def preload(self) -> None:
        """Read everything now, so that processes forked later share the memory."""
        for cut_outs in self.cut_outs.values():
            for cut_out in cut_outs:
                self.piece(cut_out)
        for backgrounds in self.backgrounds.values():
            for background in backgrounds:
                self.picture(background)


def _thinned(found: list[Background]) -> list[Background]:
    count = min(len(found), MAX_BACKGROUNDS)
    return [found[i * len(found) // count] for i in range(count)]
