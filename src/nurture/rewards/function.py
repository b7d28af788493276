"""A Python function of one's own as a reward."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from pydantic import PrivateAttr, model_validator

from ..errors import InputError
from ..named import named_object
from ..protocols import Answer, Outcome
from .reward import Reward


class Function(Reward):
    """What a function of your own says: `def fn(answers): return [...]`, a number for each answer.

    An answer has `.text`, `.task` (with `.answer` and `.info`), `.messages` and `.tokens`. None for an answer says that
    it cannot be judged. The function runs in the trainer's process, with all that this process may do.
    """

    name: Literal["function"] = "function"  # pyright: ignore[reportIncompatibleVariableOverride]
    path: str
    """`package.module:function`, also from the current folder, or `folder/file.py:function`."""
    _function: Callable[[Sequence[Answer]], Any] = PrivateAttr()

    @model_validator(mode="after")
    def _load(self) -> Function:
        try:
            self._function = named_object("reward", self.path)
        except InputError as error:
            raise ValueError(str(error)) from None
        if not callable(self._function):
            raise ValueError(f"reward {self.path!r} is no function")
        return self

    def score(self, answers: Sequence[Answer]) -> Iterable[Outcome]:
        return self._function(answers)


def is_reward_class(found: object) -> bool:
    return inspect.isclass(found) and issubclass(found, Reward)
