"""A reward model as a reward. The model itself comes from outside: only a run composes models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Literal, TypeVar

from pydantic import Field, PrivateAttr

from ..errors import InputError
from ..protocols import Answer, Outcome
from ..records import Conversation, Message
from .local_judge import Asker, LocalJudge
from .reward import Reward

T = TypeVar("T")

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


def models_in(reward: Reward, *kinds: type[ModelReward | LocalJudge]) -> Iterator[str]:
    """The names of the models of these kinds (by default of both) that a reward, or any part of it, needs."""
    if isinstance(reward, kinds or (ModelReward, LocalJudge)):
        yield reward.model
    for part in reward.inner():
        yield from models_in(part, *kinds)


NONE: Mapping[str, Asker] = {}


def bind(reward: Reward, scorers: Mapping[str, Scorer], askers: Mapping[str, Asker] = NONE) -> None:
    """Give every reward model in `reward` its scorer and every judge its asker, by the model's name."""
    if isinstance(reward, ModelReward):
        reward._scorer = _loaded(reward.model, scorers, "reward model")
    if isinstance(reward, LocalJudge):
        reward._asker = _loaded(reward.model, askers, "judge")
    for part in reward.inner():
        bind(part, scorers, askers)


def _loaded(name: str, found: Mapping[str, T], what: str) -> T:
    if name not in found:
        raise InputError(f"the {what} {name!r} is asked for and was not loaded.")
    return found[name]
