"""One process in a run folder, also when processes are killed."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from train.children import alive, child, end_of, wait_for

from nurture.errors import InputError
from nurture.train.lock import lock_run


def hold(folder: Path) -> None:
    with lock_run(folder):
        (folder / "held").touch()
        time.sleep(60)


def test_a_live_holder_is_named(tmp_path: Path):
    with child(lambda: hold(tmp_path)) as pid:
        wait_for(tmp_path / "held")
        with pytest.raises(InputError) as error, lock_run(tmp_path):
            pass
        assert f"{tmp_path} is in use by process {pid} on {socket.gethostname()} since 2" in str(error.value)
        assert alive(pid)


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path):
    with child(lambda: hold(tmp_path)) as pid:
        wait_for(tmp_path / "held")
        os.kill(pid, signal.SIGKILL)
        assert end_of(pid) == -signal.SIGKILL
        assert str(pid) in (tmp_path / ".lock").read_text()
        with lock_run(tmp_path):
            assert str(os.getpid()) in (tmp_path / ".lock").read_text()


def test_a_worker_that_outlives_its_killed_parent_does_not_hold_the_lock(tmp_path: Path):
    def body() -> None:
        with lock_run(tmp_path):
            worker = os.fork()
            if worker == 0:
                time.sleep(60)
                os._exit(0)
            (tmp_path / "writing").write_text(str(worker))
            os.rename(tmp_path / "writing", tmp_path / "worker")
            time.sleep(60)

    with child(body) as pid:
        wait_for(tmp_path / "worker")
        worker = int((tmp_path / "worker").read_text())
        os.kill(pid, signal.SIGKILL)
        end_of(pid)
        try:
            time.sleep(0.05)
            assert alive(worker)
            with lock_run(tmp_path):
                pass
        finally:
            os.kill(worker, signal.SIGKILL)


def test_one_process_does_not_take_it_twice_and_gives_it_back(tmp_path: Path):
    folder = tmp_path / "new" / "run"
    with lock_run(folder), pytest.raises(InputError, match=f"process {os.getpid()} "), lock_run(folder):
        pass
    with pytest.raises(RuntimeError, match="inside"), lock_run(folder):
        raise RuntimeError("inside")
    with lock_run(folder):
        pass
    assert (folder / ".lock").read_text() == ""


def test_it_excludes(tmp_path: Path):
    """Four processes add to a number in a file, which goes wrong unless they take turns."""
    counter = tmp_path / "counter"
    counter.write_text("0")

    def body() -> None:
        done = 0
        while done < 25:
            try:
                with lock_run(tmp_path):
                    number = int(counter.read_text())
                    time.sleep(0.0005)
                    counter.write_text(str(number + 1))
                    done += 1
            except InputError:
                time.sleep(0.0002)

    with child(body) as a, child(body) as b, child(body) as c, child(body) as d:
        assert [end_of(pid) for pid in (a, b, c, d)] == [0, 0, 0, 0]
    assert counter.read_text() == "100"
