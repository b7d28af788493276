"""Best of n: several answers to each task, scored, and what is worth keeping of them.

    found = best_of(tasks, say, judge, n=16)
    rows = [row for one in found for row in kept(one, "all", above=0.8)]      # rejection sampling

Any reward will do. What is kept are records: answers to imitate (best-of-n distillation, rejection sampling, the
improve step of ReST), or comparisons to learn from (DPO on a model's own answers). `nurture data best-of` and the
`draw` of a stage both choose here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..protocols import Answer, Outcome, Scored
from ..recipe import Keep
from ..records import Conversation, Message, Pair, Ranking, Record, Task

Say = Callable[[Sequence[Task], int], Sequence[Sequence[str]]]
"""n answers to each task."""
Judge = Callable[[Sequence[Answer]], Sequence[Outcome]]
"""One outcome per answer, in their order."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The different answers to a task that could be scored, best first (of equals, the one drawn first), without what
    no data file may hold: an answer that is empty or has a NUL character in it. Spaces around an answer make no
    difference, as they make none between the sides of a pair."""

    task: Task
    texts: tuple[str, ...]
    scores: tuple[float, ...]
    drawn: int
    """How many answers there were, equal ones and such as are left out included."""

    @classmethod
    def of(cls, task: Task, scored: Sequence[tuple[str, float]], drawn: int) -> Candidates:
        """From answers with their scores, in the order they were drawn."""
        different: dict[str, tuple[str, float]] = {}
        for text, score in sorted(scored, key=lambda one: -one[1]):  # stable: of equals the one drawn first
            if text.strip() and "\0" not in text:
                different.setdefault(text.strip(), (text, score))
        texts, scores = zip(*different.values(), strict=True) if different else ((), ())
        return cls(task, texts, scores, drawn)


def best_of(tasks: Sequence[Task], say: Say, judge: Judge, n: int) -> list[Candidates]:
    """Candidates for each task, in their order."""
    if n < 1:
        raise InputError(f"n is {n}; at least one answer must be drawn.")
    drawn = say(tasks, n)
    answers = [Answer(task, text) for task, texts in zip(tasks, drawn, strict=True) for text in dict.fromkeys(texts)]
    outcomes = iter(zip(answers, judge(answers), strict=True))
    found: list[Candidates] = []
    for task, texts in zip(tasks, drawn, strict=True):
        told = [next(outcomes) for _ in dict.fromkeys(texts)]
        scored = [(answer.text, o.value) for answer, o in told if isinstance(o, Scored)]
        found.append(Candidates.of(task, scored, len(texts)))
    return found


def kept(found: Candidates, keep: Keep, above: float | None = None, most: int | None = None) -> Sequence[Record]:
    """What to learn from (`recipe.Draw` has what the words say): answers that score more than `above`, at most so many
    of one task, or pairs and rankings of which the best does."""
    least = -math.inf if above is None else math.nextafter(above, math.inf)
    match keep:
        case "best":
            return imitated(found, least, 1)
        case "all":
            return imitated(found, least, most)
        case "pairs":
            return pair(found, least)
        case "rankings":
            return ranking(found, least)


def imitated(found: Candidates, least: float = -math.inf, most: int | None = None) -> list[Conversation]:
    """Rejection sampling: the answers scored `least` or higher, at most so many of them."""
    good = [text for text, score in zip(found.texts, found.scores, strict=True) if score >= least][:most]
    return [Conversation((*found.task.prompt, *_answer(text)), origin=found.task.origin) for text in good]


def pair(found: Candidates, least: float = -math.inf) -> list[Pair]:
    """The best, where it is scored `least` or higher, against the worst, where that is worse; the margin is the
    difference of their scores."""
    if not found.scores or found.scores[0] == found.scores[-1] or found.scores[0] < least:
        return []
    margin = found.scores[0] - found.scores[-1]
    return [Pair(found.task.prompt, _answer(found.texts[0]), _answer(found.texts[-1]), margin, found.task.origin)]


def ranking(found: Candidates, least: float = -math.inf) -> list[Ranking]:
    """All candidates in order, equal scores tied, where one is better than another and the best is scored `least` or
    higher."""
    if len(set(found.scores)) < 2 or found.scores[0] < least:
        return []
    ranks = tuple(1 + sum(other > score for other in found.scores) for score in found.scores)
    texts = tuple(_answer(text) for text in found.texts)
    return [Ranking(found.task.prompt, texts, ranks, found.task.origin, found.scores)]


def _answer(text: str) -> tuple[Message, ...]:
    return (Message("assistant", text),)
