"""Responses of several turns: the model writes, the world answers, the model goes on.

Token ids are the record. What was drawn is never turned into text and back: the world's words are tokenised by
themselves and put behind it, with mask 0, so that no loss touches what the model did not say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..core.random import stream_key
from ..protocols import Request, Sampler, Sampling
from ..types import Ids, Response
from .env import Env, Turn
from .loop import Draw

Encode = Callable[[str], Sequence[int]]
"""The tokens of the world's turn, with the header of the model's next one."""


def several_turns(
    sampler: Sampler,
    world: Callable[[Request], Env[str, str]],
    decode: Callable[[Sequence[int]], str],
    encode: Encode,
    max_turns: int = 4,
) -> Draw:
    """`Draw` for `Rollouts`, with a `world` of its own for each response. `max_tokens` of the sampling holds for a
    whole response, the world's words included; what goes beyond is cut off."""

    def draw(requests: Sequence[Request], sampling: Sampling) -> list[list[Response]]:
        talks = [[_Talk(r, k, world(r)) for k in range(r.n)] for r in requests]
        for row in talks:
            for talk in row:
                talk.env.reset(stream_key(sampling.seed, "world", talk.request.key, talk.k) >> 33)
        _first_turn(sampler, requests, talks, sampling, decode, encode)
        for turn in range(1, max_turns):
            going = [talk for row in talks for talk in row if not talk.over]
            # Prompts differ by now, and so may what is left for each: those with equal room are drawn together.
            for room in sorted({sampling.max_tokens - len(talk.ids) for talk in going}):
                some = [talk for talk in going if sampling.max_tokens - len(talk.ids) == room]
                asked = [talk.request_for(turn) for talk in some]
                for sample in sampler.sample(asked, replace(sampling, max_tokens=room)):
                    some[sample.request].hear(sample.ids, sample.logp, sample.reason, sampling, decode, encode)
        return [[talk.response() for talk in row] for row in talks]

    return draw


def _first_turn(
    sampler: Sampler,
    requests: Sequence[Request],
    talks: Sequence[Sequence[_Talk]],
    sampling: Sampling,
    decode: Callable[[Sequence[int]], str],
    encode: Encode,
) -> None:
    """All responses to a prompt begin at the same place, so it is read once."""
    for sample in sampler.sample(requests, sampling):
        talks[sample.request][sample.k].hear(sample.ids, sample.logp, sample.reason, sampling, decode, encode)


@dataclass(slots=True, eq=False)
class _Talk:
    """One response under way."""

    request: Request
    k: int
    env: Env[str, str]
    ids: list[int] = field(default_factory=list[int])
    own: list[bool] = field(default_factory=list[bool])
    logp: list[float] = field(default_factory=list[float])
    reward: float = 0.0
    over: bool = False
    truncated: bool = True

    def request_for(self, turn: int) -> Request:
        prompt: Ids = np.concatenate([self.request.prompt, np.array(self.ids, np.int64)])
        return Request(prompt, 1, f"{self.request.key} {self.k} {turn}")

    def hear(
        self,
        ids: Ids,
        logp: Sequence[float] | np.ndarray,
        reason: str,
        sampling: Sampling,
        decode: Callable[[Sequence[int]], str],
        encode: Encode,
    ) -> None:
        """The model's turn, and what the world says to it."""
        spoken: list[int] = ids.tolist()
        self.ids += spoken
        self.own += [True] * len(spoken)
        self.logp += [float(p) for p in logp]
        if reason == "length":
            self.over = True
            return
        text = decode(spoken[:-1] if spoken and spoken[-1] in sampling.stop_ids else spoken)
        turn = self.env.step(text)
        if turn.done:
            self.over, self.truncated = True, turn.truncated
            return
        heard = list(encode(turn.observation))
        if len(self.ids) + len(heard) >= sampling.max_tokens:  # no room for a turn of the model behind it
            self.over = True
            return
        self.ids += heard
        self.own += [False] * len(heard)

    def response(self) -> Response:
        return Response(
            np.array(self.ids, np.int64),
            np.array(self.own, bool),
            truncated=self.truncated,
            logp_sampler=np.array(self.logp, np.float32),
        )


CALL = re.compile(r"<calc>\s*(\d{1,9})\s*([-+*])\s*(\d{1,9})\s*</calc>\s*$")
OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


class Calculator:
    """`Env[str, str]`: a turn that ends in `<calc>12*7</calc>` is answered with the result, any other turn ends the
    response."""

    def reset(self, seed: int) -> str:
        return ""

    def step(self, action: str) -> Turn[str]:
        call = CALL.search(action)
        if call is None:
            return Turn("", done=True)
        left, operator, right = call.groups()
        return Turn(str(OPERATORS[operator](int(left), int(right))))
