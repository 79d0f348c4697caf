"""A mixture is a pure function of seed and index, with exact shares and a position that can be restored."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from genmask.data.example import Example
from genmask.data.mixture import PERIOD, Mixture, Repeat


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
