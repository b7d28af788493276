"""Near-duplicates of long texts: the Jaccard similarity of their word 5-grams, candidates by MinHash.

Broder 1997, doi:10.1109/SEQUEN.1997.666900. Which pairs are looked at is random (a pair of similarity 0.8 is missed
with a probability of about 2 in 10,000), how similar they are is counted exactly.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ...core.random import numpy_generator
from .duplicates import Pairs
from .words import words

SHINGLE = 5
JACCARD = 0.8
BANDS, ROWS = 24, 5
"""A pair of similarity s is looked at with probability 1 - (1 - s^ROWS)^BANDS: 0.9999 at 0.8, 0.12 at 0.35."""

MOST_PER_BUCKET = 50
"""Of more texts in one bucket each is compared with the first only: they are copies of one text, as a rule."""

_PRIME = np.uint64((1 << 31) - 1)
Shingles = NDArray[np.uint64]


def shingles(text: str, n: int = SHINGLE) -> Shingles:
    """The different n-grams of words as 31-bit hashes; a text of fewer words is one n-gram."""
    found = words(text)
    grams = {" ".join(found[i : i + n]) for i in range(max(len(found) - n + 1, 1))} if found else set[str]()
    return np.unique(np.array([zlib.crc32(gram.encode()) & 0x7FFFFFFF for gram in grams], np.uint64))


def jaccard(a: Shingles, b: Shingles) -> float:
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both) if len(a) or len(b) else 0.0


def minhash_pairs(texts: Sequence[str], threshold: float = JACCARD) -> Pairs:
    """Pairs of texts whose word 5-grams are alike to at least `threshold`."""
    sets = [shingles(text) for text in texts]
    tested: dict[tuple[int, int], float] = {}
    for bucket in _buckets(sets):
        pairs = combinations(bucket, 2) if len(bucket) <= MOST_PER_BUCKET else ((bucket[0], b) for b in bucket[1:])
        for a, b in pairs:
            if (a, b) not in tested:
                tested[a, b] = jaccard(sets[a], sets[b])
    found = sorted((b, a, score) for (a, b), score in tested.items() if score >= threshold)
    right, left, score = zip(*found, strict=True) if found else ((), (), ())
    return Pairs(np.array(left, np.int64), np.array(right, np.int64), np.array(score, np.float64))


def _buckets(sets: Sequence[Shingles]) -> list[list[int]]:
    """Texts that agree in all rows of a band, for every band."""
    random = numpy_generator(0, "minhash")
    factor = random.integers(1, int(_PRIME), (BANDS * ROWS, 1), np.uint64)
    offset = random.integers(0, int(_PRIME), (BANDS * ROWS, 1), np.uint64)
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for i, grams in enumerate(sets):
        if len(grams):
            signature = ((factor * grams + offset) % _PRIME).min(1).astype(np.uint32)  # 31 bits times 31 bits fit in 64
            for band in range(BANDS):
                buckets[band, signature[band * ROWS : (band + 1) * ROWS].tobytes()].append(i)
    return [bucket for bucket in buckets.values() if len(bucket) > 1]
