"""The numbers against the kernel's own headers."""

import re
import struct
from pathlib import Path

import pytest

from nurture.sandbox.kernel import filter_program
from nurture.sandbox.syscalls import AUDIT_ARCH, CHECKED, FREE

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
OTHER_NAMES = {"newfstatat": "fstatat"}


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers(machine):
    if not HEADERS[machine].exists():
        pytest.skip("no kernel headers")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[machine].read_text())
    numbers = {name: int(number) for name, number in found}
    for name, number in {**FREE[machine], **CHECKED[machine]}.items():
        assert number == numbers.get(name, numbers.get(OTHER_NAMES.get(name, ""))), name


@pytest.mark.parametrize("machine", FREE)
def test_nothing_that_reaches_out_is_listed(machine):
    never = (
        "fork vfork execve execveat socket socketpair connect bind kill tkill tgkill ptrace mount bpf unshare setns "
    )
    never += (
        "io_uring_setup memfd_create chmod fchmodat unlink unlinkat rename mkdir mkdirat truncate ftruncate setrlimit "
    )
    never += "pidfd_open pidfd_getfd pidfd_send_signal process_vm_readv process_vm_writev shmget keyctl prctl seccomp"
    assert not set(never.split()) & set(FREE[machine])


@pytest.mark.parametrize("machine", FREE)
def test_the_filter_is_a_program_of_known_steps(machine):
    code = filter_program(machine)
    assert len(code) % 8 == 0 and len(code) // 8 < 4096
    numbers = len(code) // 8
    for place in range(numbers):
        operation, yes, no = code[8 * place], code[8 * place + 2], code[8 * place + 3]
        if operation in (0x15, 0x35, 0x45):
            assert place + 1 + max(yes, no) < numbers, "a jump stays inside"
    assert code[-8] == 0x06


@pytest.mark.parametrize("machine", FREE)
def test_the_filter_by_an_interpreter_of_our_own(machine):
    """Every number below 1024, with harmless and with harmful arguments, through a few lines that do what the kernel's
    packet-filter machine does."""
    code = filter_program(machine)
    steps = [struct.unpack_from("HBBI", code, place) for place in range(0, len(code), 8)]

    def verdict(number, *arguments, architecture=AUDIT_ARCH[machine]):
        data = struct.pack("=IIQ6Q", number, architecture, 0, *[*arguments, 0, 0, 0, 0, 0, 0][:6])
        place, accumulator = 0, 0
        while True:
            operation, yes, no, k = steps[place]
            place += 1
            if operation == 0x20:
                (accumulator,) = struct.unpack_from("=I", data, k)
            elif operation == 0x06:
                return {0x7FFF0000: "allow", 0x80000000: "kill"}.get(k, "refuse")
            else:
                holds = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[operation]
                place += yes if holds else no

    checked = CHECKED[machine]
    for number in range(1024):
        if number not in checked.values():
            assert verdict(number) == ("allow" if number in FREE[machine].values() else "refuse"), number
    assert verdict(FREE[machine]["read"], architecture=0x40000003) == "kill"
    assert verdict(0x40000000 + FREE[machine]["read"]) == "refuse"
    assert verdict(checked["clone"], 17) == "refuse" and verdict(checked["clone"], 0x3D0F00) == "allow"
    assert verdict(checked["clone3"]) == "refuse"
    assert verdict(checked["fcntl"], 5, 2) == "allow" and verdict(checked["fcntl"], 5, 8) == "refuse"
    assert verdict(checked["ioctl"], 0, 0x5401) == "allow" and verdict(checked["ioctl"], 0, 0x5412) == "refuse"
    assert verdict(checked["prlimit64"], 0, 9, 0, 4096) == "allow"
    for harmful in ((1, 9, 0, 0), (0, 9, 4096, 0), (0, 9, 1 << 32, 0)):
        assert verdict(checked["prlimit64"], *harmful) == "refuse"
