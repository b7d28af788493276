"""Programs judged by tests, in the sandbox."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from ..protocols import Answer, Failed, Outcome, Scored, Unscorable
from ..sandbox import Limits, SandboxLost, Tested, Worker, run_asserts, run_stdio, shared_sandbox
from .extract import last_code
from .reward import Reward, no_gold

SANDBOX = "SANDBOX"
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Workers = Annotated[int, Field(ge=1)]


def cores() -> int:
    return min(os.cpu_count() or 1, 8)


class Code(Reward):
    """1 where the answer's program passes all of the task's tests, else 0. The program is the last fenced block of the
    answer (after its thinking), or the whole answer where it has none.

    `tests` in the task's `info` are assertions (`["assert add(1, 2) == 3"]`, with `setup` run before them), or inputs
    and outputs (`[{"input": "1 2", "output": "3"}]`), for which the program runs as a script each time.
    """

    name: Literal["code"] = "code"  # pyright: ignore[reportIncompatibleVariableOverride]
    partial: bool = False
    """Pay the share of tests passed instead of all or nothing."""
    seconds: Seconds = 5.0
    """The longest a program may run: with all of its assertions, or on one input."""
    memory_mb: Annotated[int, Field(ge=64)] = 1024
    """The most memory it may ask for."""
    workers: Workers = Field(default_factory=cores)
    """How many programs run at the same time."""

    def check(self) -> None:
        shared_sandbox(self.workers)

    def seconds_for(self, answers: Sequence[Answer]) -> float:
        runs = (read_tests(answer.task.info) or () for answer in answers)
        return sum(len(r) if r and not isinstance(r[0], str) else 1 for r in runs) * self.seconds / self.workers

    def score(self, answers: Sequence[Answer]) -> Iterable[Outcome]:
        return shared_sandbox(self.workers).map(self._judge, answers)

    def _judge(self, worker: Worker, answer: Answer) -> Outcome:
        limits = Limits(self.seconds, self.memory_mb << 20)
        program = last_code(answer.text)
        tests = read_tests(answer.task.info)
        if tests is None:
            return no_gold(answer, "tests: a list of assertions, or of {input, output}")
        try:
            if isinstance(tests[0], str):
                tested = run_asserts(worker, program, str(answer.task.info.get("setup", "")), tests, limits)
            else:
                tested = run_stdio(worker, program, tests, limits)
        except SandboxLost as error:
            return Failed(str(error), SANDBOX)
        return self._outcome(tested)

    def _outcome(self, tested: Tested) -> Outcome:
        if tested.unscorable:
            return Unscorable(tested.unscorable, "TESTS")
        passed, n = sum(tested.passed), len(tested.passed)
        value = passed / n if self.partial else float(passed == n)
        reason = f"{passed} of {n} tests passed" + (f"; {tested.reason}" if tested.reason else "")
        return Scored(value, reason, "TIMEOUT" if tested.timeout else "")


def read_tests(info: Mapping[str, Any]) -> Any:
    """A list of assertions or of (input, output), or nothing where the task has neither."""
    tests = info.get("tests")
    if not isinstance(tests, (list, tuple)) or not tests:
        return None
    if all(isinstance(test, str) for test in tests):
        return list(tests)
    pairs = list(_pairs(tests))
    return pairs if len(pairs) == len(tests) else None


def _pairs(tests: Sequence[Any]) -> Iterator[tuple[str, str]]:
    for test in tests:
        if isinstance(test, Mapping) and isinstance(test.get("input"), str) and isinstance(test.get("output"), str):
            yield test["input"], test["output"]
