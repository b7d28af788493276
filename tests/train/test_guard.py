"""Signals, numbers that are none, memory that is not there."""

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from train.children import child, end_of, wait_for

from nurture.errors import NumericsError
from nurture.train.checkpoint import CheckpointStore
from nurture.train.context import Context
from nurture.train.guard import NonFinite, StopSignals, is_out_of_memory

CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)], ids=lambda v: str(v)
)
def test_the_first_signal_only_asks(sent: signal.Signals, code: int, tmp_path: Path):
    before = [signal.getsignal(number) for number in CAUGHT]
    with StopSignals() as stop:
        assert stop.requested is None
        os.kill(os.getpid(), sent)
        error = stop.interrupted(tmp_path / "step-00000003")
        assert stop.requested is not None and error.exit_code == code
        assert "step-00000003" in str(error) and stop.requested.name in str(error)
    assert [signal.getsignal(number) for number in CAUGHT] == before


def test_handlers_are_restored_after_an_error():
    before = [signal.getsignal(number) for number in CAUGHT]
    with pytest.raises(RuntimeError), StopSignals():
        raise RuntimeError
    assert [signal.getsignal(number) for number in CAUGHT] == before


@contextmanager
def stopping(folder: Path, then: Callable[[], object]) -> Iterator[int]:
    """A process that has been asked to stop once, and does `then` before it looks: its pid."""

    def body() -> None:
        with StopSignals() as stop:
            (folder / "ready").touch()
            while stop.requested is None:
                time.sleep(0.001)
            (folder / "asked").touch()
            then()

    with child(body) as pid:
        wait_for(folder / "ready")
        os.kill(pid, signal.SIGTERM)
        wait_for(folder / "asked")
        yield pid


@pytest.mark.parametrize("second", CAUGHT)
def test_the_second_signal_leaves_at_once_and_the_checkpoint_stands(second: signal.Signals, tmp_path: Path):
    context = Context({}, {}, {}, "cpu", 1)
    CheckpointStore(tmp_path / "run").save(1, {"w": torch.ones(3)}, {}, context)

    def save() -> None:
        os.environ["NURTURE_FAULT"] = "checkpoint.after_manifest:sleep=1000"  # caught in the middle of its save
        CheckpointStore(tmp_path / "run").save(2, {"w": torch.ones(3)}, {}, context)

    with stopping(tmp_path, save) as pid:
        while not list((tmp_path / "run").glob(".tmp-*/manifest.json")):
            time.sleep(0.005)
        begun = time.monotonic()
        os.kill(pid, second)
        assert end_of(pid) == -second
        assert time.monotonic() - begun < 300
    loaded = CheckpointStore(tmp_path / "run").load_newest()
    assert loaded is not None and loaded.step == 1


def test_the_second_signal_does_not_wait_for_what_the_process_computes(tmp_path: Path):
    def compute() -> None:
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # many minutes without a line of Python

    with stopping(tmp_path, compute) as pid:
        time.sleep(0.5)
        os.kill(pid, signal.SIGTERM)
        begun = time.monotonic()
        assert end_of(pid) == -signal.SIGTERM
        assert time.monotonic() - begun < 100


def test_outside_the_main_thread_nothing_is_caught():
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def body() -> None:
        with StopSignals() as stop:
            seen.extend([signal.getsignal(signal.SIGTERM), stop.requested])

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [before, None] and signal.getsignal(signal.SIGTERM) == before


def test_three_in_a_row_end_the_run_and_name_the_last_good_checkpoint(tmp_path: Path):
    guard = NonFinite(steps=10_000, last_checkpoint=tmp_path / "step-00000004")
    assert [guard.observe(True, True, 5), guard.observe(False, True, 6), guard.observe(True, False, 7)] == [
        "ok",
        "skip",
        "skip",
    ]
    with pytest.raises(NumericsError, match=r"loss of step 8 .* 3 steps in a row.*step-00000004") as error:
        guard.observe(False, True, 8)
    assert error.value.exit_code == 3


def test_a_finite_step_between_them_starts_the_count_again():
    guard = NonFinite(steps=1000)
    said = [guard.observe(step % 3 == 0, True, step) for step in range(1, 13)]
    assert said == ["skip", "skip", "ok"] * 4 and guard.skipped == 8


@pytest.mark.parametrize(("steps", "borne"), [(50, 2), (200, 2), (300, 3), (1000, 10)])
def test_more_than_one_percent_ends_the_run_but_never_fewer_than_three(steps: int, borne: int):
    guard = NonFinite(steps=steps)
    for step in range(1, 2 * borne, 2):
        assert guard.observe(False, False, step) == "skip"
        assert guard.observe(True, True, step + 1) == "ok"
    with pytest.raises(NumericsError, match=rf"as {borne + 1} of {steps} steps were not; there is no checkpoint yet"):
        guard.observe(True, False, 2 * borne + 1)


def test_the_policy_raise_stops_at_the_first():
    with pytest.raises(NumericsError, match="gradient of step 1 is not finite"):
        NonFinite(steps=10, policy="raise").observe(True, False, 1)


def test_a_resumed_guard_counts_on():
    guard, resumed = NonFinite(steps=1000), NonFinite(steps=1000)
    guard.observe(False, True, 1)
    guard.observe(False, True, 2)
    resumed.restore(guard.state())
    with pytest.raises(NumericsError):
        resumed.observe(False, True, 3)


def raised_by(body: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as info:
        body()
    return info.value


def test_out_of_memory_is_recognised_as_it_really_comes():
    assert is_out_of_memory(raised_by(lambda: torch.empty(1 << 50)))
    assert is_out_of_memory(raised_by(lambda: bytearray(1 << 60)))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))


def test_other_errors_are_not_out_of_memory():
    assert not is_out_of_memory(raised_by(lambda: torch.ones(2) @ torch.ones(3)))
    assert not is_out_of_memory(raised_by(lambda: torch.empty(1 << 62)))
    assert not is_out_of_memory(ValueError("out of memory"))
