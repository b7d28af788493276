"""How much of an evaluation set the training data already holds: common n-grams of words.

Thirteen words, as in Brown et al. 2020, arXiv:2005.14165, appendix C. A shorter text is found only as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .words import words

NGRAM = 13
Gram = tuple[str, ...]


@dataclass(frozen=True)
class Overlap:
    """`evaluated` texts; for each of `touched` (training place -> evaluation places) the rows that share an n-gram."""

    evaluated: int
    coverage: tuple[float, ...]
    """For each evaluation text, the share of its n-grams that the training data holds."""
    touched: dict[int, tuple[int, ...]]

    @property
    def any(self) -> int:
        """Evaluation texts of which some n-gram occurs."""
        return sum(share > 0 for share in self.coverage)

    @property
    def whole(self) -> int:
        """Evaluation texts of which every n-gram occurs."""
        return sum(share == 1 for share in self.coverage)


def grams(text: Sequence[str], n: int = NGRAM) -> set[Gram]:
    """The different n-grams of words, or all words together where there are fewer."""
    return {tuple(text[i : i + n]) for i in range(max(len(text) - n + 1, 1))} if text else set()


def overlap(training: Sequence[str], evaluation: Sequence[str], n: int = NGRAM) -> Overlap:
    """Which training texts share an n-gram with which evaluation texts. A short evaluation text is looked for as one
    stretch of words within longer training texts."""
    wanted: dict[Gram, list[int]] = {}
    sizes: list[int] = []
    for place, text in enumerate(evaluation):
        own = grams(words(text), n)
        sizes.append(len(own))
        for gram in own:
            wanted.setdefault(gram, []).append(place)
    lengths = sorted({len(gram) for gram in wanted})
    found: set[Gram] = set()
    touched: dict[int, tuple[int, ...]] = {}
    for place, text in enumerate(training):
        said = words(text)
        hits = {
            gram
            for length in lengths
            for i in range(len(said) - length + 1)
            if (gram := tuple(said[i : i + length])) in wanted
        }
        if hits:
            found |= hits
            touched[place] = tuple(sorted({at for gram in hits for at in wanted[gram]}))
    held = [0] * len(evaluation)
    for gram in found:
        for place in wanted[gram]:
            held[place] += 1
    coverage = tuple(have / size if size else 0.0 for have, size in zip(held, sizes, strict=True))
    return Overlap(len(evaluation), coverage, touched)
