"""Rankings against a sum over orders written out in NumPy, logarithms near their ends."""

from itertools import pairwise, permutations
from math import lgamma

import numpy as np
import pytest
import torch

from nurture.core.preference import MOST_TIED, log1mexp, log_odds, plackett_luce


def by_orders(scores, ranks):
    """Minus the log-probability of the ranking: the mean over every order that agrees with the ranks."""
    agreeing = [
        order for order in permutations(range(len(ranks))) if all(ranks[a] <= ranks[b] for a, b in pairwise(order))
    ]

    def nll(order):
        drawn = np.array([scores[i] for i in order])
        return sum(np.log(np.exp(drawn[k:]).sum()) - drawn[k] for k in range(len(drawn)))

    return np.mean([nll(order) for order in agreeing])


@pytest.mark.parametrize("ranks", [[1, 2], [3, 1, 2], [1, 1, 3], [1, 2, 2, 2], [2, 1, 4, 2, 5], [1, 1, 1]])
def test_plackett_luce_is_the_mean_over_all_orders(ranks):
    scores = np.random.default_rng(len(ranks)).normal(size=len(ranks)) * 2
    ours = plackett_luce(torch.tensor(scores), ranks)
    assert ours.item() == pytest.approx(by_orders(scores, ranks), rel=1e-12)


def test_two_answers_are_bradley_and_terrys_model():
    s = torch.tensor([0.3, -1.2], dtype=torch.float64)
    assert plackett_luce(s, [2, 1]).item() == pytest.approx(np.log1p(np.exp(0.3 + 1.2)), rel=1e-12)


def test_a_tie_of_the_most_is_still_quick():
    """All orders of equal scores are as likely as each other: log m! for m of them."""
    s = torch.zeros(MOST_TIED, dtype=torch.float64)
    assert plackett_luce(s, [1] * MOST_TIED).item() == pytest.approx(lgamma(MOST_TIED + 1), rel=1e-12)


@pytest.mark.parametrize("x", [-1e-12, -1e-3, -0.5, -0.7, -3.0, -50.0])
def test_log_of_one_minus_exp_keeps_its_digits(x):
    want = np.log(-np.expm1(x)) if x > -1 else np.log1p(-np.exp(x))
    assert log1mexp(torch.tensor(x, dtype=torch.float64)).item() == pytest.approx(want, rel=1e-12)


def test_odds_of_a_probability():
    p = torch.tensor([0.2, 0.9], dtype=torch.float64)
    torch.testing.assert_close(log_odds(p.log()), torch.log(p / (1 - p)))
    x = torch.tensor([-1e-9, -0.3, -80.0], dtype=torch.float64, requires_grad=True)
    assert log_odds(x).isfinite().all()
    assert torch.autograd.grad(log_odds(x).sum(), x)[0].isfinite().all()
