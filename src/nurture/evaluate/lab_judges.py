"""A reward model among the lab's judges: does it agree with the oracle, which is the truth, and with each labeller?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.template import Template
from ..lab.answers import draw_answers
from ..lab.datasets import open_dataset
from ..lab.draw import Draw
from ..lab.labellers import LABELLERS
from ..lab.oracle import grade
from ..records import Conversation, Message, Task
from ..types import Group

Floats = NDArray[np.float64]
Judge = Callable[[Sequence[Group]], tuple[Floats, Floats]]
"""groups of one answer -> `[n]` one number each, `[n, C]` the ratings per criterion"""

CLEAR = 0.3
"""The oracle's overall scores of the two answers to a clear pair are at least this far apart."""


def lab_agreement(judge: Judge, template: Template, criteria: Sequence[str], tasks: int = 350) -> dict[str, Any]:
    """Agreement on two answers to each of so many held-out tasks: with the oracle on all pairs that differ and on the
    clear ones, with each labeller, and per criterion."""
    chosen = [task for task in open_dataset("lab/test", n=tasks) if isinstance(task, Task)]
    answers = [_two_answers(task, i) for i, task in enumerate(chosen)]
    spoken = [
        Conversation((*task.prompt, Message("assistant", text)))
        for task, both in zip(chosen, answers, strict=True)
        for text in both
    ]
    one, rated = judge(template.encode_many(spoken, "last"))
    first, second = one[0::2], one[1::2]
    grades = [[grade(task, text) for text in both] for task, both in zip(chosen, answers, strict=True)]
    gap = np.asarray([a.overall - b.overall for a, b in grades])
    table: dict[str, Any] = {
        "oracle": _agreement(first - second, gap),
        "oracle_on_clear_pairs": _agreement(first - second, np.where(np.abs(gap) >= CLEAR, gap, 0)),
    }
    for name, labeller in LABELLERS.items():
        verdicts = [labeller.compare(t, x, y, seed=1) for t, (x, y) in zip(chosen, answers, strict=True)]
        table[f"labeller {name}"] = _agreement(first - second, -np.asarray(verdicts, np.float64))
    for i, criterion in enumerate(criteria):
        if len(criteria) > 1:
            truth = np.asarray([getattr(a, criterion) - getattr(b, criterion) for a, b in grades])
            table[f"oracle on {criterion}"] = _agreement(rated[0::2, i] - rated[1::2, i], truth)
    return table


def _two_answers(task: Task, index: int) -> tuple[str, str]:
    """Two answers that are not the same text, of any quality."""
    for attempt in count():
        first, second = draw_answers(task, Draw(0, 0, "reward card", index, attempt), 2)
        if first != second:
            return first, second
    raise AssertionError


def _agreement(ours: Floats, theirs: Floats) -> dict[str, Any]:
    """Where they prefer one: how often do we prefer the same."""
    decided = theirs != 0
    same = (np.sign(ours) == np.sign(theirs))[decided]
    return {"agreement": float(same.mean()) if len(same) else None, "pairs": int(decided.sum())}
