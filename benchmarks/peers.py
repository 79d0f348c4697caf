"""How long one picture and one sentence take: genmask beside its peers, in one run, on the same pictures.

    python benchmarks/peers.py                                  # on a CPU: all but LISA
    python benchmarks/peers.py --peers clipseg                  # quick
    python benchmarks/peers.py --markdown --json peers.json     # on a GPU: all, and ours of the paper's size; bfloat16
    python benchmarks/peers.py --toy                            # tiny networks: does all of it run?

The peers have random weights at their published sizes (benchmarks/peers_models.py). Every answer is timed from the RGB
array to the mask at the picture's size, so resizing and normalising count; loading does not. All take turns on each
picture, and ratios are of medians, so that whatever else the machine does touches all alike. A second table has ours on
pictures of each peer's size: of time alone, since the bundled model learnt at 128 pixels and finds little there.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
import tyro
from peers_models import ClipSeg, GenMask, LisaShaped, Peer, Sam3
from rich import box
from rich.console import Console
from rich.table import Table

from genmask.atomic import save_json
from genmask.benchmark.machine import Machine
from genmask.benchmark.models import Size, random_pipeline
from genmask.commands.inference import Flag
from genmask.data.example import Example
from genmask.data.scenes import Scenes
from genmask.pipeline import GenMaskPipeline
from genmask.stages import timed

FLOOR = 3.0
"""CLIPSeg at its own size should take more than so many times as long as the bundled model at its own."""
SLOW = 5.0
"""Seconds from which an answer on a CPU is timed only once, with no warm-up."""
Name = Literal["clipseg", "sam3", "lisa", "multistep"]
PEERS: dict[Name, Callable[..., Peer]] = {"clipseg": ClipSeg, "sam3": Sam3, "lisa": LisaShaped}


@dataclass(frozen=True, kw_only=True)
class Options:
    peers: tuple[Name, ...] = ()
    """Who takes part beside ours; by default all (some 40 GB on a GPU), on a CPU all but lisa (5 GB)."""
    rounds: int = 7
    """Pictures; what takes 5 seconds or more on a CPU answers one alone."""
    size: int = 256
    """Sides of the pictures, drawn scenes, in pixels."""
    toy: Flag = False
    """Tiny networks in place of the published sizes."""
    markdown: Flag = False
    """Print the tables as Markdown."""
    json: Path | None = None
    """Write every time, and what it was taken of, to this file."""


@dataclass
class Entry:
    """A model, and what its answers took."""

    model: Peer
    seconds: list[float] = field(default_factory=list)
    peak: int = 0
    """Bytes on the GPU, its own weights and what an answer adds to them; 0 on a CPU."""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def size(self) -> str:
        return ", ".join(f"{side} x {side}" for side in self.model.sides)

    def answer(self, example: Example, device: torch.device) -> float:
        """Seconds of one answer."""
        before = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        mask, seconds = timed(partial(self.model, example.image, example.text), device)
        if device.type == "cuda":
            added = torch.cuda.max_memory_allocated() - before
            self.peak = max(self.peak, self.model.weight_bytes + added)
        assert mask.shape == example.image.shape[:2]
        return seconds

    def record(self) -> dict[str, Any]:
        return {
            "model": self.model.name,
            "sides": self.model.sides,
            "parameters": self.model.parameters,
            "seconds": self.seconds,
            "median": self.median,
            "peak_memory": self.peak or None,
        }


def main(options: Options) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = options.peers or default_peers(options, device)
    if "lisa" in names and device.type == "cpu" and not options.toy:
        raise SystemExit("Got lisa without a GPU, which its 8 billion parameters need: --toy runs its code.")
    if options.rounds < 1:
        raise SystemExit(f"Got --rounds {options.rounds}, expected at least 1.")
    examples = scenes(options)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)  # not found wanting when all is done
    torch.manual_seed(0)
    models, others = build(names, options, device)
    ours, peers = [Entry(model) for model in models], [Entry(other) for other in others]
    steps = [Entry(models[-1].in_steps(count)) for count in (20, 50)] if "multistep" in names else []
    equal = [(peer, Entry(model.at(peer.model.sides[-1]))) for peer in peers for model in models]
    own = [*ours, *steps, *peers]

    take_turns([*own, *(our for _, our in equal)], examples, device)

    console = Console(width=max(160, Console().width))  # a narrow terminal breaks lines, not numbers
    style = box.MARKDOWN if options.markdown else box.HEAVY_HEAD
    console.print(own_size_table(own, ours, style))
    if equal:
        console.print(equal_size_table(equal, style))
    print(
        f"{options.rounds} drawn scenes of {options.size} x {options.size} pixels; {Machine(device=device).name}, "
        f"{torch.get_num_threads()} threads, {'bfloat16' if device.type == 'cuda' else 'float32'}; PyTorch "
        f"{torch.__version__}, transformers {transformers.__version__}{'; TOY NETWORKS' if options.toy else ''}"
    )
    for peer in peers:
        if isinstance(peer.model, ClipSeg) and not options.toy:
            print(floor(peer, ours[0]))
    if options.json is not None:
        save_json(document(options, device, own, ours, equal), options.json)


def default_peers(options: Options, device: torch.device) -> tuple[Name, ...]:
    if options.toy or device.type == "cuda":
        return ("clipseg", "sam3", "lisa", "multistep")
    return ("clipseg", "sam3", "multistep")


def build(names: Sequence[Name], options: Options, device: torch.device) -> tuple[list[GenMask], list[Peer]]:
    """Ours, the bundled model first and the largest last, and the others; all on the device, since they take turns."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    bundled = GenMaskPipeline.from_pretrained("tiny", torch_dtype=dtype, device=device)
    ours = [GenMask("genmask tiny", bundled)]
    if options.toy or device.type == "cuda":
        size: Size = "toy" if options.toy else "paper"
        ours.append(GenMask(f"genmask {size}", random_pipeline(size, device, dtype)))
    return ours, [PEERS[name](device, dtype, toy=options.toy) for name in names if name in PEERS]


def scenes(options: Options) -> list[Example]:
    """One to warm up with and one for each round, each a scene of its own."""
    drawn = Scenes("val", size=options.size)
    return [drawn[number * Scenes.EXPRESSIONS_PER_SCENE] for number in range(1 + options.rounds)]


@torch.no_grad()
def take_turns(entries: Sequence[Entry], examples: Sequence[Example], device: torch.device) -> None:
    for entry in entries:
        first = entry.answer(examples[0], device)
        print(f"first answer: {entry.model.name}, {entry.size}: {first:.1f} s", file=sys.stderr)
        if device.type == "cpu" and first >= SLOW:
            entry.seconds.append(first)
    quick = [entry for entry in entries if not entry.seconds]
    for example in examples[1:]:
        for entry in quick:
            entry.seconds.append(entry.answer(example, device))


def own_size_table(entries: Sequence[Entry], ours: Sequence[Entry], style: box.Box) -> Table:
    table = Table(
        "each at its own size",
        "parameters",
        "resized to",
        "ms",
        *(f"times {our.model.name}" for our in ours),
        "ms per million parameters",
        "peak memory",
        "answers",
        box=style,
    )
    for entry in entries:
        million = entry.model.parameters / 1e6
        table.add_row(
            entry.model.name,
            f"{million:,.1f} M",
            entry.size,
            f"{entry.median * 1e3:,.0f}",
            *(f"{entry.median / our.median:.2f}" for our in ours),
            f"{entry.median * 1e3 / million:.2f}",
            f"{entry.peak / 2**30:.2f} GiB" if entry.peak else "-",
            str(len(entry.seconds)),
        )
    return table


def equal_size_table(equal: Sequence[tuple[Entry, Entry]], style: box.Box) -> Table:
    table = Table("at equal size", "resized to", "ms", "ours", "ms", "times ours", box=style)
    for peer, our in equal:
        table.add_row(
            peer.model.name,
            our.size,
            f"{peer.median * 1e3:,.0f}",
            our.model.name,
            f"{our.median * 1e3:,.0f}",
            f"{peer.median / our.median:.2f}",
        )
    return table


def floor(clipseg: Entry, bundled: Entry) -> str:
    ratio = clipseg.median / bundled.median
    return (
        f"CLIPSeg at {clipseg.size} takes {ratio:.2f} times as long as the bundled model at {bundled.size}; "
        f"more than {FLOOR:g} is asked for: {'met' if ratio > FLOOR else 'NOT MET'}"
    )


def document(
    options: Options,
    device: torch.device,
    own: Sequence[Entry],
    ours: Sequence[Entry],
    equal: Sequence[tuple[Entry, Entry]],
) -> dict[str, Any]:
    """All that was measured, ready for JSON; times in seconds, memory in bytes."""
    return {
        "machine": Machine(device=device).name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "toy": options.toy,
        "picture": options.size,
        "own_size": [
            entry.record() | {"ratio": {our.model.name: entry.median / our.median for our in ours}}
            for entry in own
        ],
        "equal_size": [
            our.record() | {"peer": peer.model.name, "ratio": peer.median / our.median} for peer, our in equal
        ],
    }


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
