"""What was measured, as tables for the terminal and for Markdown: rows of strings, the first of them the header."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Entry = Mapping[str, Any]
"""A `Timing.to_dict` with "device" and "dtype"."""
Rows = list[list[str]]


def tables(document: Mapping[str, list[Entry]]) -> list[Rows]:
    """Of what was timed at each resolution, in each dtype and on each device an overview, then each entry by stage.

    Args:
        document: entries by "segment", "generate" and "training", those that there are.
    """
    found = []
    for what, cells in CELLS.items():
        entries = document.get(what, [])
        for place in dict.fromkeys(map(_place, entries)):
            here = [entry for entry in entries if _place(entry) == place]
            rows = [{f"{what}, {place}": _label(entry), **cells(entry, here[0])} for entry in here]
            found.append([list(rows[0]), *(list(row.values()) for row in rows)])
            found += [_stages(f"{what}, {place}: {_label(entry)}", entry["stages"]) for entry in here]
    return found


def notes(document: Mapping[str, Any]) -> list[str]:
    """A sentence on each device, and what the figures are."""
    lines = []
    for machine in document["machines"]:
        ceilings = [
            f"{name} products {_number(value / 1e12)} TFLOP/s"
            for name, value in machine["products_flop_per_second"].items()
        ]
        ceilings.append(f"memory {_number(machine['bandwidth_bytes_per_second'] / 1e9)} GB/s")
        threads = f"{machine['threads']} threads, " if machine["device"] == "cpu" else ""
        lines.append(
            f"{machine['name']}, {threads}PyTorch {machine['torch']}. Measured in this run: {', '.join(ceilings)}."
        )
    memory = {"cpu": "growth of resident memory", "cuda": "all that is allocated, weights included"}
    kinds = {memory[machine["device"]] for machine in document["machines"] if machine["device"] in memory}
    rounds = ", ".join(f"{what} in {count} rounds" for what, count in document["rounds"].items())
    lines.append(
        f"Model: {document['model']}; medians of {rounds}, on drawn scenes. The limit is the time of the "
        "products at that rate or of reading the weights at that bandwidth, whichever is longer. "
        f"Peak memory: {', '.join(sorted(kinds)) or 'not known here'}."
    )
    return lines


def _segment(entry: Entry, first: Entry) -> dict[str, str]:
    return {
        "first ms": _milliseconds(entry["first_seconds"]),
        "p50 ms": _milliseconds(entry["p50_seconds"]),
        "p95 ms": _milliseconds(entry["p95_seconds"]),
        "pictures/s": _number(entry["per_second"]["pictures"]),
        "prompts/s": _number(entry["per_second"]["prompts"]),
        "peak MiB": _mebibytes(entry["peak_memory_bytes"]),
    }


def _generate(entry: Entry, first: Entry) -> dict[str, str]:
    seconds = _by_stage(entry)
    return {
        "first s": _number(entry["first_seconds"]),
        "p50 s": _number(entry["p50_seconds"]),
        "p95 s": _number(entry["p95_seconds"]),
        "s per picture": _number(1 / entry["per_second"]["pictures"]),
        "DiT ms per step": _milliseconds(seconds["DiT"] / entry["num_inference_steps"]),
        "peak MiB": _mebibytes(entry["peak_memory_bytes"]),
    }


def _training(entry: Entry, first: Entry) -> dict[str, str]:
    seconds = _by_stage(entry)
    return {
        "first ms": _milliseconds(entry["first_seconds"]),
        "p50 ms": _milliseconds(entry["p50_seconds"]),
        "times as fast": f"{first['p50_seconds'] / entry['p50_seconds']:.2f}",
        **{part: _milliseconds(seconds[part]) for part in ("encode", "forward", "backward", "optimizer")},
        "loader, apart": _milliseconds(entry["loader_seconds"]),
        "samples/s": _number(entry["per_second"]["samples"]),
        "MFU": _percent(entry["mfu"]),
        "peak MiB": _mebibytes(entry["peak_memory_bytes"]),
    }


CELLS: dict[str, Callable[[Entry, Entry], dict[str, str]]] = {
    "segment": _segment, "generate": _generate, "training": _training,
}  # fmt: skip
"""Of an entry, and of the first beside it: its cells by column."""


def _stages(title: str, stages: list[Entry]) -> Rows:
    header = ["turns", "ms", "share of time", "GFLOP", "weights MB", "limit ms", "share of limit"]
    rows = [[title, *header]]
    summed = {
        key: sum(stage[key] for stage in stages)
        for key in ("turns", "seconds", "flop", "weight_bytes", "limit_seconds")
    }
    for stage in [*stages, {"stage": "in all", **summed}]:
        row = [
            stage["stage"],
            str(stage["turns"] or "-"),
            _milliseconds(stage["seconds"]),
            _percent(stage["seconds"] / summed["seconds"]),
        ]
        if stage["limit_seconds"]:
            row += [
                _number(stage["flop"] / 1e9),
                _number(stage["weight_bytes"] / 1e6),
                _milliseconds(stage["limit_seconds"]),
                _percent(stage["limit_seconds"] / stage["seconds"]),
            ]
        rows.append(row + ["-"] * (len(rows[0]) - len(row)))
    return rows


def _by_stage(entry: Entry) -> dict[str, float]:
    return {stage["stage"]: stage["seconds"] for stage in entry["stages"]}


def _place(entry: Entry) -> str:
    return f"{entry['resolution']} px, {entry['dtype']}, {entry['device']}"


def _label(entry: Entry) -> str:
    if "variant" in entry:
        samples = entry["segmentation_batch"] + entry["generation_batch"]
        return f"{samples} samples, {entry['variant']}"
    pictures = _count(entry["pictures"], "picture")
    if "prompts" in entry:
        return f"{pictures}, {_count(entry['prompts'], 'prompt')}, {entry['decoder']}"
    return f"{pictures}, {_count(entry['num_inference_steps'], 'step')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _milliseconds(seconds: float) -> str:
    return _number(1e3 * seconds)


def _mebibytes(size: int | None) -> str:
    return "-" if size is None else _number(size / 2**20)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def _number(value: float) -> str:
    """Three digits, without exponents."""
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"
