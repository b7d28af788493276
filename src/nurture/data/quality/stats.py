"""Everything that `nurture data stats` measures, per source and in total."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ...records import Record, Task
from .diversity import SAMPLE, Embed, evenness, mean_cosine, mean_cosine_of, mtld, sampled
from .duplicates import exact_duplicates, near_duplicates
from .language import language_of
from .minhash import minhash_pairs
from .overlap import overlap
from .rates import faults, form_of, refuses, toxic_words
from .units import Unit, Words
from .view import Turn, answers_of, instruction_of, text_of, turns_of
from .words import words

Judge = Callable[[Sequence[Record]], Sequence[float]]
"""Records to how coherent each is, from 1 to 10; NaN where the judge did not say."""

JUDGED_MOST = 200
"""Dialogues that a judge is asked about; of more, so many are drawn."""

NEAR_MOST = 20_000
"""Instructions among which near-duplicates by ROUGE-L are looked for; of more, so many are drawn (and it is said)."""

RUNNING_MOST = 200_000
"""Words of which the running MTLD is taken."""

SHOWN = 5
"""Examples of each finding."""

UTTERANCES = ("user", "assistant", "text")


@dataclass(frozen=True)
class Lengths:
    """Lengths of something, in the report's unit."""

    mean: float
    median: float
    p95: float
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Lengths:
        values = np.array(lengths if lengths else [0])
        median, p95 = np.percentile(values, [50, 95])
        return cls(float(values.mean()), float(median), float(p95), int(values.max()))


@dataclass(frozen=True)
class Near:
    """Near-duplicates: of `among` looked at, `removed` resemble an earlier one; a few of them with where they are."""

    among: int
    removed: int
    examples: tuple[tuple[str, str, str, str], ...]
    """(where, text, where of the earlier one, its text)"""

    @property
    def share(self) -> float:
        return self.removed / self.among if self.among else 0.0


@dataclass(frozen=True)
class Against:
    """What the evaluation set shares with this data."""

    evaluated: int
    any: int
    whole: int
    rows: int
    """Training rows that share an n-gram."""
    examples: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True)
class Stats:
    """One source, or all together. `None` is what was not measured."""

    source: str
    unit: str
    dialogues: int
    turns: float
    """Rounds per dialogue: a user's turn with the answer to it is one."""
    per_dialogue: Lengths
    per_utterance: Lengths
    histogram: tuple[tuple[int, int, int], ...]
    """(from, up to and without, dialogues): lengths of dialogues."""
    total: int
    """Units in all turns."""
    trained_share: float
    mtld: float | None
    """Mean over the utterances that have a value."""
    mtld_measured: int
    utterances: int
    mtld_running: float | None
    """Of all answers, one behind the other."""
    topic: float | None
    """Mean cosine between dialogues: low where the topics are far apart."""
    topic_of: int
    topic_by: str
    coherence: float | None
    coherence_of: int
    """Dialogues the judge gave a mark."""
    task_kind: str
    tasks: Mapping[str, int]
    task_evenness: float | None
    forms: Mapping[str, int]
    """Answers by their looks."""
    faults: Mapping[str, int]
    """Dialogues by what is amiss in their form."""
    well_formed: float
    languages: Mapping[str, int]
    exact: Near
    rouge: Near
    minhash: Near
    against: Against | None
    refusals: float
    """Share of the assistant's turns."""
    toxic: Mapping[str, float]
    """Role -> share of its turns that hold a rude word."""
    toxic_words: Mapping[str, int]
    fault_examples: Mapping[str, str] = field(default_factory=dict[str, str])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Seen:
    """One record, read once."""

    turns: tuple[Turn, ...]
    task: str
    """Empty where nothing names it."""
    lengths: tuple[int, ...]
    own: int
    everything: int
    mtlds: tuple[float | None, ...]
    language: str
    faults: tuple[str, ...]
    refused: int
    rude: tuple[tuple[str, tuple[str, ...]], ...]


def measure(
    sources: Mapping[str, Sequence[Record]],
    *,
    unit: Unit | None = None,
    against: Sequence[Record] = (),
    embed: Embed | None = None,
    embed_name: str = "",
    judge: Judge | None = None,
    tasks: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> list[Stats]:
    """The measures of each source, then those of all together where there are several. `tasks` are those of a source's
    records, where something else than the records names them."""
    unit, tasks = unit or Words(), tasks or {}
    seen = {name: _look(records, unit, tasks.get(name)) for name, records in sources.items()}
    parts = dict(sources)
    if len(sources) > 1:
        parts["total"] = [record for records in sources.values() for record in records]
        seen["total"] = [one for some in seen.values() for one in some]

    def stats(name: str) -> Stats:
        return _summary(name, parts[name], seen[name], unit, against, embed, embed_name, judge, seed)

    return [stats(name) for name in parts]


def _look(records: Sequence[Record], unit: Unit, tasks: Sequence[str] | None) -> list[_Seen]:
    dialogues = [turns_of(record) for record in records]
    tasks = tasks or [record.family if isinstance(record, Task) else "" for record in records]
    lengths = iter(unit.lengths([text for turns in dialogues for _, text in turns]))
    out: list[_Seen] = []
    for turns, task in zip(dialogues, tasks, strict=True):
        own = tuple(next(lengths) for _ in turns)
        said = [words(text) for role, text in turns if role in UTTERANCES]
        rude = ((role, tuple(toxic_words(text))) for role, text in turns)
        out.append(
            _Seen(
                turns=turns,
                task=task,
                lengths=own,
                own=sum(n for n, (role, _) in zip(own, turns, strict=True) if role in ("assistant", "text")),
                everything=sum(own),
                mtlds=tuple(mtld(some) for some in said),
                language=language_of("\n".join(text for role, text in turns if role in UTTERANCES)),
                faults=tuple(faults(turns)),
                refused=sum(role == "assistant" and refuses(text) for role, text in turns),
                rude=tuple((role, found) for role, found in rude if found),
            )
        )
    return out


def _summary(
    name: str,
    records: Sequence[Record],
    seen: Sequence[_Seen],
    unit: Unit,
    against: Sequence[Record],
    embed: Embed | None,
    embed_name: str,
    judge: Judge | None,
    seed: int,
) -> Stats:
    dialogues = [one.everything for one in seen]
    utterances = [n for one in seen for n, (role, _) in zip(one.lengths, one.turns, strict=True) if role in UTTERANCES]
    mtlds = [value for one in seen for value in one.mtlds]
    measured = [value for value in mtlds if value is not None]
    own, everything = unit.trained(records)
    kind, tasks = _tasks(records, [one.task for one in seen])
    chosen = sampled(len(records), SAMPLE, seed)
    texts = [text_of(records[i]) for i in chosen]
    marks = [mark for mark in _marks(records, judge, seed) if math.isfinite(mark)]
    said_by = Counter(role for one in seen for role, _ in one.turns)
    rude = Counter(role for one in seen for role, _ in one.rude)
    found_faults = Counter(fault for one in seen for fault in one.faults)
    return Stats(
        source=name,
        unit=unit.name,
        dialogues=len(records),
        turns=float(np.mean([_rounds(one.turns) for one in seen])) if seen else 0.0,
        per_dialogue=Lengths.of(dialogues),
        per_utterance=Lengths.of(utterances),
        histogram=_histogram(dialogues),
        total=sum(dialogues),
        trained_share=own / everything if everything else 0.0,
        mtld=float(np.mean(measured)) if measured else None,
        mtld_measured=len(measured),
        utterances=len(mtlds),
        mtld_running=mtld(_running(records)),
        topic=mean_cosine_of(embed(texts)) if embed else mean_cosine([words(text) for text in texts]),
        topic_of=len(chosen),
        topic_by=embed_name if embed else "TF-IDF",
        coherence=float(np.mean(marks)) if marks else None,
        coherence_of=len(marks),
        task_kind=kind,
        tasks=dict(tasks.most_common()),
        task_evenness=evenness(tasks),
        forms=dict(Counter(form_of(a) for record in records for a in answers_of(record)).most_common()),
        faults=dict(found_faults.most_common()),
        well_formed=sum(not one.faults for one in seen) / len(seen) if seen else 0.0,
        languages=dict(Counter(one.language for one in seen).most_common()),
        exact=_near(records, exact_duplicates([text_of(r) for r in records]), text_of, range(len(records))),
        rouge=_rouge(records, seed),
        minhash=_minhash(records),
        against=_against(records, against) if against else None,
        refusals=sum(one.refused for one in seen) / said_by["assistant"] if said_by["assistant"] else 0.0,
        toxic={role: rude[role] / n for role, n in said_by.items()},
        toxic_words=dict(Counter(w for one in seen for _, ws in one.rude for w in ws).most_common()),
        fault_examples={
            fault: next(r.origin for r, one in zip(records, seen, strict=True) if fault in one.faults)
            for fault in found_faults
        },
    )


def _rounds(turns: Sequence[Turn]) -> int:
    """A user's turn begins a round; what has no user's turn is one."""
    return sum(role == "user" for role, _ in turns) or 1


def _running(records: Sequence[Record]) -> list[str]:
    out: list[str] = []
    for record in records:
        for answer in answers_of(record):
            out += words(answer)
        if len(out) >= RUNNING_MOST:
            break
    return out[:RUNNING_MOST]


def _histogram(lengths: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """Dialogues in bins with the borders 1, 2, 3, 4, 6, 8, 12, 16 … (powers of two and what is halfway between)."""
    if not lengths:
        return ()
    borders = [0, 1, 2, 3]
    while borders[-1] <= max(lengths):
        borders.append(2 * borders[-2])
    counts, _ = np.histogram(lengths, borders)
    first, *_, last = np.flatnonzero(counts).tolist() * 2
    return tuple(
        (low, high, count)
        for low, high, count in zip(
            borders[first : last + 1], borders[first + 1 : last + 2], counts[first : last + 1].tolist(), strict=True
        )
    )


def _tasks(records: Sequence[Record], named: Sequence[str]) -> tuple[str, Counter[str]]:
    """Tasks where any is named (the others then have the empty one), else the words that instructions open with."""
    if any(named):
        return "tasks", Counter(named)
    openings = (words(instruction_of(record)) for record in records)
    return "opening words", Counter(said[0] if said else "" for said in openings)


def _marks(records: Sequence[Record], judge: Judge | None, seed: int) -> Sequence[float]:
    return judge([records[i] for i in sampled(len(records), JUDGED_MOST, seed)]) if judge and records else ()


def _near(
    records: Sequence[Record], found: Mapping[int, int], text: Callable[[Record], str], chosen: Sequence[int]
) -> Near:
    """`found` in terms of places in `chosen`."""
    shown = [(records[chosen[later]], records[chosen[first]]) for later, first in list(found.items())[:SHOWN]]
    examples = tuple((late.origin, text(late), first.origin, text(first)) for late, first in shown)
    return Near(len(chosen), len(found), examples)


def _rouge(records: Sequence[Record], seed: int) -> Near:
    chosen = sampled(len(records), NEAR_MOST, seed)
    found = near_duplicates([instruction_of(records[i]) for i in chosen])
    return _near(records, found, instruction_of, chosen)


def _minhash(records: Sequence[Record]) -> Near:
    pairs = minhash_pairs([text_of(record) for record in records])
    found: dict[int, int] = {}
    for first, later in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True):
        found.setdefault(later, first)
    return _near(records, found, text_of, range(len(records)))


def _against(records: Sequence[Record], evaluation: Sequence[Record]) -> Against:
    found = overlap([text_of(r) for r in records], [text_of(r) for r in evaluation])
    shown = [(records[i], evaluation[at[0]]) for i, at in list(found.touched.items())[:SHOWN]]
    examples = tuple((own.origin, text_of(own), other.origin, text_of(other)) for own, other in shown)
    return Against(found.evaluated, found.any, found.whole, len(found.touched), examples)
