"""What every reward is: its configuration, its documentation and its rule in one class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from ..protocols import Answer, Failed, Outcome, Scored, Unscorable


class Reward(BaseModel):
    """Subclass it in one file: fields with a docstring each, and `score`, or `one` where each answer stands alone.

    Values are finite; larger is better. What the answer did wrong is a low score. What the task lacks is `Unscorable`,
    what this machine or another could not do is `Failed`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = ""

    def score(self, answers: Sequence[Answer]) -> Iterable[Outcome]:
        """One outcome per answer, in their order; here by `one`."""
        for answer in answers:
            yield self.one(answer)

    def one(self, answer: Answer) -> Outcome:
        raise NotImplementedError

    def check(self) -> None:
        """`InputError` where this machine cannot compute it. Called before a run begins."""
        for part in self.inner():
            part.check()

    def seconds_for(self, answers: Sequence[Answer]) -> float:
        """How long judging them may rightly take by limits of its own; 0 where it has none."""
        return sum(part.seconds_for(answers) for part in self.inner())

    def inner(self) -> Iterator[Reward]:
        """The rewards it is made of."""
        return iter(())


class Rule(Reward):
    """Worth `right` (1) or `wrong` (0)."""

    right: ClassVar[float] = 1.0
    wrong: ClassVar[float] = 0.0

    def verdict(self, is_right: bool, reason: str) -> Outcome:
        return Scored(self.right if is_right else self.wrong, reason)


NO_GOLD = "NO_GOLD"


def no_gold(answer: Answer, needed: str) -> Unscorable:
    """The outcome of a task whose `answer` is not what the reward needs."""
    return Unscorable(f"{answer.task.origin or 'the task'} has no {needed}", NO_GOLD)


__all__ = ["NO_GOLD", "Answer", "Failed", "Outcome", "Reward", "Rule", "Scored", "Unscorable", "no_gold"]
