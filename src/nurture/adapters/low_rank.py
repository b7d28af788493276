"""A frozen matrix and its low-rank update as one operation.

    y = W x + b + scale * B A x

Called one by one, as peft does, the update costs four more passes over the output in each direction; here the two thin
products are added where the wide one wrote its result, by a kernel where there is one (`kernels/low_rank.cpp`): a
library takes as long for a product of eight columns as for one of hundreds. Kept for the backward pass are x and the
few numbers A x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import kernels


def updated(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """`[..., in] -> [..., out]`, differentiable in `x`, `a` and `b`."""
    apply: Callable[..., Tensor] = _Updated.apply  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return apply(x, weight, bias, a, b, scale)


def _has_kernel(weight: Tensor, *tensors: Tensor) -> bool:
    outs, ins = weight.shape
    return (
        ins % 32 == outs % 32 == tensors[-1].shape[1] % 2 == 0
        and all(t.is_contiguous() for t in tensors)
        and kernels.serves(weight, *tensors)
    )


class _Updated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        ctx.scale = float(scale)
        if _has_kernel(weight, rows, a, b) and (bias is None or kernels.serves(bias)):
            y, thin = F.linear(rows, weight), x.new_empty(len(rows), a.shape[0])
            kernels.call("low_rank_bf16", y, thin, rows, a, b, bias, len(rows), *weight.T.shape, a.shape[0], ctx.scale)
        else:
            thin = (rows @ a.T).mul_(scale)
            y = F.linear(rows, weight, bias).addmm_(thin, b.T)
        ctx.save_for_backward(x, weight, a, b, thin)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, a, b, thin = ctx.saved_tensors
        rows, g = x.reshape(-1, x.shape[-1]), grads[0].reshape(-1, grads[0].shape[-1])
        need_x, _, _, need_a, need_b, _ = ctx.needs_input_grad
        d_x = g @ weight if need_x else None
        if _has_kernel(weight, g, rows, thin, a, b):
            d_a, d_b = torch.empty_like(a) if need_a else None, torch.empty_like(b) if need_b else None
            sizes = (len(rows), *weight.T.shape, a.shape[0])
            kernels.call("low_rank_backward_bf16", d_x, d_a, d_b, g, rows, thin, a, b, *sizes, ctx.scale)
        else:
            g_thin = (g @ b).mul_(ctx.scale)
            if d_x is not None:
                d_x.addmm_(g_thin, a)
            # (Turning the few columns first is up to twice as fast as leaving it to the product.)
            d_a = g_thin.T.contiguous() @ rows if need_a else None
            d_b = (thin.T.contiguous() @ g).T.contiguous() if need_b else None
        return None if d_x is None else d_x.view(x.shape), None, None, d_a, d_b, None
