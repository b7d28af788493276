"""Means with their uncertainty, and whether a difference is more than chance."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

FLIPS = 10_000
"""Random sign flips of a paired test: its p-value is known to about 1 / FLIPS."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `n` tasks and its standard error (nan for a single one)."""

    mean: float
    se: float
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """95%, by the normal approximation."""
        return self.mean - 1.96 * self.se, self.mean + 1.96 * self.se

    def to_json(self) -> dict[str, float | int | None]:
        return {"mean": self.mean, "se": None if math.isnan(self.se) else self.se, "n": self.n}


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better the second of two is on the same tasks. `p` is the chance of a mean difference this large if the
    two were interchangeable, task by task."""

    mean: float
    se: float
    p: float
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        return self.mean - 1.96 * self.se, self.mean + 1.96 * self.se

    def to_json(self) -> dict[str, float | int | None]:
        return {"mean": self.mean, "se": None if math.isnan(self.se) else self.se, "p": self.p, "n": self.n}


def estimate(values: Sequence[float]) -> Estimate:
    a = np.asarray(values, dtype=np.float64)
    assert a.size, "a mean of nothing"
    se = float(a.std(ddof=1) / math.sqrt(a.size)) if a.size > 1 else math.nan
    return Estimate(float(a.mean()), se, a.size)


def paired(before: Sequence[float], after: Sequence[float], seed: int = 0) -> Difference:
    """The paired randomisation test (Fisher 1935): were the two interchangeable, each task's difference would be as
    likely with the other sign. It assumes no distribution, so it holds for scores that are mostly 0 or 1."""
    d = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    found = estimate(d.tolist())
    moved = np.abs(d[d != 0])  # tasks without a difference add nothing under any sign
    if not moved.size:
        return Difference(0.0, found.se, 1.0, d.size)
    rng, extreme, bar = np.random.default_rng(seed), 0, abs(float(d.sum())) - 1e-9
    for _ in range(0, FLIPS, 1000):
        signs = rng.integers(0, 2, size=(1000, moved.size), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ moved) >= bar).sum())
    return Difference(found.mean, found.se, (extreme + 1) / (FLIPS + 1), d.size)


def wilson(hits: float, n: float, z: float = 1.959964) -> tuple[float, float]:
    """The 95% interval of a share. Wilson 1927: right also for few samples and for shares near 0 and 1."""
    p, square = hits / n, z * z / n
    centre, half = (p + square / 2) / (1 + square), z * math.sqrt(p * (1 - p) / n + square / n / 4) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


def effective_number(hits: Sequence[bool], clusters: Sequence[Hashable]) -> float:
    """How many independent samples know as much of the share of hits as these, of which those of one cluster may go
    together (the pairs of one ranking, the comparisons of one prompt). Kish 1965, by the sandwich estimate of the
    share's variance; never more than there are, and where all are hits, or none, as many as there are clusters."""
    numbers: dict[Hashable, int] = {}
    of = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    hit = np.asarray(hits, dtype=np.float64)
    n, number, p = len(hit), len(numbers), float(hit.mean())
    if number == n:
        return float(n)
    if number == 1 or p in (0.0, 1.0):
        return float(number)
    off = np.bincount(of, hit - p)
    variance = float(off @ off) * number / (number - 1) / n**2
    return min(float(n), p * (1 - p) / variance) if variance else float(n)


def clustered_wilson(hits: Sequence[bool], clusters: Sequence[Hashable]) -> tuple[float, float]:
    """Wilson's interval over the effective number of samples."""
    n = effective_number(hits, clusters)
    return wilson(sum(hits) / len(hits) * n, n)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that at least one of k answers is right, estimated without bias from n drawn ones of which `correct`
    are (Chen et al. 2021, arXiv:2107.03374, eq. 1)."""
    assert 0 <= correct <= n and 1 <= k <= n
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)
