"""Responses of several turns: the model writes, the world answers, the model goes on.

Token ids are the record. What was drawn is never turned into text and back: the world's words are tokenised by
themselves and put behind it, with mask 0, so that no loss touches what the model did not say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.random import stream_key
from ..envs import Speaker
from ..errors import NurtureError, RewardLost
from ..protocols import Request, Sampling
from ..records import Message
from ..types import Ids, Response
from .loop import Dialogue, Draw, spoken

Decode = Callable[[Sequence[int]], str]
Encode = Callable[[Message], Sequence[int] | Ids]
"""The tokens of the world's turn, with the header of the model's next one."""


def several_turns(
    draw: Draw, world: Callable[[Request], Speaker], decode: Decode, encode: Encode, max_turns: int = 4
) -> Draw:
    """Responses of at most `max_turns` turns of the model, from a `draw` of single ones, with a `world` of its own for
    each. `max_tokens` of the sampling holds for a whole response, the world's words included."""

    def talk(requests: Sequence[Request], sampling: Sampling) -> list[list[Response]]:
        talks = [[_Talk(r, k, world(r), sampling) for k in range(r.n)] for r in requests]
        going = [one for row in talks for one in row]
        # All responses to a prompt begin at the same place, so it is read once. After that each has its own.
        said = [response for row in draw(requests, sampling) for response in row]
        for turn in range(1, max_turns + 1):
            for one, response in zip(going, said, strict=True):
                one.say(response, decode)
                if not one.over and turn < max_turns:
                    one.hear(encode)
            going = [one for one in going if not one.over]
            if turn == max_turns or not going:
                break
            said = [response for (response,) in draw([one.request_for(turn + 1) for one in going], sampling)]
        return [[one.response() for one in row] for row in talks]

    return talk


@dataclass(slots=True, eq=False)
class _Talk:
    """One response under way."""

    request: Request
    k: int
    env: Speaker
    sampling: Sampling
    ids: list[int] = field(default_factory=list[int])
    own: list[bool] = field(default_factory=list[bool])
    logp: list[float] = field(default_factory=list[float])
    turns: list[Message] = field(default_factory=list[Message])
    answer: str = ""
    """What the world has answered to the newest turn."""
    over: bool = False
    truncated: bool = True

    def __post_init__(self):
        seed = stream_key(self.sampling.seed, "world", self.request.key, self.k) >> 33
        self._asked("reset", lambda: self.env.reset(seed))

    @property
    def _name(self) -> str:
        return type(self.env).__name__

    def _asked(self, what: str, call: Callable[[], Any]) -> Any:
        """The world may be anyone's code."""
        try:
            return call()
        except NurtureError:
            raise
        except Exception as error:
            raise RewardLost(f"env {self._name}: {what} raised {error!r}; mend it, and resume.") from error

    @property
    def room(self) -> int:
        return self.sampling.max_tokens - len(self.ids)

    def request_for(self, turn: int) -> Request:
        prompt: Ids = np.concatenate([self.request.prompt, np.array(self.ids, np.int64)])
        return Request(prompt, 1, f"{self.request.key} {self.k} {turn}", self.room)

    def say(self, response: Response, decode: Decode) -> None:
        """The model's turn, token for token, and what the world makes of it."""
        assert response.logp_sampler is not None, "what is drawn comes with its log-probabilities"
        self.ids += response.ids.tolist()
        self.own += [True] * len(response.ids)
        self.logp += response.logp_sampler.tolist()
        text = decode(spoken(response, self.sampling.stop_ids))
        self.turns.append(Message("assistant", text))
        if response.truncated:
            self.over = True
            return
        turn = self._asked("step", lambda: self.env.step(text))
        if not isinstance(getattr(turn, "observation", None), str):
            raise RewardLost(
                f"env {self._name}: step gave {turn!r} where a Turn with a text is due; mend it, and resume."
            )
        self.answer = turn.observation
        if turn.done:
            self.over, self.truncated = True, turn.truncated

    def hear(self, encode: Encode) -> None:
        """The world's turn, where it leaves room for one of the model behind it."""
        message = Message(self.env.role, self.answer)
        heard = [int(i) for i in encode(message)]
        if len(heard) >= self.room:
            self.over = True
            return
        self.ids += heard
        self.own += [False] * len(heard)
        self.turns.append(message)

    def response(self) -> Response:
        return Dialogue(
            np.array(self.ids, np.int64),
            np.array(self.own, bool),
            truncated=self.truncated,
            logp_sampler=np.array(self.logp, np.float32),
            turns=tuple(self.turns),
        )
