"""`x @ weight.T` for a few rows: the form that reads the weight fastest, and weights packed for many such products.

The layout a weight is stored in is not the one a CPU's matrix kernels work on, and with few rows rearranging it, or
going without, is most of a product. Before many steps it pays to rearrange every weight once, in a copy; layers that
read the same input are joined into one matrix on the way. (A kernel of our own reads them as they are: `native.py`.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.products import is_linear

PACK_BYTES = 2 * 2**30
"""Larger models are read as they are: the copies would take as much memory again."""
PACK_STEPS = 16
"""Packing costs about two steps of one row."""

Product = Callable[[Tensor], Tensor]


def pays_to_pack(parameters: Sequence[Tensor], steps: int) -> bool:
    """A function of the model and the request alone, since a packed product may round differently."""
    return (
        steps >= PACK_STEPS
        and torch.backends.mkldnn.is_available()
        and all(p.device.type == "cpu" and p.dtype in (torch.float32, torch.bfloat16) for p in parameters)
        and len({p.dtype for p in parameters}) == 1
        and sum(p.numel() * p.itemsize for p in parameters) <= PACK_BYTES
    )


def packed(weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Product:
    """`[M, in] -> [M, sum of outs]` by weights `[out, in]` as they are now."""
    mkldnn: Any = torch.ops.mkldnn
    bias = None
    if any(b is not None for b in biases):
        parts = (w.new_zeros(len(w)) if b is None else b for w, b in zip(weights, biases, strict=True))
        bias = torch.cat([p.detach() for p in parts])
    weight = mkldnn._reorder_linear_weight(torch.cat([w.detach() for w in weights]).contiguous(), None)
    multiply = mkldnn._linear_pointwise
    return lambda x: multiply(x, weight, bias, "none", [], "")


def joined(modules: Sequence[nn.Module], pack: bool) -> Product:
    """The outputs of some layers on the same input, side by side. Anything but a plain linear layer (an adapter around
    one) is called as the module it is; unpacked weights are read at every call, so they may change between calls."""
    if pack and all(map(is_linear, modules)):
        linears: list[Any] = list(modules)
        return packed([m.weight for m in linears], [m.bias for m in linears])
    if len(modules) == 1:
        return lambda x: _apply(modules[0], x)
    return lambda x: torch.cat([_apply(m, x) for m in modules], -1)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` for few rows, `[M, in] -> [M, out]`.

    On a CPU in fp32 a matrix-vector product runs on one thread, but a batch of its blocks on all of them (twice as
    fast on two cores); and for 2 to about 100 rows `weight @ x.T` is 1.3 to 3 times as fast as `x @ weight.T`.
    The result may be stored features first.
    """
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return F.linear(x, weight, bias)
    outs, ins = weight.shape
    if len(x) == 1:
        # (One row of known strides: seen as a column of stride 1, it would be taken for a matrix, four times slower.)
        blocks = math.gcd(outs, 16)
        row = x.reshape(ins).expand(blocks, 1, ins)
        y = torch.bmm(row, weight.view(blocks, outs // blocks, ins).mT).view(1, outs)
    else:
        y = torch.mm(weight, (x if len(x) >= 16 else x.contiguous()).t()).t()
    return y if bias is None else y + bias


def _apply(module: nn.Module, x: Tensor) -> Tensor:
    return linear(x, module.weight, module.bias) if is_linear(module) else module(x)
