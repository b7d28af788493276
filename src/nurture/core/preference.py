"""Mathematics of comparisons: what a ranking says about scores, and logarithms that stay finite."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

log_sigmoid = torch.nn.functional.logsigmoid

MOST_TIED = 12
"""Answers that may share a rank where the order counts as a whole: m of them have 2^m rests to take the mean over."""


def plackett_luce(scores: Tensor, ranks: Sequence[int]) -> Tensor:
    """`-log p(ranking)` under Plackett (1975) and Luce (1959): the best is drawn with probability softmax(scores), then
    the best of the rest, and so on.

        L = sum_i  logsumexp_{j not yet placed} s_j - s_i

    Of equal ranks nobody knows the order, so L is the mean over all their orders. A tied answer is drawn from what is
    below the tie and a random rest of the tie: the mean over the rests of each size is exact, without writing out m!
    orders. There are still 2^m of these rests, so keep a tie to `MOST_TIED`.
    """
    total = scores.new_zeros(())
    for place in sorted(set(ranks)):
        tied = [i for i, r in enumerate(ranks) if r == place]
        below = [i for i, r in enumerate(ranks) if r > place]
        for left in range(len(tied), 0, -1):
            rests = [torch.logsumexp(scores[[*rest, *below]], 0) for rest in combinations(tied, left)]
            total = total + torch.stack(rests).mean()
        total = total - scores[tied].sum()
    return total


def log1mexp(x: Tensor) -> Tensor:
    """`log(1 - exp(x))` for x < 0, without losing digits at either end. Maechler 2012, eq. 7."""
    x = x.clamp(max=-torch.finfo(x.dtype).tiny)
    near = x > -0.6931472
    return torch.where(near, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(torch.where(near, -1.0, x))))


def log_odds(logp: Tensor) -> Tensor:
    """`log(p / (1 - p))` of a log-probability."""
    return logp - log1mexp(logp)
