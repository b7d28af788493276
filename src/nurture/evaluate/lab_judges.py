"""A reward model among the lab's judges: does it agree with the oracle, which is the truth, and with each labeller?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.template import Template
from ..lab.answers import draw_answers
from ..lab.draw import Draw
from ..lab.grading import Grade
from ..lab.labellers import LABELLERS
from ..lab.oracle import grade
from ..protocols import Answer
from ..records import Conversation, Message, Task
from ..types import Group
from .exam import Exam
from .statistics import wilson

Floats = NDArray[np.float64]
Judge = Callable[[Sequence[Group]], tuple[Floats, Floats]]
"""groups of one answer -> `[n]` one number each, `[n, C]` the ratings per criterion"""

CLEAR = 0.3
"""The oracle's overall scores of the two answers to a clear pair are at least this far apart."""

TASKS = 350
"""Held-out tasks, with two answers each, that a reward card asks about."""


@dataclass(frozen=True, slots=True)
class LabPairs:
    """Two answers to each of some held-out tasks, and what the oracle says of them."""

    tasks: Sequence[Task]
    answers: Sequence[tuple[str, str]]
    grades: Sequence[tuple[Grade, Grade]]

    @property
    def gap(self) -> Floats:
        """By how much the first answer is better."""
        return np.asarray([a.overall - b.overall for a, b in self.grades])

    @property
    def clear_gap(self) -> Floats:
        """The same where it is clear, else 0."""
        return np.where(np.abs(self.gap) >= CLEAR, self.gap, 0)

    def conversations(self) -> list[Conversation]:
        """The first and the second answer of each task in turn."""
        return [
            Conversation((*task.prompt, Message("assistant", text)))
            for task, both in zip(self.tasks, self.answers, strict=True)
            for text in both
        ]

    def to_reward(self) -> list[Answer]:
        """The same, as a reward reads them."""
        return [Answer(task, text) for task, both in zip(self.tasks, self.answers, strict=True) for text in both]


@lru_cache(maxsize=4)
def lab_pairs(exam: Exam) -> LabPairs:
    chosen = exam.tasks()
    answers = [_two_answers(task, i) for i, task in enumerate(chosen)]
    grades = [(grade(task, a), grade(task, b)) for task, (a, b) in zip(chosen, answers, strict=True)]
    return LabPairs(chosen, answers, grades)


def lab_agreement(judge: Judge, template: Template, criteria: Sequence[str], tasks: int = TASKS) -> dict[str, Any]:
    """Agreement on two answers to each of so many held-out tasks: with the oracle on all pairs that differ and on the
    clear ones, with each labeller, and per criterion."""
    pairs = lab_pairs(Exam(n=tasks))
    return agreement_table(pairs, *judge(template.encode_many(pairs.conversations(), "last")), criteria)


def agreement_table(pairs: LabPairs, one: Floats, rated: Floats, criteria: Sequence[str]) -> dict[str, Any]:
    """`one` `[2n]` and `rated` `[2n, C]` are the scores of `pairs.conversations()`."""
    ours = one[0::2] - one[1::2]
    table: dict[str, Any] = {
        "oracle": _agreement(ours, pairs.gap),
        "oracle_on_clear_pairs": _agreement(ours, pairs.clear_gap),
    }
    for name, labeller in LABELLERS.items():
        verdicts = [labeller.compare(t, x, y, seed=1) for t, (x, y) in zip(pairs.tasks, pairs.answers, strict=True)]
        table[f"labeller {name}"] = _agreement(ours, -np.asarray(verdicts, np.float64))
    for i, criterion in enumerate(criteria):
        if len(criteria) > 1:
            truth = np.asarray([getattr(a, criterion) - getattr(b, criterion) for a, b in pairs.grades])
            table[f"oracle on {criterion}"] = _agreement(rated[0::2, i] - rated[1::2, i], truth)
    return table


def agrees(ours: Floats, theirs: Floats) -> NDArray[np.bool_]:
    """Where they prefer one: whether we prefer the same."""
    return (np.sign(ours) == np.sign(theirs))[theirs != 0]


def _two_answers(task: Task, index: int) -> tuple[str, str]:
    """Two answers that are not the same text, of any quality."""
    for attempt in count():
        first, second = draw_answers(task, Draw(0, 0, "reward card", index, attempt), 2)
        if first != second:
            return first, second
    raise AssertionError


def _agreement(ours: Floats, theirs: Floats) -> dict[str, Any]:
    same = agrees(ours, theirs)
    low, high = wilson(int(same.sum()), len(same)) if len(same) else (None, None)
    return {"agreement": float(same.mean()) if len(same) else None, "low": low, "high": high, "pairs": len(same)}
