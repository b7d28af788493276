"""Named failpoints: the places where tests make a run fail on purpose.

`NURTURE_FAULT="checkpoint.after_manifest:kill9"` kills the process at that place. `:raise`, `:enospc`, `:sleep=100`,
`:sigterm` and `:oom` do what they say; `@3` waits for the third time the place is reached, `#1` takes rank 1 alone, and
commas join several. Without the variable a failpoint does nothing.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass

from ..errors import InputError, did_you_mean

FAILPOINTS: dict[str, str] = {
    "checkpoint.start": "before anything of a checkpoint exists",
    "checkpoint.after_folder": "the temporary folder is made and empty",
    "checkpoint.mid_tensors": "some but not all tensor files are written",
    "checkpoint.after_tensors": "every tensor file is written, none is flushed",
    "checkpoint.after_state": "state.json is written, nothing is flushed",
    "checkpoint.mid_sync": "some but not all files are flushed to the disk",
    "checkpoint.before_manifest": "every file is flushed, the manifest is not begun",
    "checkpoint.after_manifest": "the manifest is written and flushed",
    "checkpoint.before_rename": "the temporary folder is complete and flushed",
    "checkpoint.after_set_aside": "an older checkpoint of the same step is out of the way, the new one not in place",
    "checkpoint.after_rename": "the checkpoint has its name, its parent folder is not flushed",
    "checkpoint.before_latest": "the checkpoint is safe, `latest` still names the one before",
    "checkpoint.after_latest": "`latest` names the new checkpoint, nothing is pruned",
    "checkpoint.mid_prune": "an old checkpoint is moved out of sight, its files still exist",
    "checkpoint.end": "everything of the save is done",
    "step.micro": "a micro-batch is about to be scored",
    "step.before_update": "all gradients of a step are summed, nothing is updated",
    "step.after_update": "the weights are updated, no metric of the step is written",
    "run.after_metrics": "the metrics of a step are written, no checkpoint of it exists",
    "run.before_model": "training is over, model/ does not exist",
    "run.before_finished": "model/ is complete, the run does not say that it is finished",
}
"""Every failpoint and what is true when it is reached."""

ACTIONS = ("kill9", "raise", "enospc", "sleep", "sigterm", "oom")


class FaultInjected(RuntimeError):
    """What `:raise` raises."""


@dataclass(frozen=True, slots=True)
class Fault:
    """At the `hit`-th time that `name` is reached, on `rank` or on all, do `action`."""

    name: str
    action: str
    seconds: float = 0.0
    hit: int = 1
    rank: int | None = None


_hits: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """The place called `name`. Costs one look into the environment where no fault is asked for."""
    assert name in FAILPOINTS, f"failpoint {name!r} is not declared in FAILPOINTS"
    wanted = os.environ.get("NURTURE_FAULT")
    if not wanted:
        return
    _hits[name] += 1
    for fault in parse(wanted):
        here = fault.rank is None or fault.rank == int(os.environ.get("RANK", "0"))
        if fault.name == name and fault.hit == _hits[name] and here:
            _do(fault)


_FAULT = re.compile(r"(?P<name>[\w.]+):(?P<action>[a-z0-9]+)(=(?P<seconds>[\d.]+))?(@(?P<hit>\d+))?(#(?P<rank>\d+))?")


@functools.cache
def parse(wanted: str) -> tuple[Fault, ...]:
    """The faults that a value of NURTURE_FAULT asks for."""
    return tuple(_parse_one(part.strip()) for part in wanted.split(","))


def _parse_one(text: str) -> Fault:
    match = _FAULT.fullmatch(text)
    if not match:
        raise InputError(
            f"NURTURE_FAULT {text!r} is not of the form name:action, with =seconds, @hit and #rank optional."
        )
    name, action, seconds = match["name"], match["action"], match["seconds"]
    if name not in FAILPOINTS:
        raise InputError(f"NURTURE_FAULT names the unknown failpoint {name!r}.{did_you_mean(name, FAILPOINTS)}")
    if action not in ACTIONS:
        raise InputError(f"NURTURE_FAULT asks for {action!r}, which is none of {', '.join(ACTIONS)}.")
    if (action == "sleep") != (seconds is not None):
        raise InputError(f"NURTURE_FAULT {text!r}: `sleep`, and only `sleep`, takes a number of seconds (sleep=100).")
    rank = int(match["rank"]) if match["rank"] else None
    return Fault(name, action, float(seconds or 0), int(match["hit"] or 1), rank)


def _do(fault: Fault) -> None:
    message = f"injected at {fault.name}"
    match fault.action:
        case "kill9":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        case "sleep":
            time.sleep(fault.seconds)
        case "enospc":
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({message})")
        case "oom":
            import torch

            raise torch.OutOfMemoryError(message)
        case _:
            raise FaultInjected(message)
