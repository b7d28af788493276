"""The oracle as a reward."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from ..protocols import Answer, Outcome, Scored, Unscorable
from ..rewards.reward import Reward
from .families import FAMILIES
from .labellers import LABELLERS
from .oracle import grade, reward


class LabReward(Reward):
    """What the lab's oracle says of an answer to one of its tasks, between 0 and 1."""

    name: Literal["lab"] = "lab"  # pyright: ignore[reportIncompatibleVariableOverride]
    criterion: Literal["overall", "helpful", "honest", "harmless", "rule"] = "overall"
    """One of the oracle's criteria, all of them together, or `rule`: what the task's own rule pays (for arithmetic 0.1
    for the form and 0.9 for the result; the working is not looked at)."""
    labeller: Literal["careful", "strict", "prefers_long", "prefers_polite", "random_clicker"] | None = None
    """Ask one of the lab's people in the oracle's place: they rate in quarters, with their taste and their mistakes."""

    @model_validator(mode="after")
    def _fits(self) -> LabReward:
        if self.labeller and self.criterion == "rule":
            raise ValueError("labeller: people do not rate by the task's rule; choose another criterion")
        return self

    def one(self, answer: Answer) -> Outcome:
        task = answer.task
        if task.family not in FAMILIES:
            return Unscorable(f"{task.origin or 'the task'} is none of the lab's", "NO_GOLD")
        if self.criterion == "rule":
            return Scored(reward(task, answer.text), "by the task's rule")
        if self.labeller:
            rated = LABELLERS[self.labeller].rate(task, answer.text)
            return Scored(rated[self.criterion], f"rated by {self.labeller}")
        found = grade(task, answer.text)
        return Scored(getattr(found, self.criterion), found.reason)
