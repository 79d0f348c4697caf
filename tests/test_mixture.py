"""A mixture is a pure function of seed and index, with exact shares and a position that can be restored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import pytest

from genmask.data.example import Example
from genmask.data.mixture import PERIOD, InTurn, Mixture, Repeat, Turns


class Numbers:
    """`count` examples that carry their name and index as id; endless where `count` is None."""

    def __init__(self, name: str, count: int | None = None) -> None:
        self.name, self.count = name, count

    def __len__(self) -> int:
        assert self.count is not None
        return self.count

    def __getitem__(self, index: int) -> Example:
        if self.count is not None and index >= self.count:
            raise IndexError(index)
        image = np.zeros((1, 1, 3), dtype=np.uint8)
        return Example(image=image, text="", task="generation", source=self.name, id=str(index))


WEIGHTS = {"a": 5.0, "b": 3.0, "c": 2.001}


def mixture(seed: int = 0, weights: dict[str, float] = WEIGHTS) -> Mixture:
    return Mixture({name: (Numbers(name), weight) for name, weight in weights.items()}, seed)


@pytest.mark.parametrize("start", [0, 1, 137, 9_999, 123_456])
def test_any_ten_thousand_samples_in_a_row_hold_the_exact_shares(start: int) -> None:
    mixed = mixture()
    counts = Counter(mixed.locate(index)[0] for index in range(start, start + PERIOD))
    assert sum(counts.values()) == PERIOD == 10_000
    for name, weight in WEIGHTS.items():
        assert abs(counts[name] - PERIOD * weight / sum(WEIGHTS.values())) < 1


def test_every_sample_of_a_source_comes_exactly_once_and_in_order() -> None:
    mixed, seen = mixture(), Counter()
    for index in range(2 * PERIOD + 77):
        name, position = mixed.locate(index)
        assert position == seen[name]
        seen[name] += 1


def test_short_runs_hold_nearly_the_shares_also_within_a_rank() -> None:
    mixed = mixture(weights={"segmentation": 1.0, "generation": 1.0})
    for stride, offset in ((1, 0), (2, 0), (2, 1), (7, 3)):
        names = [mixed.locate(index)[0] for index in range(offset, PERIOD, stride)]
        assert names.count("generation") / len(names) == pytest.approx(0.5, abs=0.04)
    names = [mixed.locate(index)[0] for index in range(64)]
    assert 28 <= names.count("generation") <= 36


def test_it_is_a_function_of_seed_and_index() -> None:
    forwards = [mixture()[index].id for index in range(50)]
    assert [mixture()[index].id for index in reversed(range(50))] == forwards[::-1]
    assert [mixture(seed=1).locate(index) for index in range(50)] != [mixture().locate(i) for i in range(50)]


def test_a_restored_position_goes_on_where_it_was() -> None:
    mixed, other = mixture(), mixture()
    first = [example.id for example in islice(mixed, 30)]
    assert first == [mixed[index].id for index in range(30)]
    state = mixed.state_dict()
    other.load_state_dict(state)
    assert (
        [e.id for e in islice(other, 20)]
        == [e.id for e in islice(mixed, 20)]
        == [mixture()[30 + i].id for i in range(20)]
    )
    for stranger in (mixture(seed=1), mixture(weights={"a": 1.0})):
        with pytest.raises(ValueError, match="another mixture"):
            stranger.load_state_dict(state)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 6, 9_990])
def test_processes_together_take_every_sample_once(world_size: int, start: int) -> None:
    shares = []
    for rank in range(world_size):
        sources = {name: (Numbers(name), weight) for name, weight in WEIGHTS.items()}
        mixed = Mixture(sources, rank=rank, world_size=world_size)
        mixed.load_state_dict({**mixed.state_dict(), "position": start})
        shares.append([(e.source, e.id) for e in islice(mixed, 60 // world_size)])
        assert mixed.state_dict()["position"] == start + 60 // world_size * world_size
        turns = Turns(rank=rank, world_size=world_size, start=start)
        assert shares[-1] == [(mixed[i].source, mixed[i].id) for i in islice(turns, 60 // world_size)]
    together = [sample for turn in zip(*shares, strict=True) for sample in turn]
    whole = mixture()
    assert together == [(whole[i].source, whole[i].id) for i in range(start, start + 60)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_workers_change_nothing_also_after_a_resume(world_size: int, workers: int) -> None:
    from torch.utils.data import DataLoader

    batch, steps = 3, 4
    seen: dict[int, str] = {}
    for first in (0, steps):  # a run of some steps, and one that goes on from there
        for rank in range(world_size):
            turns = Turns(rank=rank, world_size=world_size, start=first * batch * world_size)
            loader = DataLoader(
                mixture(), batch_size=batch, sampler=turns, num_workers=workers, collate_fn=list
            )
            for step, examples in enumerate(islice(loader, steps), start=first):
                for place, example in enumerate(examples):
                    index = (step * batch + place) * world_size + rank
                    assert index not in seen
                    seen[index] = example.source + example.id
    whole = mixture()
    total = 2 * steps * batch * world_size
    assert [seen[index] for index in range(total)] == [
        whole[index].source + whole[index].id for index in range(total)
    ]


class Countdown:
    """A stream of three examples an epoch that knows its position."""

    def __init__(self) -> None:
        self.done = 0

    def __iter__(self) -> Iterator[Example]:
        for _ in range(3 - self.done % 3 if self.done % 3 else 3):
            self.done += 1
            yield Numbers("s")[self.done - 1]

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done = state["done"]


@pytest.mark.parametrize("done", [0, 1, 5, 12, 13])
def test_a_stream_is_a_source_whose_position_is_saved_too(done: int) -> None:
    def build() -> Mixture:
        return Mixture({"s": (InTurn(Countdown()), 1.0), "n": (Numbers("n"), 1.0)})

    whole = [(e.source, e.id) for e in islice(build(), 40)]
    assert [i for source, i in whole if source == "s"] == [str(i) for i in range(20)]
    mixed, resumed = build(), build()
    list(islice(mixed, done))
    list(islice(resumed, 3))  # in the middle of something else
    resumed.load_state_dict(mixed.state_dict())
    assert [(e.source, e.id) for e in islice(resumed, 40 - done)] == whole[done:]
    with pytest.raises(ValueError, match=r"streams \['s'\]"):
        Mixture({"s": (Numbers("s"), 1.0), "n": (Numbers("n"), 1.0)}).load_state_dict(mixed.state_dict())


def test_a_function_is_a_source() -> None:
    mixed = Mixture({"f": (Numbers("f").__getitem__, 1.0)})
    assert [mixed[index].id for index in range(3)] == ["0", "1", "2"]


def test_repeat_shows_everything_once_an_epoch_in_changing_orders() -> None:
    repeated = Repeat(Numbers("n", 20), seed=3)
    epochs = [[repeated[epoch * 20 + i].id for i in range(20)] for epoch in range(3)]
    assert all(sorted(epoch, key=int) == [str(i) for i in range(20)] for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [repeated[i].id for i in range(20)] == epochs[0]


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ValueError, match="wrap it in Repeat"):
        list(Mixture({"n": (Numbers("n", 3), 1.0)}))
    with pytest.raises(ValueError, match="no source"):
        Mixture({})
    with pytest.raises(ValueError, match="weight -1"):
        mixture(weights={"a": 1.0, "b": -1.0})
    with pytest.raises(ValueError, match="1/10000"):
        mixture(weights={"a": 1.0, "b": 1e-9})
    with pytest.raises(ValueError, match="empty source"):
        Repeat(Numbers("n", 0))
    with pytest.raises(ValueError, match="rank=2"):
        Turns(rank=2, world_size=2)
