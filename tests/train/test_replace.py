"""A run that makes way for another one, and a process that is killed at any moment of it."""

import os
from contextlib import suppress

import pytest

from nurture.errors import InputError
from nurture.train.replace import forget, put_back, recover, set_aside

RUN = {"config.yaml": "method: sft", "metrics.jsonl": "{}", "model/weights": "1", "checkpoints/step/state": "2"}
NEW = {"config.yaml": "method: dpo", "drawn.jsonl": "3"}


class Killed(BaseException):
    """The process ends here."""


def write(out, files):
    for name, said in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(said)


def read(out):
    return {path.relative_to(out).as_posix(): path.read_text() for path in out.rglob("*") if path.is_file()}


def killed_after(monkeypatch, calls):
    """Let the file system do so many things more."""
    left = [calls]

    def counted(do):
        def one(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return do(*args, **kwargs)

        return one

    for name in ("rename", "unlink", "rmdir", "mkdir"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    return left


@pytest.mark.parametrize("calls", range(40))
def test_a_kill_at_any_moment_loses_no_run(tmp_path, monkeypatch, calls):
    """Set aside, a new run refused before it begins, put back: killed after so many calls, then started again."""
    write(tmp_path, RUN)
    with monkeypatch.context() as patched:
        left = killed_after(patched, calls)
        with suppress(Killed):
            set_aside(tmp_path)
            put_back(tmp_path)
        ended = left[0] >= 0
    recover(tmp_path)
    assert read(tmp_path) == RUN
    if calls == 39:
        assert ended, "more moments than were tried"


@pytest.mark.parametrize("calls", range(20))
def test_once_it_has_begun_the_new_run_stays(tmp_path, monkeypatch, calls):
    write(tmp_path, RUN)
    set_aside(tmp_path)
    assert read(tmp_path).keys() == {f".replaced/{name}" for name in RUN}
    write(tmp_path, NEW)
    with monkeypatch.context() as patched:
        killed_after(patched, calls)
        with suppress(Killed):
            forget(tmp_path)
    recover(tmp_path)
    assert read(tmp_path) == NEW


@pytest.mark.parametrize("calls", range(1, 30))
def test_a_refused_run_leaves_nothing_even_after_it_drew_answers(tmp_path, monkeypatch, calls):
    write(tmp_path, RUN)
    set_aside(tmp_path)
    write(tmp_path, NEW)
    with monkeypatch.context() as patched:
        left = killed_after(patched, calls)
        with suppress(Killed):
            put_back(tmp_path)
    assert calls < 29 or left[0] >= 0, "more moments than were tried"
    recover(tmp_path)
    assert read(tmp_path) == RUN


def test_what_is_no_run_stays_where_it_is(tmp_path):
    write(tmp_path, {"thesis.tex": "years of work"})
    with pytest.raises(InputError, match="not a run folder"):
        set_aside(tmp_path)
    assert read(tmp_path) == {"thesis.tex": "years of work"}
