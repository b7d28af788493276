"""Signs of life: what a rank last did and when, one small file per rank, written by it and read by its launcher."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = "NURTURE_HEARTBEAT"
"""The environment variable by which a launcher tells its ranks where."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """`time` is the monotonic clock's, which all processes of a machine share and nobody sets."""

    phase: str
    step: int
    time: float

    def __str__(self) -> str:
        return f"phase {self.phase!r} of step {self.step}"


def heartbeat(phase: str, step: int) -> None:
    """Say that this rank begins `phase` of `step` (0 before the first). Does nothing where no launcher listens."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return
    path = heartbeat_file(Path(folder), int(os.environ["RANK"]))
    temporary = f"{path}.tmp"
    with open(temporary, "w") as file:
        json.dump(asdict(Heartbeat(phase, step, time.monotonic())), file)
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
