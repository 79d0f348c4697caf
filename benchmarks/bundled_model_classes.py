"""Write what `bundled_model.py` measured of every class of the photographs as a page of the docs.

python benchmarks/bundled_model.py --model tiny --photos FOLDER --json own.json
python benchmarks/bundled_model_classes.py own.json docs/classes.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

WHO = ("model", "constant", "exchanged", "oracle")


def lines(photographs: dict[str, Any]) -> Iterator[str]:
    """A heading and a table for each source, the classes in the order of their training photographs."""
    classes = [(*name.split("/", 1), row) for name, row in photographs["classes"].items()]
    for source, found in groupby(classes, key=lambda each: each[0]):
        rows = sorted(found, key=lambda each: -each[2]["training_photographs"])
        yield f"\n## {source}\n"
        yield "| class | training photographs | validation photographs | model | constant | exchanged | oracle |"
        yield "|---|---:|---:|---:|---:|---:|---:|"
        for _, name, row in rows:
            scores = " | ".join(f"{row[who]:.3f}" for who in WHO)
            yield f"| {name} | {row['training_photographs']} | {row['pairs']} | {scores} |"


def main(report: str, page: str) -> None:
    path = Path(page)
    before = path.read_text(encoding="utf-8").split("\n## ")[0].rstrip("\n")
    found = lines(json.loads(Path(report).read_text())["photographs"])
    path.write_text(before + "\n" + "\n".join(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python benchmarks/bundled_model_classes.py OWN.json PAGE.md")
    main(*sys.argv[1:])
