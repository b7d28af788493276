"""A reward model as a reward. The model itself comes from outside: only a run composes models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr

from ..errors import InputError
from ..protocols import Answer, Outcome
from ..records import Conversation, Message
from .reward import Reward

Scorer = Callable[[Sequence[Conversation]], Sequence[float]]
"""A reward model as its users see it: conversations in, one score each out."""


class ModelReward(Reward):
    """The score that a reward model gives to the prompt with the answer. Any of ours, or a sequence classifier."""

    name: Literal["model"] = "model"  # pyright: ignore[reportIncompatibleVariableOverride]
    model: Annotated[str, Field(min_length=1)]
    """An earlier stage, a folder or a hub name."""
    _scorer: Scorer | None = PrivateAttr(None)

    def score(self, answers: Sequence[Answer]) -> Iterable[Outcome]:
        if self._scorer is None:
            raise InputError(f"the reward model {self.model!r} was not loaded; bind() gives it its scorer.")
        return self._scorer([conversation_of(answer) for answer in answers])  # pyright: ignore[reportReturnType]


def conversation_of(answer: Answer) -> Conversation:
    said = answer.messages or (Message("assistant", answer.text),)
    return Conversation((*answer.task.prompt, *said), origin=answer.task.origin)


def models_in(reward: Reward) -> Iterator[str]:
    """The names of the reward models that a reward, or any part of it, needs."""
    if isinstance(reward, ModelReward):
        yield reward.model
    for part in reward.inner():
        yield from models_in(part)


def bind(reward: Reward, scorers: Mapping[str, Scorer]) -> None:
    """Give every reward model in `reward` its scorer, by the model's name."""
    if isinstance(reward, ModelReward):
        if reward.model not in scorers:
            raise InputError(f"the reward model {reward.model!r} is asked for and was not loaded.")
        reward._scorer = scorers[reward.model]
    for part in reward.inner():
        bind(part, scorers)
