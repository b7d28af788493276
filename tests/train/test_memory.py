"""What the allocator keeps, by the operating system's own count of resident pages."""

from __future__ import annotations

import subprocess
import sys

import pytest

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator is glibc's")

CHILD = """
import sys
import torch
from nurture.train.memory import keep_pages

sys.exit(77) if not keep_pages() else None

def resident():
    line = next(x for x in open("/proc/self/status") if x.startswith("VmRSS"))
    return int(line.split()[1]) * 1024
"""


def child(script: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", CHILD + script], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("another C library than glibc")
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@LINUX
def test_freed_pages_are_kept():
    before, held, after = child("""
before = resident()
x = torch.ones(2**26)
held = resident()
del x
print(before, held, resident())
""")
    assert held - before > 2**27
    assert after - before > 2**27
