"""Real child processes for the fault tests: forked, so that each costs milliseconds and not an import of torch."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


@contextmanager
def child(body: Callable[[], object], fault: str = "") -> Iterator[int]:
    """`body` in a forked process, with NURTURE_FAULT set; gives its pid, and kills it if it still runs at the end."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                signal.signal(number, signal.SIG_DFL)
            torch.set_num_threads(1)
            os.environ["NURTURE_FAULT"] = fault
            body()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    try:
        yield pid
    finally:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def end_of(pid: int) -> int:
    """Wait for a child: its exit code, or minus the signal that ended it."""
    info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert info is not None
    return info.si_status if info.si_code == os.CLD_EXITED else -info.si_status


def run_child(body: Callable[[], object], fault: str = "") -> int:
    with child(body, fault) as pid:
        return end_of(pid)


def wait_for(path: Path, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} did not appear"
        time.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether the process runs (one that has ended and is not yet collected does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False
