"""Whether a model clears the floors set for the bundled one: drawn scenes, photographs, and its speed.

    python benchmarks/bundled_model.py --model tiny --photos FOLDER [--scenes 1000] [--json scores.json]
    python benchmarks/bundled_model.py --model tiny --photos FOLDER --decoder vae --threshold 0.5    # the paper's way

Beside every score stands the oracle's, whose answer is the right mask, drawn through the VAE at the size the model
works at: no transformer on this VAE can do better.

* Drawn scenes: fresh ones, one sentence each. oIoU and mIoU over the sentences that name one object (every kind but
  plural and absent), and how often the answer is an empty mask. As a control the same sentences are exchanged between
  the pictures, the targets staying where they are: a model that listens must fail then.
* Photographs: every (photograph, class) pair of the validation split at the photograph's own size, beside the best
  constant answer per class of `constant_baseline.py`, whose oIoU and whose mean over classes are used throughout; in
  the control the classes are shuffled among all pairs. "frequent" are those that at least 20 training photographs show.
* Speed: median seconds of a call on a picture of 256 x 256 pixels after loading; ten prompts in one call and in ten
  calls, taking turns.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from bundled_model_report import FREQUENT, floors, tables
from constant_baseline import ClassKey, best_constants, key, scores, totals
from rich.console import Console
from rich.progress import track

from genmask.data.example import Example
from genmask.data.expressions import SHARES, SINGULAR
from genmask.data.photographs import Photographs
from genmask.data.phrases import plain_phrase
from genmask.data.scenes import Scenes
from genmask.evaluation.metrics import IoUTotals
from genmask.evaluation.oracle import round_trip
from genmask.pipeline import DECODERS, GenMaskPipeline

FIRST_INDEX = 100_000
"""In the validation stream of scenes; the held-out scores during training stay far below it."""
CALLS = 7
"""Timed calls of each sort; the median counts."""
TABLE_WIDTH = 132
STDERR = Console(stderr=True)


def oracle(pipe: GenMaskPipeline, masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """(H, W) bool masks of one size -> as the VAE gives them back."""
    return list(round_trip(pipe, masks) > 0.5)


def fresh_scenes(count: int, size: int) -> list[Example]:
    """One sentence on each of `count` scenes that no training has scored itself on."""
    step, scenes = Scenes.EXPRESSIONS_PER_SCENE, Scenes("val", size=size)
    indices = (FIRST_INDEX + step * i + i % step for i in range(count))
    return [scenes[i] for i in track(indices, "drawing scenes", total=count, console=STDERR)]


def measure_scenes(pipe: GenMaskPipeline, count: int, size: int, batch_size: int) -> dict[str, Any]:
    """One sentence on each of `count` fresh scenes of `size` x `size` pixels."""
    examples = fresh_scenes(count, size)
    named = [example for example in examples if example.kind in SINGULAR]

    answers = {
        "model": segment(pipe, examples, [e.text for e in examples], batch_size, "drawn scenes"),
        "oracle": [
            mask
            for start in track(range(0, count, batch_size), "oracle", console=STDERR)
            for mask in oracle(pipe, [target(e) for e in examples[start : start + batch_size]])
        ],
    }
    exchanged = [example.text for example in named[1:] + named[:1]]
    deaf = segment(pipe, named, exchanged, batch_size, "exchanged sentences")

    def row(kinds: Iterable[str]) -> dict[str, Any]:
        chosen = [i for i, example in enumerate(examples) if example.kind in kinds]
        by_whom = {
            who: count_pixels([masks[i] for i in chosen], [examples[i] for i in chosen])
            for who, masks in answers.items()
        }
        return {"samples": len(chosen)} | {
            who: {"oIoU": counts.overall_iou(), "mIoU": counts.mean_iou()} for who, counts in by_whom.items()
        }

    def share_empty(present: bool) -> dict[str, Any]:
        chosen = [i for i, example in enumerate(examples) if target(example).any() == present]
        return {"samples": len(chosen)} | {
            who: float(np.mean([not masks[i].any() for i in chosen])) if chosen else None
            for who, masks in answers.items()
        }

    drawn = {example.kind for example in examples}
    return {
        "scenes": count,
        "picture_size": size,
        "processed_at": pipe.config.resolution,
        "kinds": {kind: row([kind]) for kind in SHARES if kind in drawn and kind != "absent"},
        "one_object": row(SINGULAR),
        "answered_empty": {"absent": share_empty(False), "present": share_empty(True)},
        "exchanged_sentences_oIoU": count_pixels(deaf, named).overall_iou(),
    }


def segment(
    pipe: GenMaskPipeline, examples: list[Example], texts: list[str], batch_size: int, what: str
) -> list[np.ndarray]:
    """The model's mask for each text on the picture of the example."""
    masks: list[np.ndarray] = []
    for start in track(range(0, len(examples), batch_size), what, console=STDERR):
        rows = slice(start, start + batch_size)
        results = pipe.segment([e.image for e in examples[rows]], texts[rows], batch_size=batch_size)
        masks += [result.mask for result in results]
    return masks


def count_pixels(masks: Sequence[np.ndarray], examples: Sequence[Example]) -> IoUTotals:
    counts = IoUTotals()
    for mask, example in zip(masks, examples, strict=True):
        counts.add(mask, target(example), example.ignore)
    return counts


def target(example: Example) -> np.ndarray:
    assert example.mask is not None
    return example.mask


def measure_photographs(
    pipe: GenMaskPipeline, root: Path, max_photos: int | None, batch_size: int
) -> dict[str, Any]:
    """Model, oracle, constant answer and control on the validation pairs, by source, by class and over all."""
    train, val = Photographs(root, "train"), Photographs(root, "val")
    if max_photos is not None and max_photos < len(val.photographs):
        rows = np.linspace(0, len(val.photographs) - 1, max_photos).astype(int)
        chosen = {(val.photographs[row].source, val.photographs[row].id) for row in rows}
        val = Photographs(root, "val", select=lambda photo: (photo.source, photo.id) in chosen)
    shown_by = count_photographs(train)
    with STDERR.status("averaging the training masks of each class"):
        sums = {"constant": totals(val, best_constants(train))}

    counts: dict[str, dict[ClassKey, IoUTotals]] = {
        who: defaultdict(IoUTotals) for who in ("model", "exchanged", "oracle")
    }
    pairs_of = [list(group) for _, group in groupby(range(len(val)), key=lambda pair: val.pairs[pair][0])]
    shuffled = np.random.default_rng(0).permutation(len(val))
    for pairs in track(pairs_of, "photographs", console=STDERR):
        examples = [val[pair] for pair in pairs]  # every class of one photograph
        texts = [example.text for example in examples] + [
            plain_phrase(class_of(val, shuffled[pair])[1]) for pair in pairs
        ]
        masks = [result.mask for result in pipe.segment(examples[0].image, texts, batch_size=batch_size)]
        answers = {
            "model": masks[: len(pairs)],
            "exchanged": masks[len(pairs) :],
            "oracle": oracle(pipe, [target(example) for example in examples]),
        }
        for who, masks in answers.items():
            for mask, example in zip(masks, examples, strict=True):
                counts[who][key(example)].add(mask, target(example), example.ignore)
    for who, by_class in counts.items():
        sums[who] = {
            name: np.array([c.intersection.sum(), c.union.sum(), c.num_samples])
            for name, c in by_class.items()
        }

    names = sorted(sums["constant"])
    groups = {source: [name for name in names if name[0] == source] for source, _ in names}
    groups |= {"all": names, "frequent": [name for name in names if shown_by[name] >= FREQUENT]}
    return {
        "photographs": len(val.photographs),
        "sources": {
            group: {who: scores({name: rows[name] for name in members}) for who, rows in sums.items()}
            for group, members in groups.items()
            if members
        },
        "classes": {
            "/".join(name): {
                "training_photographs": shown_by[name],
                "pairs": int(sums["constant"][name][2]),
                **{who: float(rows[name][0] / rows[name][1]) for who, rows in sums.items()},
            }
            for name in names
        },
    }


def class_of(photographs: Photographs, pair: int) -> ClassKey:
    row, label = photographs.pairs[pair]
    return photographs.photographs[row].source, photographs.photographs[row].classes[label]


def count_photographs(photographs: Photographs) -> Counter[ClassKey]:
    """Of each class, those that show it."""
    return Counter(class_of(photographs, pair) for pair in range(len(photographs.pairs)))


def measure_speed(pipe: GenMaskPipeline) -> dict[str, Any]:
    """Median wall-clock seconds on one picture of 256 x 256 pixels."""
    picture = Scenes("val", size=256)[FIRST_INDEX].image
    texts = [
        f"the {colour} {thing}"
        for colour in ("red", "blue")
        for thing in ("star", "car", "fish", "mug", "tree")
    ]
    calls: dict[str, Callable[[], object]] = {
        "one prompt": lambda: pipe.segment(picture, texts[0]),
        "ten prompts in one call": lambda: pipe.segment(picture, texts),
        "ten calls": lambda: [pipe.segment(picture, text) for text in texts],
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    pipe.segment(picture, texts)  # the first call is slower than all others
    for _ in track(range(CALLS), "speed", console=STDERR):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {
        "device": str(pipe.device),
        "threads": torch.get_num_threads(),
        "seconds": {name: median(times) for name, times in seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="a model folder, a bundled model's name, or a hub id")
    parser.add_argument("--photos", type=Path, help="folder of photographs; without it they are left out")
    parser.add_argument("--max-photos", type=int, help="only so many validation photographs, evenly spread")
    parser.add_argument("--scenes", type=int, default=1000, help="number of drawn scenes; 0 leaves them out")
    parser.add_argument("--size", type=int, default=128, help="side of the drawn scenes, in pixels")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs in a forward pass")
    parser.add_argument("--decoder", choices=DECODERS, help="by default the model's own")
    parser.add_argument("--threshold", help="a number in [0, 1), or auto; by default the model's own")
    parser.add_argument("--json", type=Path, help="write every number to this file as well")
    arguments = parser.parse_args()

    pipe = GenMaskPipeline.from_pretrained(arguments.model)
    if arguments.decoder not in (None, pipe.config.decoder):  # whose soft masks are of another kind
        pipe.register_to_config(decoder=arguments.decoder, threshold=0.5)
    if arguments.threshold is not None:
        threshold = "auto" if arguments.threshold == "auto" else float(arguments.threshold)
        pipe.register_to_config(threshold=threshold)
    report: dict[str, Any] = {
        "model": Path(arguments.model).name,
        "decoder": pipe.config.decoder,
        "threshold": pipe.config.threshold,
    }
    if arguments.scenes:
        report["scenes"] = measure_scenes(pipe, arguments.scenes, arguments.size, arguments.batch_size)
    if arguments.photos is not None:
        report["photographs"] = measure_photographs(
            pipe, arguments.photos, arguments.max_photos, arguments.batch_size
        )
    report["speed"] = measure_speed(pipe)
    report["floors"] = [{**floor._asdict(), "holds": floor.holds} for floor in floors(report)]
    console = Console(width=max(TABLE_WIDTH, Console().width))  # a narrow terminal breaks lines, not numbers
    for table in tables(report):
        console.print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
