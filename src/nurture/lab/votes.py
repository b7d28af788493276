"""Comparisons: two answers to a task, told apart by one labeller, or by several people of a crowd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..records import Message, Pair, Task
from .answers import draw_answers
from .draw import Draw
from .labellers import LABELLERS, Labeller

VOTERS = 3
"""Labellers who judge each comparison. Which ones is drawn anew for every comparison."""

CROWD = (*LABELLERS.values(), *(Labeller(f"clicker_{i}", attention=0.0) for i in (2, 3, 4)))
"""As a crowd that is paid by the piece may be: one half looks, each in their own way, and the other half clicks."""


def compare(task: Task, judges: Sequence[Labeller], seed: int, index: int, world: int, purpose: str) -> list[Pair]:
    """What each of the judges says of the same two answers to `task`. Answers that one of them cannot tell apart are
    drawn anew, as a labelling page skips them."""
    for attempt in range(1000):
        first, second = draw_answers(task, Draw(world, seed, purpose, index, attempt), 2)
        verdicts = [judge.compare(task, first, second, seed) for judge in judges]
        if all(verdicts):
            x, y = (Message("assistant", first),), (Message("assistant", second),)
            return [Pair(task.prompt, *((x, y) if verdict < 0 else (y, x))) for verdict in verdicts]
    raise AssertionError("a thousand pairs of answers, and none that all of them can tell apart")


def votes(task: Task, seed: int, index: int, world: int) -> list[Pair]:
    """What `VOTERS` of the crowd say of two answers to `task`, signed by each."""
    voters = Draw(world, seed, "voters", index).sample(CROWD, VOTERS)
    pairs = compare(task, voters, seed, index, world, "votes")
    return [replace(pair, labeller=voter.name) for pair, voter in zip(pairs, voters, strict=True)]
