"""COCO-Stuff: 80 things and 91 kinds of stuff, every pixel of COCO 2017."""

from __future__ import annotations

from pathlib import Path

from genmask.data.class_names import (
    COCO_STUFF,
    COCO_STUFF_FAMILIES,
    COCO_STUFF_LISA,
    COCO_STUFF_NEVER_USED,
    COCO_STUFF_SPOKEN,
)
from genmask.data.semantic import LabelClass, LabelMaps, View, choose_split, match_pictures

LAYOUT = "cocostuff/{train,val}2017/*.png (stuffthingmaps) beside coco/{train,val}2017/*.jpg"
UNLABELLED = 255


class CocoStuff(LabelMaps):
    """Pairs from `LAYOUT`; see `LabelMaps`. A pixel of value v is of class id v + 1, so 0 is a person.

    "floor-wood" is asked for as "the wooden floor"; "floor-other" as "the floor", and its mask is all floor
    in the picture (ceilings and walls likewise).

    Args:
        root: the folder that holds cocostuff and coco.
        split: "train" or "val".
        labels: the folder that holds train2017 and val2017 of the label maps, where they are elsewhere.
        images: the same for the photographs.
        view: "pairs" or "training"; None for what the split is for.
        lisa: as LISA trains (see `LabelMaps`): names with a dash are left out.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        labels: str | Path | None = None,
        images: str | Path | None = None,
        view: View | None = None,
        seed: int = 0,
        min_share: float = 0.003,
        absent_share: float = 0.0,
        lisa: bool = False,
    ) -> None:
        folder = choose_split(split, {"train": "train2017", "val": "val2017"})
        self.split = split
        super().__init__(
            match_pictures(
                Path(labels if labels is not None else Path(root) / "cocostuff") / folder,
                Path(images if images is not None else Path(root) / "coco") / folder,
                LAYOUT,
            ),
            _lisa_classes() if lisa else _spoken_classes(),
            source="coco_stuff",
            unlabelled=UNLABELLED,
            others=range(len(COCO_STUFF)),
            view=view or ("training" if split == "train" else "pairs"),
            seed=seed,
            min_share=min_share,
            absent_share=absent_share,
            lisa=lisa,
        )


def _spoken_classes() -> dict[int, LabelClass]:
    families = {
        f"{family}-other": tuple(v for v, name in enumerate(COCO_STUFF) if name.startswith(f"{family}-"))
        for family in COCO_STUFF_FAMILIES
    }
    return {
        value: LabelClass(
            name=COCO_STUFF_SPOKEN.get(name, name),
            covers=families.get(name, ()),
            may_be_absent=name not in COCO_STUFF_NEVER_USED,
        )
        for value, name in enumerate(COCO_STUFF)
    }


def _lisa_classes() -> dict[int, LabelClass]:
    names = {value: COCO_STUFF_LISA.get(name, name) for value, name in enumerate(COCO_STUFF)}
    return {value: LabelClass(name=name.lower()) for value, name in names.items() if "-" not in name}
