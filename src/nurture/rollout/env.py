"""The world a policy acts in: a Gymnasium game, or whoever answers a language model between its turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Action = TypeVar("Action")
ActionIn = TypeVar("ActionIn", contravariant=True)
Observation = TypeVar("Observation")


@dataclass(frozen=True, slots=True)
class Turn(Generic[Observation]):
    """What the world answers to an action: what is to be seen now, and how good the action was.

    `done`: the episode is over. `truncated`: a limit of time ended it, and the state itself is none to end in.
    """

    observation: Observation
    reward: float = 0.0
    done: bool = False
    truncated: bool = False


class Env(Protocol[ActionIn, Observation]):
    """CartPole: an action is a push, an observation four numbers. A conversation: an action is a turn of the model, an
    observation the turn of the user or tool that answers it."""

    def reset(self, seed: int) -> Observation:
        """Begin an episode; equal seeds begin equal ones."""
        ...

    def step(self, action: ActionIn) -> Turn[Observation]:
        """Do it."""
        ...
