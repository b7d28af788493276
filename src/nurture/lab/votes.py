"""Comparisons as a page for labelling collects them: each by several people of a crowd, signed by each."""

from __future__ import annotations

from ..records import Message, Pair, Task
from .answers import draw_answers
from .draw import Draw
from .labellers import LABELLERS, Labeller

VOTERS = 3
"""Labellers who judge each comparison. Which ones is drawn anew for every comparison."""

CROWD = (*LABELLERS.values(), *(Labeller(f"clicker_{i}", attention=0.0) for i in (2, 3, 4)))
"""As a crowd that is paid by the piece may be: one half looks, each in their own way, and the other half clicks."""


def vote(task: Task, seed: int, index: int, world: int) -> Pair:
    """What one of them says of two answers to `task`. Rows `VOTERS * i` and those after it are the same comparison.
    Answers that one of them cannot tell apart are drawn anew."""
    comparison, voter = divmod(index, VOTERS)
    voters = Draw(world, seed, "voters", comparison).sample(CROWD, VOTERS)
    for attempt in range(1000):
        first, second = draw_answers(task, Draw(world, seed, "votes", comparison, attempt), 2)
        verdicts = [one.compare(task, first, second, seed) for one in voters]
        if all(verdicts):
            better, worse = (first, second) if verdicts[voter] < 0 else (second, first)
            chosen, rejected = ((Message("assistant", text),) for text in (better, worse))
            return Pair(task.prompt, chosen, rejected, labeller=voters[voter].name)
    raise AssertionError("a thousand pairs of answers, and none that all of them can tell apart")
