import numpy as np
import torch

from nurture.core.ratios import clipped_surrogate, clipped_value_error, outside, truncated_weight


def test_clipped_surrogate_by_cases():
    """PPO's figure 1: for a good action the surrogate is flat above 1 + clip, for a bad one below 1 - clip."""
    ratio = torch.tensor([0.5, 0.9, 1.0, 1.1, 1.5, 0.5, 0.9, 1.0, 1.1, 1.5], requires_grad=True)
    adv = torch.tensor([2.0] * 5 + [-2.0] * 5)
    value = clipped_surrogate(ratio, adv, 0.2, 0.3)
    np.testing.assert_allclose(value.detach(), [1.0, 1.8, 2.0, 2.2, 2.6, -1.6, -1.8, -2.0, -2.2, -3.0], rtol=1e-6)
    (gradient,) = torch.autograd.grad(value.sum(), ratio)
    assert gradient.tolist() == [2, 2, 2, 2, 0, 0, -2, -2, -2, -2]
    assert outside(ratio, adv, 0.2, 0.3).tolist() == [float(g == 0) for g in gradient.tolist()]


def test_value_error():
    value, old, ret = torch.tensor([1.0, 3.0, 0.0]), torch.tensor([1.0, 1.0, 1.0]), torch.tensor([2.0, 3.0, 3.0])
    np.testing.assert_allclose(clipped_value_error(value, old, ret, None), [0.5, 0.0, 4.5])
    np.testing.assert_allclose(clipped_value_error(value, old, ret, 0.5), [0.5, 0.5 * 1.5**2, 4.5])


def test_truncated_weights():
    weights = truncated_weight(torch.tensor([0.5, 0.2]).log(), torch.tensor([0.1, 0.4]).log(), 2.0)
    np.testing.assert_allclose(weights, [2.0, 0.5], rtol=1e-6)
