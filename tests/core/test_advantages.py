"""Advantages against NumPy, written from the definitions (double sums, no recursion)."""

import numpy as np
import pytest
import torch

from nurture.core.advantages import (
    discounted_returns,
    explained_variance,
    gae,
    group_mean,
    group_std,
    leave_one_out,
    whiten,
)

LENGTHS = [5, 1, 0, 12, 3]


def draws(seed=0):
    draw = np.random.default_rng(seed)
    return draw.normal(size=sum(LENGTHS)), draw.normal(size=sum(LENGTHS))


def pieces(x):
    return np.split(x, np.cumsum(LENGTHS)[:-1])


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_gae_is_the_discounted_sum_of_one_step_errors(gamma, lam):
    reward, value = draws()
    expected = []
    for r, v in zip(pieces(reward), pieces(value), strict=True):
        delta = r + gamma * np.append(v[1:], 0.0)[: len(r)] - v
        expected += [sum((gamma * lam) ** k * delta[t + k] for k in range(len(r) - t)) for t in range(len(r))]
    ours = gae(torch.tensor(reward), torch.tensor(value), LENGTHS, gamma, lam)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-12)


def test_gae_with_lam_1_is_return_minus_value():
    reward, value = (torch.tensor(x) for x in draws())
    ours = gae(reward, value, LENGTHS, 0.9, 1.0)
    torch.testing.assert_close(ours, discounted_returns(reward, LENGTHS, 0.9) - value)


def test_discounted_returns():
    reward, _ = draws()
    expected = [sum(0.8**k * r[t + k] for k in range(len(r) - t)) for r in pieces(reward) for t in range(len(r))]
    np.testing.assert_allclose(discounted_returns(torch.tensor(reward), LENGTHS, 0.8).numpy(), expected, atol=1e-12)


def test_groups_of_any_size():
    score = np.array([1.0, 4.0, 2.0, 7.0, 5.0, 5.0])
    group = np.array([0, 1, 0, 0, 2, 2])
    members = [score[group == g] for g in group]
    as_tensors = torch.tensor(score), torch.tensor(group)
    np.testing.assert_allclose(group_mean(*as_tensors), [m.mean() for m in members])
    np.testing.assert_allclose(group_std(*as_tensors), [m.std(ddof=1) if len(m) > 1 else 0.0 for m in members])
    others = [(m.sum() - s) / (len(m) - 1) if len(m) > 1 else s for m, s in zip(members, score, strict=True)]
    np.testing.assert_allclose(leave_one_out(*as_tensors), score - others, atol=1e-12)


def test_whitening():
    x, _ = draws()
    np.testing.assert_allclose(whiten(torch.tensor(x)), (x - x.mean()) / x.std(ddof=1), rtol=1e-6)
    assert whiten(torch.tensor([3.0])).tolist() == [0.0]
    assert torch.isfinite(whiten(torch.full((4,), 2.0))).all()


def test_explained_variance():
    ret = torch.tensor([1.0, 2.0, 3.0, 6.0])
    assert explained_variance(ret + 5, ret) == pytest.approx(1.0)
    assert explained_variance(torch.full((4,), 3.0), ret) == pytest.approx(0.0)
    assert explained_variance(-ret, ret) == pytest.approx(-3.0)
    assert np.isnan(explained_variance(ret, torch.ones(4)))
