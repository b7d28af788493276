"""Judging a program by tests that it never sees."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from .worker import Ended, Limits, SandboxLost, Worker


@dataclass(frozen=True, slots=True)
class Tested:
    """Which tests passed, and why the first that did not failed. `unscorable` where the tests are at fault."""

    passed: tuple[bool, ...]
    reason: str = ""
    timeout: bool = False
    unscorable: str = ""


def run_asserts(worker: Worker, program: str, setup: str, tests: Sequence[str], limits: Limits) -> Tested:
    """The program in one child, the tests in another, and between them a socket for plain values."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker.programs.begin("serve", {"program": program}, limits, channel=theirs.fileno())
        worker.judges.begin("tests", {"setup": setup, "tests": list(tests)}, limits, channel=ours.fileno())
    judged = worker.judges.end()
    # Its channel is closed now, at which the program's child ends by itself.
    served = worker.programs.end()
    if judged.how == "timeout" or served.how == "timeout":
        return Tested((False,) * len(tests), f"not done within {limits.seconds:g} s", timeout=True)
    if not judged.output:
        raise SandboxLost(f"the child that judges ended without a verdict ({judged})")
    verdict = json.loads(judged.output)
    if "unscorable" in verdict:
        return Tested((), unscorable=verdict["unscorable"])
    return Tested(tuple(verdict["passed"]), verdict["reason"])


def run_stdio(worker: Worker, program: str, tests: Sequence[tuple[str, str]], limits: Limits) -> Tested:
    """The program once for each (input, expected output); the outputs are compared here."""
    passed: list[bool] = []
    reason, timeout = "", False
    for number, (given, expected) in enumerate(tests, 1):
        ended = worker.programs.run("program", {"program": program}, limits, stdin=given.encode())
        fault = _fault(ended, limits) or _difference(ended.output.decode(errors="replace"), expected)
        passed.append(not fault)
        reason = reason or (fault and f"{fault} in test {number}")
        timeout = timeout or ended.how == "timeout"
    return Tested(tuple(passed), reason, timeout)


def _fault(ended: Ended, limits: Limits) -> str:
    if ended.how == "timeout":
        return f"not done within {limits.seconds:g} s"
    if ended.how == "output":
        return f"more than {limits.output:,} bytes of output"
    if ended.how == "signal":
        return f"killed by signal {-ended.code}"
    return f"exit code {ended.code}" if ended.code else ""


def _difference(got: str, expected: str) -> str:
    """Outputs are equal when their lines are, up to blanks at the ends of lines and of the whole."""
    if _lines(got) == _lines(expected):
        return ""
    return f"printed {got[:80]!r}, not {expected[:80]!r}"


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
