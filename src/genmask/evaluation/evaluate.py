"""Answer a benchmark's samples and count pixels: by several processes, interrupted and resumed, each sample once.

Samples are shared out in whole batches, in the benchmark's order, so that every forward pass, and with it every score,
is the same whatever the number of processes. Each process appends a line per sample to a file of its own; `collect`
joins them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from genmask.atomic import replace_file
from genmask.data.example import Example
from genmask.data.folder import read_mask
from genmask.evaluation.metrics import Counts, count_pixels
from genmask.segmentation import Segmentation

GRIDS = ("native", "480")
"""Where pixels are counted: at the picture's own size, as LISA does, or at 480 x 480 pixels whatever its shape, as LAVT
does: there a small or long picture weighs as much as any other."""
LAVT_SIZE = 480


class Examples(Protocol):
    """A benchmark's samples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


Answer = Callable[[list[Example]], Sequence[np.ndarray | Segmentation]]
"""Examples -> for each a soft mask, (H, W) float32 in [0, 1] at its picture's size; or a mask, (H, W) bool; or all that
the model answered, of which the soft mask and the description are counted."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One sample, counted."""

    index: int
    """Position in the benchmark."""
    id: str
    kind: str
    text: str
    target: str
    """What was looked for: the text or, of a model that reasons, its description of what the text means."""
    answer: dict[str, Counts]
    """By grid."""
    oracle: dict[str, Counts]
    """By grid; empty where no oracle was asked."""


def evaluate(
    examples: Examples,
    answer: Answer,
    output: Path,
    *,
    settings: dict[str, Any],
    oracle: Callable[[np.ndarray], np.ndarray] | None = None,
    threshold: float = 0.5,
    batch_size: int = 32,
    rank: int = 0,
    world_size: int = 1,
    advance: Callable[[int], None] = lambda count: None,
) -> int:
    """Count this process's share of the samples that `output` does not hold yet.

    Args:
        examples: the benchmark.
        answer: the system under test.
        output: folder of one benchmark and one system.
        settings: whatever the counts depend on; kept in the folder, to refuse others there.
        oracle: target mask -> the soft mask that is drawn of it.
        threshold: of soft masks, if they come without one of their own: a `Segmentation` brings it.
        batch_size: samples that are answered together.
        rank, world_size: which share of how many.
        advance: called with the number of samples done, those found done at the start included.

    Returns:
        The number of samples counted now.

    Raises:
        ValueError: the folder holds counts made with other settings.
    """
    _check_settings(output, settings | {"batch_size": batch_size, "samples": len(examples)})
    done = {record["index"] for record in _lines(output)}
    mine = [
        range(start, min(start + batch_size, len(examples)))
        for number, start in enumerate(range(0, len(examples), batch_size))
        if number % world_size == rank
    ]
    advance(sum(index in done for batch in mine for index in batch))
    path = output / f"rank-{rank}-of-{world_size}.jsonl"
    _drop_partial_line(path)
    counted = 0
    with path.open("a", encoding="utf-8") as file:
        for batch in mine:
            left = [index for index in batch if index not in done]
            if not left:
                continue
            # The whole batch, even if some of it is done: the same forward pass as without the interruption.
            found = [examples[index] for index in batch]
            for index, example, answered in zip(batch, found, answer(found), strict=True):
                if index in left:
                    record = _record(index, example, answered, oracle, threshold)
                    file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
            file.flush()
            counted += len(left)
            advance(len(left))
    return counted


def collect(output: Path, count: int) -> list[Record] | None:
    """Everything that was counted, in the benchmark's order; None while samples are missing."""
    by_index = {line["index"]: line for line in _lines(output)}
    if by_index.keys() != set(range(count)):
        return None
    return [
        Record(**(by_index[index] | {who: _counts(by_index[index][who]) for who in ("answer", "oracle")}))
        for index in range(count)
    ]


def _counts(by_grid: dict[str, list[int]]) -> dict[str, Counts]:
    return {grid: Counts(*numbers) for grid, numbers in by_grid.items()}


def _record(
    index: int,
    example: Example,
    answered: np.ndarray | Segmentation,
    oracle: Callable[[np.ndarray], np.ndarray] | None,
    threshold: float,
) -> Record:
    assert example.mask is not None
    known = example.mask if example.ignore is None else example.mask & ~example.ignore
    drawn = None if oracle is None else oracle(known)
    if isinstance(answered, Segmentation):
        soft, threshold = answered.soft_mask, answered.threshold
    else:
        soft = answered
    return Record(
        index=index,
        id=example.id,
        kind=example.kind,
        text=example.text,
        target=answered.target if isinstance(answered, Segmentation) else example.text,
        answer={grid: _count(soft, example, threshold, grid) for grid in GRIDS},
        oracle={} if drawn is None else {grid: _count(drawn, example, 0.5, grid) for grid in GRIDS},
    )


def _count(soft: np.ndarray, example: Example, threshold: float, grid: str) -> Counts:
    assert example.mask is not None
    if grid == "native":
        return count_pixels(_decide(soft, threshold), example.mask, example.ignore)
    ignore = None if example.ignore is None else _nearest(example.ignore)
    return count_pixels(_decide(_bilinear(soft), threshold), _nearest(example.mask), ignore)


def _decide(soft: np.ndarray, threshold: float) -> np.ndarray:
    return soft if soft.dtype == np.bool_ else soft > threshold


def _bilinear(soft: np.ndarray) -> np.ndarray:
    """A soft mask on LAVT's grid; a hard one has no in-between."""
    if soft.dtype == np.bool_:
        return _nearest(soft)
    size = (LAVT_SIZE, LAVT_SIZE)
    return np.asarray(Image.fromarray(soft).resize(size, Image.Resampling.BILINEAR))


def _nearest(mask: np.ndarray) -> np.ndarray:
    size = (LAVT_SIZE, LAVT_SIZE)
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)) > 0


def _check_settings(output: Path, settings: dict[str, Any]) -> None:
    path = output / "settings.json"
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    if path.exists():
        before = json.loads(path.read_text())
        changed = sorted(k for k in {*before, *settings} if before.get(k) != settings.get(k))
        if changed:
            name = changed[0]
            raise ValueError(
                f"Got {name}={settings.get(name)!r} for {output}, which was begun with {before.get(name)!r}: go on "
                "with that, or choose another --output."
            )
        return
    output.mkdir(parents=True, exist_ok=True)
    replace_file(path, text)


def _lines(output: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of all processes, of this and of earlier sittings."""
    for path in sorted(output.glob("rank-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)


def _drop_partial_line(path: Path) -> None:
    """What a kill left of a line would spoil the next."""
    if path.exists():
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            with path.open("r+b") as file:
                file.truncate(len(whole))


def subset(examples: Examples, count: int | None) -> Examples:
    """`count` samples, evenly spread over all; all, if there are no more or None is given."""
    if count is None or count >= len(examples):
        return examples
    if count < 1:
        raise ValueError(f"Got a limit of {count} samples, expected at least 1.")
    return _Chosen(examples, [int(i) for i in np.linspace(0, len(examples) - 1, count)])


@dataclass(frozen=True)
class _Chosen:
    examples: Examples
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.examples[self.indices[index]]


def read_predictions(folder: Path) -> Answer:
    """Masks that another system saved as FOLDER/ID.png, white on the target, at the picture's size."""
    if not folder.is_dir():
        raise ValueError(f"Got no folder {folder}, expected one with a mask for each sample, ID.png.")

    def answer(examples: Iterable[Example]) -> list[np.ndarray]:
        masks = []
        for example in examples:
            path = folder / f"{example.id}.png"
            if not path.is_file():
                raise ValueError(f"Got no {path}, expected a mask for each sample, named by its id.")
            mask = read_mask(path)
            if mask.shape != example.image.shape[:2]:
                raise ValueError(
                    f"Got the mask {path} of {mask.shape} (height, width), expected {example.image.shape[:2]}."
                )
            masks.append(mask)
        return masks

    return answer
