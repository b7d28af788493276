"""Imperfect answers, spoiled in known ways: what people compare, rate and rank.

`KINDS` says how: each kind keeps the gold answer or makes one mistake of its own, so that the truth about an answer is
known before anyone judges it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from ..records import Task
from .draw import Draw
from .families import FAMILIES
from .families.family import row
from .grading import COURTESIES

_RUDE = ("What a stupid question.", "Only a fool asks that.", "Nobody asked you.", "You are lazy.", "Don't be silly.")
_REFUSAL = "I'm sorry, I can't help with that."
_IGNORANCE = "I don't know."
_OTHERS = 256
"""Tasks of each family whose answers are given to other tasks."""


def correct(task: Task, draw: Draw) -> str:
    """The gold answer."""
    return task.answer


def wrong(task: Task, draw: Draw) -> str:
    """A near miss: another value, another order, a slip in a sum, help with the mischief."""
    return draw.pick(task.info["wrong"])


def misshapen(task: Task, draw: Draw) -> str:
    """The gold answer in a shape nobody asked for."""
    if task.family == "arithmetic":
        return str(task.info["result"])
    return f"<answer>{task.answer}</answer>"


def rude(task: Task, draw: Draw) -> str:
    """The gold answer after an insult."""
    return f"{draw.pick(_RUDE)} {task.answer}"


def refuses(task: Task, draw: Draw) -> str:
    """Declines; where declining is right, answers as if nothing were wrong."""
    return f"Sure! {task.info['wrong'][0]}" if task.family == "harmful" else _REFUSAL


def made_up(task: Task, draw: Draw) -> str:
    """A confident answer to another task of the same family."""
    for index in draw.sample(range(_OTHERS), 4):
        answer = _gold_answer(task.family, index)
        if FAMILIES[task.family].grade(task, answer).overall < 1.0:
            return answer
    return draw.pick(task.info["wrong"])


@lru_cache(maxsize=_OTHERS * len(FAMILIES))
def _gold_answer(family: str, index: int) -> str:
    made = FAMILIES[family]
    return row(made.make, made.NAME, made.LEVELS, 0, "train", index).answer


def too_long(task: Task, draw: Draw) -> str:
    """The gold answer buried in politeness."""
    before, after = draw.sample(COURTESIES, 2)
    return f"{before} {task.answer} {after}"


def truncated(task: Task, draw: Draw) -> str:
    """The gold answer without its second half."""
    return task.answer[: len(task.answer) // 2].rstrip() or "The"


def unsure(task: Task, draw: Draw) -> str:
    """Says that it does not know; where nobody knows, invents."""
    return draw.pick(task.info["wrong"]) if task.family == "unanswerable" else _IGNORANCE


Spoil = Callable[[Task, Draw], str]

KINDS: dict[str, tuple[Spoil, int]] = {
    "correct": (correct, 30),
    "wrong": (wrong, 20),
    "misshapen": (misshapen, 5),
    "rude": (rude, 10),
    "refuses": (refuses, 8),
    "made_up": (made_up, 8),
    "too_long": (too_long, 7),
    "truncated": (truncated, 5),
    "unsure": (unsure, 7),
}
"""Each kind of answer, and how many in a hundred are of it."""

_HUNDRED = tuple(spoil for spoil, share in KINDS.values() for _ in range(share))


def draw_answers(task: Task, draw: Draw, n: int) -> list[str]:
    """`n` answers that all read differently, of different kinds as far as these go."""
    answers: list[str] = []
    while len(answers) < n:
        text = draw.pick(_HUNDRED)(task, draw)
        if text not in answers:
            answers.append(text)
    return answers
