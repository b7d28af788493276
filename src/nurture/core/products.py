"""Linear layers, and the gradient of their weight: a product of which one side has to be turned first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .. import kernels

COLUMNS = 4096
"""As many outputs at a time, so that what is turned stays small beside what is computed."""


def weight_gradient(g: Tensor, x: Tensor) -> Tensor:
    """`g [T, out].T @ x [T, in]`. The matrix library turns `g` on the way, which costs it as much time as the product;
    turned beforehand by a kernel, it does not."""
    if not (g.stride(1) == 1 and kernels.serves(g, x)):
        return g.T @ x
    rows, outs = g.shape
    out = x.new_empty(outs, x.shape[1])
    for a in range(0, outs, COLUMNS):
        part = g[:, a : a + COLUMNS]
        turned = g.new_empty(part.shape[1], rows)
        kernels.call("turn_bf16", turned, part, g.stride(0), rows, part.shape[1])
        torch.mm(turned, x, out=out[a : a + COLUMNS])
    return out


class Linear(nn.Linear):
    """torch's, with that gradient."""

    def forward(self, input: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and self.weight.requires_grad and kernels.serves(input, self.weight)):
            return super().forward(input)
        apply: Callable[..., Tensor] = _Product.apply  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return apply(input, self.weight, self.bias)


def is_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether it is a matrix and perhaps a bias, and nothing more, as something derived from one may be."""
    return type(module) in (nn.Linear, Linear)


class _Product(torch.autograd.Function):
    """`x @ weight.T + bias`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        need_x, _, need_bias = ctx.needs_input_grad
        g = grads[0].flatten(0, -2)
        d_x = (g @ weight).view(x.shape) if need_x else None
        return d_x, weight_gradient(g, x.flatten(0, -2)), g.sum(0) if need_bias else None
