"""Exact duplicates and near-duplicates by ROUGE-L, all of them, without comparing everything with everything.

ROUGE-L's F-measure of two texts is 2·LCS / (|a| + |b|), LCS being the longest common subsequence of their words. A
subsequence common to both cannot be longer than the number of words they share, counted with repetition. So only pairs
that share enough words need the LCS, and how many words a text shares with all others comes from an inverted index at
once. Words so frequent that their lists would be long are counted as bits instead. Nothing is estimated: the pairs are
those of the plain loop over all pairs.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from .words import normal_form, words

ROUGE_L = 0.7
"""Self-Instruct's threshold. Wang et al. 2023, arXiv:2212.10560, §2.2."""

BIT_WORDS = 4
"""Machine words of 64 bits that say which of the most frequent words a text has."""


@dataclass(frozen=True)
class Pairs:
    """Places of similar texts, `left[k] < right[k]`, and how similar they are; ordered by `right`, then `left`."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    score: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.left)


def exact_duplicates(texts: Sequence[str]) -> dict[int, int]:
    """place -> the first place with the same text, but for case, white space and punctuation."""
    first: dict[str, int] = {}
    out: dict[int, int] = {}
    for i, text in enumerate(texts):
        before = first.setdefault(normal_form(text), i)
        if before != i:
            out[i] = before
    return out


def similar_pairs(texts: Sequence[str], threshold: float = ROUGE_L) -> Pairs:
    """Every pair of texts whose ROUGE-L F-measure is at least `threshold`. A text without words resembles nothing."""
    index = RougeIndex([words(text) for text in texts], threshold)
    found: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    for i in range(len(texts)):
        found.append(index.matches(i))
        index.add(i)
    counts = [len(places) for places, _ in found]
    return Pairs(
        np.concatenate([places for places, _ in found]) if found else np.zeros(0, np.int64),
        np.repeat(np.arange(len(texts)), counts),
        np.concatenate([scores for _, scores in found]) if found else np.zeros(0),
    )


def near_duplicates(texts: Sequence[str], threshold: float = ROUGE_L) -> dict[int, int]:
    """place -> an earlier kept place that it resembles most, for every text that resembles a kept one. A text is kept
    when it resembles none that is kept before it, as a growing pool of instructions takes new ones in."""
    index = RougeIndex([words(text) for text in texts], threshold)
    out: dict[int, int] = {}
    for i in range(len(texts)):
        places, scores = index.matches(i)
        if len(places):
            out[i] = int(places[np.argmax(scores)])
        else:
            index.add(i)
    return out


class RougeIndex:
    """Texts to look similar ones up in. All texts are known from the start; which of them are in the index is not."""

    def __init__(self, texts: Sequence[Sequence[str]], threshold: float = ROUGE_L):
        assert 0 < threshold <= 1
        # Exact arithmetic: F = 0.7 is a common value (LCS 7 of 10 and 10), which floating point gets wrong by a bit.
        self._share = Fraction(threshold).limit_denominator(10**6)
        self._lengths = np.array([len(text) for text in texts], np.int64)
        self._coded = _as_strings(texts)
        bags = [_counted(text) for text in texts]
        frequency = Counter(item for bag in bags for item in bag)
        frequent = [item for item, df in frequency.most_common(64 * BIT_WORDS) if df > 1]
        bit_of = {item: i for i, item in enumerate(frequent)}
        number = {item: i for i, item in enumerate(i for i, df in frequency.items() if df > 1 and i not in bit_of)}
        self._rare = [[number[item] for item in bag if item in number] for bag in bags]
        self._bits = np.zeros((BIT_WORDS, len(texts)), np.uint64)
        for i, bag in enumerate(bags):
            for item in bag:
                if (bit := bit_of.get(item)) is not None:
                    self._bits[bit >> 6, i] |= np.uint64(1 << (bit & 63))
        self._postings = [array("i") for _ in number]
        self._places = np.zeros(len(texts), np.int64)
        self._added_bits = np.zeros_like(self._bits)
        self._added_lengths = np.zeros(len(texts), np.int64)
        self._size = 0

    def add(self, i: int) -> None:
        """Put text number i into the index."""
        at = self._size
        for item in self._rare[i]:
            self._postings[item].append(at)
        self._places[at], self._added_bits[:, at], self._added_lengths[at] = i, self._bits[:, i], self._lengths[i]
        self._size += 1

    def matches(self, i: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The texts in the index that text number i resembles, and the F-measures."""
        candidates = self._candidates(i)
        if not len(candidates):
            return np.zeros(0, np.int64), np.zeros(0)
        from rapidfuzz.distance import LCSseq
        from rapidfuzz.process import cdist

        places = self._places[candidates]
        queries = [self._coded[p] for p in places.tolist()]
        lcs = cdist(queries, [self._coded[i]], scorer=LCSseq.similarity, dtype=np.int32)[:, 0].astype(np.int64)
        both = self._lengths[places] + self._lengths[i]
        alike = self._enough(lcs, both)
        return places[alike], 2 * lcs[alike] / both[alike]

    def _candidates(self, i: int) -> NDArray[np.intp]:
        """The texts in the index that share enough words with text i."""
        n = self._size
        if not n or not self._lengths[i]:
            return np.zeros(0, np.intp)
        shared = np.zeros(n, np.int64)
        lists = [np.frombuffer(posting, np.int32) for item in self._rare[i] if len(posting := self._postings[item])]
        if lists:
            shared += np.bincount(np.concatenate(lists), minlength=n)
        for added, own in zip(self._added_bits, self._bits[:, i], strict=True):
            if own:
                shared += np.bitwise_count(added[:n] & own)
        return np.flatnonzero(self._enough(shared, self._added_lengths[:n] + self._lengths[i]))

    def _enough(self, common: NDArray[np.int64], both: NDArray[np.int64]) -> NDArray[np.bool_]:
        """2·common / both >= threshold, in whole numbers."""
        return 2 * self._share.denominator * common >= self._share.numerator * both


def _counted(text: Sequence[str]) -> list[tuple[str, int]]:
    """The k-th occurrence of a word is an item of its own, so that sets of items intersect as bags of words do."""
    seen: dict[str, int] = defaultdict(int)
    items: list[tuple[str, int]] = []
    for word in text:
        items.append((word, seen[word]))
        seen[word] += 1
    return items


def _as_strings(texts: Sequence[Sequence[str]]) -> list[str]:
    """Texts in which each different word is one character: rapidfuzz compares strings much faster than lists.

    Words of one text alone are left out, since no common subsequence holds them. (Surrogates are no characters; there
    are 1.1 million others.)"""
    frequency = Counter(word for text in texts for word in set(text))
    shared = (word for word, df in frequency.most_common() if df > 1)
    code = {word: chr(i if i < 0xD800 else i + 0x800) for i, word in enumerate(shared)}
    return ["".join(code[word] for word in text if word in code) for text in texts]
