"""Learning from what an older policy did: importance ratios and their limits."""

import torch
from torch import Tensor


def clipped_surrogate(ratio: Tensor, adv: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """`min(ratio * adv, clip(ratio, 1 - clip_low, 1 + clip_high) * adv)`: no reward for leaving the interval, full
    blame for having left it to the wrong side. Schulman et al. 2017, arXiv:1707.06347, eq. 7."""
    return torch.minimum(ratio * adv, ratio.clamp(1 - clip_low, 1 + clip_high) * adv)


def outside(ratio: Tensor, adv: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """1 where the clip took the gradient away, else 0."""
    return (((ratio > 1 + clip_high) & (adv > 0)) | ((ratio < 1 - clip_low) & (adv < 0))).to(ratio.dtype)


def clipped_value_error(value: Tensor, value_old: Tensor, ret: Tensor, clip_value: float | None) -> Tensor:
    """`(value - ret)^2 / 2`, or that of the value kept within `clip_value` of the old one, whichever is larger.
    Without a limit, the plain squared error."""
    error = (value - ret).square()
    if clip_value is not None:
        near = value_old + (value - value_old).clamp(-clip_value, clip_value)
        error = torch.maximum(error, (near - ret).square())
    return 0.5 * error


def truncated_weight(logp_old: Tensor, logp_sampler: Tensor, cap: float) -> Tensor:
    """`min(p_trainer / p_sampler, cap)`: corrects for a sampler whose arithmetic differs from the trainer's.
    Ionides 2008, "Truncated importance sampling"."""
    return (logp_old - logp_sampler).exp().clamp(max=cap)
