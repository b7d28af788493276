"""The oracle as a reward."""

from __future__ import annotations

from typing import Literal

from ..protocols import Answer, Outcome, Scored, Unscorable
from ..rewards.reward import Reward
from .families import FAMILIES
from .oracle import grade, reward


class LabReward(Reward):
    """What the lab's oracle says of an answer to one of its tasks, between 0 and 1."""

    name: Literal["lab"] = "lab"  # pyright: ignore[reportIncompatibleVariableOverride]
    criterion: Literal["overall", "helpful", "honest", "harmless", "rule"] = "overall"
    """One of the oracle's criteria, all of them together, or `rule`: what the task's own rule pays (for arithmetic 0.1
    for the form and 0.9 for the result; the working is not looked at)."""

    def one(self, answer: Answer) -> Outcome:
        task = answer.task
        if task.family not in FAMILIES:
            return Unscorable(f"{task.origin or 'the task'} is none of the lab's", "NO_GOLD")
        if self.criterion == "rule":
            return Scored(reward(task, answer.text), "by the task's rule")
        found = grade(task, answer.text)
        return Scored(getattr(found, self.criterion), found.reason)
