"""The attention of `segments.py` by a kernel of our own (`kernels/attention.cpp`), in bf16."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import kernels

WIDTH = 32
"""Heads are a multiple of this wide."""

_int, _pointer = ctypes.c_int64, ctypes.c_void_p


class _Heads(ctypes.Structure):
    _fields_ = (("data", _pointer), ("head", _int), ("token", _int))


class _Row(ctypes.Structure):
    _fields_ = (
        *((name, _int) for name in ("tokens", "segments", "heads", "shared", "width", "threads")),
        *((name, _pointer) for name in ("start", "length", "parent")),
        ("scale", ctypes.c_float),
        *((name, _Heads) for name in ("q", "k", "v", "out", "d_out", "dq", "dk", "dv")),
        ("lse", _pointer),
    )


def serves(query: Tensor, key: Tensor, value: Tensor, parent: Sequence[int]) -> bool:
    return (
        query.shape[-1] == value.shape[-1]
        and query.shape[-1] % WIDTH == 0
        and all(p < 0 or parent[p] < 0 for p in parent)
        and kernels.serves(query, key, value)
    )


def lay_table(lengths: Sequence[int], parent: Sequence[int]) -> Tensor:
    """Where each segment starts, its length, and the segment before it: `[3, segments]`."""
    return torch.tensor([[0, *accumulate(lengths)][:-1], list(lengths), list(parent)])


def attend(query: Tensor, key: Tensor, value: Tensor, scaling: float, table: Tensor) -> Tensor:
    """`query [1, heads, N, D]`, `key` and `value` `[1, kv_heads, N, D]` -> `[1, heads, N, D]`."""
    apply: Callable[..., Tensor] = _Attend.apply  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return apply(query, key, value, scaling, table)


class _Attend(torch.autograd.Function):
    """Keeps, beside what goes in and comes out, the log of the sum of each row's exponentials."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float, table: Tensor) -> Tensor:
        ctx.scaling, ctx.table = scaling, table
        query, key, value = map(_readable, (query, key, value))
        out, lse = _like(query), query.new_empty(query.shape[1:3], dtype=torch.float32)
        _call("attend", scaling, table, lse, q=query, k=key, v=value, out=out)
        ctx.save_for_backward(query, key, value, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value, out, lse = ctx.saved_tensors
        dq, dk, dv = map(_like, (query, key, value))
        known = {"q": query, "k": key, "v": value, "out": out, "d_out": _readable(grads[0])}
        _call("attend_backward", ctx.scaling, ctx.table, lse, **known, dq=dq, dk=dk, dv=dv)
        return dq, dk, dv, None, None


def _call(name: str, scaling: float, table: Tensor, lse: Tensor, **tensors: Tensor) -> None:
    library = kernels.library()
    assert library is not None
    (heads, tokens), (_, kv_heads, _, width) = lse.shape, tensors["k"].shape
    row = _Row(
        tokens, table.shape[1], kv_heads, heads // kv_heads, width, torch.get_num_threads(),
        *(part.data_ptr() for part in table), scaling, lse=lse.data_ptr(),
        **{name: _Heads(x.data_ptr(), x.stride(1), x.stride(2)) for name, x in tensors.items()},
    )  # fmt: skip
    library[name](ctypes.byref(row))


def _readable(x: Tensor) -> Tensor:
    """The kernel strides over heads and tokens, in pairs of numbers."""
    return x if x.stride(-1) == 1 and x.stride(1) % 2 == 0 and x.stride(2) % 2 == 0 else x.contiguous()


def _like(x: Tensor) -> Tensor:
    """Room for as many heads and tokens, each token's heads together, as the layers around want them."""
    return x.new_empty(1, x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2)
