"""The measures as rows of text, beside a published set to compare with; the terminal and the page show the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .stats import Lengths, Near, Stats

SHARES = 5
"""Kinds that a row lists."""


@dataclass(frozen=True)
class Published:
    """Figures that others published of a data set."""

    name: str
    source: str
    note: str
    figures: Mapping[str, str]
    """Row -> figure."""


ULTRACHAT = Published(
    "UltraChat",
    "Ding et al. 2023, arXiv:2305.14233, table 5",
    "its lengths are in tokens, its MTLD is the mean over utterances, its topics are compared by a sentence embedding "
    "model and its coherence is judged by a language model from 1 to 10, so compare like with like",
    {
        "dialogues": "1,468,352",
        "turns per dialogue": "3.8",
        "length of a dialogue": "1467.4",
        "length of an utterance": "309.3",
        "lexical diversity (MTLD)": "74.3",
        "topic similarity": "0.702",
        "coherence": "9.06",
    },
)

ROWS: tuple[tuple[str, str, Callable[[Stats], str]], ...] = (
    ("dialogues", "", lambda s: f"{s.dialogues:,}"),
    ("turns per dialogue", "a user's turn with the answer to it is one", lambda s: f"{s.turns:.2f}"),
    ("length of a dialogue", "mean (median, 95%, longest), without the template", lambda s: _lengths(s.per_dialogue)),
    ("length of an utterance", "mean (median, 95%, longest)", lambda s: _lengths(s.per_utterance)),
    ("in all", "", lambda s: f"{s.total:,} {s.unit}"),
    ("share trained", "what carries loss when the answers are learnt", lambda s: f"{s.trained_share:.1%}"),
    (
        "lexical diversity (MTLD)",
        "mean over the utterances in which words repeat, at 0.72, both directions",
        lambda s: _maybe(s.mtld, f"{{:.1f}} ({s.mtld_measured:,} of {s.utterances:,})", "no word is repeated"),
    ),
    ("MTLD of all answers", "one behind the other", lambda s: _maybe(s.mtld_running, "{:.1f}", "too few words")),
    (
        "topic similarity",
        "mean cosine between dialogues: lower is more diverse",
        lambda s: _maybe(s.topic, f"{{:.3f}} ({s.topic_by}, {s.topic_of:,})", "fewer than two dialogues"),
    ),
    (
        "coherence",
        "1 to 10, by a language model as judge",
        lambda s: _maybe(s.coherence, f"{{:.2f}} ({s.coherence_of:,})", "not measured: no --judge"),
    ),
    (
        "tasks",
        "by name where known, else the words that instructions open with",
        lambda s: f"{_number(s.tasks, s.task_kind)}: {shares(s.tasks)}",
    ),
    ("task balance", "entropy over its greatest value", lambda s: _maybe(s.task_evenness, "{:.2f}", "one kind")),
    ("form of answers", "", lambda s: shares(s.forms) or "no answers"),
    ("well formed", "dialogues without a fault of form", lambda s: f"{s.well_formed:.1%}"),
    ("faults of form", "", lambda s: shares(s.faults, s.dialogues) or "none"),
    ("languages", "by script and function words; und: cannot be told", lambda s: shares(s.languages)),
    ("exact duplicates", "the same words", lambda s: _near(s.exact)),
    ("alike, ROUGE-L >= 0.7", "instructions that resemble an earlier kept one", lambda s: _near(s.rouge)),
    ("alike, MinHash >= 0.8", "whole dialogues, Jaccard of word 5-grams", lambda s: _near(s.minhash)),
    ("overlap with evaluation", "13 words in common; a shorter text as a whole", lambda s: _against(s)),
    ("refusals", "answers, by wording, English", lambda s: percent(s.refusals)),
    ("rude words", "turns, by a word list, English", lambda s: _by_role(s.toxic)),
)
"""(name, what it means, its text)"""


def shares(counts: Mapping[str, int], of: int | None = None) -> str:
    """`sentence 92%, list 8%`, the commonest first."""
    whole = of or sum(counts.values())
    parts = [f"{kind or '(none)'} {percent(count / whole)}" for kind, count in list(counts.items())[:SHARES]]
    return ", ".join(parts) + (", …" if len(counts) > SHARES else "")


def percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.0995 or not share else f"{share:.1%}" if share >= 0.0005 else "<0.1%"


def published_cell(published: Published, row: str) -> str:
    return published.figures.get(row, "")


def summary_lines(stats: Sequence[Stats]) -> list[str]:
    """What the table does not say of itself."""
    unit = stats[0].unit
    note = "; give --model to count its tokens" if unit == "words" else ""
    lines = [f"Lengths are in {unit}{note}."]
    sampled = [s for s in stats if s.rouge.among < s.dialogues]
    lines += [f"{s.source}: ROUGE-L over {s.rouge.among:,} of {s.dialogues:,} instructions, drawn." for s in sampled]
    lines.append(f"{ULTRACHAT.name}: {ULTRACHAT.source}; {ULTRACHAT.note}.")
    return lines


def _lengths(lengths: Lengths) -> str:
    return f"{lengths.mean:.1f} ({lengths.median:.0f}, {lengths.p95:.0f}, {lengths.longest:,})"


def _maybe(value: float | None, form: str, without: str) -> str:
    return without if value is None else form.format(value)


def _number(tasks: Mapping[str, int], kind: str) -> str:
    number = sum(name != "" for name in tasks)
    return f"{number:,} {kind}" if number != 1 else "1 " + kind.removesuffix("s")


def _near(near: Near) -> str:
    return f"{near.removed:,} ({percent(near.share)})"


def _against(stats: Stats) -> str:
    found = stats.against
    if found is None:
        return "not measured: no --against"
    return f"{found.any:,} of {found.evaluated:,} ({found.whole:,} as a whole), in {found.rows:,} rows"


def _by_role(rates: Mapping[str, float]) -> str:
    return ", ".join(f"{role} {percent(rate)}" for role, rate in rates.items()) or "no turns"
