"""Norms and gates that keep less for the backward pass, rotations in one pass over memory, and linear layers with a
faster gradient, in place of a model's own code for them.

Written out operation by operation, autograd keeps an fp32 copy of every norm's input and the activation of every gate.
Here it keeps what the layer was given, and the backward pass computes the rest again: that costs nothing, since the
separate operations were several passes over memory. A module of another family is recognised by trying it: where it
does not compute the same, it stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from inspect import signature
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .. import kernels
from ..core.products import Linear

Forward = Callable[..., Any]

GATED = {"gate_proj", "up_proj", "down_proj", "act_fn"}
ROTATE = "apply_rotary_pos_emb"
"""What transformers calls the function that turns queries and keys by their positions, in every family's file."""


def fuse(model: nn.Module) -> None:
    """Let what is below take the place of the model's own norms, gates, rotations and linear layers. Weights and names
    stay."""
    found: dict[type[nn.Module], Forward | None] = {}  # one model has one configuration for all modules of a class
    for module in model.modules():
        kind = type(module)
        if kind is nn.Linear:
            module.__class__ = Linear
            continue
        if kind not in found:
            found[kind] = _forward_of(module)
        if (forward := found[kind]) is not None:
            module.__class__ = _with(kind, forward)


def _forward_of(module: Any) -> Forward | None:
    if type(module).__module__ == __name__:
        return None
    if ROTATE in getattr(getattr(type(module).forward, "__code__", None), "co_names", ()):
        return _rotating(type(module).forward)
    if len(signature(module.forward).parameters) != 1:
        return None
    if epsilon(module) is not None and [name for name, _ in module.named_parameters()] == ["weight"]:
        return _norm if _is_rms_norm(module) else None
    if {name for name, _ in module.named_children()} == GATED:
        return _gated if _is_silu_gated(module) else None
    return None


@cache
def _with(kind: type[nn.Module], forward: Forward) -> type[nn.Module]:
    """The class with another `forward`, under its own name: transformers initialises weights by it."""
    return type(kind.__name__, (kind,), {"forward": forward})


def epsilon(norm: Any) -> float | None:
    """What a norm adds to the mean square, under either of the names that families have for it."""
    return getattr(norm, "variance_epsilon", getattr(norm, "eps", None))


def _is_rms_norm(module: Any) -> bool:
    trial = copy.deepcopy(module).to("cpu", torch.float32)
    draw = torch.Generator().manual_seed(0)
    trial.weight.data.normal_(generator=draw)
    return _same(trial.forward, lambda x: _norm(trial, x), 3 * torch.randn(2, 3, *trial.weight.shape, generator=draw))


def _is_silu_gated(module: Any) -> bool:
    weight: Tensor = module.gate_proj.weight
    if not weight.is_floating_point():  # packed in 4 bits: its form is not that of the matrix
        return False
    x = torch.randn(1, 2, weight.shape[1], generator=torch.Generator().manual_seed(0))
    if not _same(module.act_fn, F.silu, x):  # (behind small weights every activation looks like half of its input)
        return False
    x = x.to(weight.device, weight.dtype)
    tolerance = 1e-5 if weight.dtype.itemsize > 2 else 3e-2
    return _same(module.forward, lambda x: _gated(module, x), x, tolerance)


def _same(
    own: Callable[[Tensor], Tensor], ours: Callable[[Tensor], Tensor], x: Tensor, tolerance: float = 1e-5
) -> bool:
    with torch.no_grad():
        try:
            theirs = own(x)
        except RuntimeError:
            return False  # it expects another shape
        found = ours(x)
    return theirs.shape == found.shape and bool((theirs - found).norm() <= tolerance * theirs.norm())


def _norm(self: Any, hidden_states: Tensor) -> Tensor:
    apply: Callable[..., Tensor] = _RMSNorm.apply  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return apply(hidden_states, self.weight, epsilon(self))


def _gated(self: Any, x: Tensor) -> Tensor:
    apply: Callable[..., Tensor] = _Gate.apply  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return self.down_proj(apply(self.gate_proj(x), self.up_proj(x)))


def _rotating(attention: Any) -> Forward | None:
    """An attention layer's `forward` with another function under the name by which it turns queries and keys."""
    theirs = attention.__globals__.get(ROTATE)
    if theirs is None or not _is_rotation(theirs):
        return None

    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, Tensor]:
        if rest or options or not (_turns(q, cos, sin) and _turns(k, cos, sin)):
            return theirs(q, k, cos, sin, *rest, **options)
        apply: Callable[..., Tensor] = _Rotation.apply  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return apply(q, cos, sin), apply(k, cos, sin)

    names = {**attention.__globals__, ROTATE: rotate}
    ours = FunctionType(attention.__code__, names, attention.__name__, attention.__defaults__, attention.__closure__)
    ours.__kwdefaults__ = attention.__kwdefaults__
    return ours


def _is_rotation(function: Callable[..., Any]) -> bool:
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, heads, 3, 64, generator=draw) for heads in (4, 2))
    cos, sin = (torch.randn(1, 3, 64, generator=draw) for _ in range(2))
    try:
        found = function(q, k, cos, sin)
    except (RuntimeError, TypeError):
        return False  # it expects something else

    def turned(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    return all(torch.allclose(theirs, turned(x)) for theirs, x in zip(found, (q, k), strict=True))


def _turns(x: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether the kernel serves `x [1, heads, N, D]`, whose numbers of one head lie together."""
    return (
        x.shape[0] == 1
        and x.shape[-1] % 32 == 0
        and cos.shape == sin.shape == (1, *x.shape[2:])
        and not (cos.requires_grad or sin.requires_grad)
        and x.stride(-1) == 1
        and cos.is_contiguous()
        and sin.is_contiguous()
        and kernels.serves(x, cos, sin)
    )


class _Rotation(torch.autograd.Function):
    """`(a, b) -> (a cos - b sin, b cos + a sin)` for the two halves of each head; its gradient turns back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (g,) = grads
        return _turn(g if g.stride(-1) == 1 else g.contiguous(), *ctx.saved_tensors, back=True), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    _, heads, tokens, width = x.shape
    y = x.new_empty(1, tokens, heads, width)  # each token's heads together, as the layers around want them
    kernels.call("rotate_bf16", y, x, cos, sin, tokens, heads, width, x.stride(2), x.stride(1), int(back))
    return y.transpose(1, 2)


class _RMSNorm(torch.autograd.Function):
    """`y = w * n` with `n = x / sqrt(mean(x^2) + eps)`. With `g = dL/dy`: `dL/dw = sum g n`, and
    `dL/dx = (g w - n mean(g w n)) / sqrt(mean(x^2) + eps)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        if kernels.serves(x, weight):
            x = x.contiguous()
            y, scale = torch.empty_like(x), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
            rows, n = scale.numel(), x.shape[-1]
            kernels.call("rms_norm_bf16", y, scale, x, weight, rows, n, float(eps))
            ctx.save_for_backward(x, weight, scale)
            return y
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = (wide.square().mean(-1, keepdim=True) + eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return weight * (wide * scale).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, scale = ctx.saved_tensors
        if kernels.serves(x, weight, grads[0]):
            d_x, d_weight = torch.empty_like(x), torch.empty_like(weight) if ctx.needs_input_grad[1] else None
            rows, n = scale.numel(), x.shape[-1]
            kernels.call("rms_norm_backward_bf16", d_x, d_weight, grads[0].contiguous(), x, weight, scale, rows, n)
            return d_x, d_weight, None
        n = x * scale  # in the format of `scale`, at least fp32
        g = grads[0].to(n.dtype)
        gn = g * n
        d_weight = None
        if ctx.needs_input_grad[1]:
            d_weight = gn.flatten(0, -2).sum(0).to(weight.dtype)
        mean = gn.matmul(weight.to(n.dtype))[..., None] / x.shape[-1]
        d_x = torch.mul(g, weight, out=gn).addcmul_(n, mean, value=-1).mul_(scale)
        return d_x.to(x.dtype), d_weight, None


class _Gate(torch.autograd.Function):
    """`silu(gate) * up`."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        if kernels.serves(gate, up):
            gate, up = gate.contiguous(), up.contiguous()
            ctx.save_for_backward(gate, up)
            y = torch.empty_like(gate)
            kernels.call("silu_gate_bf16", y, gate, up, y.numel())
            return y
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gate, up = ctx.saved_tensors
        if kernels.serves(gate, up, grads[0]):
            d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
            kernels.call("silu_gate_backward_bf16", d_gate, d_up, grads[0].contiguous(), gate, up, gate.numel())
            return d_gate, d_up
        d_gate = torch.ops.aten.silu_backward(grads[0] * up, gate)
        return d_gate, F.silu(gate).mul_(grads[0])
