"""KL estimators against the exact divergence of two categorical distributions, by full enumeration."""

import pytest
import torch

from nurture.core.kl import ESTIMATORS


def two(seed=0, n=50, apart=1.0):
    draw = torch.Generator().manual_seed(seed)
    z, shift = (torch.randn(n, generator=draw, dtype=torch.float64) for _ in range(2))
    return z, (z + apart * shift).log_softmax(-1)


def kl(p, q):
    return (p.exp() * (p - q)).sum()


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_the_mean_is_the_divergence(name):
    logits, q = two()
    p = logits.log_softmax(-1)
    torch.testing.assert_close((p.exp() * ESTIMATORS[name](p, q)).sum(), kl(p, q))


def test_k2_is_near_for_near_policies():
    logits, q = two(apart=0.05)
    p = logits.log_softmax(-1)
    torch.testing.assert_close((p.exp() * ESTIMATORS["k2"](p, q)).sum(), kl(p, q), rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("name", "divergence"), [("k1", None), ("k2", lambda p, q: kl(p, q)), ("k3", lambda p, q: kl(q, p))]
)
def test_the_mean_gradient_of_each_as_a_loss(name, divergence):
    logits, q = two()
    p = logits.requires_grad_().log_softmax(-1)
    (ours,) = torch.autograd.grad((p.detach().exp() * ESTIMATORS[name](p, q)).sum(), logits, retain_graph=True)
    theirs = torch.zeros_like(logits) if divergence is None else torch.autograd.grad(divergence(p, q), logits)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)
