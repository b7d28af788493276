"""How far one policy is from another, estimated at the tokens that were drawn.

With `x` drawn from p and `r = q(x) / p(x)`, the mean of each estimator below is KL(p || q) (of k2: nearly so, where the
two are near). Schulman 2020, "Approximating KL Divergence". Exact KL over the whole vocabulary is
`core.logp.selected_logp(..., kl_to=...)`.

                value           variance   its gradient as a loss, on tokens drawn from p
    k1          -log r          large      has mean 0: k1 belongs in the reward
    k2          (log r)^2 / 2   small      has the mean of the gradient of KL(p || q)
    k3          r - 1 - log r   small      has the mean of the gradient of KL(q || p)
"""

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
