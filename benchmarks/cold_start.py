"""What `genmask segment` on one picture takes from the shell to the end of its process, and where the time goes.

    python benchmarks/cold_start.py
    python benchmarks/cold_start.py --before ../other/src      # side by side with another version

Every run is a process of its own, with the files already in the page cache. The seconds of the command are those of
plain runs; where they go is said by further runs under `python -X importtime`, which take a few per cent longer.
Packages that another one has imported count as their own: diffusers brings torch's compiler, sympy and scipy.
"""

from __future__ import annotations

import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

import genmask

HERE = Path(genmask.__file__).parents[1]
PACKAGES = (
    "torch",
    "transformers",
    "diffusers",
    "scipy",
    "sympy",
    "numpy",
    "peft",
    "torchao",
    "accelerate",
    "genmask",
)
"""Whose imports are told apart."""

# Run in a new process: the command itself, with the time of every mark.
TRACED = """
import time
marks = [("interpreter", time.monotonic())]
import json, sys
from contextlib import contextmanager
from genmask.cli import parse
from genmask.stages import listening
command = parse(sys.argv[2:])
marks.append(("parsed", time.monotonic()))
print("parsed", file=sys.stderr, flush=True)
@contextmanager
def during(stage):
    if len(marks) == 2:
        marks.append(("loaded", time.monotonic()))
        print("loaded", file=sys.stderr, flush=True)
    yield
    marks.append(("answered", time.monotonic()))
with listening(during):
    command.run()
marks.append(("written", time.monotonic()))
with open(sys.argv[1], "w") as file:
    json.dump(marks, file)
"""

# The same parts, each of them twice in one process: what the first time adds.
REPEATED = """
import json, sys, time
from genmask.cli import parse
from genmask.commands.inference import load
command = parse(sys.argv[2:])
(image,), text = command.images, command.text[0]
pipeline = load(command)
def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
found = {}
for call in ("first", "second", "third"):
    found[f"{call} call"] = seconds(lambda: pipeline.segment(image, text))
from genmask.loading import load_model
from genmask.model_folder import load_processor, resolve_model
folder = resolve_model(command.model)
for name, part in pipeline.components.items():
    if name == "processor":
        found[name] = seconds(lambda: load_processor(folder / name))
    elif hasattr(part, "state_dict"):
        found[name] = seconds(lambda: load_model(type(part), folder / name))
with open(sys.argv[1], "w") as file:
    json.dump(found, file)
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    picture: Path = HERE.parent / "examples" / "photo-car.jpg"
    text: str = "the car"
    model: str = "tiny"
    before: Path | None = None
    """The src folder of another version of this package, whose runs take turns with ours."""
    rounds: int = 5


@dataclass(frozen=True, kw_only=True)
class Run:
    started: float
    ended: float
    processor_seconds: float
    errors: str

    @property
    def seconds(self) -> float:
        return self.ended - self.started


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "segment", str(options.picture), "--text", options.text, "--model", options.model, "--output", folder,
        ]  # fmt: skip
        versions = {"this version": HERE}
        if options.before is not None:
            versions["the other"] = options.before.resolve()
        plain: dict[str, list[Run]] = {name: [] for name in versions}
        traces, repeats = [], []
        for number in range(options.rounds + 1):
            found = {name: run(source, "-m", "genmask.cli", *command) for name, source in versions.items()}
            trace = traced(command, Path(folder) / "marks.json")
            run(HERE, "-c", REPEATED, folder + "/repeated.json", *command)
            repeat = json.loads((Path(folder) / "repeated.json").read_text())
            if number == 0:
                continue  # it fills the page cache
            for name, one in found.items():
                plain[name].append(one)
            traces.append(trace)
            repeats.append(repeat)

    show("genmask segment, one picture", compared(plain))
    total = median(sum(trace.values()) for trace in traces)
    rows = [(name, median(trace[name] for trace in traces)) for name in traces[0]]
    show(
        "where the time goes",
        [(name, f"{s:.3f} s", f"{s / total:.1%}") for name, s in rows if s / total >= 0.001],
    )
    show(
        "again in the same process",
        [(name, f"{median(r[name] for r in repeats):.3f} s", "") for name in repeats[0]],
    )


def compared(runs: dict[str, list[Run]]) -> list[tuple[str, str, str]]:
    rows = []
    for what in ("seconds", "processor_seconds"):
        ours = median(getattr(one, what) for one in runs["this version"])
        for name, ones in runs.items():
            middle = median(getattr(one, what) for one in ones)
            rows.append((f"{what.replace('_', ' ')}, {name}", f"{middle:.2f} s", f"{middle / ours:.2f} x"))
    return rows


def traced(command: list[str], marks_file: Path) -> dict[str, float]:
    """Seconds of one run by what they were spent on; together they are all of it."""
    done = run(HERE, "-X", "importtime", "-c", TRACED, str(marks_file), *command)
    marks = dict(json.loads(marks_file.read_text()))  # "answered" is the end of the last stage
    loading = done.errors.partition("\nparsed\n")[2].partition("\nloaded\n")[0]
    own: dict[str, float] = defaultdict(float)
    for microseconds, module in re.findall(
        r"^import time: +(\d+) \| +\d+ \| +(\S+)$", loading, flags=re.MULTILINE
    ):
        package = module.partition(".")[0]
        own[package if package in PACKAGES else "all others"] += int(microseconds) / 1e6
    return {
        "interpreter": marks["interpreter"] - done.started,
        "command line": marks["parsed"] - marks["interpreter"],
        **{f"imports: {package}": own[package] for package in (*PACKAGES, "all others")},
        "picture's check, weights": marks["loaded"] - marks["parsed"] - sum(own.values()),
        "answer": marks["answered"] - marks["loaded"],
        "files": marks["written"] - marks["answered"],
        "end of the process": done.ended - marks["written"],
    }


def run(source: Path, *arguments: str) -> Run:
    """A new Python with the package in `source`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    ended = time.monotonic()
    if done.returncode:
        raise SystemExit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Run(
        started=started,
        ended=ended,
        processor_seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        errors=done.stderr,
    )


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def show(title: str, rows: list[tuple[str, str, str]]) -> None:
    table = Table("", "median", "", title=title)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
