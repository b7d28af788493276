"""Equality of mathematical answers, by math-verify inside the sandbox."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import Field

from ..protocols import Answer, Failed, Outcome, Scored, Unscorable
from ..sandbox import Ended, Limits, SandboxLost, Worker, shared_sandbox
from .code import SANDBOX, Seconds, Workers, cores
from .extract import Where, answer_in, gold_in
from .reward import NO_GOLD, Reward, no_gold


class Maths(Reward):
    """1 where the answer equals the task's answer as mathematics (`0.5` and `\\frac{1}{2}`), else 0. By math-verify, in
    a process that cannot reach anything and is killed after `seconds`: symbolic mathematics on what a model wrote may
    run for ever, or run code. Needs the extra `math`."""

    name: Literal["maths"] = "maths"  # pyright: ignore[reportIncompatibleVariableOverride]
    where: Where = "text"
    """Where the answer stands: the last expression of the `text` (the last `\\boxed{}` first), inside `<answer>` tags,
    or only in the last `\\boxed{}`."""
    seconds: Seconds = 5.0
    """The longest one comparison may take; an answer that takes longer is wrong, and counted as `TIMEOUT`."""
    memory_mb: Annotated[int, Field(ge=256)] = 1024
    """The most memory it may ask for."""
    workers: Workers = Field(default_factory=cores)
    """How many comparisons run at the same time."""

    def check(self) -> None:
        shared_sandbox(self.workers, mathematics=True)

    def seconds_for(self, answers: Sequence[Answer]) -> float:
        return len(answers) * self.seconds / self.workers

    def score(self, answers: Sequence[Answer]) -> Iterable[Outcome]:
        return shared_sandbox(self.workers, mathematics=True).map(self._judge, answers)

    def _judge(self, worker: Worker, answer: Answer) -> Outcome:
        gold = answer.task.answer
        if isinstance(gold, bool) or not isinstance(gold, (str, int, float)) or not str(gold).strip():
            return no_gold(answer, "mathematical answer to compare with")
        text = answer_in(answer.text, self.where)
        if not text:
            return Scored(0.0, f"no answer in {self.where!r}")
        if self.where != "text" and "\\boxed" not in text and "$" not in text:
            text = f"${text}$"
        payload = {"gold": gold_in(str(gold), self.where), "answer": text}
        try:
            ended = worker.judges.run("mathematics", payload, Limits(self.seconds, self.memory_mb << 20))
        except SandboxLost as error:
            return Failed(str(error), SANDBOX)
        return self._outcome(ended, answer)

    def _outcome(self, ended: Ended, answer: Answer) -> Outcome:
        if not ended.output:
            return Unscorable(f"the gold answer {answer.task.answer!r} cannot be read ({ended.how})", NO_GOLD)
        try:
            verdict = json.loads(ended.output)
        except ValueError:  # the gold answer was read, and the model's one ended the process
            code = "TIMEOUT" if ended.how == "timeout" else "KILLED"
            return Scored(0.0, f"the answer could not be compared within {self.seconds:g} s and its memory", code)
        if "gold" in verdict:
            return Unscorable(f"the gold answer {answer.task.answer!r} is no mathematics", NO_GOLD)
        if "error" in verdict:
            return Failed(f"math-verify: {verdict['error']}", "RAISED")
        return Scored(float(verdict["equal"]), verdict["reason"])
