"""What can stop a run between two steps: a signal, numbers that are none, memory that is not there."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal

import torch

from ..errors import Interrupted, NumericsError


class StopSignals:
    """Within this context the first SIGTERM, SIGINT or SIGUSR1 only sets `requested`, to be looked at after each
    micro-batch; a second one kills the process, and the newest checkpoint is as it was.

    The second is left to the system: a handler in Python has to wait for what the process is in (a product of large
    matrices, a disk that hangs), which is what somebody who asks twice no longer wants. SIGUSR1 is what batch systems
    send ahead of a SIGTERM, and counts as one. Python hands signals to the main thread alone; entered in another, this
    context never requests anything.
    """

    CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self):
        self.requested: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in self.CAUGHT}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def interrupted(self, checkpoint: Path) -> Interrupted:
        """The error to end the run with, once the checkpoint is written. (Where only another rank was signalled, that
        counts as SIGTERM.)"""
        number = self.requested or signal.SIGTERM
        return Interrupted(f"Stopped by {number.name}; the same command goes on from {checkpoint}.", int(number))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        for caught in self._before:
            signal.signal(caught, signal.SIG_DFL)
        self.requested = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
        os.write(2, b"Stopping with a checkpoint after this step; once more to leave at once.\n")


class Terminated(KeyboardInterrupt):
    """A SIGTERM or SIGUSR1 that was to end what was going on as Ctrl-C does."""


@contextmanager
def signals_raise() -> Iterator[None]:
    """Within this context SIGTERM and SIGUSR1 raise, as SIGINT does anyway, so that what was begun is put away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class NonFinite:
    """Counts the steps whose loss or gradient was not finite, and says when it is enough.

    Under `skip` such a step updates nothing; `limit` of them in a row, or more than 1% of the run's `steps` (and at
    least `limit`), end the run, as does the first one under `raise`. The loop keeps `last_checkpoint` up to date.
    """

    steps: int
    policy: Literal["skip", "raise"] = "skip"
    limit: int = 3
    last_checkpoint: Path | None = None
    skipped: int = 0
    in_a_row: int = 0

    SHARE = 0.01

    def observe(self, loss_finite: bool, grad_finite: bool, step: int) -> Literal["ok", "skip"]:
        if loss_finite and grad_finite:
            self.in_a_row = 0
            return "ok"
        self.skipped += 1
        self.in_a_row += 1
        what = "gradient" if loss_finite else "loss"
        if self.policy == "raise":
            raise self._error(f"The {what} of step {step} is not finite")
        if self.in_a_row >= self.limit:
            raise self._error(f"The {what} of step {step} is not finite, {self.in_a_row} steps in a row")
        if self.skipped >= self.limit and self.skipped > self.SHARE * self.steps:
            raise self._error(
                f"The {what} of step {step} is not finite, as {self.skipped} of {self.steps} steps were not"
            )
        return "skip"

    def state(self) -> dict[str, int]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def restore(self, state: dict[str, int]) -> None:
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]

    def _error(self, what: str) -> NumericsError:
        good = (
            f"the last good checkpoint is {self.last_checkpoint}"
            if self.last_checkpoint
            else "there is no checkpoint yet"
        )
        return NumericsError(f"{what}; {good}. A lower learning_rate, more warm-up or precision=fp32 usually helps.")


_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "out of memory",
    "ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether asking for less memory would have avoided this error. (The CPU allocator, MPS and some CUDA libraries say
    so only in the text of a RuntimeError.)"""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)
