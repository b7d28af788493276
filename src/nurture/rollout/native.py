"""The step of `fused.py` and the output product as kernels of our own, on the weights where they are.

A layer is served if each of its matrices is a plain linear layer, alone or with one plain LoRA around it. What a module
holds is looked up when the step is made; values may change in place afterwards, not be replaced.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import kernels
from ..core.products import is_linear
from ..models.fused import epsilon
from .cache import DecodePlan

_Pointer, _Count, _Float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Matrix(ctypes.Structure):
    _fields_ = (
        *((name, _Pointer) for name in ("weight", "bias", "a", "b")),
        ("rank", _Count), ("scale", _Float),
    )  # fmt: skip


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Matrix) for name in ("q", "k", "v", "o", "gate", "up", "down")),
        *((name, _Pointer) for name in ("norm", "mlp_norm", "q_norm", "k_norm", "keys", "values")),
        *((name, _Float) for name in ("epsilon", "mlp_epsilon", "q_epsilon", "k_epsilon", "scaling")),
        ("rotates", ctypes.c_int32),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        *(
            (n, _Count)
            for n in ("layers", "hidden", "heads", "kv_heads", "width", "inner", "rows", "capacity", "threads")
        ),
        *((name, _Pointer) for name in ("layer", "norm", "position", "x", "cos", "sin", "out")),
        ("epsilon", _Float),
    )


FORMATS = (torch.float32, torch.bfloat16)


class _Unserved(Exception):
    pass


def native(decoder: nn.Module) -> NativeDecoder | None:
    """The step of a Llama-shaped decoder, or None if something about it is not served."""
    if not kernels.serves(*decoder.parameters(), formats=FORMATS):
        return None
    try:
        return NativeDecoder(decoder)
    except _Unserved:
        return None


class NativeDecoder:
    def __init__(self, decoder: nn.Module):
        d: Any = decoder
        self.embed, self.rotary = d.embed_tokens, d.rotary_emb
        self.dtype: torch.dtype = d.norm.weight.dtype
        self._held: list[Tensor] = []  # what the table points to stays alive, whatever becomes of the module
        first, config = d.layers[0], d.config.get_text_config()
        hidden, width, kv = len(d.norm.weight), first.self_attn.head_dim, config.num_key_value_heads
        heads, inner = _outs(first.self_attn.q_proj) // width, _outs(first.mlp.gate_proj)
        if hidden % 2 or width % 2 or inner % 2 or heads % kv:
            raise _Unserved
        self.hidden, self.width = hidden, width
        layers = [self._layer(layer, hidden, heads * width, kv * width, inner) for layer in d.layers]
        self._layers = (_Layer * len(layers))(*layers)
        self._step = _Step(len(layers), hidden, heads, kv, width, inner)
        self._step.layer = ctypes.addressof(self._layers)
        self._step.norm, self._step.epsilon = self._norm(d.norm, hidden)

    def __call__(self, ids: Tensor, plan: DecodePlan) -> Tensor:
        """`[B]` new tokens -> `[B, H]` hidden states after the last norm."""
        x: Tensor = self.embed(ids).contiguous()
        cos, sin = (t.expand(len(ids), 1, -1).contiguous() for t in self.rotary(x, plan.positions))
        assert x.dtype == cos.dtype == self.dtype and cos.shape[-1] == sin.shape[-1] == self.width
        out, step, cache = torch.empty_like(x), self._step, plan.cache
        for layer, keys, values in zip(self._layers, cache.keys, cache.values, strict=True):
            layer.keys, layer.values = keys.data_ptr(), values.data_ptr()
        step.rows, step.capacity, step.threads = len(ids), cache.capacity, torch.get_num_threads()
        step.position, step.out = plan.positions.data_ptr(), out.data_ptr()
        step.x, step.cos, step.sin = x.data_ptr(), cos.data_ptr(), sin.data_ptr()
        library = kernels.library()
        assert library is not None
        library[f"decode_{_kind(self.dtype)}"](ctypes.byref(step))
        return out

    def _layer(self, layer: Any, hidden: int, query: int, key: int, inner: int) -> _Layer:
        a, mlp = layer.self_attn, layer.mlp
        if not is_silu(mlp.act_fn):
            raise _Unserved
        out = _Layer(
            self._matrix(a.q_proj, query, hidden), self._matrix(a.k_proj, key, hidden),
            self._matrix(a.v_proj, key, hidden), self._matrix(a.o_proj, hidden, query),
            self._matrix(mlp.gate_proj, inner, hidden), self._matrix(mlp.up_proj, inner, hidden),
            self._matrix(mlp.down_proj, hidden, inner),
            scaling=a.scaling, rotates=bool(getattr(a, "use_rope", True)),
        )  # fmt: skip
        out.norm, out.epsilon = self._norm(layer.input_layernorm, hidden)
        out.mlp_norm, out.mlp_epsilon = self._norm(layer.post_attention_layernorm, hidden)
        if getattr(a, "q_norm", None) is not None:
            out.q_norm, out.q_epsilon = self._norm(a.q_norm, self.width)
            out.k_norm, out.k_epsilon = self._norm(a.k_norm, self.width)
        return out

    def _matrix(self, module: Any, outs: int, ins: int) -> _Matrix:
        base, lora = _parts(module)
        bias = None if base.bias is None else self._pointer(base.bias, outs)
        matrix = _Matrix(self._pointer(base.weight, outs, ins), bias)
        if lora is not None:
            a, b, matrix.scale = lora
            matrix.rank = len(a)
            if matrix.rank % 2:
                raise _Unserved
            matrix.a, matrix.b = self._pointer(a, matrix.rank, ins), self._pointer(b, outs, matrix.rank)
        return matrix

    def _norm(self, module: Any, size: int) -> tuple[int, float]:
        found = epsilon(module)
        if found is None:
            raise _Unserved
        return self._pointer(module.weight, size), found

    def _pointer(self, tensor: Tensor, *shape: int) -> int:
        if tensor.shape != shape or tensor.dtype != self.dtype or not tensor.is_contiguous():
            raise _Unserved
        self._held.append(tensor.detach())
        return tensor.data_ptr()


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`[M, in] -> [M, out]` in fp32, of what `has_product` says yes to."""
    (rows, ins), outs = x.shape, len(weight)
    y = torch.empty(rows, outs)
    kernels.call(f"thin_{_kind(x.dtype)}", y, x.contiguous(), weight, bias, rows, outs, ins)
    return y


def has_product(weight: Tensor, bias: Tensor | None) -> bool:
    tensors = [weight] if bias is None else [weight, bias]
    return (
        kernels.serves(*tensors, formats=FORMATS)
        and all(t.is_contiguous() and t.dtype == weight.dtype for t in tensors)
        and weight.shape[1] % 2 == 0
    )


def is_silu(module: nn.Module) -> bool:
    x = torch.linspace(-8, 8, 65)
    return not any(True for _ in module.parameters()) and bool(torch.equal(module(x), F.silu(x)))


def _kind(dtype: torch.dtype) -> str:
    return "bf16" if dtype == torch.bfloat16 else "fp32"


def _outs(module: Any) -> int:
    return len(_parts(module)[0].weight)


def _parts(module: Any) -> tuple[Any, tuple[Tensor, Tensor, float] | None]:
    """A linear layer, and A, B and scale of the LoRA that changes it at present."""
    if is_linear(module):
        return module, None
    if not _is_lora(module):
        raise _Unserved
    base = module.base_layer
    if not is_linear(base) or (module.merged and module.disable_adapters):  # (its call would take it out again)
        raise _Unserved
    roles: Sequence[str] = [role for role in module.active_adapters if role in module.lora_A]
    if module.merged or module.disable_adapters or not roles:
        return base, None
    if len(roles) > 1 or roles[0] in module.lora_variant:
        raise _Unserved
    a, b, dropout = (part[roles[0]] for part in (module.lora_A, module.lora_B, module.lora_dropout))
    plain = is_linear(a) and is_linear(b) and a.bias is b.bias is None
    if not plain or (dropout.training and not isinstance(dropout, nn.Identity)):
        raise _Unserved
    return base, (a.weight, b.weight, module.scaling[roles[0]])


def _is_lora(module: Any) -> bool:
    """peft's layer, or ours in its place; not one of another kind that has the same parts."""
    if not hasattr(module, "lora_A"):
        return False
    from ..adapters.peft_compat import FusedLora, Linear

    return type(module) in (FusedLora, Linear)
