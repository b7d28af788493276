"""A Python function of one's own as a reward."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from pydantic import PrivateAttr, model_validator

from ..errors import InputError, did_you_mean
from ..protocols import Answer, Outcome
from .reward import Reward


class Function(Reward):
    """What a function of your own says: `def fn(answers): return [...]`, a number for each answer.

    An answer has `.text`, `.task` (with `.answer` and `.info`), `.messages` and `.tokens`. None for an answer says that
    it cannot be judged. The function runs in the trainer's process, with all that this process may do.
    """

    name: Literal["function"] = "function"  # pyright: ignore[reportIncompatibleVariableOverride]
    path: str
    """`package.module:function`, also from the current folder."""
    _function: Callable[[Sequence[Answer]], Any] = PrivateAttr()

    @model_validator(mode="after")
    def _load(self) -> Function:
        try:
            self._function = named_object(self.path)
        except InputError as error:
            raise ValueError(str(error)) from None
        if not callable(self._function):
            raise ValueError(f"reward {self.path!r} is no function")
        return self

    def score(self, answers: Sequence[Answer]) -> Iterable[Outcome]:
        return self._function(answers)


def named_object(path: str) -> Any:
    """What `package.module:name` names."""
    module_name, _, name = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(f"reward {path!r}: no module named {error.name!r} can be found from here.") from error
    found = getattr(module, name, None)
    if found is None:
        raise InputError(f"reward {path!r}: {module_name} has no {name!r}.{did_you_mean(name, vars(module))}")
    return found


def is_reward_class(found: object) -> bool:
    return inspect.isclass(found) and issubclass(found, Reward)
