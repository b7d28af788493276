"""The contract between whoever asks for rewards and whoever gives them: n answers in, n outcomes out, in time.

A reward may be anyone's code. Whatever it does, each answer gets an outcome: a finite number, `Unscorable`, or `Failed`
with one of the codes below. What failed is never a number.
"""

from __future__ import annotations

import contextvars
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AnySet
from numbers import Real
from typing import Any

from ..errors import NurtureError, RewardLost
from ..protocols import Answer, Failed, Outcome, Reward, Scored, Unscorable

RAISED, TIMEOUT, NOT_A_NUMBER, NOT_FINITE, WRONG_LENGTH, NONE = (
    "RAISED",
    "TIMEOUT",
    "NOT_A_NUMBER",
    "NOT_FINITE",
    "WRONG_LENGTH",
    "NONE",
)


DEADLINE = 300.0
LARGEST = 3.4e38
"""Scores are kept in fp32."""


def score_all(
    reward: Reward,
    answers: Sequence[Answer],
    deadline: float | None = None,
    stop_limit: float = 0.5,
    alive: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """One outcome per answer, within `deadline` seconds: by default five minutes, or more where limits that the reward
    sets itself add up to more. `RewardLost` where more than a share of `stop_limit` failed. `alive` is called every
    second, and may raise to end the waiting.

    The reward runs in a thread of its own, which is left behind at the deadline: what it gave until then counts, the
    rest is `Failed`. (A thread that never lets go of the interpreter, deep inside C code, cannot be left behind.)
    """
    if deadline is None:
        own: Callable[[Sequence[Answer]], float] = getattr(reward, "seconds_for", lambda answers: 0.0)
        deadline = max(DEADLINE, 1.5 * own(answers))
    found: list[Outcome | NurtureError] = []
    left = threading.Event()
    context = contextvars.copy_context()
    thread = threading.Thread(
        target=context.run, args=(_collect, reward, answers, found, left), daemon=True, name="reward"
    )
    started = time.monotonic()
    thread.start()
    try:
        while thread.is_alive() and (remaining := started + deadline - time.monotonic()) > 0:
            thread.join(min(1.0, remaining))
            alive()
    finally:
        left.set()
    given = found[: len(answers) + 1]
    for error in given:
        if isinstance(error, NurtureError):
            raise error
    outcomes = [outcome for outcome in given if not isinstance(outcome, NurtureError)]
    late = Failed(f"not scored within {deadline:g} s", TIMEOUT)
    outcomes += [late] * (len(answers) - len(outcomes))
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    if len(failed) > stop_limit * len(outcomes):
        code, reason = Counter((f.code, f.reason) for f in failed).most_common(1)[0][0]
        raise RewardLost(
            f"{len(failed)} of {len(outcomes)} rewards could not be computed in {time.monotonic() - started:.1f} s, "
            f"most often because of {code}: {reason}. Mend the reward, or raise stop_limit (now {stop_limit:g}), and "
            f"resume."
        )
    return outcomes


def _collect(
    reward: Reward, answers: Sequence[Answer], found: list[Outcome | NurtureError], left: threading.Event
) -> None:
    try:
        for outcome in outcomes_of(reward, answers):
            if left.is_set():
                return
            found.append(outcome)
    except NurtureError as error:
        found.append(error)


def outcomes_of(reward: Reward, answers: Sequence[Answer]) -> Iterator[Outcome]:
    """Exactly one outcome per answer, whatever the reward gives. No deadline; the parts of a combination come here."""
    given = 0
    fault: Failed | None = None
    try:
        values: Any = reward.score(answers)
        if isinstance(values, Sequence) and len(values) != len(answers):
            # Whose values they are cannot be known.
            fault = Failed(f"gave {len(values)} values for {len(answers)} answers", WRONG_LENGTH)
            values = ()
        elif not isinstance(values, Iterable) or isinstance(values, (str, bytes, Mapping, AnySet)):
            fault = Failed(f"gave {_a(values)} instead of one value per answer", WRONG_LENGTH)
            values = ()
        for value in values:
            if given == len(answers):
                break
            outcome = outcome_of(value)
            given += 1
            yield outcome
    except NurtureError:  # what no answer can mend, such as a missing sandbox
        raise
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # whatever it raises, in a thread of its own
        text = " ".join(str(error).split())
        fault = Failed(f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__, RAISED)
    fault = fault or Failed(f"gave {given} values for {len(answers)} answers", WRONG_LENGTH)
    for _ in range(len(answers) - given):
        yield fault


def outcome_of(value: object) -> Outcome:
    """What one given value means."""
    if isinstance(value, Scored):
        return value if abs(value.value) <= LARGEST else _not_finite(value.value)
    if isinstance(value, (Unscorable, Failed)):
        return value
    if value is None:
        return Unscorable("the reward gave None", NONE)
    if not isinstance(value, Real):
        return Failed(f"gave {_a(value)} where a number is due", NOT_A_NUMBER)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    return Scored(number) if abs(number) <= LARGEST else _not_finite(number)


def _not_finite(number: float) -> Failed:
    return Failed(f"gave {number}, which is not finite in fp32", NOT_FINITE)


def _a(value: object) -> str:
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def tally_outcomes(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many of each kind, and of each kind with a code: `{"scored": 6, "failed": 2, "failed/TIMEOUT": 2}`."""
    counts = Counter({"scored": 0, "unscorable": 0, "failed": 0})
    for outcome in outcomes:
        kind = type(outcome).__name__.lower()
        counts[kind] += 1
        if outcome.code:
            counts[f"{kind}/{outcome.code}"] += 1
    return dict(counts)
