"""How far one policy is from another.

Estimated at the tokens that were drawn: with `x` drawn from p and `r = q(x) / p(x)`, the mean of each estimator below
is KL(p || q) (of k2: nearly so, where the two are near). Schulman 2020, "Approximating KL Divergence".

                value           variance   its gradient as a loss, on tokens drawn from p
    k1          -log r          large      has mean 0: k1 belongs in the reward
    k2          (log r)^2 / 2   small      has the mean of the gradient of KL(p || q)
    k3          r - 1 - log r   small      has the mean of the gradient of KL(q || p)

Exactly, over the whole vocabulary: `divergence`, which `core.logp.selected_logp(..., against=...)` takes of a few rows
at a time.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def k1(logp: Tensor, logp_ref: Tensor) -> Tensor:
    return logp - logp_ref


def k2(logp: Tensor, logp_ref: Tensor) -> Tensor:
    return 0.5 * (logp - logp_ref).square()


def k3(logp: Tensor, logp_ref: Tensor) -> Tensor:
    log_r = logp_ref - logp
    return torch.expm1(log_r) - log_r


ESTIMATORS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


def divergence(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """`[T, V] -> [T]`: KL(p || q) for beta = 1, KL(q || p) for beta = 0, and between them the generalised
    Jensen-Shannon divergence (Agarwal et al. 2024, arXiv:2306.13649, section 2, where q is the teacher):

        D = beta KL(q || m) + (1 - beta) KL(p || m)        m = beta q + (1 - beta) p

    Unlike either KL it is bounded. It shrinks to 0 at both ends: D / beta goes to KL(q || p), D / (1 - beta) to
    KL(p || q).
    """
    if beta == 1:
        return _kl(log_p, log_q)
    if beta == 0:
        return _kl(log_q, log_p)
    log_m = _mixture(log_p, log_q, beta)
    return beta * _kl(log_q, log_m) + (1 - beta) * _kl(log_p, log_m)


def divergence_slope(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """`[T, V]` the derivative of `divergence` by the logits of p.

    p_v (s_v - sum_u p_u s_u), where s is the derivative by p but for a constant: log p - log q, and for the mixture
    (1 - beta) (log p - log m).
    """
    p = log_p.exp()
    if beta == 0:
        return p - log_q.exp()
    s = log_p - log_q if beta == 1 else (log_p - _mixture(log_p, log_q, beta)).mul_(1 - beta)
    return p * (s - (p * s).sum(1, keepdim=True))


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    return (log_a.exp() * (log_a - log_b)).sum(1)


def _mixture(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    return torch.logaddexp(log_q + math.log(beta), log_p + math.log1p(-beta))
