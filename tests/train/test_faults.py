"""The failpoints themselves: a fault that never fires would make every crash test pass."""

import errno
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from train.children import run_child

import nurture
from nurture.errors import InputError
from nurture.train import faults
from nurture.train.faults import FAILPOINTS, FaultInjected, failpoint

POINT = "checkpoint.start"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(faults, "_hits", Counter())
    monkeypatch.delenv("NURTURE_FAULT", raising=False)
    monkeypatch.delenv("RANK", raising=False)


def test_every_failpoint_is_in_the_code_once_and_the_code_has_no_other():
    source = "".join(p.read_text() for p in Path(nurture.__file__).parent.rglob("*.py"))
    assert Counter(re.findall(r'failpoint\("([\w.]+)"\)', source)) == Counter(list(FAILPOINTS))


def test_nothing_happens_unasked():
    for name in FAILPOINTS:
        failpoint(name)


def test_an_undeclared_failpoint_is_a_broken_invariant():
    with pytest.raises(AssertionError):
        failpoint("checkpoint.strat")


def test_raising_actions(monkeypatch: pytest.MonkeyPatch):
    for action, error in (("raise", FaultInjected), ("oom", torch.OutOfMemoryError), ("enospc", OSError)):
        monkeypatch.setattr(faults, "_hits", Counter())
        monkeypatch.setenv("NURTURE_FAULT", f"{POINT}:{action}")
        failpoint("checkpoint.end")
        with pytest.raises(error, match=re.escape(POINT)) as info:
            failpoint(POINT)
        assert action != "enospc" or info.value.errno == errno.ENOSPC
        failpoint(POINT)  # the second time is another time


def test_deadly_actions():
    assert run_child(lambda: failpoint(POINT), f"{POINT}:kill9") == -signal.SIGKILL
    assert run_child(lambda: failpoint(POINT), f"{POINT}:sigterm") == -signal.SIGTERM
    assert run_child(lambda: failpoint(POINT)) == 0


def test_sleep(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NURTURE_FAULT", f"{POINT}:sleep=0.05")
    begun = time.monotonic()
    failpoint(POINT)
    assert time.monotonic() - begun >= 0.05


def test_the_third_hit_and_several_faults(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NURTURE_FAULT", f"{POINT}:raise@3, {POINT}:oom@4,checkpoint.end:enospc")
    failpoint(POINT)
    failpoint(POINT)
    with pytest.raises(FaultInjected):
        failpoint(POINT)
    with pytest.raises(torch.OutOfMemoryError):
        failpoint(POINT)
    with pytest.raises(OSError):
        failpoint("checkpoint.end")


def test_one_rank_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NURTURE_FAULT", f"{POINT}:raise#1")
    failpoint(POINT)
    monkeypatch.setattr(faults, "_hits", Counter())
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(FaultInjected):
        failpoint(POINT)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("checkpoint.strat:kill9", "unknown failpoint 'checkpoint.strat'. Did you mean 'checkpoint.start'?"),
        (f"{POINT}:explode", "'explode', which is none of kill9"),
        (POINT, "not of the form"),
        (f"{POINT}:kill9@", "not of the form"),
        (f"{POINT}:sleep", "takes a number of seconds"),
        (f"{POINT}:kill9=3", "takes a number of seconds"),
        (f"{POINT}:kill9,,", "not of the form"),
    ],
)
def test_a_wrong_request_is_an_error(wanted: str, message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NURTURE_FAULT", wanted)
    with pytest.raises(InputError, match=re.escape(message)):
        failpoint("checkpoint.end")
