"""The numbers against the kernel's own headers."""

import re
from pathlib import Path

import pytest

from nurture.sandbox.kernel import filter_program
from nurture.sandbox.syscalls import CHECKED, FREE

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
        if operation in (0x15, 0x45):
            assert place + 1 + max(yes, no) < numbers, "a jump stays inside"
    assert code[-8] == 0x06
