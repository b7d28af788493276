"""Choosing rows to train on: steps in a given order, each of which says what it removed and why.

No step looks at anything but the records before it, so the same rows and steps choose the same rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..records import Record
from .labellers import KAPPA, screen
from .quality.diversity import TfIdf
from .quality.duplicates import ROUGE_L, exact_duplicates, near_duplicates
from .quality.language import language_of
from .quality.minhash import JACCARD, minhash_pairs
from .quality.overlap import NGRAM, overlap
from .quality.rates import faults, refuses
from .quality.units import Unit, Words
from .quality.view import answers_of, instruction_of, text_of, turns_of
from .quality.words import words

Removed = dict[int, tuple[str, str]]
"""place -> (the reason, in words that rows share; the particulars of this row, or nothing)."""

Scorer = Callable[[Sequence[Record]], Sequence[float]]
"""Records to how good each is, higher being better: a reward model, say."""

SHOWN = 3
WORDS = Words()


class SelectStep(Protocol):
    @property
    def name(self) -> str: ...

    def removes(self, records: Sequence[Record]) -> Removed: ...


@dataclass(frozen=True)
class Example:
    origin: str
    reason: str
    text: str


@dataclass(frozen=True)
class Done:
    """What one step did: `before = kept + the sum of reasons`."""

    step: str
    before: int
    kept: int
    reasons: Mapping[str, int]
    examples: tuple[Example, ...]

    def __post_init__(self):
        assert self.before == self.kept + sum(self.reasons.values()), "every row is kept or removed"


@dataclass(frozen=True)
class Selection:
    kept: tuple[int, ...]
    """Places of the records that are left, ascending."""
    steps: tuple[Done, ...]


def select(records: Sequence[Record], steps: Sequence[SelectStep]) -> Selection:
    """Apply the steps one after the other."""
    places = list(range(len(records)))
    done: list[Done] = []
    for step in steps:
        here = [records[place] for place in places]
        removed = step.removes(here)
        reasons = Counter(reason for reason, _ in removed.values())
        examples: list[Example] = []
        for reason in reasons:
            shown = [i for i in sorted(removed) if removed[i][0] == reason][:SHOWN]
            examples += [Example(here[i].origin, "; ".join(filter(None, removed[i])), text_of(here[i])) for i in shown]
        places = [place for i, place in enumerate(places) if i not in removed]
        done.append(Done(step.name, len(here), len(places), dict(reasons.most_common()), tuple(examples)))
    return Selection(tuple(places), tuple(done))


# ---- duplicates and overlap ----


@dataclass(frozen=True)
class Exact:
    """Keeps the first of dialogues with the same words."""

    name = "exact"

    def removes(self, records: Sequence[Record]) -> Removed:
        found = exact_duplicates([text_of(r) for r in records])
        return {late: ("the same words as an earlier row", records[first].origin) for late, first in found.items()}


@dataclass(frozen=True)
class Near:
    """Takes an instruction only if its ROUGE-L with every one taken before is below the threshold."""

    threshold: float = ROUGE_L
    name = "near"

    def removes(self, records: Sequence[Record]) -> Removed:
        found = near_duplicates([instruction_of(r) for r in records], self.threshold)
        reason = f"the instruction's ROUGE-L with an earlier one is at least {self.threshold:g}"
        return {late: (reason, records[first].origin) for late, first in found.items()}


@dataclass(frozen=True)
class MinHash:
    """Keeps the first of dialogues whose word 5-grams are alike."""

    threshold: float = JACCARD
    name = "minhash"

    def removes(self, records: Sequence[Record]) -> Removed:
        pairs = minhash_pairs([text_of(r) for r in records], self.threshold)
        reason = f"the Jaccard similarity of its word 5-grams with an earlier row's is at least {self.threshold:g}"
        removed: Removed = {}
        for first, late in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True):
            if first not in removed:
                removed.setdefault(late, (reason, records[first].origin))
        return removed


@dataclass(frozen=True)
class Decontaminate:
    """Removes rows that share an n-gram of words with an evaluation set."""

    evaluation: Sequence[Record]
    n: int = NGRAM
    name = "decontaminate"

    def removes(self, records: Sequence[Record]) -> Removed:
        found = overlap([text_of(r) for r in records], [text_of(r) for r in self.evaluation], self.n)
        reason = f"shares {self.n} words in a row, or a whole shorter text, with an evaluation row"
        return {i: (reason, self.evaluation[at[0]].origin) for i, at in found.touched.items()}


# ---- filters ----


@dataclass(frozen=True)
class Length:
    """Keeps dialogues of `shortest` to `longest` units."""

    shortest: int = 0
    longest: int | None = None
    unit: Unit = WORDS
    name = "length"

    def removes(self, records: Sequence[Record]) -> Removed:
        dialogues = [turns_of(record) for record in records]
        lengths = iter(self.unit.lengths([text for turns in dialogues for _, text in turns]))
        removed: Removed = {}
        for i, turns in enumerate(dialogues):
            length = sum(next(lengths) for _ in turns)
            if length < self.shortest:
                removed[i] = (f"shorter than {self.shortest} {self.unit.name}", f"{length}")
            elif self.longest is not None and length > self.longest:
                removed[i] = (f"longer than {self.longest} {self.unit.name}", f"{length}")
        return removed


@dataclass(frozen=True)
class Language:
    """Keeps dialogues in these languages (`und`: those that cannot be told)."""

    codes: tuple[str, ...]
    name = "language"

    def removes(self, records: Sequence[Record]) -> Removed:
        found = [language_of(text_of(record)) for record in records]
        return {i: (f"in {code}", "") for i, code in enumerate(found) if code not in self.codes}


@dataclass(frozen=True)
class Screen:
    """Removes what labellers said whose agreement with the majority of the others (Cohen's kappa) is below `least`."""

    least: float = KAPPA
    name = "screen"

    def removes(self, records: Sequence[Record]) -> Removed:
        out = {one.labeller: f"kappa {one.kappa:.2f}" for one in screen(records, self.least)[1]}
        who = [getattr(record, "labeller", "") for record in records]
        return {i: (f"labelled by {name}", out[name]) for i, name in enumerate(who) if name in out}


OTHER_ANSWERS = (
    "as mentioned", "other answer", "previous answer", "answer above", "answers above", "see above", "stack exchange",
    "stackoverflow", "stack overflow", "edit:", "update:", "thanks for the", "upvote", "this thread", "this forum",
)  # fmt: skip
"""Words of an answer that belongs to a page with other answers, which LIMA left out too. Zhou et al. 2023,
arXiv:2305.11206, §2.1."""


@dataclass(frozen=True)
class Rules:
    """Keeps dialogues with which nothing is amiss: no fault of form, no refusal, no reference to other answers, no
    answer that only repeats the question or gives one answer twice."""

    name = "rules"

    def removes(self, records: Sequence[Record]) -> Removed:
        return {i: (broken, "") for i, record in enumerate(records) if (broken := broken_rule(record))}


def broken_rule(record: Record) -> str:
    """The first rule that a dialogue breaks, or nothing."""
    turns = turns_of(record)
    if found := faults(turns):
        return f"form: {found[0]}"
    answers = answers_of(record)
    if any(refuses(answer) for answer in answers):
        return "an answer refuses"
    if any(phrase in answer.lower() for answer in answers for phrase in OTHER_ANSWERS):
        return "an answer refers to other answers"
    for (role, asked), (_, said) in pairwise(turns):
        if role == "user" and words(asked) == words(said):
            return "an answer repeats its question"
    if len(answers) > 1 and len({tuple(words(answer)) for answer in answers}) < len(answers):
        return "the same answer twice"
    return ""


# ---- few but good ----


@dataclass(frozen=True)
class Longest:
    """Keeps the `n` rows with most words in their answers: a baseline that is hard to beat when few rows are to be
    chosen. Zhao et al. 2024, arXiv:2402.04833."""

    n: int
    name = "longest"

    def removes(self, records: Sequence[Record]) -> Removed:
        lengths = [float(sum(len(words(a)) for a in answers_of(r))) for r in records]
        return _all_but_best(lengths, self.n, f"not among the {self.n} with the longest answers")


@dataclass(frozen=True)
class Best:
    """Keeps the `n` rows that a scorer likes best; of equals, the earlier ones. (A reward model as a scorer:
    `evaluate.scoring.scorer(folder)`.)"""

    n: int
    scorer: Scorer
    name = "best"

    def removes(self, records: Sequence[Record]) -> Removed:
        scores = list(self.scorer(records))
        if len(scores) != len(records) or not np.isfinite(scores).all():
            raise InputError(f"best: the scorer must give one finite number for each of the {len(records)} rows.")
        return _all_but_best(scores, self.n, f"not among the {self.n} best")


def _all_but_best(scores: Sequence[float], n: int, reason: str) -> Removed:
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return {i: (reason, f"{scores[i]:g}") for i in order[n:]}


@dataclass(frozen=True)
class Diverse:
    """Keeps `n` rows that lie far apart: greedy k-centre over the TF-IDF of the dialogues."""

    n: int
    name = "diverse"

    def removes(self, records: Sequence[Record]) -> Removed:
        kept = set(k_centre([words(text_of(r)) for r in records], self.n))
        reason = f"near one of the {self.n} centres"
        return {i: (reason, "") for i in range(len(records)) if i not in kept}


def k_centre(texts: Sequence[Sequence[str]], k: int) -> list[int]:
    """Places of `k` texts such that every text is near one of them, in the order in which they are chosen.

    Farthest-first traversal, from the text nearest to the mean: each next centre is the text farthest from all before
    it. Its largest distance to a centre is at most twice the least possible. Gonzalez 1985,
    doi:10.1016/0304-3975(85)90224-5. Distances are those of TF-IDF unit vectors, √(2 - 2 cos).
    """
    if k >= len(texts):
        return list(range(len(texts)))
    vectors = TfIdf(texts)
    rows = np.repeat(np.arange(len(vectors)), [len(columns) for columns in vectors.columns])
    columns, values = np.concatenate(vectors.columns), np.concatenate(vectors.values)
    order = np.argsort(columns, kind="stable")
    rows, values = rows[order], values[order]  # by word: which texts have it
    starts = np.searchsorted(columns[order], np.arange(len(vectors.vocabulary) + 1))

    def cosines(centre: int) -> NDArray[np.float64]:
        out = np.zeros(len(texts))
        for word, value in zip(vectors.columns[centre].tolist(), vectors.values[centre].tolist(), strict=True):
            some = slice(starts[word], starts[word + 1])
            out[rows[some]] += value * values[some]
        return out

    mean = vectors.sum()
    typical = [float(mean[c] @ v) for c, v in zip(vectors.columns, vectors.values, strict=True)]
    chosen = [int(np.argmax(typical))] if k else []
    nearest = np.full(len(texts), -np.inf)  # the cosine with the nearest centre
    while len(chosen) < k:
        nearest = np.maximum(nearest, cosines(chosen[-1]))
        nearest[chosen] = np.inf
        chosen.append(int(np.argmin(nearest)))
    return chosen
