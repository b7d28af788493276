"""Several processes on one machine: start the ranks, watch them, end them all together, keep the exit code.

A rank that dies or falls silent ends the run with exit 4 and is named with the phase and step it was in. Every rank is
a session of its own, so that a signal from the terminal reaches it once (through us) and its whole process group can
be ended, with no process left over.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from .heartbeat import FOLDER, REWARD_LOST, Heartbeat, die_with_parent, heartbeat_file, last_heartbeat
from .lock import lock_run

KEPT = (2, 3, 130, 143)
"""Exit codes with which a rank has explained itself; ours is the same. Any other failure is a lost rank."""
LOST = 4

POLL = 0.05
GRACE = 3.0
"""Seconds the other ranks get, after one has failed, to fail with their own message."""
HURRY = 5.0
"""Seconds the ranks get to end after a second signal."""
SHOWN_LINES = 20


def launch(
    command: Sequence[str],
    processes: int,
    heartbeat_folder: Path,
    start_timeout: float = 300,
    step_timeout: float = 120,
) -> int:
    """Run `command` as `processes` ranks of one process group and return the exit code of the whole.

    Rank 0 shows its standard output; everything else the ranks write is kept in `rank-N.log` beside their heartbeats. A
    rank may be silent for `start_timeout` seconds before its first step and for `step_timeout` between two heartbeats.
    One launcher at a time may use `heartbeat_folder`.
    """
    with lock_run(heartbeat_folder):
        return _launch(command, processes, heartbeat_folder, start_timeout, step_timeout)


def launched() -> bool:
    """Whether this process is a rank that a launcher (this one or torchrun) has started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def _launch(
    command: Sequence[str], processes: int, heartbeat_folder: Path, start_timeout: float, step_timeout: float
) -> int:
    ranks: list[_Rank] = []
    try:
        with _caught_signals() as stop:
            port = _free_port()
            for rank in range(processes):
                ranks.append(_start(command, rank, processes, port, heartbeat_folder))
            return _watch(ranks, stop, start_timeout, step_timeout)
    finally:
        for rank in ranks:
            rank.kill()


@dataclass(slots=True)
class _Rank:
    """A running rank. `code` is its exit code once it has ended by itself, negative for the signal that ended it."""

    number: int
    process: subprocess.Popen[bytes]
    folder: Path
    started: float
    code: int | None = None

    @property
    def log(self) -> Path:
        return self.folder / f"rank-{self.number}.log"

    def poll(self) -> int | None:
        """Look whether it has ended; if so end whatever it started, while its number cannot belong to another yet."""
        if self.code is None and os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            self.signal_group(signal.SIGKILL)
            self.code = self.process.wait()
        return self.code

    def kill(self) -> None:
        if self.poll() is None:
            self.signal_group(signal.SIGKILL)
            self.process.wait()

    def signal_group(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):  # (macOS answers EPERM for a group of zombies)
            os.killpg(self.process.pid, number)

    def signal(self, number: int) -> None:
        """Signal the rank alone: what it has started is its own to stop."""
        if self.poll() is None:
            os.kill(self.process.pid, number)

    def beat(self) -> Heartbeat:
        return last_heartbeat(self.folder, self.number) or Heartbeat("start", 0, self.started)

    def last_words(self, start: int = 0) -> str:
        lines = self.log.read_bytes()[start:].decode(errors="replace").rstrip().splitlines()
        return "\n".join(lines[-SHOWN_LINES:])


def _start(command: Sequence[str], rank: int, processes: int, port: int, folder: Path) -> _Rank:
    heartbeat_file(folder, rank).unlink(missing_ok=True)
    local = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        FOLDER: str(folder.absolute()),
    }
    defaults = {  # all ranks are on this machine: they share its cores, and need no other network
        "OMP_NUM_THREADS": str(max(1, _cores() // processes)),
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
    }
    with open(folder / f"rank-{rank}.log", "wb") as log:
        process = subprocess.Popen(
            command,
            env=defaults | dict(os.environ) | local,
            stdin=subprocess.DEVNULL,
            stdout=None if rank == 0 else log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    return _Rank(rank, process, folder, time.monotonic())


@dataclass(slots=True)
class _Stop:
    """What asked us to stop, how often, how often the ranks have been told, and when our patience with them ends."""

    number: int | None = None
    asked: int = 0
    told: int = 0
    deadline: float = float("inf")

    def tell(self, ranks: list[_Rank]) -> None:
        """Pass on what has come since. A rank stops at the first signal with a checkpoint and at the second at once."""
        while self.told < self.asked:
            assert self.number is not None
            for rank in ranks:
                rank.signal(self.number)
            self.told += 1
            if self.told == 2:
                self.deadline = time.monotonic() + HURRY


@contextmanager
def _caught_signals() -> Iterator[_Stop]:
    stop = _Stop()

    def catch(number: int, frame: FrameType | None) -> None:
        stop.number = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
        stop.asked += 1

    assert threading.current_thread() is threading.main_thread(), "signals reach the main thread alone"
    before = {n: signal.signal(n, catch) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(ranks: list[_Rank], stop: _Stop, start_timeout: float, step_timeout: float) -> int:
    """Until all ranks have ended well, or one has not."""
    while any(rank.poll() is None for rank in ranks):
        stop.tell(ranks)
        if any(_has_failed(rank, stop) for rank in ranks):
            _wait(ranks, GRACE)
            break
        if time.monotonic() > stop.deadline:
            break
        if (silent := _longest_silent(ranks, start_timeout, step_timeout)) is not None:
            return _report_silence(silent, ranks)
        time.sleep(POLL)
    failed = [rank for rank in ranks if rank.code]
    if failed:
        return _report(min(failed, key=lambda rank: _remoteness(rank, stop)), stop)
    return 128 + stop.number if stop.number and time.monotonic() > stop.deadline else 0


def _code(rank: _Rank, stop: _Stop) -> int:
    """The rank's exit code; one that was signalled by us before it had a handler has stopped as asked."""
    assert rank.code is not None
    return 128 + stop.number if stop.number is not None and rank.code == -stop.number else rank.code


def _has_failed(rank: _Rank, stop: _Stop) -> bool:
    """Ended, neither well nor because it was asked to: the other ranks may still be writing the last checkpoint."""
    return rank.poll() is not None and _code(rank, stop) not in (0, 130, 143)


def _wait(ranks: list[_Rank], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(rank.poll() is None for rank in ranks):
        time.sleep(POLL)


def _remoteness(rank: _Rank, stop: _Stop) -> int:
    """How unlikely it is that this failure is the first cause: ranks that lose touch with a lost one fail as well."""
    code = _code(rank, stop)
    if code in (2, 3):
        return 0
    if code == LOST or code == -signal.SIGABRT:  # how ours, and how NCCL's, end when a partner is gone
        return 3
    return 2 if code in KEPT else 1


def _report(rank: _Rank, stop: _Stop) -> int:
    code, words = _code(rank, stop), rank.last_words()
    if code in KEPT or (code == LOST and rank.beat().phase == REWARD_LOST):
        _say(words)
        return code
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    _say(words, f"rank {rank.number} was lost ({how}) in {rank.beat()}; its log is {rank.log}")
    return LOST


def _longest_silent(ranks: list[_Rank], start_timeout: float, step_timeout: float) -> _Rank | None:
    """The rank that has said nothing for too long. One that waits for another is excused, unless all of them wait."""
    living = [(rank, rank.beat()) for rank in ranks if rank.poll() is None]
    now = time.monotonic()
    silent = [(rank, beat) for rank, beat in living if now - beat.time > (step_timeout if beat.step else start_timeout)]
    if any(not beat.waiting for _, beat in living):
        silent = [(rank, beat) for rank, beat in silent if not beat.waiting]
    elif len(silent) < len(living):
        return None
    return min(silent, key=lambda pair: pair[1].time)[0] if silent else None


def _report_silence(silent: _Rank, ranks: list[_Rank]) -> int:
    """Where every rank stands is often what tells why one hangs: ask all of them for their stacks before the end."""
    beat = silent.beat()
    silence = time.monotonic() - beat.time
    living = [rank for rank in ranks if rank.poll() is None]
    sizes = {rank.number: rank.log.stat().st_size for rank in living}
    for rank in living:
        rank.signal(signal.SIGUSR2)
    _wait_until_written(living, sizes)
    for rank in living:
        _say(f"rank {rank.number}, {rank.beat()}:", rank.last_words(sizes[rank.number]))
    logs = ", ".join(str(rank.log) for rank in ranks)
    _say(f"rank {silent.number} hung for {silence:.0f} s in {beat}; all ranks were ended. Their logs: {logs}")
    return LOST


def _wait_until_written(ranks: list[_Rank], sizes: dict[int, int], seconds: float = 2.0) -> None:
    """Until every rank has added to its log, and then a moment more, for the rest of the dump."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(rank.log.stat().st_size == sizes[rank.number] for rank in ranks):
        time.sleep(POLL)
    time.sleep(2 * POLL)


def _say(*paragraphs: str) -> None:
    for text in filter(None, paragraphs):
        print(text, file=sys.stderr, flush=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
