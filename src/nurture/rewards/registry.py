"""Rewards by name, from what a recipe says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic import ValidationError

from ..errors import InputError, did_you_mean
from ..named import named_object
from .code import Code
from .combine import Ensemble, Gate, Product, Sum
from .form import Format, Language, Length, Overlong, Repetition
from .function import Function, is_reward_class
from .judge import Judge
from .local_judge import LocalJudge
from .maths import Maths
from .model import ModelReward
from .reward import Reward
from .rules import Choice, Exact, Number, Regex

REWARDS: dict[str, type[Reward]] = {
    "exact": Exact,
    "regex": Regex,
    "number": Number,
    "choice": Choice,
    "format": Format,
    "language": Language,
    "length": Length,
    "overlong": Overlong,
    "repetition": Repetition,
    "maths": Maths,
    "code": Code,
    "model": ModelReward,
    "judge": Judge,
    "local-judge": LocalJudge,
    "function": Function,
    "sum": Sum,
    "product": Product,
    "ensemble": Ensemble,
    "gate": Gate,
}

ELSEWHERE = {"lab": "nurture.lab.reward:LabReward"}
"""Rewards that live in a room above this one."""


def reward_class(name: str) -> type[Reward]:
    """`number`, or `package.module:Class` (or `file.py:Class`) for a class of one's own."""
    if name in REWARDS:
        return REWARDS[name]
    if ":" not in name and name not in ELSEWHERE:
        known = (*REWARDS, *ELSEWHERE)
        raise InputError(f"{name!r} is not a reward.{did_you_mean(name, known)} Known are {', '.join(known)}.")
    found = named_object("reward", ELSEWHERE.get(name, name))
    if not is_reward_class(found):
        raise InputError(f"reward {name!r} takes no fields; only a subclass of nurture.rewards.Reward does.")
    return found


def reward_from(value: Any) -> Reward:
    """A reward from how a recipe writes it: its name, `package.module:function` or `file.py:function`, or a mapping of
    `name` and fields."""
    if isinstance(value, Reward):
        return value
    if isinstance(value, str):
        if ":" in value and not is_reward_class(named_object("reward", value)):
            return _made(Function, {"path": value}, value)
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise InputError(f"a reward is written as its name or as {{name: ..., fields}}, not as {value!r}.")
    fields = dict(cast("Mapping[str, Any]", value))
    name = fields.pop("name")
    return _made(reward_class(name), fields, name)


def reward_name(reward: Reward) -> str:
    """The word that `reward_class` reads back."""
    kind = type(reward)
    own = kind.model_fields["name"].default
    known = own in REWARDS or own in ELSEWHERE
    return own if known and reward_class(own) is kind else f"{kind.__module__}:{kind.__qualname__}"


def _made(kind: type[Reward], fields: Mapping[str, Any], name: str) -> Reward:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(key) for key in first["loc"])
        if first["type"] == "extra_forbidden":
            own = [key for key in kind.model_fields if key != "name"]
            raise InputError(f"reward {name!r} has no field {where!r}.{did_you_mean(where, own)}") from None
        if first["type"] == "missing":
            raise InputError(f"reward {name!r} needs the field {where!r}.") from None
        message = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise InputError(f"reward {name!r}: {f'{where}: ' if where else ''}{message}.") from None
