"""The gradient of a weight: a product of which one side has to be turned first."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import kernels

COLUMNS = 4096
"""As many outputs at a time, so that what is turned stays small beside what is computed."""


def weight_gradient(g: Tensor, x: Tensor) -> Tensor:
    """`g [T, out].T @ x [T, in]`. The matrix library turns `g` on the way, which costs it as much time as the product;
    turned beforehand by a kernel, it does not."""
    if not (g.dtype == x.dtype == torch.bfloat16 and g.stride(1) == 1 and kernels.serves(g)):
        return g.T @ x
    rows, outs = g.shape
    out = x.new_empty(outs, x.shape[1])
    for a in range(0, outs, COLUMNS):
        part = g[:, a : a + COLUMNS]
        turned = g.new_empty(part.shape[1], rows)
        kernels.call("turn", turned, part, g.stride(0), rows, part.shape[1])
        torch.mm(turned, x, out=out[a : a + COLUMNS])
    return out
