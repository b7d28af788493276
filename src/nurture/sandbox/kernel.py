"""The kernel's own locks, through ctypes: Landlock (files, signals), seccomp (system calls), rlimits (memory, time).

They bind a process and everything it may start for good; root is bound like anyone. Landlock is asked for whatever the
running kernel knows; what it does not (network before ABI 4, signals before ABI 6) the seccomp filter refuses as well.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Iterable, Sequence

from .syscalls import AUDIT_ARCH, CHECKED, FREE

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""Landlock's system calls, the same numbers on every architecture."""

READ_FILE, READ_DIR = 1 << 2, 1 << 3
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many rights over files each Landlock ABI knows; 16 from ABI 5 on."""

PR_SET_DUMPABLE, PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 4, 1, 22, 38
SIGKILL = 9

_libc = ctypes.CDLL(None, use_errno=True)


def landlock_abi() -> int:
    """0 where the kernel has no Landlock or does not enable it."""
    return max(_libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1), 0)


def missing_here() -> str:
    """What this system lacks for the sandbox, or nothing."""
    if platform.system() != "Linux":
        return f"Linux (this is {platform.system()})"
    if platform.machine() not in FREE:
        return f"a processor of {' or '.join(FREE)} (this is {platform.machine()})"
    if not landlock_abi():
        return "Landlock (Linux 5.13 or newer, and 'landlock' among the security modules the kernel starts with)"
    return ""


def readable_only(paths: Iterable[str]) -> int:
    """A Landlock ruleset, as a file descriptor: these folders may be read, nothing else read, written or run, no TCP,
    no signal or abstract socket to a process outside."""
    abi = landlock_abi()
    fields = [(1 << FILE_RIGHTS.get(abi, 16)) - 1]
    if abi >= 4:
        fields.append(0b11)
    if abi >= 6:
        fields.append(0b11)
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = _syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    for path in paths:
        try:
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        rights = READ_FILE | READ_DIR if os.path.isdir(path) else READ_FILE
        _syscall(ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, folder), 0)
        os.close(folder)
    return ruleset


def lock(ruleset: int, program: bytes) -> None:
    """Put this process behind the ruleset and the filter. There is no way back."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _syscall(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    buffer = ctypes.create_string_buffer(program)
    fprog = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    _prctl(PR_SET_SECCOMP, 2, fprog)


def die_with_parent(parent: int) -> None:
    _prctl(PR_SET_PDEATHSIG, SIGKILL)
    _prctl(PR_SET_DUMPABLE, 0)
    if os.getppid() != parent:
        os._exit(1)


def limit(seconds: float, memory: int) -> None:
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, int(seconds) + 2),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


# --- the seccomp filter: a program for the kernel's packet-filter machine ---------------------------------------------

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, REFUSE, NOT_THERE, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS, 0x80000000
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
"""Offsets in what the kernel hands to the filter; each argument is 8 bytes, its lower half first."""

CLONE_THREAD = 0x10000
HARMLESS_FCNTL = (0, 1, 2, 3, 4, 1030)
"""Duplicate a descriptor, get and set its flags. The others would have signals sent, or leases and locks taken."""
HARMLESS_IOCTL = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)
"""Is it a terminal, how wide, how much is there to read, close it on exec or not."""


def filter_program(machine: str | None = None) -> bytes:
    """The filter for an architecture (by default this one's)."""
    machine = machine or platform.machine()
    checked = CHECKED[machine]
    code = [_load(ARCHITECTURE), _jump(EQUAL, AUDIT_ARCH[machine], 1, 0), _return(KILL), _load(NUMBER)]
    # glibc falls back to clone, whose flags (unlike those of clone3) a filter can see.
    code += [_jump(EQUAL, checked["clone3"], 0, 1), _return(NOT_THERE)]
    code += _guarded(checked["clone"], [_load(_low(0)), _jump(ANY_BIT, CLONE_THREAD, 0, 1), _return(ALLOW)])
    code += _guarded(checked["fcntl"], _one_of(1, HARMLESS_FCNTL))
    code += _guarded(checked["ioctl"], _one_of(1, HARMLESS_IOCTL))
    reading_own = [_load(_low(0)), _jump(EQUAL, 0, 0, 5), _load(_low(2)), _jump(EQUAL, 0, 0, 3)]
    reading_own += [_load(_low(2) + 4), _jump(EQUAL, 0, 0, 1), _return(ALLOW)]
    code += _guarded(checked["prlimit64"], reading_own)
    return b"".join([*code, *_among(sorted(FREE[machine].values()))])


def _among(numbers: Sequence[int]) -> list[bytes]:
    """Allow these, refuse all others. By halves: a filter is gone through once for every call there is when it is
    loaded, and for many calls when they are made."""
    if len(numbers) <= 4:
        return [*(step for n in numbers for step in (_jump(EQUAL, n, 0, 1), _return(ALLOW))), _return(REFUSE)]
    middle = len(numbers) // 2
    low, high = _among(numbers[:middle]), _among(numbers[middle:])
    return [_jump(AT_LEAST, numbers[middle], len(low), 0), *low, *high]


def _guarded(number: int, checks: Sequence[bytes]) -> list[bytes]:
    """For the call `number`: the checks, which allow or fall through to a refusal."""
    return [_jump(EQUAL, number, 0, len(checks) + 1), *checks, _return(REFUSE)]


def _one_of(argument: int, values: Sequence[int]) -> list[bytes]:
    return [_load(_low(argument)), *(step for v in values for step in (_jump(EQUAL, v, 0, 1), _return(ALLOW)))]


def _low(argument: int) -> int:
    return ARGUMENTS + 8 * argument


def _load(offset: int) -> bytes:
    return struct.pack("HBBI", LOAD, 0, 0, offset)


def _jump(test: int, value: int, steps_if: int, steps_else: int) -> bytes:
    return struct.pack("HBBI", test, steps_if, steps_else, value)


def _return(action: int) -> bytes:
    return struct.pack("HBBI", RETURN, 0, 0, action)


# --- calls ------------------------------------------------------------------------------------------------------------


def _prctl(option: int, value: int, pointer: bytes | None = None) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), pointer, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}): {os.strerror(ctypes.get_errno())}")


def _syscall(number: int, *arguments: object) -> int:
    found = _libc.syscall(number, *arguments)
    if found < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}: {os.strerror(ctypes.get_errno())}")
    return found
