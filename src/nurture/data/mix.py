"""Several sources in one training: how often each row of each source is taken.

Examples-proportional mixing with a cap, as in T5 and FLAN: Raffel et al. 2020, arXiv:1910.10683, §3.5.2. A source of n
rows has the rate weight · min(n, cap)^(1/temperature), and its share is its rate over the sum of all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..core.random import numpy_generator
from ..errors import DataError, InputError
from .formats.format import kind_of
from .load import row_of

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """One source of a mixture."""

    name: str
    rows: int
    weight: float = 1.0
    cap: int | None = None
    """A larger source counts as one of so many rows."""


@dataclass(frozen=True)
class Mixture:
    """Which row stands at which place of an epoch: a pure function of (seed, epoch, place)."""

    parts: tuple[Part, ...]
    temperature: float = 1.0
    """Above 1, small sources are taken more often than in proportion to their size; without bound, all equally."""
    size: int | None = None
    """Places of an epoch; by default the sum of min(rows, cap) over the sources."""
    seed: int = 0

    def __post_init__(self):
        names = [part.name for part in self.parts]
        if not names or len(set(names)) < len(names):
            raise InputError(f"A mixture needs sources with different names, and has {names}.")
        for part in self.parts:
            if part.rows < 1:
                raise InputError(f"mixture: {part.name} has no rows; leave it out.")
            if not (part.weight > 0 and math.isfinite(part.weight)):
                raise InputError(f"mixture: the weight of {part.name} is {part.weight}; it must be above 0.")
            if part.cap is not None and part.cap < 1:
                raise InputError(f"mixture: the cap of {part.name} is {part.cap}; it must be at least 1.")
        if not self.temperature > 0:
            raise InputError(f"mixture: the temperature is {self.temperature}; it must be above 0.")
        if self.size is not None and self.size < 1:
            raise InputError(f"mixture: an epoch of {self.size} rows is none.")

    @property
    def shares(self) -> dict[str, float]:
        """The share of each source that is asked for."""
        rates = [part.weight * _capped(part) ** (1 / self.temperature) for part in self.parts]
        return {part.name: rate / sum(rates) for part, rate in zip(self.parts, rates, strict=True)}

    @property
    def counts(self) -> dict[str, int]:
        """Places of each source in an epoch: the shares of its size, rounded so that they add up (largest remainders;
        of equal ones, the earlier source's)."""
        size = self.size if self.size is not None else sum(_capped(part) for part in self.parts)
        exact = [share * size for share in self.shares.values()]
        whole = [math.floor(value + 1e-9) for value in exact]
        order = sorted(range(len(exact)), key=lambda i: (whole[i] - exact[i], i))
        for i in order[: size - sum(whole)]:
            whole[i] += 1
        return {part.name: count for part, count in zip(self.parts, whole, strict=True)}

    @property
    def total(self) -> int:
        """Places of an epoch."""
        return sum(self.counts.values())

    def epoch(self, number: int) -> NDArray[np.int64]:
        """`[size, 2]`: (source, row) at each place of an epoch.

        A source's rows are taken in the order of a permutation of its own that goes on over the epochs: none comes a
        second time before all others came once. The epoch is then shuffled."""
        taken = [
            np.stack([np.full(count, i, np.int64), self._rows(i, number * count, count)], 1)
            for i, count in enumerate(self.counts.values())
        ]
        places = np.concatenate(taken)
        return places[numpy_generator(self.seed, "mixture order", number).permutation(len(places))]

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The rows of an epoch as places in all sources laid end to end."""
        starts = np.cumsum([0, *(part.rows for part in self.parts)])
        sources, rows = self.epoch(epoch).T
        return starts[sources] + rows

    def _rows(self, source: int, start: int, count: int) -> NDArray[np.int64]:
        """Elements [start, start + count) of the source's permutations laid end to end."""
        part, out = self.parts[source], list[NDArray[np.int64]]()
        while count:
            turn, first = divmod(start, part.rows)
            order = numpy_generator(self.seed, "mixture rows", part.name, turn).permutation(part.rows)
            out.append(order[first : first + count])
            start, count = start + len(out[-1]), count - len(out[-1])
        return np.concatenate(out) if out else np.zeros(0, np.int64)

    def lines(self) -> list[str]:
        """What the mixture gives, for the terminal."""
        counts, total = self.counts, self.total
        return [
            f"{part.name}: {counts[part.name] / total:.1%} of an epoch, {counts[part.name]:,} of its {part.rows:,} rows"
            + (f" ({counts[part.name] / part.rows:.2f} times each)" if counts[part.name] > part.rows else "")
            for part in self.parts
        ]


def _capped(part: Part) -> int:
    return part.rows if part.cap is None else min(part.rows, part.cap)


def mix(sources: Mapping[str, Sequence[T]], mixture: Mixture, epoch: int = 0) -> list[T]:
    """One epoch's items."""
    items = [sources[part.name] for part in mixture.parts]
    return [items[source][row] for source, row in mixture.epoch(epoch).tolist()]


def tasks_of(said: Mapping[str, Any], column: str, origins: Iterable[str]) -> list[str]:
    """The task of each record or group with such an origin; `said` is what the column says in each row. (A row of
    several records, and a record of several pieces, have numbered ones.)"""
    tasks: list[str] = []
    for origin in origins:
        row = next(name for name in (origin, row_of(origin), row_of(row_of(origin))) if name in said)
        task = said[row]
        if task is None or task == "":
            raise DataError(row, "MISSING_FIELD", f"has no {column!r}, the task_column; add it, or leave that out.")
        if isinstance(task, bool) or not isinstance(task, str | int):
            must = f"the task in {column!r} must be a name or a number, found {kind_of(task)}."
            raise DataError(row, "WRONG_TYPE", must)
        tasks.append(str(task))
    return tasks


def by_task(items: Iterable[T], tasks: Iterable[str]) -> dict[str, list[T]]:
    """The items of each task, in the order in which the tasks first come."""
    of: dict[str, list[T]] = {}
    for item, task in zip(items, tasks, strict=True):
        of.setdefault(task, []).append(item)
    return of


def balanced(tasks: Sequence[str], *, cap: int | None = None, temperature: float = 1.0, seed: int = 0) -> list[int]:
    """Places of rows such that tasks are mixed by the rule of sources, each task being one: with a `cap`, a frequent
    task counts as one of so many rows; a high temperature makes all equal. One epoch's places."""
    of = by_task(range(len(tasks)), tasks)
    parts = tuple(Part(task, len(places), cap=cap) for task, places in of.items())
    return mix(of, Mixture(parts, temperature, seed=seed))
