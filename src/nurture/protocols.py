"""The seams: what the loop needs of an engine, and what learning needs of the world."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .records import Message, Task
from .types import Asks, Batch, Ids, Scores


class Roles(Protocol):
    """One or several roles over one or several models. The loop knows nothing else of a model.

    A laptop, a GPU and a sharded cluster differ only behind these five verbs.
    """

    def score(self, batch: Batch, asks: Asks) -> Scores:
        """Scores as leaves: a loss is differentiated with respect to them, never through the models directly."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Carry d loss / d scores on into the parameters, role by role, and add to their gradients."""
        ...

    def step(self, learning_rate: float) -> dict[str, float]:
        """Sum gradients over processes, clip, update, clear. Returns `grad_norm`; a non-finite one updates nothing."""
        ...

    def discard(self) -> None:
        """Forget gradients gathered since the last step."""
        ...

    def all_sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over all processes."""
        ...


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw a response. Temperature 0 is greedy; log-probabilities are then the model's own, at temperature 1."""

    max_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    stop_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """`n` responses to one prompt; `key` names the prompt for the random streams, independent of its batch."""

    prompt: Ids
    n: int = 1
    key: str = ""
    max_tokens: int | None = None
    """Where there is less room than the sampling gives to all."""
    task: Task | None = None
    """What the prompt was made of, for an environment that has to know."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Response number `k` to request number `request`: its ids (with the stop token, if one ended it), the
    log-probability of each under the distribution it was drawn from, and why it ended: `stop`, `length` or
    `string`."""

    request: int
    k: int
    ids: Ids
    logp: NDArray[np.float32]
    reason: str


class Sampler(Protocol):
    """Draws responses from a model. Ours runs in the trainer's process over the trainer's weights."""

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        """All samples, ordered by (request, k)."""
        ...

    def stream(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Sample | tuple[int, int, int]]:
        """Tokens as they are drawn, `(request, k, token)`, and each finished `Sample`."""
        ...


Action = TypeVar("Action", contravariant=True)
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


class Env(Protocol[Action, Observation]):
    """The world a policy acts in. CartPole: an action is a push, an observation four numbers. A conversation: an action
    is a turn of the model, an observation the turn of the user or tool that answers it."""

    def reset(self, seed: int) -> Observation:
        """Begin an episode; equal seeds begin equal ones."""
        ...

    def step(self, action: Action) -> Turn[Observation]:
        """Do it."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What is rewarded: a response to a task, as text without its stop token; of several turns the text of the last,
    and all of them in `messages` (calls of a tool and what it gave). `tokens` is how many the model wrote."""

    task: Task
    text: str
    messages: tuple[Message, ...] = ()
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """A reward, and why. `parts` are the outcomes a combination was made of; `code` names what else happened."""

    value: float
    reason: str = ""
    code: str = ""
    parts: Mapping[str, Outcome] = field(default_factory=dict[str, "Outcome"])


@dataclass(frozen=True, slots=True)
class Unscorable:
    """The task does not allow a judgement of this answer (no gold answer, broken tests). It is left out of learning."""

    reason: str
    code: str = ""
    parts: Mapping[str, Outcome] = field(default_factory=dict[str, "Outcome"])


@dataclass(frozen=True, slots=True)
class Failed:
    """The reward itself failed: an exception, a deadline, a dead endpoint. Never a wrong answer."""

    reason: str
    code: str = ""
    parts: Mapping[str, Outcome] = field(default_factory=dict[str, "Outcome"])


Outcome = Scored | Unscorable | Failed


class Reward(Protocol):
    """Says what answers are worth: one outcome per answer, in their order."""

    def score(self, answers: Sequence[Answer]) -> Iterable[Outcome]:
        """May be a generator: what it gave before a deadline counts."""
        ...
