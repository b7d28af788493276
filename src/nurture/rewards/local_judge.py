"""A language model of ours as a judge: no text is drawn, only the probability of its verdict is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr

from ..errors import InputError
from ..protocols import Answer, Outcome, Scored, Unscorable
from .judge import said, written
from .reward import Reward, no_gold

Asker = Callable[[Sequence[str], Sequence[str]], Sequence[Sequence[float] | None]]
"""A judge as its users see it: questions and the words it may answer with; for each question the log-probability of
each word, or None where the question is longer than what the judge reads."""

ASK = """{question}

===== conversation =====
{conversation}
===== answer =====
{answer}
===== end =====

Say yes or no."""

COMPARE = """Which of the two answers below is better? {question}

===== conversation =====
{conversation}
===== answer A =====
{answer}
===== answer B =====
{other}
===== end =====

Say A or B."""


class LocalJudge(Reward):
    """How surely a language model approves of an answer, between 0 and 1. Bai et al. 2022, arXiv:2212.08073, §4.1.

        yes-no     p(yes) / ( p(yes) + p(no) )
        compare    p(A) / ( p(A) + p(B) ) against the task's own answer, asked in both orders and averaged

    Judges prefer a place: the first answer, or the second. Asked in both orders, what they prefer of the place cancels
    (Zheng et al. 2023, arXiv:2306.05685).
    """

    name: Literal["local-judge"] = "local-judge"  # pyright: ignore[reportIncompatibleVariableOverride]
    model: Annotated[str, Field(min_length=1)]
    """An earlier stage, a folder or a hub name."""
    how: Literal["yes-no", "compare"] = "yes-no"
    """What the judge is asked for."""
    question: str = "Is the answer below correct, and does it do what was asked?"
    """The question. What is to be looked at, for `compare`."""
    _asker: Asker | None = PrivateAttr(None)

    def score(self, answers: Sequence[Answer]) -> Iterable[Outcome]:
        if self._asker is None:
            raise InputError(f"the judge {self.model!r} was not loaded; bind() gives it to its reward.")
        asked = [list(self._questions(answer)) for answer in answers]
        words = ("yes", "no") if self.how == "yes-no" else ("A", "B")
        replies = iter(self._asker([question for some in asked for question in some], words))
        for answer, some in zip(answers, asked, strict=True):
            yield self._outcome(answer, [next(replies) for _ in some])

    def _questions(self, answer: Answer) -> Iterator[str]:
        """One question, or for a comparison one for each order."""
        before, ours, gold = written(answer.task.prompt), said(answer), answer.task.answer
        if self.how == "yes-no":
            yield ASK.format(question=self.question, conversation=before, answer=ours)
        elif isinstance(gold, str) and gold.strip():
            for first, second in ((ours, gold), (gold, ours)):
                yield COMPARE.format(question=self.question, conversation=before, answer=first, other=second)

    def _outcome(self, answer: Answer, replies: Sequence[Sequence[float] | None]) -> Outcome:
        if not replies:
            return no_gold(answer, "answer to compare with")
        approved: list[float] = []
        for order, reply in enumerate(replies):
            if reply is None:
                return Unscorable("the question is longer than what the judge reads", "TOO_LONG")
            first, second = reply if order == 0 else reversed(reply)
            approved.append(1 / (1 + math.exp(min(second - first, 700.0))))
        told = " and ".join(f"{p:.3f}" for p in approved)
        return Scored(sum(approved) / len(approved), f"approves with {told}")
