"""The score of a model that never looks at the picture: the best constant answer for each class.

For every class of every source, the masks of all training photographs that have it are averaged on a grid
stretched to the photograph; the average is thresholded where that gives the best overall IoU on the training
masks themselves. This constant answers for every validation photograph that has the class, and is scored at
the photograph's own size, over all (photograph, class) pairs, unlabelled pixels left out. A model has to beat
it to show that it looks.

    python benchmarks/constant_baseline.py FOLDER_OF_PHOTOGRAPHS
"""

from __future__ import annotations

import sys
from collections import defaultdict

import numpy as np

from genmask.data.example import Example
from genmask.data.photographs import Photographs
from genmask.data.transforms import resize_mask

GRID = 64
"""Side of the grid on which masks are averaged."""
LEVELS = np.linspace(0, 0.99, 60)
"""Quantiles of the average that are tried as thresholds."""

ClassKey = tuple[str, str]
"""(source, class)."""


def best_constants(train: Photographs) -> dict[ClassKey, np.ndarray]:
    """The constant mask (GRID, GRID) of each class, from every training pair."""
    masks: dict[ClassKey, list[np.ndarray]] = defaultdict(list)
    for pair in range(len(train.pairs)):
        example = train.plain(pair)
        masks[key(example)].append(resize_mask(known_target(example), GRID, GRID))
    return {name: best_threshold(np.stack(group)) for name, group in masks.items()}


def best_threshold(masks: np.ndarray) -> np.ndarray:
    """Average of (N, GRID, GRID) bool, thresholded for the highest overall IoU with the N masks."""
    average = masks.mean(axis=0)
    answers = [average >= threshold for threshold in np.unique(np.quantile(average, LEVELS))]
    return max(answers, key=lambda answer: (masks & answer).sum() / max(1, (masks | answer).sum()))


def totals(val: Photographs, constants: dict[ClassKey, np.ndarray]) -> dict[ClassKey, np.ndarray]:
    """(intersection, union, pairs) of each class over the validation pairs; an unseen class answers empty."""
    sums: dict[ClassKey, np.ndarray] = defaultdict(lambda: np.zeros(3, dtype=np.int64))
    for index in range(len(val)):
        example = val[index]
        target = known_target(example)
        constant = constants.get(key(example), np.zeros((GRID, GRID), dtype=bool))
        answer = resize_mask(constant, *target.shape)
        if example.ignore is not None:
            answer &= ~example.ignore
        sums[key(example)] += ((answer & target).sum(), (answer | target).sum(), 1)
    return dict(sums)


def scores(sums: dict[ClassKey, np.ndarray]) -> dict[str, float]:
    """Overall IoU over all pairs, and the mean over the classes of theirs (macro)."""
    rows = np.stack(list(sums.values()))
    return {
        "classes": len(rows),
        "pairs": int(rows[:, 2].sum()),
        "oIoU": float(rows[:, 0].sum() / rows[:, 1].sum()),
        "macro": float(np.mean(rows[:, 0] / rows[:, 1])),
    }


def known_target(example: Example) -> np.ndarray:
    """The mask without ignored pixels."""
    assert example.mask is not None
    return example.mask if example.ignore is None else example.mask & ~example.ignore


def key(example: Example) -> ClassKey:
    return example.source.removeprefix("photos/"), example.kind


def main(root: str) -> None:
    sums = totals(Photographs(root, "val"), best_constants(Photographs(root, "train")))
    print(f"{'source':<20} {'classes':>7} {'pairs':>6} {'oIoU':>6} {'macro':>6}")
    for source in (*sorted({name[0] for name in sums}), "all"):
        row = scores({name: found for name, found in sums.items() if source in (name[0], "all")})
        print(f"{source:<20} {row['classes']:>7} {row['pairs']:>6} {row['oIoU']:>6.3f} {row['macro']:>6.3f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/constant_baseline.py FOLDER_OF_PHOTOGRAPHS")
    main(sys.argv[1])
