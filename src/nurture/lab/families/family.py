"""What a family of instructions is: one file with three verbs, and how its rows are numbered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from ...records import Message, Task
from ..draw import Draw
from ..grading import Grade
from ..words import forms
from ..world import Split, World, build_world

Make = Callable[[World, Draw, Split, int], Task]


class Family(Protocol):
    """A module of this folder. `answer` of a task is the gold response; `info["wrong"]` holds wrong ones."""

    @property
    def NAME(self) -> str: ...
    @property
    def LEVELS(self) -> tuple[int, ...]: ...

    def make(self, world: World, draw: Draw, split: Split, level: int) -> Task:
        """One task of a level, from the choices of `draw`."""
        ...

    def examples(self, seed: int, split: Split, n: int, world: int = 0) -> Iterator[Task]:
        """The first `n` tasks of the family, the levels in turn."""
        ...

    def reward(self, task: Task, response: str) -> float:
        """What a learner is paid, in [0, 1]."""
        ...

    def grade(self, task: Task, response: str) -> Grade:
        """How good the response is, and why."""
        ...


def row(make: Make, name: str, levels: Sequence[int], seed: int, split: Split, index: int, world: int = 0) -> Task:
    """Task number `index`: the same whatever else is made."""
    level = levels[index % len(levels)]
    return make(build_world(world), Draw(world, seed, name, split, index), split, level)


def rows(make: Make, name: str, levels: Sequence[int], seed: int, split: Split, n: int, world: int) -> Iterator[Task]:
    return (row(make, name, levels, seed, split, index, world) for index in range(n))


def new_task(
    family: str, level: int, prompt: str | tuple[Message, ...], answer: str, wrong: Sequence[str], **info: Any
) -> Task:
    """A task whose grader needs `info`; `wrong` are near misses that its own grader marks down."""
    messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    return Task(messages, answer, family, {"level": level, "wrong": tuple(wrong), **info})


LEADS: dict[Split, tuple[str, ...]] = {
    "train": (
        *[""] * 24,
        *forms("(Hello|Hi|Good day|Good evening|Listen|Excuse me)(!|.) "),
        "Please tell me. ",
        "I have a question. ",
        "Here is my question. ",
        "Quick question. ",
        "Another question. ",
        "Can you help me? ",
        "Please help me. ",
        "I need your help. ",
        "Help me with this. ",
        "Tell me this. ",
        "Do this for me. ",
        "I would like to know this. ",
        "Next question. ",
    ),
    "practice": (
        *[""] * 8,
        *forms("(Well|Look|Oh|Good afternoon|Hello there)(!|.) "),
        "One question. ",
        "I wonder. ",
        "Can you do this? ",
        "Now this. ",
        "A small thing. ",
        "You will know this. ",
    ),
    "test": ("", "", "Good morning! ", "One more thing. ", "Please answer this. "),
}
"""What may stand before a question. Neither these nor the questions are shared between splits."""


def lead(draw: Draw, split: Split) -> str:
    return draw.pick(LEADS[split])
