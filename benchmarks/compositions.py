"""How well a model tells things apart on real pixels: `compositions/val` by kind of sentence, and a control.

    python benchmarks/compositions.py --model tiny --photos FOLDER [--count 500] [--json scores.json]

One sentence on each of `--count` compositions. Beside each score stand the oracle's, whose answer is the right mask
drawn through the VAE, and that of exchanged sentences: each picture gets the sentence of the next, the targets staying
where they are, so that a model which listens must fail.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from bundled_model import count_pixels, oracle, segment, target
from rich.console import Console
from rich.table import Table

from genmask.data.compositions import Compositions
from genmask.data.compositions_expressions import SHARES
from genmask.data.example import Example
from genmask.data.expressions import SINGULAR
from genmask.evaluation.benchmarks import load_benchmark
from genmask.pipeline import GenMaskPipeline


def compositions(root: Path, count: int) -> list[Example]:
    """One sentence on each of `count` validation compositions."""
    val, step = load_benchmark("compositions/val", root)[1], Compositions.EXPRESSIONS
    if not 2 <= count <= len(val) // step:
        raise ValueError(f"Got {count} compositions, expected 2 to {len(val) // step}.")
    return [val[step * i + i % step] for i in range(count)]


def measure(pipe: GenMaskPipeline, root: Path, count: int, batch_size: int) -> dict[str, Any]:
    """oIoU by kind of sentence and over all that name one object; shares of empty answers."""
    examples = compositions(root, count)
    texts = [example.text for example in examples]
    answers = {
        "model": segment(pipe, examples, texts, batch_size, "compositions"),
        "exchanged": segment(pipe, examples, texts[1:] + texts[:1], batch_size, "exchanged sentences"),
        "oracle": [
            mask
            for start in range(0, count, batch_size)
            for mask in oracle(pipe, [target(e) for e in examples[start : start + batch_size]])
        ],
    }

    def row(kinds: Collection[str]) -> dict[str, Any]:
        chosen = [i for i, example in enumerate(examples) if example.kind in kinds]
        return {"samples": len(chosen)} | {
            who: count_pixels([masks[i] for i in chosen], [examples[i] for i in chosen]).overall_iou()
            for who, masks in answers.items()
        }

    rows = {kind: row([kind]) for kind in SHARES if kind != "absent"} | {"one object": row(SINGULAR)}
    counts = count_pixels(answers["model"], examples)
    empty = {"absent": counts.no_target_accuracy(), "present": 1 - counts.target_accuracy()}
    return {"oIoU": rows, "answered_empty": empty}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs with class masks")
    parser.add_argument("--count", type=int, default=500, help="compositions, a sentence each")
    parser.add_argument("--batch-size", type=int, default=25)
    parser.add_argument("--json", type=Path, help="write the scores there, too")
    arguments = parser.parse_args()
    pipe = GenMaskPipeline.from_pretrained(arguments.model)
    pipe.set_progress_bar_config(disable=True)
    report = measure(pipe, arguments.photos, arguments.count, arguments.batch_size)
    columns = ("model", "exchanged", "oracle")
    table = Table("compositions/val, oIoU", "samples", *columns)
    for kind, row in report["oIoU"].items():
        table.add_row(kind, str(row["samples"]), *(f"{row[column]:.3f}" for column in columns))
    console = Console()
    console.print(table)
    for who, share in report["answered_empty"].items():
        console.print(f"{who} answered empty: {share:.3f}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
