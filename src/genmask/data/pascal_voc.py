"""PASCAL VOC: 20 kinds of object, each drawn throughout the picture, over a background."""

from __future__ import annotations

from pathlib import Path

from genmask.data.class_names import PASCAL_VOC, PASCAL_VOC_SPOKEN, PASCAL_VOC_SYNONYMS
from genmask.data.semantic import LabelClass, LabelMaps, View, choose_split, find_folder, match_pictures

LAYOUT = (
    "VOCdevkit/VOC2012/ with JPEGImages/*.jpg, SegmentationClass/*.png and "
    "ImageSets/Segmentation/{train,val,trainval}.txt"
)
BACKGROUND, UNLABELLED = 0, 255
"""255 is the border that is drawn around every object, and objects too difficult to tell."""


class PascalVoc(LabelMaps):
    """Pairs from `LAYOUT`; see `LabelMaps`. A pixel of value v is of class id v; the border is ignored.

    Absent classes are not asked for: the background may hold anything.

    Args:
        root: the folder that holds VOCdevkit, or VOCdevkit.
        split: "train", "val" or "trainval".
        year: of the challenge.
        view: "pairs" or "training"; None for what the split is for.
        synonyms: ask in training by synonyms too ("motorcycle").
        lisa: as LISA treats its sets (see `LabelMaps`; this is none of them): the border is background.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        year: int = 2012,
        view: View | None = None,
        seed: int = 0,
        min_share: float = 0.003,
        synonyms: bool = True,
        lisa: bool = False,
    ) -> None:
        choose_split(split, {name: name for name in ("train", "val", "trainval")})
        home = find_folder(LAYOUT, Path(root) / f"VOCdevkit/VOC{year}", Path(root) / f"VOC{year}")
        self.split = split
        super().__init__(
            match_pictures(
                home / "SegmentationClass",
                home / "JPEGImages",
                LAYOUT,
                read_stems(home / f"ImageSets/Segmentation/{split}.txt"),
            ),
            _classes(synonyms, lisa),
            source="pascal_voc",
            unlabelled=UNLABELLED,
            others=(BACKGROUND,),
            view=view or ("pairs" if split == "val" else "training"),
            seed=seed,
            min_share=min_share,
            lisa=lisa,
        )


def read_stems(path: Path) -> list[str]:
    """The lines of a list of pictures, in its order, without empty ones."""
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Cannot read {path}, expected {LAYOUT}.") from error
    if not lines:
        raise ValueError(f"Got {path} without a name, expected one picture a line, as 2007_000032.")
    return lines


def _classes(with_synonyms: bool, lisa: bool) -> dict[int, LabelClass]:
    if lisa:
        return {value: LabelClass(name=name.lower()) for value, name in enumerate(PASCAL_VOC, start=1)}
    spoken = (PASCAL_VOC_SPOKEN.get(name, name) for name in PASCAL_VOC)
    return {
        value: LabelClass(name=name, synonyms=PASCAL_VOC_SYNONYMS.get(name, ()) if with_synonyms else ())
        for value, name in enumerate(spoken, start=1)
    }
