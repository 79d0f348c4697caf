"""Every fast path against the plain one: how many times as fast, and by how much the answers differ.

    python benchmarks/fast_paths.py
    python benchmarks/fast_paths.py --only vae-encode vae-decode --rounds 9 --markdown

Both sides of a row take turns in every round, and the ratio is of their medians, so that whatever else the machine does
touches both alike. The bundled model, or random weights where another size is named; on a GPU if there is one.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import diffusers
import torch
import transformers
import tyro
from fast_paths_inference import INFERENCE
from fast_paths_rounds import Rounds, Row
from fast_paths_training import TRAINING
from rich import box
from rich.console import Console
from rich.table import Table

from genmask.atomic import save_json
from genmask.benchmark.machine import Machine
from genmask.commands.inference import Flag

ROWS = {**TRAINING, **INFERENCE}
HEAD = ("path", "against", "times as fast", "largest difference")


@dataclass(frozen=True, kw_only=True)
class Options:
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    """Some rows alone."""
    rounds: int = 5
    """Of each row."""
    device: str = "auto"
    """cpu or cuda; auto takes a GPU if there is one."""
    json: Path | None = None
    """File for the same as JSON, with all times."""
    markdown: Flag = False
    """Print the table for the documentation."""


def main(options: Options) -> None:
    if unknown := sorted(set(options.only) - set(ROWS)):
        print(f"Got rows {', '.join(unknown)}, expected some of {', '.join(ROWS)}.", file=sys.stderr)
        sys.exit(2)
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(auto if options.device == "auto" else options.device)
    rounds = Rounds(device=device, count=options.rounds)
    rows: list[Row] = []
    notes: list[str] = []
    for name in options.only or ROWS:
        try:
            for row in ROWS[name](rounds):
                rows.append(row)
                print(f"{name}: {row.path}, {row.times_as_fast:.2f}", file=sys.stderr)
        except ValueError as error:  # what is not to be had here
            notes.append(f"{name}: {error}")
    table = Table(*HEAD, box=box.MARKDOWN if options.markdown else box.ROUNDED)
    for row in rows:
        table.add_row(row.path, row.against, f"{row.times_as_fast:.2f}", row.difference)
    where = f"{Machine(device=device).name}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    # A line of Markdown's tables must not be broken, however narrow the terminal is.
    Console(width=200 if options.markdown else None).print(table)
    print(f"{where}; {options.rounds} rounds that take turns", *notes, sep="\n")
    if options.json is not None:
        document = {"where": where, "rounds": options.rounds, "notes": notes}
        save_json(document | {"rows": [row.to_dict() for row in rows]}, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
