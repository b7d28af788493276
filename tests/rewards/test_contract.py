"""Whatever a reward does, every answer gets one named outcome."""

import math
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nurture.errors import InputError, RewardLost
from nurture.protocols import Answer, Failed, Scored, Unscorable
from nurture.records import Message, Task
from nurture.rewards import outcomes_of, reward_from, score_all, tally_outcomes

TASK = Task((Message("user", "?"),), "4")
FOUR = [Answer(TASK, str(i)) for i in range(4)]


@dataclass
class Fn:
    fn: object

    def score(self, answers):
        return self.fn(answers)


def outcomes(fn, answers=FOUR, **how):
    return score_all(Fn(fn), answers, **{"stop_limit": 1.0, **how})


def codes(fn, **how):
    return [o.value if isinstance(o, Scored) else (type(o).__name__, o.code) for o in outcomes(fn, **how)]


def raises(answers):
    raise KeyError("no such thing")


def generator(answers):
    yield 1.0
    yield 2.0
    raise ValueError("the third is bad")


def slow(answers):
    yield 1
    time.sleep(120)
    yield 2


FAILED = lambda code: ("Failed", code)  # noqa: E731


@pytest.mark.parametrize(
    "fn, expected",
    [
        (lambda a: [1, 0.5, True, np.float32(2)], [1.0, 0.5, 1.0, 2.0]),
        (lambda a: np.arange(4.0), [0.0, 1.0, 2.0, 3.0]),
        (lambda a: [Scored(1.0), Unscorable("", "N"), Failed(""), 1], [1.0, ("Unscorable", "N"), ("Failed", ""), 1.0]),
        (raises, [FAILED("RAISED")] * 4),
        (lambda a: None, [FAILED("WRONG_LENGTH")] * 4),
        (lambda a: "1234", [FAILED("WRONG_LENGTH")] * 4),
        (lambda a: 1.0, [FAILED("WRONG_LENGTH")] * 4),
        (lambda a: [], [FAILED("WRONG_LENGTH")] * 4),
        (lambda a: [1.0] * 3, [FAILED("WRONG_LENGTH")] * 4),
        (lambda a: [1.0] * 5, [FAILED("WRONG_LENGTH")] * 4),
        (lambda a: iter([1.0] * 3), [1.0, 1.0, 1.0, FAILED("WRONG_LENGTH")]),
        (lambda a: [None, 1, None, 1], [("Unscorable", "NONE"), 1.0, ("Unscorable", "NONE"), 1.0]),
        (lambda a: [math.nan, math.inf, -math.inf, 1], [FAILED("NOT_FINITE")] * 3 + [1.0]),
        (lambda a: [Scored(math.nan)] * 4, [FAILED("NOT_FINITE")] * 4),
        (lambda a: ["1", [1], {}, 1j], [FAILED("NOT_A_NUMBER")] * 4),
        (generator, [1.0, 2.0, FAILED("RAISED"), FAILED("RAISED")]),
        (lambda a: {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}, [FAILED("WRONG_LENGTH")] * 4),
        (lambda a: {0.0, 1.0, 2.0, 3.0}, [FAILED("WRONG_LENGTH")] * 4),
        (lambda a: sys.exit(1), [FAILED("RAISED")] * 4),
        (lambda a: [10**400, 1e300, -1e300, 1], [FAILED("NOT_FINITE")] * 3 + [1.0]),
        (lambda a: [Scored(1e300)] * 4, [FAILED("NOT_FINITE")] * 4),
    ],
)  # fmt: skip
def test_every_kind_of_value_has_a_named_outcome(fn, expected):
    assert codes(fn) == expected


def test_a_sleeper_is_left_behind_and_what_it_gave_counts():
    started = time.monotonic()
    assert codes(slow, deadline=0.3) == [1.0] + [FAILED("TIMEOUT")] * 3
    assert time.monotonic() - started < 100


def test_whoever_waits_is_told_so_and_may_leave():
    class Enough(Exception):
        pass

    told = []

    def alive():
        told.append(time.monotonic())
        if len(told) == 2:
            raise Enough

    started = time.monotonic()
    with pytest.raises(Enough):
        score_all(Fn(slow), FOUR, alive=alive)
    assert 1.5 < time.monotonic() - started < 100


def test_the_deadline_allows_for_limits_that_a_reward_sets_itself():
    looping = [
        Answer(Task((), info={"tests": tests}), "")
        for tests in (["assert f()"] * 9, [{"input": "", "output": ""}] * 3, None)
    ]
    code = reward_from({"name": "code", "seconds": 6, "workers": 2})
    assert code.seconds_for(looping) == 6 * (1 + 3 + 1) / 2
    both = reward_from({"name": "sum", "of": {"code": {"name": "code", "seconds": 6, "workers": 2}, "form": "format"}})
    assert both.seconds_for(looping) == code.seconds_for(looping)
    assert reward_from({"name": "maths", "seconds": 4, "workers": 2}).seconds_for(looping) == 3 * 4 / 2
    judge = {"name": "judge", "url": "http://x/v1", "model": "m", "seconds": 10, "tries": 2, "concurrency": 4}
    assert reward_from(judge).seconds_for(looping) == 3 * 10 * 2 / 4
    assert reward_from(judge | {"how": "compare"}).seconds_for(looping) == 2 * 3 * 10 * 2 / 4


def test_the_reason_says_what_was_raised():
    assert outcomes(raises)[0].reason == "KeyError: 'no such thing'"


def test_the_stop_limit_is_one_sentence():
    half = lambda a: [1, 1, math.nan, math.nan]  # noqa: E731
    assert len(outcomes(half, stop_limit=0.5)) == 4
    with pytest.raises(RewardLost) as caught:
        outcomes(half, stop_limit=0.4)
    assert caught.value.exit_code == 4
    assert str(caught.value).startswith("2 of 4 rewards could not be computed in ")
    assert "NOT_FINITE: gave nan, which is not finite" in str(caught.value)
    assert outcomes(lambda a: [None] * 4, stop_limit=0.0), "what cannot be judged is no failure"


def test_a_fault_of_the_machine_ends_the_run_at_once():
    def lacking(answers):
        raise InputError("No sandbox here.")

    with pytest.raises(InputError, match="No sandbox here"):
        outcomes(lacking)


def test_no_answers():
    assert outcomes(lambda a: [], answers=[]) == []


values = st.one_of(
    st.none(), st.floats(), st.integers(), st.text(max_size=2), st.builds(Scored, st.floats()), st.just([])
)


@settings(max_examples=60)
@given(st.lists(values, max_size=8), st.integers(0, 6))
def test_n_in_n_out(given_values, n):
    answers = [Answer(TASK, "")] * n
    for form in (list, iter, tuple):
        found = list(outcomes_of(Fn(lambda a, form=form: form(given_values)), answers))
        assert len(found) == n
        assert all(isinstance(o, (Scored, Unscorable, Failed)) for o in found)
        assert all(math.isfinite(o.value) for o in found if isinstance(o, Scored))
        counts = tally_outcomes(found)
        assert counts["scored"] + counts["unscorable"] + counts["failed"] == n


def test_counts_by_code():
    assert tally_outcomes(outcomes(lambda a: [None, math.nan, "x", 1])) == {
        "scored": 1, "unscorable": 1, "failed": 2, "unscorable/NONE": 1,
        "failed/NOT_FINITE": 1, "failed/NOT_A_NUMBER": 1,
    }  # fmt: skip
