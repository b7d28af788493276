"""One decoding step of a Llama-shaped decoder, on the module's own weights but without the module's Python.

At a handful of rows a step is short: half of it would be spent between operations, and most of the rest in matrix
products whose usual form is not the fastest (`products.py`). Families this page knows are recognised by their
submodules; `probe` then compares every layer's queries, keys and values with those of the module itself, so that a
family which only looks alike (Gemma, whose norms multiply by 1 + w) is not served, never served wrongly. Where there
are kernels of our own, one of them takes the whole step (`native.py`), and what is here is its twin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.fused import epsilon
from .cache import DecodePlan, KeyValueCache, PrefillPlan
from .products import Product, joined

Step = Callable[[Tensor, DecodePlan], Tensor]
"""`[B]` new tokens -> `[B, H]` hidden states after the last norm."""

LAYER = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


@dataclass(slots=True)
class _Layer:
    norm: nn.Module
    qkv: Product
    o: Product
    q_norm: nn.Module | None
    k_norm: nn.Module | None
    rotates: bool
    scaling: float
    mlp_norm: nn.Module
    gate_up: Product
    act: nn.Module
    down: Product


class FusedDecoder:
    """With `pack`, on the weights as they are now; without, it reads the modules at every step. Adapters, which come,
    go and switch, are always called as modules."""

    def __init__(self, decoder: nn.Module, pack: bool = False):
        d: Any = decoder
        self.embed, self.norm, self.rotary = d.embed_tokens, d.norm, d.rotary_emb
        self.layers = [_layer(layer, pack) for layer in d.layers]
        self.head_dim: int = d.layers[0].self_attn.head_dim
        self.kv_heads: int = d.config.get_text_config().num_key_value_heads

    def __call__(self, ids: Tensor, plan: DecodePlan) -> Tensor:
        """`[B]` new tokens -> `[B, H]` hidden states after the last norm."""
        x = self.embed(ids)
        cos, sin = self.rotary(x, plan.positions)
        sin = sin[..., : self.head_dim // 2]
        kv = self.kv_heads
        for number, layer in enumerate(self.layers):
            heads = layer.qkv(_norm(layer.norm, x)).unflatten(-1, (-1, self.head_dim))
            qk, v = heads[:, :-kv], heads[:, -kv:]
            if layer.q_norm is not None and layer.k_norm is not None:
                qk = torch.cat([_norm(layer.q_norm, qk[:, :-kv]), _norm(layer.k_norm, qk[:, -kv:])], 1)
            if layer.rotates:
                qk = _rotate(qk, cos, sin)
            q, k = qk[:, :-kv], qk[:, -kv:]
            out = plan.attend(number, q[:, :, None], k[:, :, None], v[:, :, None], layer.scaling, None)
            x = x + layer.o(out.reshape(len(x), -1))
            gate, up = layer.gate_up(_norm(layer.mlp_norm, x)).chunk(2, -1)
            x = x + layer.down(layer.act(gate) * up)
        return _norm(self.norm, x)


def probe(decoder: nn.Module, fused: Step) -> bool:
    """Whether both ways of taking a step hand the same queries, keys, values and scales to the attention of every
    layer, leave the same cache, and end in the same hidden states. (Comparing what goes into the attention sees a wrong
    rotation even in a model whose weights are too small for it to show in the end. A kernel does its attention itself,
    and shows only the rest.) The decoder must be driven by plans already."""
    parameter = next(decoder.parameters())
    tolerance = 1e-5 if parameter.dtype == torch.float32 else 3e-2
    own: Any = decoder
    vocabulary: int = own.config.get_text_config().vocab_size  # (the table may be wrapped: new tokens that learn)
    lengths = [5, 2, 3]
    prompt = torch.arange(1, 11, device=parameter.device) * 7919 % vocabulary
    new = torch.arange(1, 4, device=parameter.device) * 104729 % vocabulary

    def step(take: Callable[[_Recorder], Tensor]) -> tuple[list[Any], list[Tensor]]:
        cache = KeyValueCache(rows=3, capacity=8, most=8)
        prefill = PrefillPlan(lengths)
        positions = torch.cat([torch.arange(n, device=parameter.device) for n in lengths])
        decoder(input_ids=prompt[None], position_ids=positions[None], use_cache=False, plan=prefill)
        for row in range(3):
            cache.write_prompt(prefill, row, slice(row, row + 1))
        plan = _Recorder(cache, lengths, parameter.dtype, parameter.device)
        return plan.seen, [take(plan), *cache.keys, *cache.values]

    seen, left = step(
        lambda plan: decoder(
            input_ids=new[:, None], position_ids=plan.positions, use_cache=False, plan=plan
        ).last_hidden_state[:, 0]
    )
    seen_fused, left_fused = step(lambda plan: fused(new, plan))
    if isinstance(fused, FusedDecoder) and len(seen) != len(seen_fused):
        return False
    for (tensors, numbers), (tensors_fused, numbers_fused) in zip(seen, seen_fused, strict=False):
        if numbers != numbers_fused or not all(map(_close(tolerance), tensors, tensors_fused)):
            return False
    return all(map(_close(tolerance), left, left_fused))


class _Recorder(DecodePlan):
    """A decode plan that keeps what each layer asked of it."""

    def __init__(self, cache: KeyValueCache, lengths: Sequence[int], dtype: torch.dtype, device: torch.device):
        super().__init__(cache, lengths, dtype, device)
        self.seen: list[tuple[tuple[Tensor, Tensor, Tensor], tuple[int, float, float | None]]] = []

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, softcap: float | None
    ) -> Tensor:
        self.seen.append(((query.clone(), key.clone(), value.clone()), (layer, scaling, softcap)))
        return super().attend(layer, query, key, value, scaling, softcap)


def _close(tolerance: float) -> Callable[[Tensor, Tensor], bool]:
    def close(a: Tensor, b: Tensor) -> bool:
        return a.shape == b.shape and bool((a - b).float().norm() <= tolerance * a.float().norm())

    return close


def is_llama_shaped(decoder: Any) -> bool:
    """Embedding, pre-norm layers of rotary attention and a gated MLP, norm; nothing else."""
    if {name for name, _ in decoder.named_children()} != {"embed_tokens", "layers", "norm", "rotary_emb"}:
        return False
    for layer in decoder.layers:
        if {name for name, _ in layer.named_children()} != LAYER or not hasattr(layer.self_attn, "head_dim"):
            return False
        inner = {name for name, _ in layer.self_attn.named_children()}
        norms = inner - ATTENTION
        if not inner >= ATTENTION or norms not in (set(), {"q_norm", "k_norm"}):
            return False
        if {name for name, _ in layer.mlp.named_children()} != MLP:
            return False
        modules = [layer.input_layernorm, layer.post_attention_layernorm, *(getattr(layer.self_attn, n) for n in norms)]
        if not all(map(_is_rms_norm, modules)) or (norms and layer.self_attn.q_norm.weight.shape != (_width(layer),)):
            return False
    return _is_rms_norm(decoder.norm)


def has_hooks(decoder: nn.Module) -> bool:
    """Whether calling some module does more than its own forward (a step on raw weights would leave that out)."""
    return any(m._forward_hooks or m._forward_pre_hooks for m in decoder.modules())


def _width(layer: Any) -> int:
    return layer.self_attn.head_dim


def _is_rms_norm(module: nn.Module) -> bool:
    return [name for name, _ in module.named_parameters()] == ["weight"] and epsilon(module) is not None


def _layer(layer: Any, pack: bool) -> _Layer:
    a, mlp = layer.self_attn, layer.mlp
    return _Layer(
        layer.input_layernorm, joined([a.q_proj, a.k_proj, a.v_proj], pack), joined([a.o_proj], pack),
        getattr(a, "q_norm", None), getattr(a, "k_norm", None), bool(getattr(a, "use_rope", True)), a.scaling,
        layer.post_attention_layernorm, joined([mlp.gate_proj, mlp.up_proj], pack), mlp.act_fn,
        joined([mlp.down_proj], pack),
    )  # fmt: skip


def _norm(module: Any, x: Tensor) -> Tensor:
    weight: Tensor = module.weight
    return F.rms_norm(x, weight.shape, weight, epsilon(module))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of `[B, heads, D]` by `cos [B, 1, D]` and the first half of `sin`; the result is contiguous."""
    half = sin.shape[-1]
    out = torch.mul(x, cos, out=torch.empty(x.shape, dtype=x.dtype, device=x.device))
    out[..., :half].addcmul_(x[..., half:], sin, value=-1)
    out[..., half:].addcmul_(x[..., :half], sin)
    return out
