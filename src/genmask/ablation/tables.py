"""The results of an ablation in the paper's layout, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from genmask.ablation.rows import ROWS, TABLES, Row
from genmask.ablation.runs import read_result
from genmask.ablation.scale import Scale
from genmask.evaluation.report import markdown

SCORES = {
    "oIoU": "oIoU",
    "mIoU": "mIoU",
    "absent_empty": "absent answered empty",
    "present_empty": "present answered empty",
}
"""Keys of `score`, and what a table calls them."""
PAPER_SETS = ("RefCOCO", "RefCOCO+", "RefCOCOg")

Results = Mapping[str, Mapping[int, dict[str, Any]]]
"""By row and seed."""


def read_results(output: Path, scale: Scale, seeds: int) -> Results:
    """Everything that is finished.

    Raises:
        ValueError: results of other settings.
    """
    found = {
        name: {seed: read_result(output, scale, row, seed) for seed in range(seeds)}
        for name, row in ROWS.items()
    }
    return {
        name: {seed: result for seed, result in by_seed.items() if result is not None}
        for name, by_seed in found.items()
    }


def tables(results: Results, seeds: int, names: Sequence[str] = ()) -> list[list[list[str]]]:
    """Rows of cells, the first one the header, for each of `TABLES` that has one of the rows `names`; all, if none is
    given. Scores are percent: mean and, of several seeds, standard deviation; beside the paper's mIoU / oIoU.
    """
    found = []
    for title, members in TABLES.items():
        wanted = [name for name in members if not names or name in names]
        if not wanted:
            continue
        rows = [ROWS[name] for name in (*wanted, "oracle")]
        has_paper = title.startswith("Table")
        header = [title, *SCORES.values(), "seeds"]
        if has_paper:
            header += [f"paper: {name}" for name in PAPER_SETS]
        found.append([header, *(_cells(row, results[row.name], seeds, has_paper) for row in rows)])
    return found


def _cells(row: Row, by_seed: Mapping[int, dict[str, Any]], seeds: int, has_paper: bool) -> list[str]:
    cells = [row.label]
    cells += [_summary([result["scores"][key] for result in by_seed.values()]) for key in SCORES]
    has_seeds = row.is_trained or row.weights is not None
    cells.append(f"{len(by_seed)} of {seeds}" if has_seeds else "" if by_seed else "missing")
    if has_paper:
        cells += row.paper.split(", ") if row.paper else [""] * len(PAPER_SETS)
    return cells


def _summary(values: Sequence[float | None]) -> str:
    known = [100 * value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" ± {stdev(known):.1f}" if len(known) > 1 else ""
    return f"{mean(known):.1f}{spread}"


def to_markdown(found: Sequence[Sequence[Sequence[str]]]) -> str:
    """For a page."""
    return "\n".join(markdown(rows) for rows in found)


def document(results: Results, seeds: int) -> dict[str, Any]:
    """All numbers, ready for JSON."""
    return {
        "seeds": seeds,
        "rows": {
            name: {
                "label": row.label,
                "paper": row.paper,
                "recipe": row.recipe,
                "results": list(results[name].values()),
            }
            for name, row in ROWS.items()
        },
    }
