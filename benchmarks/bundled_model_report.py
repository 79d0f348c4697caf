"""The floors of the bundled model, and the tables that `bundled_model.py` prints of what it measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from rich.table import Table

MARGIN = 0.05
"""By how much a source must beat the constant answer to count."""
FREQUENT = 20
"""Training photographs that show a class which is called frequent."""
GROUPS = ("all", "frequent")
"""Of photographs, beside their sources."""


class Floor(NamedTuple):
    """A number and the bound that it has to keep."""

    what: str
    value: float | None
    """None where nothing was measured."""
    oracle: float | None
    bound: float
    at_least: bool = True

    @property
    def holds(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def floors(report: dict[str, Any]) -> list[Floor]:
    """Of the parts that were measured: "scenes", "photographs", "speed"."""
    found: list[Floor] = []
    if "scenes" in report:
        scenes = report["scenes"]
        one, empty = scenes["one_object"], scenes["answered_empty"]
        control = scenes["exchanged_sentences_oIoU"]
        found += [
            Floor("scenes, one object: oIoU", one["model"]["oIoU"], one["oracle"]["oIoU"], 0.65),
            Floor("scenes, absent: answered empty", empty["absent"]["model"], empty["absent"]["oracle"], 0.8),
            Floor(
                "scenes, present: answered empty",
                empty["present"]["model"],
                empty["present"]["oracle"],
                0.05,
                False,
            ),
            Floor("scenes, sentences exchanged: oIoU", control, None, 0.25, False),
        ]
    if "photographs" in report:
        sources = report["photographs"]["sources"]
        for what in ("oIoU", "macro"):
            gains = (gain(sources["all"], who, what) for who in ("model", "oracle"))
            found.append(Floor(f"photographs: {what} above the constant answer", *gains, MARGIN))
        model, oracle = (
            sum(gain(row, who, "oIoU") >= MARGIN for source, row in sources.items() if source not in GROUPS)
            for who in ("model", "oracle")
        )
        found.append(Floor(f"photographs: sources above it by {MARGIN}", model, oracle, 6))
    if "speed" in report:
        seconds = report["speed"]["seconds"]
        ratio = seconds["ten prompts in one call"] / seconds["ten calls"]
        found += [
            Floor("speed: seconds for one prompt", seconds["one prompt"], None, 0.5, False),
            Floor("speed: ten prompts in one call / ten calls", ratio, None, 0.5, False),
        ]
    return found


def gain(row: dict[str, Any], who: str, what: str) -> float:
    """How far above the constant answer, in [-1, 1]."""
    return row[who][what] - row["constant"][what]


def tables(report: dict[str, Any]) -> Iterator[Table]:
    if "scenes" in report:
        yield _scenes_table(report["scenes"])
    if "photographs" in report:
        yield _photographs_table(report["photographs"])
    if "speed" in report:
        speed = report["speed"]
        table = _table(f"256 px, {speed['device']}, {speed['threads']} threads", "", "seconds")
        for name, seconds in speed["seconds"].items():
            table.add_row(name, _number(seconds))
        yield table
    table = _table("Floors", "", "measured", "oracle", "bound", "holds")
    for floor in floors(report):
        bound = f"{'>=' if floor.at_least else '<='} {floor.bound:g}"
        holds = {True: "yes", False: "NO", None: "-"}[floor.holds]
        table.add_row(floor.what, _number(floor.value), _number(floor.oracle), bound, holds)
    yield table


def _scenes_table(scenes: dict[str, Any]) -> Table:
    sizes = f"{scenes['picture_size']} px, processed at {scenes['processed_at']} px"
    title = f"{scenes['scenes']} drawn scenes of {sizes}"
    table = _table(title, "", "samples", "oIoU", "oracle", "mIoU", "oracle", "empty", "oracle")
    for kind, row in (*scenes["kinds"].items(), ("all that name one object", scenes["one_object"])):
        table.add_row(
            kind,
            str(row["samples"]),
            *(_number(row[who][what]) for what in ("oIoU", "mIoU") for who in ("model", "oracle")),
        )
    table.add_section()
    for name, row in scenes["answered_empty"].items():
        shares = (_number(row[who]) for who in ("model", "oracle"))
        table.add_row(f"all {name} targets", str(row["samples"]), "", "", "", "", *shares)
    table.add_row("sentences exchanged", "", _number(scenes["exchanged_sentences_oIoU"]))
    return table


def _photographs_table(photographs: dict[str, Any]) -> Table:
    columns = ("model", "constant", "points", "exchanged", "oracle")
    title = f"{photographs['photographs']} validation photographs: oIoU, then its mean over classes"
    table = _table(title, "", "classes", "pairs", *columns, *columns)
    for source, row in photographs["sources"].items():
        cells = [source, str(row["model"]["classes"]), str(row["model"]["pairs"])]
        for what in ("oIoU", "macro"):
            model, constant, exchanged, oracle = (
                _number(row[who][what]) for who in ("model", "constant", "exchanged", "oracle")
            )
            cells += [model, constant, f"{100 * gain(row, 'model', what):+.1f}", exchanged, oracle]
        if source == "all":
            table.add_section()
        table.add_row(*cells)
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
