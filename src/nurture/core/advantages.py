"""How much better than expected an action was.

Per-token tensors are flat, `[T]`: responses one after another, `lengths[i]` tokens each. Per-response tensors are
`[R]`; `group[i]` is the prompt that response i answers. Whatever is computed here is a constant to the loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

EPS = 1e-4
"""Added to a standard deviation of rewards before dividing by it."""


def discounted_returns(reward: Tensor, lengths: Sequence[int], gamma: float) -> Tensor:
    """`G_t = r_t + gamma G_{t+1}`, within each response."""
    return gae(reward, torch.zeros_like(reward), lengths, gamma, 1.0)


def gae(reward: Tensor, value: Tensor, lengths: Sequence[int], gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimation. Schulman et al. 2015, arXiv:1506.02438, eq. 16.

        delta_t = r_t + gamma V_{t+1} - V_t        A_t = delta_t + gamma lam A_{t+1}

    After the last token of a response the value is 0.
    """
    rows_reward, rows_value = _rows(reward, lengths), _rows(value, lengths)
    adv = torch.zeros_like(rows_reward)
    following = rows_reward.new_zeros(len(lengths))
    next_value = torch.zeros_like(following)
    for t in range(rows_reward.shape[1] - 1, -1, -1):
        delta = rows_reward[:, t] + gamma * next_value - rows_value[:, t]
        following = delta + gamma * lam * following
        next_value = rows_value[:, t]
        adv[:, t] = following
    return adv[_inside(lengths, reward.device)]


def whiten(x: Tensor, shift: bool = True) -> Tensor:
    """Mean 0 (or the mean it had) and standard deviation 1, over all values."""
    if x.numel() < 2:
        return torch.zeros_like(x) if shift else x
    mean, std = x.mean(), x.std()
    white = (x - mean) / (std + 1e-8)
    return white if shift else white + mean


def group_mean(score: Tensor, group: Tensor) -> Tensor:
    """`[R]` the mean score of each response's group."""
    n = int(group.max()) + 1 if group.numel() else 0
    sums = score.new_zeros(n).index_add(0, group, score)
    return (sums / _sizes(group, n).to(score.dtype)).index_select(0, group)


def group_std(score: Tensor, group: Tensor) -> Tensor:
    """`[R]` the standard deviation (of n - 1) of the scores in each response's group; 0 for a group of one."""
    n = int(group.max()) + 1 if group.numel() else 0
    squares = score.new_zeros(n).index_add(0, group, (score - group_mean(score, group)).square())
    return (squares / (_sizes(group, n) - 1).clamp(min=1)).sqrt().index_select(0, group)


def leave_one_out(score: Tensor, group: Tensor) -> Tensor:
    """Each score minus the mean of the *other* scores in its group: an unbiased baseline. Kool et al. 2019, "Buy 4
    REINFORCE samples, get a baseline for free". A response alone in its group has nothing to compare with: 0."""
    size = _sizes(group, int(group.max()) + 1 if group.numel() else 0).index_select(0, group).to(score.dtype)
    return (score - group_mean(score, group)) * size / (size - 1).clamp(min=1)


def explained_variance(value: Tensor, ret: Tensor) -> float:
    """`1 - Var(ret - value) / Var(ret)`: 1 for a critic that knows the returns, 0 for one that knows their mean,
    negative for a harmful one; NaN where the returns do not vary."""
    variance = float(ret.var(correction=0)) if ret.numel() else 0.0
    return 1.0 - float((ret - value).var(correction=0)) / variance if variance > 0 else float("nan")


def _sizes(group: Tensor, n: int) -> Tensor:
    return torch.bincount(group, minlength=n)


def _inside(lengths: Sequence[int], device: torch.device) -> Tensor:
    longest = max(lengths, default=0)
    return torch.arange(longest, device=device) < torch.tensor(lengths, device=device).reshape(-1, 1)


def _rows(flat: Tensor, lengths: Sequence[int]) -> Tensor:
    """`[T] -> [R, longest]`, zeros behind the end of each response."""
    inside = _inside(lengths, flat.device)
    rows = flat.new_zeros(inside.shape)
    rows[inside] = flat
    return rows
