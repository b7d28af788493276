"""How rich the wording is (MTLD), how far apart the topics are (mean cosine), how evenly tasks are spread (entropy)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ...core.random import numpy_generator

MTLD_THRESHOLD = 0.72
SAMPLE = 10_000
"""Dialogues whose topics are compared; of a larger set so many are drawn."""

Vectors = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]
"""Texts to `[n, d]` vectors."""


def mtld(words: Sequence[str]) -> float | None:
    """The measure of textual lexical diversity. McCarthy and Jarvis 2010, doi:10.3758/BRM.42.2.381.

    Words are read while the share of different ones (the type-token ratio) stays at 0.72 or above; a word that brings
    it below ends a factor, and counting begins anew. What is left at the end is a part of a factor,
    (1 - ratio) / (1 - 0.72). MTLD is words per factor, the mean of reading forwards and backwards.

    The variant: a factor ends strictly below 0.72, may be of any length, and there is no value (`None`) where no word
    is repeated before the end, since the text then holds no factor at all.
    """
    forwards, backwards = _factors(words), _factors(words[::-1])
    if not forwards or not backwards:
        return None
    return (len(words) / forwards + len(words) / backwards) / 2


def _factors(words: Sequence[str]) -> float:
    factors, seen, count = 0.0, set[str](), 0
    for word in words:
        seen.add(word)
        count += 1
        if len(seen) < MTLD_THRESHOLD * count:
            factors, seen, count = factors + 1, set[str](), 0
    if count:
        factors += (1 - len(seen) / count) / (1 - MTLD_THRESHOLD)
    return factors


def sampled(n: int, most: int, seed: int) -> list[int]:
    """All places of `n`, or `most` of them drawn by the seed, in ascending order."""
    if n <= most:
        return list(range(n))
    return sorted(numpy_generator(seed, "quality sample").choice(n, most, replace=False).tolist())


class TfIdf:
    """Texts as sparse unit vectors: (1 + log count) · (1 + log((1 + n) / (1 + df))), scaled to length 1."""

    def __init__(self, texts: Sequence[Sequence[str]]):
        counted = [Counter(text) for text in texts]
        frequency = Counter(word for counts in counted for word in counts)
        self.vocabulary = {word: i for i, word in enumerate(frequency)}
        idf = {word: math.log((1 + len(texts)) / (1 + df)) + 1 for word, df in frequency.items()}
        self.columns: list[NDArray[np.int64]] = []
        self.values: list[NDArray[np.float64]] = []
        for counts in counted:
            values = np.array([(1 + math.log(c)) * idf[word] for word, c in counts.items()])
            self.columns.append(np.array([self.vocabulary[word] for word in counts], np.int64))
            self.values.append(values / np.linalg.norm(values) if len(values) else values)

    def __len__(self) -> int:
        return len(self.columns)

    def sum(self) -> NDArray[np.float64]:
        total = np.zeros(len(self.vocabulary))
        if self.columns:
            np.add.at(total, np.concatenate(self.columns), np.concatenate(self.values))
        return total

    def dense(self) -> Vectors:
        out = np.zeros((len(self), len(self.vocabulary)), np.float32)
        for row, (columns, values) in enumerate(zip(self.columns, self.values, strict=True)):
            out[row, columns] = values
        return out


def mean_cosine(texts: Sequence[Sequence[str]]) -> float | None:
    """The mean cosine over all pairs of different texts under TF-IDF: low where topics are far apart. `None` for fewer
    than two texts. Texts without words are left out.

    The sum over pairs is (|sum of vectors|² - n) / 2, so no pair is ever looked at."""
    vectors = TfIdf([text for text in texts if text])
    return _mean_cosine(vectors.sum(), len(vectors))


def mean_cosine_of(vectors: Vectors) -> float | None:
    """The same of dense vectors, an embedding model's say."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.asarray(vectors, np.float64)[lengths[:, 0] > 0] / lengths[lengths[:, 0] > 0]
    return _mean_cosine(unit.sum(0), len(unit))


def _mean_cosine(total: NDArray[np.float64], n: int) -> float | None:
    return float((total @ total - n) / (n * (n - 1))) if n > 1 else None


def evenness(counts: Mapping[str, int]) -> float | None:
    """Entropy of the shares over its greatest value: 1 where all kinds are equally frequent. `None` for one kind."""
    total = sum(counts.values())
    if len(counts) < 2:
        return None
    entropy = -sum(c / total * math.log(c / total) for c in counts.values() if c)
    return entropy / math.log(len(counts))
