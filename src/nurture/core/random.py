"""Randomness as a function of names, never of history.

Every random choice draws from a stream named by (seed, purpose, index...). So a resumed run, another number of
workers or another batch composition cannot change what is drawn.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray


def stream_key(*names: int | str) -> int:
    """A 64-bit key for the stream with these names: equal names, equal key, on every machine."""
    words = ["s:" + n if isinstance(n, str) else f"i:{n:d}" for n in names]  # a generator would take longer
    return int.from_bytes(blake2b("\x1f".join(words).encode(), digest_size=8).digest(), "little")


def torch_generator(*names: int | str) -> torch.Generator:
    """A torch generator on the CPU for the stream with these names."""
    return torch.Generator().manual_seed(stream_key(*names) >> 1)


def numpy_generator(*names: int | str) -> np.random.Generator:
    """A NumPy generator for the stream with these names."""
    return np.random.Generator(np.random.Philox(key=stream_key(*names)))


def uniform(keys: NDArray[np.uint64], counters: NDArray[np.uint64]) -> NDArray[np.float64]:
    """One uniform number in [0, 1) for each (key, counter): SplitMix64's finaliser over the counter's own orbit.

    The i-th number of stream k is `uniform(k, i)` no matter which other streams share the call, so a sampler may
    regroup its rows freely. Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """
    with np.errstate(over="ignore"):
        z = keys + (counters + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
