"""Cheap random choices for text: one integer stream per row.

The stream named by its key is SplitMix64, the same numbers as `nurture.core.random.uniform` counts off, in plain Python
integers: a row needs some twenty small choices, and making a NumPy generator costs more than all of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import TypeVar

from ..core.random import stream_key

T = TypeVar("T")
_MASK = (1 << 64) - 1


class Draw:
    """Random choices from the stream with these names: equal names, equal choices, on every machine."""

    __slots__ = ("_state",)

    def __init__(self, *names: int | str):
        self._state = stream_key(*names)

    def bits(self) -> int:
        """The next 64 bits."""
        self._state = z = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def below(self, n: int) -> int:
        return self.bits() * n >> 64

    def between(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + self.below(high - low + 1)

    def chance(self, p: float) -> bool:
        return self.bits() < p * 2.0**64

    def pick(self, items: Sequence[T]) -> T:
        return items[self.bits() * len(items) >> 64]

    def weighted(self, items: Sequence[T], weights: tuple[int, ...]) -> T:
        ends = _ends(weights)
        return items[bisect_right(ends, self.bits() * ends[-1] >> 64)]

    def sample(self, items: Sequence[T], k: int) -> list[T]:
        """`k` different places of `items`, in random order."""
        size = len(items)
        assert k <= size, f"cannot take {k} of {size}"
        if k * 3 > size:
            return self.shuffled(items)[:k]
        places: list[int] = []
        while len(places) < k:
            place = self.bits() * size >> 64
            if place not in places:
                places.append(place)
        return [items[place] for place in places]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        out = list(items)
        for i in range(len(out) - 1, 0, -1):
            j = self.bits() * (i + 1) >> 64
            out[i], out[j] = out[j], out[i]
        return out


@lru_cache
def _ends(weights: tuple[int, ...]) -> tuple[int, ...]:
    """Where the share of each item ends, on a line as long as all the weights."""
    return tuple(accumulate(weights))
