"""Signs of life: what a rank last did and when, one small file per rank, written by it and read by its launcher."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = "NURTURE_HEARTBEAT"
"""The environment variable by which a launcher tells its ranks where."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """`time` is the monotonic clock's, which all processes of a machine share and nobody sets. A rank that waits for
    the others says in what, for it is not the one that hangs."""

    phase: str
    step: int
    time: float
    waiting: str = ""

    def __str__(self) -> str:
        return f"phase {self.phase!r} of step {self.step}" + (f", waiting in {self.waiting}" if self.waiting else "")


_now = ("start", 0)
"""The phase and step of this process."""


REWARD_LOST = "reward lost"
"""The phase in which all ranks end because a reward was lost, with the exit code of a lost rank."""


def heartbeat(phase: str, step: int) -> None:
    """Say that this rank begins `phase` of `step` (0 before the first). Does nothing where no launcher listens."""
    global _now
    _now = (phase, step)
    _beat()


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say that this rank now depends on the others, and that it does no longer."""
    _beat(what)
    yield
    _beat()


def _beat(waiting: str = "") -> None:
    folder = os.environ.get(FOLDER)
    if not folder:
        return
    path = heartbeat_file(Path(folder), int(os.environ["RANK"]))
    temporary = f"{path}.tmp"
    with open(temporary, "w") as file:
        json.dump(asdict(Heartbeat(*_now, time.monotonic(), waiting)), file)
    os.replace(temporary, path)


def last_heartbeat(folder: Path, rank: int) -> Heartbeat | None:
    try:
        return Heartbeat(**json.loads(heartbeat_file(folder, rank).read_bytes()))
    except FileNotFoundError:
        return None


def heartbeat_file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.json"


def install_child_handlers() -> None:
    """What a rank does first: show its stacks at a crash, and on SIGUSR2, by which its launcher asks where it hangs."""
    faulthandler.enable(all_threads=True)
    faulthandler.register(signal.SIGUSR2, all_threads=True)


_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies (Linux; elsewhere the parent alone sees to it)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
