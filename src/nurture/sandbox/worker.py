"""The trainer's end: starting servers, handing them runs, reading what comes out, and never waiting for ever."""

from __future__ import annotations

import atexit
import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from ..errors import InputError
from .kernel import missing_here

Job = TypeVar("Job")
Result = TypeVar("Result")

START_SECONDS = 60.0
"""The longest a server may take until it is warm."""
GRACE = 5.0
"""How much later than a child's own deadline its server must have answered."""


class SandboxLost(Exception):
    """The machinery failed, not the program: the server is gone, or a child could not be locked up."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: `exit` with its code, `signal` with minus its number, `timeout`, or `output` where it wrote
    more than it may; and what it wrote."""

    how: str
    code: int
    output: bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one child: wall-clock seconds, address space and output in bytes."""

    seconds: float = 5.0
    memory: int = 1 << 30
    output: int = 1 << 20


class Server:
    """One warm process, which runs one child at a time. It is started anew after it was lost."""

    def __init__(self, packages: str = ""):
        self.packages = packages
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._reading = -1
        self._limits = Limits()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def run(self, role: str, payload: object, limits: Limits, *, stdin: bytes = b"") -> Ended:
        """Run one child to its end."""
        self.begin(role, payload, limits, stdin=stdin)
        return self.end()

    def begin(
        self, role: str, payload: object, limits: Limits, *, stdin: bytes = b"", channel: int | None = None
    ) -> None:
        """Start a child; `end` must follow. The child alone reads `payload` and `stdin`."""
        if self._reading >= 0:  # the last run was begun and never ended
            self.close()
        request = {"role": role, "seconds": limits.seconds, "memory": limits.memory}
        handed: list[int] = []
        try:
            control = self._started()
            self._limits = limits
            self._reading, writing = os.pipe()
            handed += [writing, _in_memory(json.dumps(payload).encode()), _in_memory(stdin)]
            # A child without a channel gets its own input in place of one.
            handed_on = [*handed, handed[-1] if channel is None else channel]
            socket.send_fds(control, [json.dumps(request).encode()], handed_on)
        except OSError as error:
            self.close()
            raise SandboxLost(f"the sandbox's server was lost ({error})") from error
        finally:
            for descriptor in handed:
                os.close(descriptor)

    def end(self) -> Ended:
        """Wait for the child and read what it wrote."""
        try:
            return self._finish(self._reading, self._limits)
        except (OSError, ValueError) as error:
            self.close()
            raise SandboxLost(f"the sandbox's server was lost ({error})") from error
        finally:
            self._drop()

    def _finish(self, reading: int, limits: Limits) -> Ended:
        control = self._control
        if control is None:
            raise OSError("it was closed")
        deadline = time.monotonic() + limits.seconds + GRACE
        output, flooded, waited = bytearray(), False, [reading, control]
        while True:
            ready, _, _ = select.select(waited, [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                raise OSError("it does not answer")
            if reading in ready:
                piece = os.read(reading, 1 << 16)
                output += piece
                if not piece or flooded:
                    waited.remove(reading)
                elif len(output) > limits.output:
                    flooded = True
                    control.send(b'{"stop": true}')
            elif control in ready:
                answer = json.loads(control.recv(4096) or b"null")
                if answer is None:
                    raise OSError("it ended")
                if answer["code"] == -signal.SIGUSR1:
                    raise SandboxLost("a child of the sandbox could not be locked up")
                how = "output" if flooded else answer["ended"]
                return Ended(how, answer["code"], bytes(output[: limits.output]))

    def _started(self) -> socket.socket:
        if self._process and self._process.poll() is None and self._control:
            return self._control
        self.close()
        root = str(Path(__file__).parents[2])
        start = (
            f"import sys; sys.path.insert(0, {root!r}); from nurture.sandbox import server; sys.path.remove({root!r}); "
        )
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", "-c", f"{start}server.main({self.packages!r})"],
            stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin"}, cwd="/", start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self._control = ours
        if not select.select([ours], [], [], START_SECONDS)[0] or ours.recv(16) != b"ready":
            raise OSError("it did not start")
        return ours

    def _drop(self) -> None:
        if self._reading >= 0:
            os.close(self._reading)
        self._reading = -1

    def close(self) -> None:
        self._drop()
        if self._control:
            self._control.close()
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = self._control = None


@dataclass(frozen=True, slots=True)
class Worker:
    """Two servers: one for programs, the other for what judges them."""

    programs: Server
    judges: Server


class Sandbox:
    """A number of workers. `map` hands them jobs; results come in the order of the jobs."""

    def __init__(self, workers: int = 2, packages: str = ""):
        self.pid = os.getpid()
        self.workers = workers
        self._all = [Worker(Server(packages), Server(packages)) for _ in range(workers)]
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._all:
            self._free.put(worker)

    def map(self, run: Callable[[Worker, Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
        def one(job: Job) -> Result:
            worker = self._free.get()
            try:
                return run(worker, job)
            finally:
                self._free.put(worker)

        pool = ThreadPoolExecutor(self.workers, "sandbox")
        try:
            yield from pool.map(one, jobs)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    @property
    def pids(self) -> list[int]:
        """Of the servers that run, each worker's for programs first."""
        servers = (server for worker in self._all for server in (worker.programs, worker.judges))
        return [server.pid for server in servers if server.pid is not None]

    def close(self) -> None:
        if self.pid == os.getpid():  # a forked process leaves its parent's servers alone
            for worker in self._all:
                worker.programs.close()
                worker.judges.close()


def missing(packages: str = "") -> str:
    """What this machine lacks to run what a model wrote, or nothing. Tries to break out once, to be sure."""
    if lacking := missing_here():
        return lacking
    server = Server(packages)
    try:
        ended = server.run("look", None, Limits(seconds=10))
    except SandboxLost as error:
        return f"a sandbox that starts: {error}"
    finally:
        server.close()
    if ended.output != b"[]":
        escaped = ended.output.decode(errors="replace")
        return f"a sandbox that holds: a child could {escaped or f'not be tested ({ended})'}"
    return ""


@lru_cache
def _shared(pid: int, workers: int, packages: str) -> Sandbox:
    if lacking := missing(packages):
        raise InputError(f"Running what a model wrote needs {lacking}, which this machine does not have.")
    sandbox = Sandbox(workers, packages)
    atexit.register(sandbox.close)
    return sandbox


def shared_sandbox(workers: int, mathematics: bool = False) -> Sandbox:
    """The sandbox of this process, started when it is first used. `InputError` where this machine cannot have one."""
    return _shared(os.getpid(), workers, _packages() if mathematics else "")


def _packages() -> str:
    found = find_spec("math_verify")
    if found is None or not found.submodule_search_locations:
        raise InputError("Comparing mathematics needs math-verify; install nurture-llm[math].")
    return str(Path(next(iter(found.submodule_search_locations))).parent)


def _in_memory(data: bytes) -> int:
    """A file that exists only as a descriptor."""
    descriptor = os.memfd_create("payload")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
