"""Scores of evaluated benchmarks as tables for the terminal and Markdown, and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from genmask.evaluation.evaluate import GRIDS, Record
from genmask.evaluation.metrics import IoUTotals

MOST_KINDS = 12
"""Kinds of sample that a table shows; where there are more (the classes of photographs), they are in the JSON alone."""
PRECISIONS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A benchmark, and the samples that were counted."""

    name: str
    empty: float
    """I / U where both masks are empty: 1 as LISA has it, 0 as LAVT."""
    records: Sequence[Record]
    reason: bool = False
    """The model described first what each text means."""


def report(evaluated: Evaluated) -> dict[str, Any]:
    """Every score of a benchmark, of the answers and of the oracle, over all samples and by kind.

    Of a model that reasons also "undescribed": the samples whose description is the text itself, as it is where the
    model's answer held no word.
    """
    kinds = _by_kind(evaluated.records)
    scores = {
        "benchmark": evaluated.name,
        "empty": evaluated.empty,
        **_scores(evaluated.records, evaluated.empty, intervals=True),
        "kinds": {
            kind: _scores(rows, evaluated.empty, intervals=len(kinds) <= MOST_KINDS)
            for kind, rows in kinds.items()
        },
    }
    if evaluated.reason:
        scores["undescribed"] = sum(record.target == record.text for record in evaluated.records)
    return scores


def _by_kind(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Empty where there is but one kind."""
    kinds = sorted({record.kind for record in records})
    if len(kinds) < 2:
        return {}
    return {kind or "other": [r for r in records if r.kind == kind] for kind in kinds}


def _scores(records: Sequence[Record], empty: float, *, intervals: bool) -> dict[str, Any]:
    scores: dict[str, Any] = {"samples": len(records)}
    for who in ("answer", "oracle"):
        if all(getattr(record, who) for record in records):
            scores[who] = {
                grid: _scores_on(_totals(records, who, grid), empty, intervals=intervals) for grid in GRIDS
            }
    return scores


def _totals(records: Sequence[Record], who: str, grid: str) -> IoUTotals:
    totals = IoUTotals()
    for record in records:
        totals.add_counts(getattr(record, who)[grid])
    return totals


def _scores_on(totals: IoUTotals, empty: float, *, intervals: bool) -> dict[str, Any]:
    scores: dict[str, Any] = {
        "oIoU": totals.overall_iou(empty),
        "mIoU": totals.mean_iou(empty),
        **{f"Pr@{x}": totals.precision_at(x, empty) for x in PRECISIONS},
        "empty_answers": totals.empty_answers(),
    }
    if intervals:
        scores["oIoU_95"] = totals.overall_iou_interval(empty=empty)
        scores["mIoU_95"] = totals.mean_iou_interval(empty=empty)
    for name, accuracy in (("N-acc", totals.no_target_accuracy), ("T-acc", totals.target_accuracy)):
        scores[name] = _where_defined(accuracy)
    return scores


def _where_defined(score: Callable[[], float]) -> float | None:
    try:
        return score()
    except ValueError:  # no sample of that sort
        return None


def overview(reports: Sequence[dict[str, Any]], system: str) -> list[list[str]]:
    """The layout of the paper's Tables 1 and 2: a row for each system and metric, a column for each benchmark."""
    rows = [["", "", *(report["benchmark"] for report in reports)]]
    for who, name in (("answer", system), ("oracle", "oracle (VAE round trip)")):
        for grid in GRIDS:
            for metric in ("oIoU", "mIoU"):
                cells = [_percent(report.get(who, {}).get(grid, {}).get(metric)) for report in reports]
                if any(cell != "-" for cell in cells):
                    rows.append([name, f"{metric}{_on(grid)}", *cells])
        cells = [
            f"{report[who]['native']['empty_answers']} of {report['samples']}" if who in report else "-"
            for report in reports
        ]
        if any(cell != "-" for cell in cells):
            rows.append([name, "empty answers", *cells])
    cells = [
        f"{report['undescribed']} of {report['samples']}" if "undescribed" in report else "-"
        for report in reports
    ]
    if any(cell != "-" for cell in cells):
        rows.append([system, "texts left undescribed", *cells])
    return rows


def details(report: dict[str, Any]) -> list[list[str]]:
    """Everything of one benchmark: a row for each system and grid, and for each kind of sample."""
    metrics = ["oIoU", "mIoU", *(f"Pr@{x}" for x in PRECISIONS), "N-acc", "T-acc"]
    rows = [[report["benchmark"], "samples", *metrics, "empty answers"]]
    kinds = report["kinds"].items() if len(report["kinds"]) <= MOST_KINDS else ()
    parts = [("", report)] + [(f": {kind}", part) for kind, part in kinds]
    for kind, part in parts:
        for who in ("answer", "oracle"):
            # By kind on one grid only: the table is long enough.
            for grid in (GRIDS if not kind else GRIDS[:1]) if who in part else ():
                scores = part[who][grid]
                cells = [_percent(scores[m]) + _interval(scores.get(f"{m}_95")) for m in metrics]
                name = f"{who}{_on(grid)}{kind}"
                rows.append([name, str(part["samples"]), *cells, str(scores["empty_answers"])])
    return rows


def _on(grid: str) -> str:
    return "" if grid == "native" else f" at {grid}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _interval(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f" [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def table(rows: Sequence[Sequence[str]]) -> Table:
    """For the terminal; the first row is the header."""
    header, *body = rows
    drawn = Table(*(header[:1] or [""]))
    for name in header[1:]:
        drawn.add_column(name, justify="right")
    for row in body:
        drawn.add_row(*row)
    return drawn


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The same as Markdown."""
    header, *body = rows
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, rule, *body))
