"""One process at a time in a run folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError

NAME = ".lock"

_held: set[int] = set()


def _forget_in_child() -> None:
    """A lock belongs to the open file, which a fork shares: a worker that outlives its parent would still hold it."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Hold the folder, or raise an InputError that names who does.

    The lock is the kernel's (`flock` on `.lock`), so it ends with its process however that dies; the text in the file
    only says whose it is.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        reason = "it is a file" if folder.is_file() else error.strerror
        raise InputError(f"{folder} cannot be a run folder ({reason}); choose another with out=.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = _holder(descriptor)
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise InputError(
                f"The run folder {folder} is in use by {holder}; wait for it, or choose another."
            ) from None
        raise InputError(
            f"The run folder {folder} cannot be locked ({error.strerror}); put it on a file system that knows flock."
        ) from error
    _held.add(descriptor)
    try:
        now = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        _rewrite(descriptor, json.dumps(now).encode())
        yield
    finally:
        if descriptor in _held:  # not so in a forked child that unwinds this frame
            _held.remove(descriptor)
            _rewrite(descriptor, b"")
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _rewrite(descriptor: int, data: bytes) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, data, 0)


def _holder(descriptor: int) -> str:
    try:
        said = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {said['pid']} on {said['host']} since {said['since']}"
    except (ValueError, KeyError, TypeError):  # it has the lock and has not written its name yet
        return "another process"
