"""Several sources in named shares: sample `i` of a mixture is a function of the seed and of `i` alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from genmask.data.example import Example

PERIOD = 10_000
"""Samples after which the pattern of sources repeats: any so many consecutive ones hold the exact shares."""


class Indexed(Protocol):
    """Anything with examples by index."""

    def __getitem__(self, index: int, /) -> Example: ...


class Sized(Indexed, Protocol):
    """Anything with a known number of examples."""

    def __len__(self) -> int: ...


class Stream(Protocol):
    """Anything that gives the rest of an epoch at each iteration, from a position of its own."""

    def __iter__(self) -> Iterator[Example]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> None: ...


Source = Indexed | Callable[[int], Example]
"""`source[i]` or `source(i)`, for any `i` from 0 without end; a finite one is made endless by `Repeat`."""


class Repeat:
    """An endless source from a finite one, in a new shuffled order every epoch."""

    def __init__(self, source: Sized, seed: int = 0) -> None:
        if len(source) == 0:
            raise ValueError("Got an empty source, expected at least one example to repeat.")
        self.source, self.seed = source, seed
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def __getitem__(self, index: int) -> Example:
        epoch, position = divmod(index, len(self.source))
        if self._order[0] != epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.source))
            self._order = (epoch, order)
        return self.source[int(self._order[1][position])]


class InTurn:
    """An endless source from a stream: its examples in turn, epoch after epoch, whatever index is asked for.

    For a mixture that is iterated in one process, whose `state_dict` then holds the stream's too. The stream of
    process r of n must be that process's own share.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._rest: Iterator[Example] = iter(())

    def __call__(self, index: int) -> Example:
        for _ in range(3):  # what was begun; the rest of a restored epoch, which may be nothing; an epoch
            for example in self._rest:
                return example
            self._rest = iter(self.stream)
        raise ValueError("Got a stream without an example in a whole epoch, expected one at least.")

    def state_dict(self) -> dict[str, Any]:
        return self.stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.stream.load_state_dict(state)
        self._rest = iter(())


@dataclass(frozen=True, kw_only=True)
class Turns:
    """The indices that are one process's turn, without end: those that are `rank` modulo `world_size`.

    The sampler of `DataLoader(mixture, batch_size=b, sampler=Turns(...))`. Indices are dealt out where the
    sampler is, in the process itself, so its workers neither skip nor repeat a sample, nor change the order.
    """

    rank: int = 0
    world_size: int = 1
    start: int = 0
    """Samples that all processes together have used: a resumed run goes on there, with any `world_size`."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size or self.start < 0:
            raise ValueError(f"Got {self}, expected 0 <= rank < world_size and start at least 0.")

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start + self.rank, self.world_size)


class Interleaving:
    """Which source each sample of a mixture comes from: a function of the shares, the seed and the index alone.

    Each source's samples are spread one per equal stretch of the pattern, at a random place in it: short runs
    hold nearly, any `PERIOD` consecutive samples exactly, their shares.

    Args:
        weights: by name; they are relative.
        seed: of the pattern.

    Raises:
        ValueError: no name, or a weight that is not positive or less than 1 / `PERIOD` of all.
    """

    def __init__(self, weights: Mapping[str, float], seed: int = 0) -> None:
        if not weights:
            raise ValueError("Got no source, expected a weight by name.")
        self.names = tuple(weights)
        self.seed = seed
        self.counts = _quotas(dict(weights))
        """Samples of each source in a period, in the order of `names`."""
        self._pattern, self._ranks = _spread(self.counts, np.random.default_rng(seed))

    def locate(self, index: int) -> tuple[str, int]:
        """Name of the source that sample `index` comes from, and the index in that source."""
        if index < 0:
            raise ValueError(f"Got index {index}, expected 0 or more.")
        period, place = divmod(index, PERIOD)
        which = int(self._pattern[place])
        return self.names[which], period * self.counts[which] + int(self._ranks[place])


class Mixture(Interleaving):
    """Examples of several sources, interleaved.

    `mixture[i]` needs nothing but `i` (unless a source is `InTurn`), so the order does not depend on workers or
    processes: process r of n takes `i = r, r + n, ...`, which is what `Turns` gives a DataLoader.

    Iterating takes the process's turns without end, from `position` on, which `state_dict` saves and
    `load_state_dict` restores.

    Args:
        sources: name to (source, weight); weights are relative.
        seed: of the pattern.
        rank: whose turns iteration takes, of `world_size`.

    Raises:
        ValueError: no source, or a weight that is not positive or less than 1 / `PERIOD` of all; a rank that is
            not less than `world_size`.
    """

    def __init__(
        self,
        sources: Mapping[str, tuple[Source, float]],
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not sources:
            raise ValueError("Got no source, expected {name: (source, weight)}.")
        super().__init__({name: weight for name, (_, weight) in sources.items()}, seed)
        self.turns = Turns(rank=rank, world_size=world_size)
        self.position = 0
        """Samples that all processes together have used, were they as far as this one."""
        self._sources = [source for source, _ in sources.values()]

    def __getitem__(self, index: int) -> Example:
        name, position = self.locate(index)
        source = self._sources[self.names.index(name)]
        try:
            return source(position) if callable(source) else source[position]
        except IndexError as error:  # would silently end an iteration
            raise ValueError(
                f"Source {name!r} has no example {position}, expected an endless one: wrap it in Repeat."
            ) from error

    def __iter__(self) -> Iterator[Example]:
        while True:
            example = self[self.position + self.turns.rank]
            self.position += self.turns.world_size
            yield example

    def state_dict(self) -> dict[str, Any]:
        """Where iteration stands, and what it must find again to go on from there."""
        streams = {name: source.state_dict() for name, source in self._streams().items()}
        return {"position": self.position, "streams": streams, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved position; where a source is `InTurn`, as the same process of as many.

        Raises:
            ValueError: the state is of a mixture with other sources, shares or seed.
        """
        saved = {key: state[key] for key in self._identity()}
        if saved != self._identity():
            raise ValueError(f"Got the state of another mixture, {saved}, expected {self._identity()}.")
        streams = self._streams()
        saved_streams = state.get("streams", {})
        if set(saved_streams) != set(streams):
            raise ValueError(
                f"Got the state of another mixture, streams {sorted(saved_streams)}, expected {sorted(streams)}."
            )
        for name, source in streams.items():
            source.load_state_dict(saved_streams[name])
        self.position = int(state["position"])

    def _streams(self) -> dict[str, InTurn]:
        named = zip(self.names, self._sources, strict=True)
        return {name: source for name, source in named if isinstance(source, InTurn)}

    def _identity(self) -> dict[str, Any]:
        return {"counts": dict(zip(self.names, self.counts, strict=True)), "seed": self.seed}


def _quotas(weights: dict[str, float]) -> list[int]:
    """Whole numbers that sum to `PERIOD` in the ratio of the weights (largest remainders)."""
    for name, weight in weights.items():
        if not 0 < weight < float("inf"):
            raise ValueError(f"Got weight {weight} for source {name!r}, expected a positive number.")
    exact = np.array(list(weights.values())) / sum(weights.values()) * PERIOD
    counts = np.floor(exact + 1e-9).astype(np.int64)
    remainders = exact - counts
    counts[np.argsort(-remainders, kind="stable")[: PERIOD - counts.sum()]] += 1
    for name, count in zip(weights, counts, strict=True):
        if count == 0:
            raise ValueError(
                f"Got weight {weights[name]} for source {name!r}, expected at least 1/{PERIOD} of all."
            )
    return [int(count) for count in counts]


def _spread(counts: list[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The pattern: which source each place of a period has, and the how-manieth of that source it is."""
    places = np.concatenate([(np.arange(count) + rng.random(count)) / count for count in counts])
    which = np.repeat(np.arange(len(counts)), counts)
    ranks = np.concatenate([np.arange(count) for count in counts])
    order = np.argsort(places, kind="stable")
    return which[order], ranks[order]
