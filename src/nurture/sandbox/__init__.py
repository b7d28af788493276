"""Running what a model wrote: programs, and symbolic mathematics on its answers. Never in the trainer's process.

`syscalls.py` lists what a program may ask of the kernel, `kernel.py` makes the kernel refuse everything else (seccomp),
hides all files but the interpreter's (Landlock) and bounds time and memory. `server.py` is a small warm process that
forks one such child per program; `inside.py` is what the child does. `worker.py` is the trainer's end of it, and
`tests.py` judges a program by tests that the program itself never sees. docs/rewards.md says what this promises.
"""

from .tests import Tested, run_asserts, run_stdio
from .worker import Ended, Limits, Sandbox, SandboxLost, Worker, missing, shared_sandbox

__all__ = [
    "Ended",
    "Limits",
    "Sandbox",
    "SandboxLost",
    "Tested",
    "Worker",
    "missing",
    "run_asserts",
    "run_stdio",
    "shared_sandbox",
]
