"""The oracle: how good any response to any of the lab's tasks is. Exact and total; it needs nothing but the task."""

from __future__ import annotations

from ..errors import InputError, did_you_mean
from ..records import Task
from .families import FAMILIES
from .families.family import Family
from .grading import WEIGHTS, Grade

__all__ = ["WEIGHTS", "Grade", "family_of", "grade", "reward"]


def family_of(task: Task) -> Family:
    if task.family not in FAMILIES:
        raise InputError(
            f"{task.origin or 'a task'} is of the family {task.family!r}, which the lab's oracle cannot grade; "
            f"it knows {', '.join(FAMILIES)}.{did_you_mean(task.family, FAMILIES)}"
        )
    return FAMILIES[task.family]


def grade(task: Task, response: str) -> Grade:
    """The truth about a response."""
    return family_of(task).grade(task, response)


def reward(task: Task, response: str) -> float:
    """What a rule pays for it."""
    return family_of(task).reward(task, response)
