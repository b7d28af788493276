"""Means, paired tests and pass@k against closed forms and exhaustive enumeration."""

import itertools
import math

import numpy as np
import pytest

from nurture.evaluate.statistics import estimate, paired, pass_at_k


def test_the_standard_error_is_that_of_the_mean():
    found = estimate([0.0, 0.0, 1.0, 1.0, 1.0])
    assert found.mean == pytest.approx(0.6) and found.n == 5
    assert found.se == pytest.approx(math.sqrt(0.3 / 5))  # sample variance 0.3
    assert math.isnan(estimate([1.0]).se) and estimate([1.0]).to_json()["se"] is None


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        low, high = estimate(rng.binomial(1, 0.4, size=200).tolist()).interval
        hits += low <= 0.4 <= high
    assert 0.93 < hits / 2000 < 0.965


def test_the_paired_p_value_is_the_share_of_all_sign_flips():
    before, after = [0.1, 0.5, 0.0, 0.3, 0.9, 0.2, 0.4], [0.4, 0.4, 0.6, 0.9, 1.0, 0.2, 0.8]
    d = np.subtract(after, before)
    exact = np.mean([abs(np.dot(signs, d)) >= abs(d.sum()) - 1e-9 for signs in itertools.product((-1, 1), repeat=7)])
    assert paired(before, after).p == pytest.approx(exact, abs=0.015)


def test_no_difference_is_no_evidence():
    assert paired([0.2, 0.7], [0.2, 0.7]).p == 1.0


def test_under_the_null_small_p_values_are_as_rare_as_they_should_be():
    rng = np.random.default_rng(1)
    ps = [paired(*rng.binomial(1, 0.5, size=(2, 40)).astype(float).tolist()).p for _ in range(200)]
    assert np.mean(np.asarray(ps) < 0.05) < 0.1


@pytest.mark.parametrize("n, correct, k", [(5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 4), (8, 3, 8), (4, 1, 4)])
def test_pass_at_k_counts_the_subsets_that_hold_a_right_answer(n, correct, k):
    subsets = list(itertools.combinations(range(n), k))
    assert pass_at_k(n, correct, k) == pytest.approx(np.mean([any(i < correct for i in s) for s in subsets]))
