"""genmask ablate"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from genmask.commands.output import prepare_output
from genmask.commands.terminal import did_you_mean, progress

if TYPE_CHECKING:
    from genmask.ablation.rows import Row
    from genmask.ablation.scale import Scale


@dataclass(frozen=True, kw_only=True)
class Ablate:
    """Train and score the paper's ablations in small, and set its Tables 3 to 6.

    genmask ablate --list
    genmask ablate --jobs 2 --max-minutes 60
    genmask ablate --rows base t-1 discriminative --seeds 1

    Every row trains a small transformer from nothing on the same drawn scenes, with the bundled VAE and VLM. The same
    command goes on where it was interrupted; SIGTERM ends it with checkpoints. Finished runs are not run again.
    """

    scale: str = "tiny"
    """How large and how long the runs are."""
    rows: tuple[str, ...] = ()
    """Names of rows, as --list shows them; by default all."""
    seeds: int = 3
    """Of each row; all rows of the first seed are run first."""
    steps: int | None = None
    """Of every run, in place of the scale's."""
    output: Path = Path("runs/ablate")
    """Folder for runs, samples and results; one that holds result.json files alone can be shown, too."""
    jobs: int = 1
    """Runs side by side, which share out the threads; on a CPU as many as there are cores is fastest."""
    max_minutes: float | None = None
    """Stop after this long, with checkpoints to resume from; 0 runs nothing and shows the results there are."""
    list: bool = False
    """Say which rows there are and how many seeds of each are done."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write all numbers to this file."""
    markdown: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the tables to this file."""

    def run(self) -> None:
        for name, least in (("seeds", 1), ("steps", 1), ("jobs", 1), ("max_minutes", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"Got --{name.replace('_', '-')} {value}, expected at least {least}.")
        from genmask.ablation.rows import ROWS

        for name in self.rows:
            if name not in ROWS:
                raise ValueError(
                    f"Got row {name!r}, expected one of {', '.join(ROWS)}{did_you_mean(name, ROWS)}"
                )
        scale = self.found_scale()
        rows = [row for row in ROWS.values() if not self.rows or row.name in self.rows]
        if self.list:
            self.print_rows(scale, rows)
            return
        prepare_output(self.output)
        self.work(scale, rows)
        self.show(scale)

    def found_scale(self) -> Scale:
        from genmask.ablation.scale import SCALES

        if self.scale not in SCALES:
            raise ValueError(
                f"Got --scale {self.scale}, expected one of {', '.join(SCALES)}; at the paper's size the rows are "
                "recipes of genmask train."
            )
        scale = SCALES[self.scale]
        return scale if self.steps is None else replace(scale, steps=self.steps)

    def work(self, scale: Scale, rows: Sequence[Row]) -> None:
        from diffusers.utils import logging as diffusers_logging
        from filelock import FileLock, Timeout
        from transformers.utils import logging as transformers_logging

        from genmask.ablation.schedule import ablate

        for logging in (diffusers_logging, transformers_logging):
            logging.set_verbosity_error()
            logging.disable_progress_bar()
        try:
            with FileLock(self.output / "lock", timeout=0):
                finished = ablate(
                    scale,
                    rows,
                    self.output,
                    seeds=self.seeds,
                    jobs=self.jobs,
                    max_seconds=None if self.max_minutes is None else 60 * self.max_minutes,
                    progress=progress,
                    say=lambda line: print(line, flush=True),
                )
        except Timeout as error:
            raise ValueError(
                f"Got the output folder {str(self.output)!r}, in which another process is at work: wait for it, or "
                "name another with --output."
            ) from error
        if not finished:
            print(f"{self.output}: not all rows are done; the same command goes on from here")

    def show(self, scale: Scale) -> None:
        from rich.console import Console

        from genmask.ablation.tables import document, read_results, tables, to_markdown
        from genmask.atomic import replace_file, save_json
        from genmask.evaluation.report import table

        results = read_results(self.output, scale, self.seeds)
        found = tables(results, self.seeds, self.rows)
        console = Console(width=max(160, Console().width))  # a narrow terminal breaks lines, not numbers
        for part in found:
            console.print(table(part))
        if self.json is not None:
            save_json(document(results, self.seeds), self.json)
        if self.markdown is not None:
            replace_file(self.markdown, to_markdown(found))

    def print_rows(self, scale: Scale, rows: Sequence[Row]) -> None:
        from rich.console import Console
        from rich.table import Table

        from genmask.ablation.tables import read_results

        results = read_results(self.output, scale, self.seeds)
        table = Table(box=None, pad_edge=False)
        for heading in (
            "row",
            "what is changed",
            "weights",
            "seeds done",
            "the paper's mIoU / oIoU",
            "recipe",
        ):
            table.add_column(heading, no_wrap=heading == "row")
        for row in rows:
            table.add_row(
                row.name,
                row.label,
                row.weights or ("its own" if row.is_trained else ""),
                f"{len(results[row.name])}",
                row.paper,
                row.recipe,
            )
        Console(width=max(160, Console().width)).print(table)
