"""The warm process between the trainer and the children: it forks one per run, waits, kills. It reads nothing.

Programs, their input and their tests travel in descriptors that only the child reads, so nothing of one run is in the
memory that the next child inherits. A request is one message on descriptor 0, `{"role", "seconds", "memory"}`, with
four descriptors beside it (what `inside.ROLES` makes of them: output, payload, standard input, channel); the answer is
`{"ended", "code"}`. Any message while a child runs stops it.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import select
import signal
import socket
import sys
import sysconfig
import time

from . import inside
from .kernel import die_with_parent, filter_program, limit, lock, readable_only

LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo", "/dev/null", "/dev/urandom")
LOOK_AT_PARENT = 5.0
"""Seconds after which an idle server checks that its trainer still lives."""


def main(packages: str) -> None:
    """`packages`: a folder of libraries for mathematics, or nothing for plain Python."""
    own = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.join(sys.base_prefix, "lib")]
    if packages:
        own.append(packages)
        sys.path.append(packages)
        inside.load_mathematics()
    else:
        inside.load_common_modules()
    control = socket.socket(fileno=0)
    ruleset = readable_only([*own, *LIBRARIES])
    program = filter_program()
    trainer = os.getppid()
    # A collection in the server or at the start of a child would copy every page that it looks at.
    gc.disable()
    gc.freeze()
    control.sendall(b"ready")
    while os.getppid() == trainer:
        if not select.select([control], [], [], LOOK_AT_PARENT)[0]:
            continue
        message, descriptors, _, _ = socket.recv_fds(control, 4096, 4)
        if not message:
            return
        if not descriptors:  # a stop that came too late
            continue
        answer = run(json.loads(message), descriptors, control, ruleset, program)
        control.sendall(json.dumps(answer).encode())


def run(
    request: dict[str, object], descriptors: list[int], control: socket.socket, ruleset: int, program: bytes
) -> dict[str, object]:
    role, seconds, memory = str(request["role"]), float(str(request["seconds"])), int(str(request["memory"]))
    server = os.getpid()
    deadline = time.monotonic() + seconds
    pid = os.fork()
    if pid == 0:
        try:
            _place(descriptors, ruleset)
            die_with_parent(server)
            limit(seconds, memory)
            lock(RULESET, program)
        except BaseException:
            os.kill(os.getpid(), NOT_LOCKED)
        gc.enable()
        try:
            inside.ROLES[role]()
        except BaseException:
            os._exit(1)
        os._exit(0)
    for descriptor in descriptors:
        os.close(descriptor)
    ended = _wait(pid, deadline, control)
    if ended:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {"ended": ended or ("signal" if code < 0 else "exit"), "code": code}


RULESET = 9
"""Where a child finds the ruleset, until it is bound by it."""
NOT_LOCKED = signal.SIGUSR1
"""Ends a child that could not lock itself up, and so has run nothing. No program can raise it."""


def _place(descriptors: list[int], ruleset: int) -> None:
    """0: standard input; 1 and 2: nowhere, until the role says otherwise; 3 payload, 4 output, 5 channel. All others,
    the server's own among them, are closed."""
    places = (inside.OUTPUT, inside.PAYLOAD, 0, inside.CHANNEL, RULESET)
    # First out of the way of the places to fill.
    sources = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 32) for descriptor in (*descriptors, ruleset)]
    for source, place in zip(sources, places, strict=True):
        os.dup2(source, place, inheritable=False)
    nowhere = os.open("/dev/null", os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.closerange(inside.CHANNEL + 1, RULESET)
    os.closerange(RULESET + 1, 1024)


def _wait(pid: int, deadline: float, control: socket.socket) -> str:
    """Why the child has to be killed, or nothing where it ended by itself."""
    handle = os.pidfd_open(pid)
    try:
        ready, _, _ = select.select([handle, control], [], [], max(deadline - time.monotonic(), 0))
    finally:
        os.close(handle)
    if handle in ready:
        return ""
    if control in ready:
        control.recv(4096)
        return "stopped"
    return "timeout"
