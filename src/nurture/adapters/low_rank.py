"""A frozen matrix and its low-rank update as one operation.

    y = W x + b + scale * B A x

Called one by one, as peft does, the update costs four more passes over the output in each direction; here the two thin
products are added where the wide one wrote its result. Kept for the backward pass are x and the few numbers A x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def updated(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """`[..., in] -> [..., out]`, differentiable in `x`, `a` and `b`."""
    apply: Callable[..., Tensor] = _Updated.apply  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return apply(x, weight, bias, a, b, scale)


class _Updated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        thin = (rows @ a.T).mul_(scale)
        ctx.save_for_backward(x, weight, a, b, thin)
        ctx.scale = scale
        return F.linear(rows, weight, bias).addmm_(thin, b.T).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, a, b, thin = ctx.saved_tensors
        rows, g = x.reshape(-1, x.shape[-1]), grads[0].reshape(-1, grads[0].shape[-1])
        g_thin = (g @ b).mul_(ctx.scale)
        need_x, _, _, need_a, need_b, _ = ctx.needs_input_grad
        d_x = (g @ weight).addmm_(g_thin, a).view(x.shape) if need_x else None
        # (Turning the few columns first is up to twice as fast as leaving it to the product.)
        d_a = g_thin.T.contiguous() @ rows if need_a else None
        d_b = (thin.T.contiguous() @ g).T.contiguous() if need_b else None
        return d_x, None, None, d_a, d_b, None
