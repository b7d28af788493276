"""Each alarm on made-up histories in which the answer is known."""

import numpy as np
import pytest

from nurture.recipe import Alarms
from nurture.rollout.alarms import ringing

N = 40


def history(n=N, seed=0, **metrics):
    """Healthy metrics with some noise; each given one is a function of the rollout's number, from 0 to 1."""
    draw = np.random.default_rng(seed)
    healthy = {
        "rollout/score": lambda x: 0.3 + 0.3 * x,
        "rollout/oracle": lambda x: 0.3 + 0.2 * x,
        "rollout/kl": lambda x: 4 * x,
        "rollout/length": lambda x: 30.0,
        "rollout/no_signal": lambda x: 0.3,
        "rollout/truncated": lambda x: 0.1,
        "entropy": lambda x: 1.0 - 0.5 * x,
        "sampler_gap": lambda x: 1e-3,
    }
    curves = healthy | {key.replace("__", "/"): curve for key, curve in metrics.items()}
    rows = [{name: curve(k / (n - 1)) * (1 + 0.02 * draw.normal()) for name, curve in curves.items()} for k in range(n)]
    return rows


def names(rows, **limits):
    return set(ringing(rows, Alarms(**limits)))


def test_a_healthy_run_is_silent_from_beginning_to_end():
    rows = history()
    assert not any(ringing(rows[:k], Alarms()) for k in range(N + 1))


@pytest.mark.parametrize(
    ("alarm", "curve"),
    [
        ("kl", {"rollout__kl": lambda x: 30 * x}),
        ("hacking", {"rollout__oracle": lambda x: 0.3 + 0.4 * x - 0.6 * x * x}),
        ("no_signal", {"rollout__no_signal": lambda x: 0.95}),
        ("length", {"rollout__truncated": lambda x: x}),
        ("entropy", {"entropy": lambda x: float(np.exp(-6 * x))}),
        ("sampler_gap", {"sampler_gap": lambda x: 0.2}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_trouble_rings_its_own_bell_and_can_be_switched_off(alarm, curve):
    rows = history(**curve)
    assert names(rows) == {alarm}
    assert names(rows, **{alarm: None}) == set()
    (sentence,) = ringing(rows, Alarms()).values()
    assert sentence.endswith(".") and "nan" not in sentence


def test_the_means_are_over_the_window():
    """One bad rollout among good ones is noise: with a limit of one half, the mean of the window decides."""
    rows = history()
    rows[-1]["rollout/truncated"] = 1.0
    assert not names(rows)
    for row in rows[-6:]:
        row["rollout/truncated"] = 1.0
    assert names(rows) == {"length"}
    assert not names(rows, window=16), "6 of 16 are less than half"


def test_kl_is_per_token():
    rows = history(rollout__kl=lambda x: 12.0)
    assert not names(rows), "12 nats on 30 tokens"
    assert names([row | {"rollout/length": 20.0} for row in rows]) == {"kl"}


def test_hacking_needs_both_and_more_than_noise():
    falls = lambda x: 0.5 - 0.3 * x  # noqa: E731
    assert not names(history(rollout__score=falls, rollout__oracle=falls)), "a reward that falls too is not exploited"
    still = [
        any(names(rows[:k]) for k in range(16, N + 1))
        for seed in range(100)
        for rows in [history(seed=seed, rollout__oracle=lambda x: 0.4, rollout__score=lambda x: 0.4 + 0.2 * x)]
    ]
    # (After every rollout the oracle's last window is held against the best of all, and the reward does rise.)
    assert np.mean(still) < 0.05
    ragged = history(rollout__oracle=lambda x: 0.5 - 0.3 * x)
    assert names(ragged) == {"hacking"}
    assert not names(ragged, hacking=1000.0)


def test_a_gap_silences_no_alarm():
    for alarm, curve in (
        ("hacking", {"rollout__oracle": lambda x: 0.5 - 0.3 * x}),
        ("entropy", {"entropy": lambda x: (1 - x) ** 3}),
    ):
        rows = history(**curve)
        for k in (0, 9):
            rows[k] = rows[k] | {"rollout/oracle": float("nan"), "entropy": float("nan")}
        assert names(rows) == {alarm}


def test_what_was_not_measured_is_silent():
    rows = [{"rollout/score": 0.5, "kl": float("nan"), "entropy": float("nan")} for _ in range(N)]
    assert not ringing(rows, Alarms())
    assert not ringing([], Alarms())
    assert names(history(rollout__no_signal=lambda x: 1.0)[:7]) == set(), "not before a whole window is there"
