"""ADE20K as the scene parsing benchmark has it: 150 classes, nearly every pixel."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from genmask.data.class_names import ADE20K, ADE20K_LISA, ADE20K_MISLEADING
from genmask.data.semantic import LabelClass, LabelMaps, View, choose_split, find_folder, match_pictures

LAYOUT = "ADEChallengeData2016/{images,annotations}/{training,validation}/ADE_*.{jpg,png}"
UNLABELLED = 0


class Ade20k(LabelMaps):
    """Pairs from `LAYOUT`; see `LabelMaps`. A pixel of value v is of class id v; 0 is none of the 150.

    Args:
        root: the folder that holds ADEChallengeData2016 (or ade20k, as LISA calls it), or that folder.
        split: "train" or "val".
        view: "pairs" or "training"; None for what the split is for.
        synonyms: ask in training by the benchmark's synonyms too, save those that mislead or that two
            classes share.
        lisa: as LISA trains (see `LabelMaps`).
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        view: View | None = None,
        seed: int = 0,
        min_share: float = 0.003,
        absent_share: float = 0.0,
        synonyms: bool = True,
        lisa: bool = False,
    ) -> None:
        folder = choose_split(split, {"train": "training", "val": "validation"})
        root = Path(root)
        candidates = (root / "ADEChallengeData2016", root / "ade20k", root)
        home = find_folder(LAYOUT, *(candidate / "annotations" for candidate in candidates)).parent
        self.split = split
        super().__init__(
            match_pictures(home / "annotations" / folder, home / "images" / folder, LAYOUT),
            _lisa_classes() if lisa else _classes(synonyms),
            source="ade20k",
            unlabelled=UNLABELLED,
            view=view or ("training" if split == "train" else "pairs"),
            seed=seed,
            min_share=min_share,
            absent_share=absent_share,
            lisa=lisa,
        )


def _classes(with_synonyms: bool) -> dict[int, LabelClass]:
    uses = Counter(name for names in ADE20K for name in names)
    return {
        value: LabelClass(
            name=names[0],
            synonyms=tuple(
                name
                for name in names[1:]
                if with_synonyms and uses[name] == 1 and name not in ADE20K_MISLEADING
            ),
        )
        for value, names in enumerate(ADE20K, start=1)
    }


def _lisa_classes() -> dict[int, LabelClass]:
    first = (names[0] for names in ADE20K)
    return {
        value: LabelClass(name=ADE20K_LISA.get(name, name).lower())
        for value, name in enumerate(first, start=1)
    }
