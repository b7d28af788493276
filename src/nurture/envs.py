"""Who answers a language model between its turns: a tool, or a user. The table `ENVS` is the registry."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import ClassVar, Literal, Protocol, get_args

from .errors import InputError
from .named import listed_or_named
from .protocols import Env, Turn
from .records import Task

Role = Literal["user", "tool"]
ROLES = get_args(Role)


class Speaker(Env[str, str], Protocol):
    """An environment whose actions are turns of the model, without their stop token, and whose observations are turns
    of `role`. One is made for each response, with its task. What `reset` returns is not heard: the prompt is there
    already."""

    role: ClassVar[Role]

    def __init__(self, task: Task | None = None): ...


CALL = re.compile(r"<calc>\s*(\d{1,9})\s*([-+*])\s*(\d{1,9})\s*</calc>\s*$")
OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


class Calculator:
    """A turn that ends in `<calc>12*7</calc>` is answered with the result; any other turn ends the response."""

    role: ClassVar[Role] = "tool"

    def __init__(self, task: Task | None = None):
        pass  # a calculator is the same whatever is asked

    def reset(self, seed: int) -> str:
        return ""

    def step(self, action: str) -> Turn[str]:
        call = CALL.search(action)
        if call is None:
            return Turn("", done=True)
        left, operator, right = call.groups()
        return Turn(str(OPERATORS[operator](int(left), int(right))))


ENVS: dict[str, type[Speaker]] = {"calculator": Calculator}


def speaker(name: str) -> type[Speaker]:
    """`calculator`, or `package.module:Class` or `file.py:Class` for one of your own."""
    found = listed_or_named("environment", name, ENVS)
    if not (isinstance(found, type) and getattr(found, "role", None) in ROLES):
        raise InputError(f"environment {name!r} is no class with a role, which is {' or '.join(ROLES)}.")
    return found
