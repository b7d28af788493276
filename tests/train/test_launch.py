"""The launcher, with real ranks that fail in every way: exit code, name of the culprit, and nobody left over."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from train.children import alive, child, end_of, wait_for

from nurture.errors import InputError
from nurture.train import launch as module
from nurture.train.heartbeat import heartbeat, last_heartbeat
from nurture.train.launch import launch, launched

PRELUDE = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
from nurture.train.heartbeat import heartbeat, install_child_handlers
install_child_handlers()
rank, out = int(os.environ["RANK"]), Path(os.environ["OUT"])
helper = subprocess.Popen(["sleep", "1000"])
(out / f"writing-{rank}").write_text(f"{os.getpid()} {helper.pid}")
os.rename(out / f"writing-{rank}", out / f"pids-{rank}")
def others(n=2):
    while len(list(out.glob("pids-*"))) < n: time.sleep(0.01)
"""


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RANK", "WORLD_SIZE", "OMP_NUM_THREADS", "NURTURE_HEARTBEAT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(module, "GRACE", 0.5)
    return tmp_path


def start(out: Path, script: str, processes: int = 2, start_timeout: float = 20, step_timeout: float = 20) -> int:
    try:
        return launch([sys.executable, "-c", PRELUDE + script], processes, out / "ranks", start_timeout, step_timeout)
    finally:
        assert_nobody_left(out)


def pids(out: Path) -> list[int]:
    return [int(pid) for file in out.glob("pids-*") for pid in file.read_text().split()]


def assert_nobody_left(out: Path) -> None:
    assert pids(out), "no rank has said its pid"
    end = time.monotonic() + 100
    while survivors := [pid for pid in pids(out) if alive(pid)]:
        assert time.monotonic() < end, f"still running: {survivors}"
        time.sleep(0.01)


def test_ranks_know_who_they_are_and_only_rank_0_shows(out: Path, capfd: pytest.CaptureFixture[str]):
    script = """
others(3)
names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"]
print("shown by", rank)
print("noted by", rank, file=sys.stderr)
(out / f"env-{rank}").write_text(" ".join(os.environ[n] for n in names) + f" {os.getsid(0) == os.getpid()}")
heartbeat("done", rank + 5)
"""
    assert start(out, script, 3) == 0
    shown = capfd.readouterr()
    assert shown.out == "shown by 0\n" and shown.err == ""
    env = [(out / f"env-{rank}").read_text().split() for rank in range(3)]
    assert [e[:4] for e in env] == [[str(r), str(r), "3", "127.0.0.1"] for r in range(3)]
    assert len({e[4] for e in env}) == 1 and all(e[6] == "True" for e in env)
    assert all(int(e[5]) >= 1 and int(e[5]) * 3 <= max(3, len(os.sched_getaffinity(0))) for e in env)
    assert (out / "ranks" / "rank-2.log").read_text() == "shown by 2\nnoted by 2\n"
    beat = last_heartbeat(out / "ranks", 2)
    assert beat is not None and (beat.phase, beat.step) == ("done", 7)


@pytest.mark.parametrize(
    ("ending", "how"),
    [
        ("sys.exit(7)", "exit code 7"),
        ("os.kill(os.getpid(), 9)", "signal 9"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "signal 15"),
        ("raise ValueError('boom')", "exit code 1"),
        ("sys.exit(4)", "exit code 4"),
    ],
)
def test_a_lost_rank_is_named(out: Path, ending: str, how: str, capfd: pytest.CaptureFixture[str]):
    script = f"""
others()
heartbeat("backward" if rank else "forward", 7)
if rank == 1:
    print("last words", file=sys.stderr)
    {ending}
time.sleep(1000)
"""
    assert start(out, script) == 4
    err = capfd.readouterr().err
    assert f"rank 1 was lost ({how}) in phase 'backward' of step 7; its log is {out}/ranks/rank-1.log" in err
    assert "last words" in err and ("boom" in err) == ("boom" in ending)


@pytest.mark.parametrize("code", [2, 3, 130, 143])
def test_a_rank_that_explains_itself_keeps_its_exit_code(out: Path, code: int, capfd: pytest.CaptureFixture[str]):
    script = f"""
others()
print("one clear sentence", file=sys.stderr)
sys.exit({code})
"""
    assert start(out, script) == code
    assert capfd.readouterr().err == "one clear sentence\n"


def test_ranks_that_end_together_because_a_reward_was_lost_are_not_called_lost(
    out: Path, capfd: pytest.CaptureFixture[str]
):
    script = """
others()
heartbeat("reward lost", 7)
if rank: time.sleep(1000)  # one takes its time to end
print("the judge is dead", file=sys.stderr)
sys.exit(4)
"""
    assert start(out, script) == 4
    assert capfd.readouterr().err == "the judge is dead\n"


def test_ranks_that_all_lost_touch_are_told_with_their_phase(out: Path, capfd: pytest.CaptureFixture[str]):
    script = """
others()
heartbeat("reduce", 7)
print("lost touch with the others", file=sys.stderr)
sys.exit(4)
"""
    assert start(out, script) == 4
    assert re.search(r"rank \d was lost \(exit code 4\) in phase 'reduce' of step 7; its log", capfd.readouterr().err)


def test_one_bad_input_ends_the_waiting_ranks_too(out: Path, capfd: pytest.CaptureFixture[str]):
    script = """
others()
if rank == 1:
    print("bad file", file=sys.stderr)
    sys.exit(2)
time.sleep(1000)
"""
    assert start(out, script) == 2
    assert capfd.readouterr().err == "bad file\n"


def test_the_cause_is_named_and_not_who_noticed_it_first(
    out: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "GRACE", 100.0)  # which ends when all have ended
    script = """
others(3)
heartbeat("reduce", 3)
if rank == 0: sys.exit(4)
if rank == 1: time.sleep(0.15); os.kill(os.getpid(), 9)
time.sleep(0.1); os.kill(os.getpid(), signal.SIGABRT)
"""
    assert start(out, script, 3) == 4
    assert "rank 1 was lost (signal 9) in phase 'reduce' of step 3" in capfd.readouterr().err


def test_a_silent_rank_is_named_with_everybodys_stacks(out: Path, capfd: pytest.CaptureFixture[str]):
    script = """
def stuck_here():
    time.sleep(1000)
def waiting_for_the_other():
    time.sleep(1000)
others()
heartbeat("forward", 6)
if rank == 1:
    heartbeat("backward", 7)
    stuck_here()
time.sleep(0.3)
heartbeat("reduce", 7)
waiting_for_the_other()
"""
    begun = time.monotonic()
    assert start(out, script, step_timeout=0.8) == 4
    assert time.monotonic() - begun < 500
    err = capfd.readouterr().err
    assert re.search(r"rank 1 hung for \d+ s in phase 'backward' of step 7; all ranks were ended", err)
    assert "in stuck_here" in err and "in waiting_for_the_other" in err


@pytest.mark.long
def test_who_waits_for_others_is_not_the_one_that_hangs(out: Path, capfd: pytest.CaptureFixture[str]):
    script = """
from nurture.train.heartbeat import waiting
others()
heartbeat("save", 3)
if rank == 1:
    with waiting("barrier"): time.sleep(1000)
for part in range(30):  # three times as long as a rank may be silent
    heartbeat("save", 3)
    time.sleep(0.3)
time.sleep(1000)
"""
    begun = time.monotonic()
    assert start(out, script, step_timeout=3) == 4  # (others may take the machine for a second or two)
    assert time.monotonic() - begun > 10.5
    err = capfd.readouterr().err
    assert re.search(r"rank 0 hung for \d+ s in phase 'save' of step 3; all", err)
    assert "rank 1, phase 'save' of step 3, waiting in barrier:" in err


def test_ranks_that_all_wait_hang(out: Path, capfd: pytest.CaptureFixture[str]):
    script = """
from nurture.train.heartbeat import waiting
others()
heartbeat("reduce", 3)
with waiting("all_sum" if rank else "barrier"): time.sleep(1000)
"""
    assert start(out, script, step_timeout=0.6) == 4
    assert re.search(
        r"rank \d hung for \d+ s in phase 'reduce' of step 3, waiting in (all_sum|barrier)", capfd.readouterr().err
    )


def test_a_second_launcher_leaves_the_ranks_of_the_first_alone(out: Path):
    with in_the_background(
        out, "others()\nheartbeat('forward', 1)\n(out / f'ready-{rank}').touch()\ntime.sleep(1000)"
    ) as pid:
        wait_for(out / "ready-0")
        wait_for(out / "ready-1")
        with pytest.raises(InputError, match=f"in use by process {pid} "):
            launch(["false"], 2, out / "ranks")
        assert last_heartbeat(out / "ranks", 0) is not None
        os.kill(pid, signal.SIGTERM)
        assert end_of(pid) == 143


def test_a_stopped_process_hangs_too(out: Path, capfd: pytest.CaptureFixture[str]):
    script = """
others()
for step in range(1, 1000):
    heartbeat("forward", step)
    if rank == 0 and step == 5: os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.05)
"""
    assert start(out, script, step_timeout=0.6) == 4
    assert re.search(r"rank 0 hung for \d+ s in phase 'forward' of step 5", capfd.readouterr().err)


def test_a_rank_that_never_starts(out: Path, capfd: pytest.CaptureFixture[str]):
    assert start(out, "others()\nif rank: time.sleep(1000)", start_timeout=2, step_timeout=0.1) == 4
    assert re.search(r"rank 1 hung for \d+ s in phase 'start' of step 0", capfd.readouterr().err)


def test_steady_heartbeats_are_no_silence(out: Path):
    script = """
for step in range(1, 30):
    heartbeat("forward", step)
    time.sleep(0.2)
"""
    assert start(out, script, step_timeout=5) == 0  # (others may take the machine for a second or two)


def in_the_background(out: Path, script: str, ready: int = 2):
    return child(lambda: os._exit(start(out, script, ready)))


STOPPING = """
signals = []
def stop(number, frame):
    signals.append(number)
    if len(signals) == 2: os._exit(128 + number)
for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, stop)
(out / f"ready-{rank}").touch()
while not signals: time.sleep(0.01)
(out / f"stopping-{rank}").touch()
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)])
def test_a_signal_reaches_each_rank_once_and_the_slow_one_may_finish(out: Path, sent: signal.Signals, code: int):
    script = f"""{STOPPING}
time.sleep(0.1 + rank)  # the last checkpoint takes rank 1 longer than GRACE
(out / f"checkpoint-{{rank}}").write_text(str(len(signals)))
sys.exit(128 + signals[0])
"""
    with in_the_background(out, script) as pid:
        wait_for(out / "ready-0")
        wait_for(out / "ready-1")
        os.kill(pid, sent)
        assert end_of(pid) == code
    assert [(out / f"checkpoint-{rank}").read_text() for rank in (0, 1)] == ["1", "1"]


def test_a_second_signal_ends_the_ranks_at_once(out: Path):
    with in_the_background(out, STOPPING + "time.sleep(1000)") as pid:
        wait_for(out / "ready-0")
        wait_for(out / "ready-1")
        os.kill(pid, signal.SIGTERM)
        wait_for(out / "stopping-0")
        wait_for(out / "stopping-1")
        begun = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        assert end_of(pid) == 143
        assert time.monotonic() - begun < 500
    assert_nobody_left(out)


def test_ranks_that_ignore_signals_are_ended(out: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "HURRY", 0.3)
    script = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
(out / f"ready-{rank}").touch()
time.sleep(1000)
"""
    with in_the_background(out, script) as pid:
        wait_for(out / "ready-0")
        wait_for(out / "ready-1")
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.2)
        os.kill(pid, signal.SIGTERM)
        assert end_of(pid) == 143
    assert_nobody_left(out)


def test_a_signal_before_the_ranks_listen_stops_them_as_well(out: Path):
    with in_the_background(out, "time.sleep(1000)") as pid:
        wait_for(out / "pids-0")
        wait_for(out / "pids-1")
        os.kill(pid, signal.SIGUSR1)
        assert end_of(pid) == 143


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_killed_launcher_takes_its_ranks_along(out: Path):
    with in_the_background(out, "time.sleep(1000)") as pid:
        wait_for(out / "pids-0")
        wait_for(out / "pids-1")
        os.kill(pid, signal.SIGKILL)
        end_of(pid)
        ranks = [int((out / f"pids-{rank}").read_text().split()[0]) for rank in (0, 1)]
        end = time.monotonic() + 100
        while any(alive(rank) for rank in ranks):
            assert time.monotonic() < end
            time.sleep(0.01)
    for helper in pids(out):  # what the ranks had started is not ours to find after our own death
        if alive(helper):
            os.kill(helper, signal.SIGKILL)


def test_old_heartbeats_and_handlers_do_not_linger(out: Path, monkeypatch: pytest.MonkeyPatch):
    before = signal.getsignal(signal.SIGTERM)
    (out / "ranks").mkdir()
    (out / "ranks" / "rank-0.json").write_text('{"phase": "x", "step": 9, "time": 0.0}')
    assert start(out, "others()\ntime.sleep(0.2)", step_timeout=0.1) == 0
    assert signal.getsignal(signal.SIGTERM) == before
    assert not launched()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launched()


def test_a_heartbeat_without_a_launcher_does_nothing(out: Path):
    heartbeat("forward", 1)
    assert not list(out.iterdir())


def test_the_launcher_does_not_import_torch():
    code = "import sys, nurture.train.launch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
