"""What goes wrong in learning from one's own answers, seen in the metrics: each alarm is a function of their history.

    ringing(history, limits) -> {"length": "62% of the answers are cut off ..."}

`history` has one row of metrics for each rollout, the newest last. A rollout is noisy, so every alarm looks at the mean
of a window of them. The names and limits are those of `alarms` in a recipe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..recipe import Alarms

History = Sequence[Mapping[str, float]]


def ringing(history: History, limits: Alarms) -> dict[str, str]:
    """The alarms that ring after the newest rollout, each with a line in plain words."""
    if len(history) < limits.window:
        return {}
    found = {
        "kl": _kl(history, limits),
        "hacking": _hacking(history, limits),
        "no_signal": _beyond(history, "rollout/no_signal", limits.no_signal, limits.window, NO_SIGNAL),
        "length": _beyond(history, "rollout/truncated", limits.length, limits.window, LENGTH),
        "entropy": _entropy(history, limits),
        "sampler_gap": _beyond(history, "sampler_gap", limits.sampler_gap, limits.window, SAMPLER_GAP),
    }
    return {name: sentence for name, sentence in found.items() if sentence}


NO_SIGNAL = (
    "{mean:.0%} of the groups have equal scores, so little is learnt from them: the prompts are too easy or too hard. "
    "Set oversample or refills, draw the prompts with keep: tasks, or raise num_generations or the temperature."
)
LENGTH = (
    "{mean:.0%} of the answers are cut off at max_completion_length, so what is scored are halves: raise it, or pay "
    "for shorter answers (reward overlong, overlong_buffer)."
)
SAMPLER_GAP = (
    "Sampler and trainer differ by {mean:.3g} per token in log-probability: what is learnt from was drawn by another "
    "policy. Set precision: fp32, or importance_cap: 2."
)


def _beyond(history: History, metric: str, limit: float | None, window: int, sentence: str) -> str:
    mean = _means(_column(history[-window:], metric), window)
    return sentence.format(mean=mean[-1]) if limit is not None and len(mean) and mean[-1] > limit else ""


def _kl(history: History, limits: Alarms) -> str:
    """Nats per token, whatever the answers' length."""
    recent = history[-limits.window :]
    nats, tokens = _column(recent, "rollout/kl"), _column(recent, "rollout/length")
    if limits.kl is None or not np.isfinite(nats).all() or nats.sum() <= limits.kl * tokens.sum():
        return ""
    return (
        f"The policy is {nats.sum() / tokens.sum():.2f} nats per token from the reference, beyond {limits.kl:g}: it is "
        "becoming another model. Raise kl_coef or beta, or lower the learning rate."
    )


def _hacking(history: History, limits: Alarms) -> str:
    """Held against the window in which the oracle was at its best. (The best of many windows is a lucky one, which is
    why `hacking` asks for several standard errors.)"""
    window = limits.window
    score, oracle = _column(history, "rollout/score"), _column(history, "rollout/oracle")
    known = np.isfinite(score) & np.isfinite(oracle)
    score, oracle = score[known], oracle[known]
    if limits.hacking is None or len(oracle) < 2 * window:
        return ""
    means = _means(oracle, window)
    at = int(means.argmax())
    then, now = slice(at, at + window), slice(-window, None)
    rise, fall = score[now].mean() - score[then].mean(), oracle[then].mean() - oracle[now].mean()
    enough = [limits.hacking * _standard_error(x[then], x[now]) for x in (score, oracle)]
    if not (rise > enough[0] and fall > enough[1] and rise > 0 and fall > 0):
        return ""
    return (
        f"The reward rose by {rise:.3g} while the oracle fell by {fall:.3g}: the reward is being exploited. Raise "
        "kl_coef or beta, stop here, or mend the reward."
    )


def _entropy(history: History, limits: Alarms) -> str:
    means = _means(_column(history, "entropy"), limits.window)
    if limits.entropy is None or not len(means) or not means[-1] < limits.entropy * means[0]:
        return ""
    return (
        f"The entropy has fallen from {means[0]:.3g} to {means[-1]:.3g} nats per token: the policy says the same "
        "whatever happens. Raise entropy_coef, clip_high or the temperature."
    )


def _column(history: History, metric: str) -> NDArray[np.float64]:
    """A metric over the rollouts; NaN where it was not measured."""
    return np.array([float(row.get(metric, math.nan)) for row in history])


def _means(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """The mean of every window of the values that are there."""
    values = values[np.isfinite(values)]
    if len(values) < window:
        return np.zeros(0)
    return np.lib.stride_tricks.sliding_window_view(values, window).mean(1)


def _standard_error(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Of the difference of two means (Welch)."""
    return math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
