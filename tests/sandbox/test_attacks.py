"""What a hostile program may try. Each attack is real; each must end as a wrong answer, and leave nothing behind."""

import os
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest

from nurture.sandbox import Limits, Sandbox, run_asserts, run_stdio
from nurture.sandbox.kernel import missing_here

pytestmark = pytest.mark.skipif(bool(missing_here()), reason=f"the sandbox needs {missing_here()}")

RAW = "import ctypes; c = ctypes.CDLL(None, use_errno=True); r = c"
LIMITS = Limits(seconds=3, memory=512 << 20, output=1 << 20)


@pytest.fixture(scope="module")
def sandbox():
    box = Sandbox(1)
    yield box
    box.close()


def run(sandbox, program, tests, setup=""):
    return next(sandbox.map(lambda worker, _: run_asserts(worker, program, setup, tests, LIMITS), [None]))


def script(sandbox, program, given="", expected="done\n"):
    return next(sandbox.map(lambda worker, _: run_stdio(worker, program, [(given, expected)], LIMITS), [None]))


def report(sandbox, body):
    """What a program that tries `body` can say of it: the name of the exception, or what it got."""
    program = f"def f():\n try:\n  {body}\n except BaseException as e:\n  return type(e).__name__, str(e)[:60]"
    return run(sandbox, program, ["result = f()\nassert False, result"]).reason


def children(sandbox):
    return [child for pid in sandbox.pids for child in psutil.Process(pid).children(recursive=True)]


@pytest.mark.parametrize(
    "body",
    [
        "import os; return os.fork()",
        "import subprocess; return subprocess.run(['/bin/true']).returncode",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; return os.posix_spawn('/bin/true', ['true'], {})",
        "import socket; return socket.socket()",
        "import socket; return socket.socketpair()",
        "import os; return os.kill(os.getppid(), 9)",
        "import os; return os.kill(-1, 0)",
        "import os; return os.killpg(0, 9)",
        "import signal; return signal.pidfd_send_signal(0, 9)",
        "return open('/etc/passwd').read()",
        "import os; return os.listdir(os.path.expanduser('~'))",
        "return open('/proc/self/environ').read()",
        "import os; return open(f'/proc/{os.getppid()}/mem').read()",
        "return open('/tmp/nurture-was-here', 'w')",
        "return open('nurture-was-here', 'w')",
        "import os; return os.mkdir('/tmp/nurture-was-here')",
        "import os; return os.chmod('/tmp/nurture-target', 0o777)",
        "import os; return os.unlink('/tmp/nurture-target')",
        "import resource; return resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "import resource, os; return resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
        "import fcntl, os; return fcntl.fcntl(5, fcntl.F_SETOWN, os.getppid())",
        "import os; return os.memfd_create('x')",
        "import os; return os.sched_setaffinity(0, {0})",
        "import os; return os.setsid()",
        f"{RAW}.syscall({57 if os.uname().machine == 'x86_64' else 435}); raise OSError(ctypes.get_errno(), r)",
        f"{RAW}.ptrace(16, 1, 0, 0); raise OSError(ctypes.get_errno(), r)",
        f"{RAW}.unshare(0x10000000); raise OSError(ctypes.get_errno(), r)",
        f"{RAW}.syscall(425, 8, 0); raise OSError(ctypes.get_errno(), r)",
    ],
)
def test_what_the_kernel_refuses(sandbox, body):
    target = Path("/tmp/nurture-target")
    target.touch()
    try:
        said = report(sandbox, body)
        assert "PermissionError" in said or "not allowed to raise" in said, said
        assert target.exists() and not Path("/tmp/nurture-was-here").exists()
    finally:
        target.unlink(missing_ok=True)


def test_what_the_environment_holds(sandbox):
    os.environ["NURTURE_SECRET"] = "hidden"
    assert "NURTURE_SECRET" not in report(sandbox, "import os; return sorted(os.environ)")


def test_only_standard_streams_and_the_channel_are_open(sandbox):
    body = "import os; return [fd for fd in range(3, 32) if not os.fstat(fd) is None]"
    assert "OSError" in report(sandbox, body)  # 3, the payload, is closed once read
    program = (
        "import os\nfound = []\nfor fd in range(64):\n try:\n  os.fstat(fd); found.append(fd)\n except OSError: pass"
    )
    assert run(sandbox, program, ["assert list(found) == [0, 1, 2, 5], found"]).passed == (True,)


def test_a_fork_bomb(sandbox):
    program = "import os\nwhile True:\n try: os.fork()\n except OSError: break\nprint('stopped')"
    before = len(psutil.pids())
    assert script(sandbox, program, expected="stopped\n").passed == (True,)
    assert len(psutil.pids()) < before + 20 and not children(sandbox)


def test_a_thread_bomb_ends_with_its_process(sandbox):
    program = """
import threading, time
def f(): time.sleep(60)
try:
    while True: threading.Thread(target=f).start()
except RuntimeError: pass
print('done', flush=True)
"""
    assert not script(sandbox, program + "time.sleep(60)").passed[0]
    assert not children(sandbox)


@pytest.mark.parametrize(
    "program",
    [
        "x = bytearray(10 << 30)",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "import mmap; mmap.mmap(-1, 10 << 30)",
        "x = 'a' * (1 << 33)",
        "x = 9 ** 9 ** 9",
    ],
)
def test_memory(sandbox, program):
    assert script(sandbox, f"{program}\nprint('done')").passed == (False,)


def test_time(sandbox):
    started = time.monotonic()
    tested = script(sandbox, "while True: pass")
    assert tested.passed == (False,) and tested.timeout and "not done within 3 s" in tested.reason
    assert time.monotonic() - started < LIMITS.seconds + 100 and not children(sandbox)


def test_signals_cannot_be_ignored_away(sandbox):
    program = (
        "import signal, time\nfor s in (2, 15, 14, 24): signal.signal(s, signal.SIG_IGN)\nwhile True: time.sleep(9)"
    )
    assert script(sandbox, program).timeout and not children(sandbox)


def test_endless_output(sandbox):
    tested = script(sandbox, "while True: print('x' * 1000)")
    assert tested.passed == (False,) and "bytes of output" in tested.reason


def test_endless_input_is_not_waited_for(sandbox):
    assert script(sandbox, "import sys\nsys.stdin.read()\nprint('done')").passed == (True,)


@pytest.mark.parametrize(
    "program",
    [
        "import os; os._exit(0)",
        "import sys; sys.exit(0)",
        "raise SystemExit",
        "print('all tests passed')\ndef f(x): return 0",
        "def f(x):\n import os; os._exit(0)",
        "class Yes(int):\n def __eq__(self, o): return True\n __hash__ = int.__hash__\ndef f(x): return Yes(0)",
        "class Yes:\n def __eq__(self, o): return True\ndef f(x): return Yes()",
        "import builtins\nbuiltins.AssertionError = None\nbuiltins.isinstance = lambda *a: True\ndef f(x): return 0",
        "import os, json\nm = json.dumps({'passed': [True], 'reason': ''}).encode()\nfor fd in range(16):\n"
        " try: os.write(fd, m)\n except OSError: pass\ndef f(x): return 0",
        "import os, json\nm = json.dumps({'value': 42}).encode()\nm = len(m).to_bytes(4, 'little') + m\n"
        "def f(x):\n os.write(5, b'\\xff' * 64)\n return 0",
        "import gc\ndef f(x):\n for o in gc.get_objects():\n"
        "  if ''.join(['ass', 'ert f']) in str(o)[:100000]: return 42\n return 0",
        "import sys\ndef f(x):\n g = sys._getframe()\n while g.f_back: g = g.f_back\n"
        " return 42 if '42' in str(g.f_globals.get('tests', '')) else 0",
        "def f(x): raise AssertionError",
        "def isinstance(*a): return True\ndef abs(x): return 0\ndef f(x): return 0",
    ],
)
def test_a_forged_success(sandbox, program):
    tests = ["assert f(41) == 42", "assert isinstance(f(1), int) and abs(f(41) - 42) < 1e-9"]
    assert run(sandbox, program, tests).passed == (False, False)


def test_a_value_can_be_forged_ahead_and_is_only_a_value(sandbox):
    """Replies sent before they are asked for are taken as values: no more than a function that returns them."""
    program = (
        "import os, json\nm = json.dumps({'value': 42}).encode()\nfor _ in range(9):\n"
        " os.write(5, len(m).to_bytes(4, 'little') + m)\ndef f(x): return 0"
    )
    assert run(sandbox, program, ["assert f(1) == 43"]).passed == (False,)


def test_a_malformed_message_is_a_wrong_answer(sandbox):
    for message in (
        "b'\\xff' * 99",
        "(3).to_bytes(4, 'little') + b'{}}'",
        "(9).to_bytes(4, 'little') + b'{\"a\": {}}'",
    ):
        assert (
            run(sandbox, f"import os\nos.write(5, {message})\ndef f(): return 1", ["assert f() == 1"]).passed[0]
            is False
        )


def test_a_run_leaves_no_trace_in_what_the_next_child_inherits(sandbox):
    """A child's memory is its server's. The needle is in none of it, neither alive nor freed."""
    needle = "needle_in_a_haystack"
    assert run(sandbox, f"def f(): return '{needle}'", [f"assert f() == '{needle}'"]).passed == (True,)
    assert script(sandbox, f"print(input() == '{needle}')", needle, "True").passed == (True,)
    assert len(sandbox.pids) == 2
    for pid in sandbox.pids:
        memory = memory_of(pid)
        assert b"trainer" in memory, "the search finds what is there"
        assert needle.encode() not in memory


def memory_of(pid):
    parts = bytearray()
    try:
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for line in maps:
                where, rights, *_ = line.split()
                if rights.startswith("rw"):
                    start, stop = (int(end, 16) for end in where.split("-"))
                    memory.seek(start)
                    parts += memory.read(stop - start)
    except PermissionError:
        pytest.skip("this system does not let a process look into its children")
    return parts


def test_the_trainer_survives_and_its_next_run_works(sandbox):
    run(sandbox, "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)", ["assert f() == 1"])
    assert run(sandbox, "def f(): return 1", ["assert f() == 1"]).passed == (True,)


def test_a_listening_server_of_the_trainer_cannot_be_reached(sandbox):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        body = f"import urllib.request; return urllib.request.urlopen('http://127.0.0.1:{port}', timeout=1)"
        assert "Error" in report(sandbox, body)
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_dead_server_fails_one_run_and_is_started_again(sandbox):
    from nurture.sandbox import SandboxLost

    worker = sandbox._all[0]
    run(sandbox, "def f(): return 1", ["assert f() == 1"])
    worker.programs.begin("serve", {"program": "while True: pass"}, LIMITS)
    os.kill(worker.programs.pid, signal.SIGKILL)
    with pytest.raises(SandboxLost, match="was lost"):
        worker.programs.end()
    assert run(sandbox, "def f(): return 1", ["assert f() == 1"]).passed == (True,)


def test_no_server_outlives_its_trainer():
    import subprocess
    import sys

    program = (
        "from nurture.sandbox import *; import os\nbox = Sandbox(1)\n"
        "list(box.map(lambda w, _: run_stdio(w, 'print(1)', [('', '1')], Limits()), [None]))\n"
        "print(box.pids[0], flush=True)\nos._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    pid = int(done.stdout)
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    pytest.fail("the server lives on")
